from dataclasses import FrozenInstanceError, fields

import pytest
import torch

from planners import PLANNERS, cem, make_planner
from tests.planners.problems import box


def test_overrides_reach_the_config():
    planner = make_planner("cem", num_iters=3)
    assert planner.keywords["config"].num_iters == 3
    assert planner.keywords["config"].num_samples == 256


@pytest.mark.parametrize("name", PLANNERS)
def test_configs_are_frozen_and_hold_plain_numbers(name):
    config = PLANNERS[name][1]()
    assert all(isinstance(getattr(config, f.name), int | float | bool | None) for f in fields(config))
    with pytest.raises(FrozenInstanceError):
        config.num_samples = 1


@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        ("mpi", {}, "planner must be one of .*, got 'mpi': did you mean 'mppi'?"),
        ("cem", {"num_elite": 3}, "cem hyperparameter must be .*'num_elite': did you mean 'num_elites'"),
        ("cem", {"num_samples": 0}, "num_samples must be >= 1, got 0"),
        ("cem", {"num_elites": 300}, "num_elites must be <= num_samples, got 300"),
        ("cem", {"num_iters": 0}, "num_iters must be >= 1, got 0"),
        ("cem", {"min_std": -0.1}, "min_std must be finite and >= 0, got -0.1"),
        ("cem", {"min_std": float("nan")}, "min_std must be finite and >= 0, got nan"),
        ("cem", {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ("cem", {"noise_spread": 0.0}, r"noise_spread must be in \(0, 1\], got 0.0"),
        ("cem", {"noise_beta": -1.0}, "noise_beta must be finite and >= 0, got -1.0"),
        ("icem", {"num_elites": 200}, "num_elites must be <= num_samples / 2, got 200"),
        ("icem", {"decay": 0.5}, "decay must be finite and >= 1, got 0.5"),
        ("icem", {"keep_fraction": 1.5}, r"keep_fraction must be in \[0, 1\], got 1.5"),
        ("mppi", {"temperature": 0.0}, "temperature must be finite and > 0, got 0.0"),
        ("mppi", {"num_elites": 0}, "num_elites must be >= 1, got 0"),
        ("gradient", {"num_restarts": 0}, "num_restarts must be >= 1, got 0"),
        ("gradient", {"learning_rate": 0.0}, "learning_rate must be finite and > 0, got 0.0"),
        ("gradient", {"lr_decay": 1.5}, r"lr_decay must be in \(0, 1\], got 1.5"),
        ("gradient", {"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1.0"),
        ("gradient", {"max_grad_norm": 0.0}, "max_grad_norm must be > 0, got 0.0"),
        ("cem_gradient", {"num_refined": 64}, "num_refined must be <= num_elites, got 64"),
        ("cem_gradient", {"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ("cem_gradient", {"learning_rate": -1.0}, "learning_rate must be finite and > 0, got -1.0"),
    ],
)
def test_bad_settings_are_refused(name, overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_planner(name, **overrides)


def test_a_count_has_to_be_an_integer():
    with pytest.raises(TypeError, match=r"num_iters must be an integer, got 2\.5"):
        make_planner("cem", num_iters=2.5)
    with pytest.raises(TypeError, match="num_iters must be an integer, got True"):
        make_planner("cem", num_iters=True)


def norm(actions):
    return actions.square().sum(dim=(-2, -1))


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"mean": torch.zeros(2, 0, 2)}, "horizon must be >= 1, got 0"),
        ({"mean": torch.zeros(3, 2)}, r"mean must be of shape \(B, H, 2\), got \(3, 2\)"),
        ({"mean": torch.zeros(2, 3, 1)}, r"mean must be of shape \(B, H, 2\), got \(2, 3, 1\)"),
        ({"mean": torch.zeros(0, 3, 2)}, r"mean must be of shape \(B, H, 2\), got \(0, 3, 2\)"),
        ({"mean": torch.full((2, 3, 2), torch.nan)}, "mean must be finite, got nan among its entries"),
        ({"mean": torch.zeros(2, 3, 2).long()}, "mean must be of a floating dtype, got torch.int64"),
        ({"std": torch.ones(2, 3)}, r"std must be of shape \(2, 3, 2\), got \(2, 3\)"),
        ({"std": -torch.ones(2, 3, 2)}, "std must be >= 0, got -1.0"),
        ({"proposals": torch.zeros(2, 3, 2)}, r"proposals must be of shape \(2, P, 3, 2\), got \(2, 3, 2\)"),
        ({"proposals": torch.full((2, 1, 3, 2), torch.inf)}, "proposals must be finite, got inf"),
        ({"cost_fn": lambda a: norm(a)[:, :1]}, r"cost_fn's result must be of shape \(2, .*, got \(2, 1\)"),
        ({"cost_fn": lambda _: 0.0}, "cost_fn's result must be of shape .*, got 'float'"),
    ],
)
def test_bad_inputs_are_refused(name, changed, sentence):
    inputs = {"cost_fn": norm, "mean": torch.zeros(2, 3, 2), "std": torch.ones(2, 3, 2)} | changed
    with pytest.raises(ValueError, match=sentence):
        make_planner(name)(bounds=box(1.0, 2), **inputs)


def test_an_unknown_keyword_is_an_error():
    with pytest.raises(TypeError, match="num_sample"):
        cem(norm, torch.zeros(1, 2, 2), torch.ones(1, 2, 2), box(1.0, 2), num_sample=3)
