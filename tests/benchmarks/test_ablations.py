"""Ablations: which cells there are, that each is its own training, and that they go on where they stopped."""

import json

import pytest

from benchmarks.ablations import ABLATIONS, run_ablations
from benchmarks.ablations.axes import data_quality, data_size, door, motion, terms, trajectory_length
from benchmarks.arguments import build_parser
from benchmarks.catalogue import resolve
from benchmarks.catalogue.weights import VARIANCE_COVARIANCE
from benchmarks.cli import main
from benchmarks.collecting import make_data_policy
from benchmarks.markdown import ablations_table
from benchmarks.recipes import override
from benchmarks.report.ablations import _SETS


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


def test_action_contrast_is_also_replaced_by_the_terms_of_pldm():
    recipe = resolve("two-rooms-small")
    last = terms(recipe)[-1]
    assert last.name == "temporal similarity and inverse dynamics for action contrast"
    weights = override(recipe, last.settings).objective.weights
    assert {name: weight for name, weight in weights.items() if weight} == VARIANCE_COVARIANCE


@pytest.mark.parametrize("recipe", ["two-rooms", "two-rooms-small", "moving-dot"])
@pytest.mark.parametrize("name", ABLATIONS)
def test_all_cells_are_recipes_with_names_of_their_own(name, recipe):
    if (name, recipe) == ("door", "moving-dot"):
        with pytest.raises(
            ValueError, match="must be of data collected by heading, waypoints, got 'directed'"
        ):
            door(resolve(recipe))
        return
    if name == "motion":
        with pytest.raises(ValueError, match="must be of worldmodel/CartPole-v0, got worldmodel/"):
            motion(resolve(recipe))
        return
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


def test_the_axes_of_the_data_hold_the_recipe_itself_as_one_cell():
    for name in ("two-rooms", "two-rooms-small"):
        recipe = resolve(name)
        for axis in (data_size, trajectory_length, data_quality, door):
            assert sum(cell.settings == () for cell in axis(recipe)) == 1
    sizes = [cell.value for cell in data_size(resolve("two-rooms"))]
    assert [cell.value for cell in data_size(resolve("two-rooms", "smoke"))] == [384, 640, 2528]
    assert sizes == [630, 2520, 10170, 40590, 162270, 360000, 649260, 2596860]
    mixed = override(recipe, data_quality(recipe)[1].settings).collect.policy
    assert mixed == "0.02*waypoints+0.98*uniform"
    assert override(recipe, door(recipe)[1].settings).collect.policy == "waypoints_one_room"


@pytest.mark.parametrize("recipe", ["two-rooms", "two-rooms-small"])
@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "motion"])
def test_the_data_of_every_cell_can_be_collected(name, recipe):
    for cell in ABLATIONS[name](resolve(recipe)):
        collect = override(resolve(recipe), cell.settings).collect
        make_data_policy(collect.policy, collect.policy_kwargs)


def test_data_that_cannot_be_mixed_or_confined_is_refused():
    mixed = override(resolve("two-rooms"), ["collect.policy=0.8*heading+0.2*expert"])
    uniform = override(resolve("two-rooms"), ["collect.policy=uniform"])
    for recipe in (mixed, uniform):
        with pytest.raises(ValueError, match="must be of a single data policy without arguments"):
            data_quality(recipe)
        with pytest.raises(ValueError, match="must be of data collected by heading, waypoints"):
            door(recipe)
    curved = override(resolve("two-rooms"), ['collect.policy_kwargs={"kappa": 2.0}'])
    confined = override(curved, door(curved)[1].settings).collect
    assert make_data_policy(confined.policy, confined.policy_kwargs).walk.kappa == 2.0


def test_the_command_line_and_the_page_know_every_set():
    sets = build_parser().parse_args(["bench", "ablations", "terms", "two-rooms"])
    assert sets.ablations in ABLATIONS
    for name in ABLATIONS:
        build_parser().parse_args(["bench", "ablations", name, "two-rooms"])
    assert _SETS.keys() == ABLATIONS.keys()


def test_the_smallest_store_is_trained_on_and_diagnosed_on_the_same_episodes_as_the_others(tmp_path, capsys):
    out = tmp_path / "ablations"
    command = ["bench", "ablations", "data-size", "two-rooms", "--preset", "smoke", "--seeds", "0"]
    few = ["evaluation.num_tasks=3", "evaluation.num_steps=2", "collect.num_steps=90", "collect.chunk=7"]
    assert main([*command, "--set", *few, "--out", str(out), "--quiet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["value"] for row in rows] == [630, 2160, 2520, 10170]
    for row in rows:
        assert row["diagnostics"]["rankme"] > 0
    for folder in (out / "cells").iterdir():
        assert json.loads((folder / "diagnostics.json").read_text())["store"].endswith("stores/diagnosed")


def test_a_file_of_another_kind_is_refused_by_the_page(tmp_path, capsys):
    (tmp_path / "terms.json").write_text('{"rows": 3}')
    assert main(["report", str(tmp_path), "--quiet"]) == 1
    assert "must be written by `worldmodel bench ablations terms`" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")  # a run with a file of that name stays a run
    assert main(["report", str(tmp_path), "--quiet"]) == 0


def test_ablations_run_are_written_and_go_on_where_they_stopped(tmp_path, capsys):
    out = tmp_path / "ablations"
    command = ["bench", "ablations", "door", "two-rooms", "--preset", "smoke", "--seeds", "0", "1"]
    few = ["evaluation.num_tasks=3", "evaluation.num_steps=2"]
    command += ["--set", *few, "--out", str(out), "--quiet", "--json"]
    assert main(command) == 0
    value = json.loads(capsys.readouterr().out)
    assert json.loads((out / "door.json").read_text()) == value
    names = ["as recorded", "no trajectory through the door"]
    assert [(row["name"], row["seed"]) for row in value["rows"]] == [(n, s) for n in names for s in (0, 1)]
    for row in value["rows"]:
        assert row["agents"].keys() == {"mode-1", "mode-2"}
        assert row["diagnostics"]["rankme"] > 0
        assert -1 <= row["diagnostics"]["critic_geodesic"] <= 1
    assert (out / "door.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "No trajectory through the door" in page
    assert "data:image/png;base64," in page
    cell = out / "cells" / "collect.policy=heading_one_room-seed1"
    assert json.loads((cell / "config.json").read_text())["recipe"]["collect"]["policy"] == "heading_one_room"
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


def test_sets_share_their_cells_and_the_page_is_written_again_from_what_is_there(tmp_path, capsys):
    out = tmp_path / "ablations"
    command = ["bench", "ablations", "trajectory-length", "two-rooms", "--preset", "smoke", "--seeds", "0"]
    command += ["--set", "evaluation.num_tasks=3", "evaluation.num_steps=2", "collect.num_steps=90"]
    assert main([*command, "--out", str(out), "--quiet"]) == 0
    unchanged = (out / "cells" / "unchanged-seed0" / "cell.json").read_bytes()
    command[2] = "door"
    assert main([*command, "--out", str(out), "--quiet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows[0]["name"] == "as recorded"
    assert (out / "cells" / "unchanged-seed0" / "cell.json").read_bytes() == unchanged
    (out / "report.html").unlink()
    assert main(["report", str(out), "--quiet"]) == 0
    page = (out / "report.html").read_text()
    assert page.index("Length of trajectories") < page.index("Data without the door")
    assert main(["report", str(out), "--gif", "--quiet"]) == 1
    assert "must be of a run" in capsys.readouterr().err


def test_what_shows_motion_is_ablated_with_data_and_statistics_of_its_own(tmp_path):
    recipe = resolve("cart-pole-small", "smoke", ["evaluation.num_tasks=2", "evaluation.num_steps=2"])
    first = run_ablations("motion", recipe, tmp_path, seeds=[0], only=["the step before"])
    assert [row["name"] for row in first["rows"]] == ["the step before"]
    value = run_ablations("motion", recipe, tmp_path, seeds=[0])
    assert [row["name"] for row in value["rows"]] == ["velocities", "the step before", "one frame alone"]
    assert value["rows"][1] == first["rows"][0]  # not trained again
    with pytest.raises(ValueError, match="cell must be one of .*, got 'the step'"):
        run_ablations("motion", recipe, tmp_path, seeds=[0], only=["the step"])
    for row, size in zip(value["rows"], (5, 6, 3), strict=True):
        changes = "_".join(row["settings"]) or "unchanged"
        config = json.loads((tmp_path / "cells" / f"{changes}-seed0" / "config.json").read_text())
        assert config["store"]["env"]["observation"]["proprio"] == [size]
        assert row["diagnostics"]["rankme"] is not None
    head, _, *lines = ablations_table(value).splitlines()
    assert head == (
        "| 2 tasks, seed 0 | plan [%] | at the end | react [%] | at the end  | action R² | identity ratio |"
    )
    assert [line.split("|")[1].strip() for line in lines] == [row["name"] for row in value["rows"]]
    assert "~ true" not in (tmp_path / "report.html").read_text().split("<table")[1]
