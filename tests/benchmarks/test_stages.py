import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.agents import load_agent, load_run
from benchmarks.cached_rows import RowWindows
from benchmarks.catalogue import resolve
from benchmarks.collecting import collect_store
from benchmarks.diagnosing import diagnose_run
from benchmarks.pipeline import evaluate_run
from benchmarks.preparation import (
    choose_episodes,
    encode_episodes,
    encode_resident,
    make_model,
    split_episodes,
)
from benchmarks.runs import RunError, read_config
from benchmarks.stages import _Stages, train_run
from envs.registration import make_simulator
from tests.benchmarks.runs import smoke_run
from worldmodel.data import ArraySpec, EnvSpec, ResidentWindows, TrajectoryStore
from worldmodel.metrics import read_metrics

SMOKE = resolve("two-rooms", "smoke")


def stages(recipe, store, run):
    return _Stages(recipe, store, run, 0, torch.device("cpu"), None, False)


def test_held_out_episodes_reach_no_stage(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path / "data", seed=0)
    split = split_episodes(SMOKE, store)
    assert len(split["val"]) >= 1
    assert not set(split["train"]) & set(split["val"])
    made = stages(SMOKE, store, tmp_path / "run")
    frames = store.read(["pixels"], split["train"])["pixels"]
    np.testing.assert_array_equal(made.windows.arrays["pixels"].numpy(), frames)
    embeddings, actions, offsets = made.cached(make_model(SMOKE, store, 0))
    assert len(embeddings) == len(actions) == int(offsets[-1]) == len(frames)


def test_held_out_layouts_are_not_trained_on(tmp_path):
    collect = dataclasses.replace(SMOKE.collect, env_kwargs={"image_size": 32, "layout": "random"})
    store = collect_store(collect, tmp_path, seed=0)
    split, layouts = split_episodes(SMOKE, store), store.episodes["layout_id"]
    position = {index: i for i, index in enumerate(store.episodes["episode_index"])}
    train, val = ({int(layouts[position[e]]) for e in split[name]} for name in ("train", "val"))
    assert train
    assert val
    assert not train & val


def test_statistics_and_action_scale_travel_in_the_model(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path, seed=0)
    model = make_model(SMOKE, store, 0)
    frames = store.read(["pixels"], split_episodes(SMOKE, store)["train"])["pixels"]
    mean = model.normalizer.get_buffer("pixels_mean").flatten()
    np.testing.assert_allclose(mean.numpy(), frames.mean(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(model.get_buffer("action_scale").numpy(), 2.45, rtol=1e-6)


def test_streamed_frames_encode_to_the_rows_of_resident_ones(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path, seed=0)
    short = {key: store.read([key], [0])[key][None, :5] for key in store.spec}  # shorter than any window
    columns = {"episode_index", "length", "seed", "split", "info"}
    factors = {key: value[:1] for key, value in store.episodes.items() if key not in columns}
    store.append(short, seeds=[1], factors=factors)
    model = make_model(SMOKE, store, 0).eval()
    episodes = store.episodes["episode_index"]
    resident = ResidentWindows(store, ["pixels", "action"], 13, episodes=episodes)
    streamed, actions, offsets = encode_episodes(model, store, episodes)
    expected = encode_resident(model, resident, ["pixels"], {})
    torch.testing.assert_close(streamed, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(actions, resident.arrays["action"])
    assert torch.equal(offsets, resident.offsets)
    few = choose_episodes(episodes, 7, seed=3)
    assert len(few) == 7 == len(set(few) & set(episodes))
    part, _, ends = encode_episodes(model, store, few, dtype=torch.float16)
    first = int(offsets[list(episodes).index(few[1])])
    torch.testing.assert_close(part[int(ends[1])].float(), expected[first], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ["two-rooms", "push-t-small"])
def test_every_stage_resumes_where_it_was_killed(tmp_path, name):
    recipe = resolve(name, "smoke")
    store = collect_store(recipe.collect, tmp_path / "data", seed=0)
    train_run(recipe, store, tmp_path / "whole", seed=0)

    class KilledError(Exception):
        pass

    readout = [] if recipe.readout is None else ["readout"]
    for stage in ("world_model", "predictor", *readout, "critic", "actor"):

        def killer(name, step, total, scalars, stage=stage):
            if name == stage and step == 4:
                raise KilledError

        with pytest.raises(KilledError):
            train_run(recipe, TrajectoryStore.open(store.path), tmp_path / "cut", seed=0, on_step=killer)
    train_run(recipe, store, tmp_path / "cut", seed=0)
    for part in ("model", *readout, "critic", "policy"):
        whole, cut = (tmp_path / run / part / "model.safetensors" for run in ("whole", "cut"))
        assert whole.read_bytes() == cut.read_bytes(), part
    logs = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "cut")]
    assert [(line["stage"], line["step"]) for line in logs[0]] == [
        (line["stage"], line["step"]) for line in logs[1]
    ]
    with pytest.raises(RunError, match="same recipe, got other critic"):
        train_run(resolve(name, "smoke", ["critic.batch_size=8"]), store, tmp_path / "cut", seed=0)


def test_a_run_says_what_it_is_before_its_first_step_and_holds_to_it(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path / "data", seed=0)

    class KilledError(Exception):
        pass

    def killer(*_):
        raise KilledError

    with pytest.raises(KilledError):
        train_run(SMOKE, store, tmp_path / "run", seed=0, on_step=killer)
    config = read_config(tmp_path / "run")
    assert config["seed"] == 0
    assert config["store"]["num_episodes"] == 24
    assert config["recipe"]["collect"]["policy"] == "heading"
    with pytest.raises(RunError, match="same seed 0, got 7"):
        train_run(SMOKE, store, tmp_path / "run", seed=7)
    with pytest.raises(RunError, match="same recipe, got other objective"):
        train_run(
            resolve("two-rooms", "smoke", ["objective.rollout_steps=3"]), store, tmp_path / "run", seed=0
        )
    larger = collect_store(dataclasses.replace(SMOKE.collect, num_episodes=36), tmp_path / "data", seed=0)
    with pytest.raises(RunError, match="got other collect"):
        train_run(SMOKE, larger, tmp_path / "run", seed=0)


def test_a_recipe_is_trained_on_its_environment_only(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path / "data", seed=0)
    with pytest.raises(
        RunError, match="must be trained on worldmodel/MovingDot-v0, got a store of worldmodel/Two"
    ):
        train_run(resolve("moving-dot", "smoke"), store, tmp_path / "run", seed=0)


def test_episodes_of_the_eval_split_are_not_trained_on(tmp_path):
    store = collect_store(SMOKE.collect, tmp_path, seed=0, split="eval")
    with pytest.raises(ValueError, match="must have episodes of the split 'train', got eval"):
        split_episodes(SMOKE, store)


def test_held_out_terms_reach_the_log_of_a_run():
    log = read_metrics(smoke_run() / "metrics.jsonl")
    assert any("val_prediction" in line for line in log if line["stage"] == "world_model")


def test_the_refit_leaves_an_ema_target_untrained(tmp_path):
    recipe = resolve("two-rooms", "smoke", ["model.target=ema"])
    store = collect_store(recipe.collect, tmp_path / "data", seed=0)
    made = stages(recipe, store, tmp_path / "run")
    model = made.world_model()
    made.refit_predictor(model)
    assert not any(parameter.requires_grad for parameter in model.target_encoder.parameters())
    assert all(parameter.requires_grad for parameter in model.encoder.parameters())


def test_rows_of_windows_stay_inside_episodes():
    windows = RowWindows(torch.tensor([0, 5, 9, 20]), 4, 200, seed=0)
    rows = windows(0)
    assert rows.shape == (200, 5)
    episode = torch.tensor([0] * 5 + [1] * 4 + [2] * 11)[rows]
    assert (episode == episode[:, :1]).all()
    assert not (episode == 1).any()  # four rows hold no window of five
    with pytest.raises(ValueError, match=r"rows of the longest episode \(5\), got 9"):
        RowWindows(torch.tensor([0, 5]), 9, 1, seed=0)


def test_a_wrong_objective_leaves_no_folder_behind(tmp_path):
    recipe = resolve(
        "slow-features", "smoke", ["objective.batch_size=8", 'objective.weights={"action_contrast":1.0}']
    )
    store = collect_store(recipe.collect, tmp_path / "data", seed=0)
    with pytest.raises(ValueError, match="objective.batch_size must be > num_shuffled, 8, got 8"):
        train_run(recipe, store, tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


def recorded(path, env, spec=None):
    """Make a store as the README shows it: by other means than ``collect``."""
    spec = spec or {"proprio": ArraySpec("float32", (6,)), "action": ArraySpec("float32", (2,))}
    store = TrajectoryStore.create(path, spec, env=env)
    rng = np.random.default_rng(0)
    episodes = {key: rng.uniform(0, 2, (24, 21, *of.shape)).astype(of.dtype) for key, of in spec.items()}
    store.append(episodes, seeds=range(24))
    return store


ROBOT = EnvSpec("my/Robot-v0", action_low=(-1, -3), action_high=(2, 2), max_action_norm=2.5)


def test_recordings_of_an_environment_that_nobody_registered_are_trained_on(tmp_path):
    store = recorded(tmp_path / "data", ROBOT)
    run = tmp_path / "run"
    train_run(resolve("reacher-small", "smoke", ["collect.env_id=my/Robot-v0"]), store, run, seed=0)
    config = read_config(run)
    assert config["recipe"]["collect"]["policy"] == "recorded"
    assert config["recipe"]["collect"]["num_episodes"] == 24
    trained = load_run(run)
    assert trained.model.get_buffer("action_scale").tolist() == [2.0, 3.0]
    assert trained.env["action"] == {"low": [-1.0, -3.0], "high": [2.0, 2.0], "max_norm": 2.5}
    assert diagnose_run(run, seed=0)["final"]["rankme"] > 1
    agent = load_agent(run, mode="2+1")
    agent.set_goal({"proprio": torch.zeros(3, 6)})
    assert agent.act({"proprio": torch.ones(3, 6)}).norm(dim=-1).max() <= 2.5 + 1e-5
    with pytest.raises(ValueError, match="an environment id must be registered, got 'my/Robot-v0'"):
        evaluate_run(run, seed=0)


def test_recordings_of_a_registered_environment_are_evaluated_in_it(tmp_path):
    simulator = make_simulator("worldmodel/TwoRooms-v0", image_size=32)
    low, high = simulator.action_low.tolist(), simulator.action_high.tolist()
    env = EnvSpec(simulator.env_id, {"image_size": 32}, action_low=low, action_high=high)
    spec = {"pixels": ArraySpec("uint8", (2, 32, 32)), "action": ArraySpec("float32", (2,))}
    store = recorded(tmp_path / "data", env, spec)
    train_run(SMOKE, store, tmp_path / "run", seed=0)
    rows = evaluate_run(tmp_path / "run", with_references=False)
    assert {row["agent"] for row in rows} == {"mode-1", "mode-2"}
    assert (tmp_path / "run" / "media" / "probe.json").exists()


@pytest.mark.parametrize(
    "env",
    [
        {"id": "my/Robot-v0"},
        {"id": "my/Robot-v0", "kwargs": {}, "action": None},
        {"id": "my/Robot-v0", "action": {"low": [-1, -1], "high": [1, 1], "max_norm": None}},
        EnvSpec("my/Robot-v0", action_low=[-1], action_high=[1]),
    ],
)
def test_recordings_say_what_bounds_their_actions(tmp_path, env):
    store = recorded(tmp_path / "data", env)
    recipe = resolve("reacher-small", "smoke", ["collect.env_id=my/Robot-v0"])
    with pytest.raises(RunError, match="must say its env's kwargs and what bounds its 2 actions, .*EnvSpec"):
        train_run(recipe, store, tmp_path / "run", seed=0)


def test_a_recipe_that_corrects_its_policy_needs_a_simulator(tmp_path):
    store = recorded(tmp_path / "data", ROBOT)
    recipe = resolve("point-maze-small", "smoke", ["collect.env_id=my/Robot-v0"])
    with pytest.raises(
        RunError, match="got a store of my/Robot-v0, .*not registered; pass --set distill=null"
    ):
        train_run(recipe, store, tmp_path / "run", seed=0)


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"action_low": [1], "action_high": [-1]}, r"action_low must be below .*, got \[1\] and \[-1\]"),
        ({"action_low": [1, 1], "action_high": [2]}, "one finite number per action"),
        ({"action_low": [-1], "action_high": [float("nan")]}, "one finite number per action"),
        ({"action_low": [1], "action_high": [2], "max_action_norm": 1.0}, "the bounds around 0, got 1.0"),
        ({"action_low": [-1], "action_high": [2], "max_action_norm": -1}, "must be > 0 .*, got -1"),
    ],
)
def test_bounds_of_an_environment_are_checked_where_they_are_said(bounds, sentence):
    with pytest.raises(ValueError, match=sentence):
        EnvSpec("my/Robot-v0", **bounds)
