"""Ablations: which cells there are, that each is its own training, and that they go on where they stopped."""

import json

import pytest

from benchmarks.ablations import ABLATIONS, terms, trajectory_length
from benchmarks.catalogue import resolve
from benchmarks.cli import main
from benchmarks.recipes import override


def test_each_term_is_left_out_once_and_the_rest_stays():
    recipe = resolve("two-rooms")
    cells = terms(recipe)
    assert [cell.name for cell in cells] == [
        "full",
        "no prediction",
        "no variance",
        "no covariance",
        "no temporal similarity",
        "no inverse dynamics",
        "SIGReg for variance and covariance",
    ]
    for cell in cells[1:-1]:
        weights = override(recipe, cell.settings).objective.weights
        off = [name for name, weight in weights.items() if weight == 0]
        assert cell.name == f"no {off[0].replace('_', ' ')}"
        assert len(off) == 1
    weights = override(recipe, cells[-1].settings).objective.weights
    assert weights["variance"] == weights["covariance"] == 0 < weights["sigreg"]


@pytest.mark.parametrize("recipe", ["two-rooms", "two-rooms-small", "moving-dot"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_all_cells_are_recipes_with_names_of_their_own(name, recipe):
    cells = ABLATIONS[name](resolve(recipe))
    assert len({cell.name for cell in cells}) == len(cells) >= 1
    for cell in cells:
        override(resolve(recipe), cell.settings)


def test_shorter_trajectories_are_as_many_transitions():
    recipe = resolve("two-rooms")
    sizes = [override(recipe, cell.settings).collect for cell in trajectory_length(recipe)]
    transitions = [size.num_episodes * size.num_steps for size in sizes]
    assert [size.num_steps for size in sizes] == [16, 32, 64, 90]
    assert max(transitions) - min(transitions) <= 90


def test_ablations_run_are_written_and_go_on_where_they_stopped(tmp_path, capsys):
    out = tmp_path / "ablations"
    command = ["bench", "ablations", "data-size", "two-rooms", "--preset", "smoke", "--seeds", "0", "1"]
    few = ["evaluation.num_tasks=3", "evaluation.num_steps=2", "collect.num_episodes=96", "collect.chunk=24"]
    command += ["--set", *few, "--out", str(out), "--quiet", "--json"]
    assert main(command) == 0
    value = json.loads(capsys.readouterr().out)
    assert json.loads((out / "data-size.json").read_text()) == value
    assert [(row["value"], row["seed"]) for row in value["rows"]] == [(24, 0), (24, 1), (96, 0), (96, 1)]
    for row in value["rows"]:
        assert row["agents"].keys() == {"mode-1", "mode-2"}
        assert row["diagnostics"]["rankme"] > 0
    cell = out / "cells" / "1536-transitions-seed1"
    assert json.loads((cell / "config.json").read_text())["recipe"]["collect"]["num_episodes"] == 96
    (cell / "cell.json").unlink()
    before = (cell / "model" / "model.safetensors").read_bytes()
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["rows"][:3] == value["rows"][:3]
    assert again["rows"][3]["agents"] == value["rows"][3]["agents"]
    assert (cell / "model" / "model.safetensors").read_bytes() == before
    assert main([*command, "--set", *few, "world_model.lr=1e-4"]) == 1
    assert "got other world_model" in capsys.readouterr().err
    assert main([*command, "--set", *few, "evaluation.seed=5"]) == 1
    assert "same planner and tasks" in capsys.readouterr().err
