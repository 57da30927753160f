"""Two Rooms with a new layout per episode: path graphs from a store, and every stage that reads them."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from benchmarks.catalogue import resolve
from benchmarks.cli import main
from benchmarks.collecting import collect_store
from benchmarks.path_graphs import build_path_graphs
from benchmarks.preparation import EpisodeFrames, make_model, split_episodes
from benchmarks.recipes import override
from worldmodel.paths import PathConfig

SMOKE = resolve("two-rooms-small", "smoke")
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
        assert a.nodes.shape == (num, int(np.prod(model.embedding_shape)))
        assert a.steps.shape == (num, num)
        assert (a.steps.diagonal() == 0).all()
        assert a.imagined.shape == (len(a.arrived), *a.nodes.shape[1:])
        first = torch.arange(num) % (num // 4) == 0  # of each episode: nothing was imagined that leads there
        assert not first[a.arrived].any()
        assert len(a.arrived) > num / 2
        assert len(set(a.arrived.tolist())) == len(a.arrived)
    other = build_path_graphs(model, store, episodes, CONFIG, seed=8)
    assert any(not torch.equal(a.nodes, b.nodes) for a, b in zip(one, other, strict=True))


def test_imagined_starts_follow_the_recorded_actions_to_the_node_they_are_labelled_with(store):
    model = make_model(SMOKE, store, 0).eval()
    episodes = split_episodes(SMOKE, store)["train"]
    config = dataclasses.replace(CONFIG, imagined_steps=1)
    (graph, *_) = build_path_graphs(model, store, episodes, config, seed=7)
    frames = EpisodeFrames(model, store)
    arrays, _ = frames.read(episodes)
    everything = frames.encode(arrays, torch.arange(len(arrays["action"])))
    for imagined, node in list(zip(graph.imagined, graph.nodes[graph.arrived], strict=True))[:5]:
        row = int((everything.half() - node).float().norm(dim=-1).argmin())
        before = everything[row - 1].unflatten(0, model.embedding_shape)[None]
        with torch.no_grad():
            expected = model.predict(before, arrays["action"][row - 1][None]).flatten()
        torch.testing.assert_close(imagined.float(), expected, atol=2e-2, rtol=1e-2)


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
    arguments = ["run", "two-rooms", "--size", "small", "--preset", "smoke", "--out", str(out), "--quiet"]
    assert main([*arguments, "--set", "critic.paths.num_graphs=2", "--json", str(tmp_path / "s.json")]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["recipe"] == "two-rooms-small"
    assert set(summary["agents"]) >= {"mode-2", "mode-1", "oracle", "random", "zero"}
    config = json.loads((out / "config.json").read_text())
    assert config["recipe"]["critic"]["paths"]["num_graphs"] == 2
    assert "paths" in config["seconds"]
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in logged} == {"world_model", "predictor", "critic", "actor"}
    assert any("path_length" in line for line in logged)


def test_the_full_size_runs_as_the_small_one_does(tmp_path):
    arguments = ["run", "two-rooms", "--size", "full", "--preset", "smoke", "--out", str(tmp_path / "run")]
    few = ["critic.paths.num_graphs=2", "collect.num_episodes=12", "evaluation.num_tasks=4"]
    assert main([*arguments, "--set", *few, "--quiet", "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["recipe"] == "two-rooms-full"
    assert resolve("two-rooms-full").model.embedding_dim == resolve("two-rooms-small").model.embedding_dim


def test_a_size_that_a_recipe_does_not_have_is_one_sentence(capsys):
    assert main(["run", "moving-dot", "--size", "full", "--quiet"]) == 1
    assert (
        "size 'full' must be given for a recipe that has it (two-rooms, point-maze, reacher, cart-pole, push-t), "
        "got 'moving-dot'" in capsys.readouterr().err
    )
