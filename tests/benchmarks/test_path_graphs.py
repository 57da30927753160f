"""The recipe of random layouts: path graphs from a store, and every stage that reads them."""

import json

import numpy as np
import pytest
import torch

from benchmarks.cli import main
from benchmarks.collecting import collect_store
from benchmarks.path_graphs import build_path_graphs
from benchmarks.preparation import make_model, split_episodes
from benchmarks.recipes import override, resolve
from worldmodel.paths import PathConfig

SMOKE = resolve("random-layouts", "smoke")
CONFIG = PathConfig(num_graphs=3, episodes_per_graph=4, static_frames=4)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return collect_store(SMOKE.collect, tmp_path_factory.mktemp("layouts") / "data", seed=0)


def test_graphs_hold_embeddings_of_training_frames_and_repeat(store):
    model = make_model(SMOKE, store, 0).eval()
    episodes = split_episodes(SMOKE, store)["train"]
    one, two = (build_path_graphs(model, store, episodes, CONFIG, seed=7) for _ in range(2))
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.nodes, b.nodes)
        assert torch.equal(a.imagined, b.imagined)
        assert torch.equal(a.steps, b.steps)
        num = 4 * len(range(0, SMOKE.collect.num_steps + 1, CONFIG.every))
        assert a.nodes.shape == a.imagined.shape == (num, int(np.prod(model.embedding_shape)))
        assert a.steps.shape == (num, num)
        assert (a.steps.diagonal() == 0).all()
        assert a.nearest.shape == a.gap.shape == (num,)
        assert (a.gap >= 0).all()
        assert not torch.equal(a.nodes, a.imagined)
    other = build_path_graphs(model, store, episodes, CONFIG, seed=8)
    assert any(not torch.equal(a.nodes, b.nodes) for a, b in zip(one, other, strict=True))


def test_frames_rendered_from_states_and_stored_frames_give_the_same_graphs(store, tmp_path):
    stored = override(SMOKE, ["collect.states_only=false"])
    frames = collect_store(stored.collect, tmp_path / "frames", seed=0)
    model = make_model(SMOKE, store, 0).eval()
    episodes = split_episodes(SMOKE, store)["train"]
    for a, b in zip(
        build_path_graphs(model, store, episodes, CONFIG, seed=7),
        build_path_graphs(model, frames, episodes, CONFIG, seed=7),
        strict=True,
    ):
        torch.testing.assert_close(a.nodes, b.nodes)
        torch.testing.assert_close(a.steps, b.steps)


def test_the_recipe_runs_from_an_empty_disk_and_its_settings_can_be_set(tmp_path):
    out = tmp_path / "run"
    arguments = ["run", "random-layouts", "--preset", "smoke", "--out", str(out), "--quiet"]
    assert main([*arguments, "--set", "critic.paths.num_graphs=2", "--json", str(tmp_path / "s.json")]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["recipe"] == "random-layouts"
    assert set(summary["agents"]) >= {"mode-2", "mode-1", "oracle", "random", "zero"}
    config = json.loads((out / "config.json").read_text())
    assert config["recipe"]["critic"]["paths"]["num_graphs"] == 2
    assert "paths" in config["seconds"]
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in logged} == {"world_model", "critic", "actor"}
    assert any("path_length" in line for line in logged)
