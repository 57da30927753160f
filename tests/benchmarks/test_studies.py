"""Studies of a run: which cells there are, that they go on where they stopped, and that their figures are drawn."""

import dataclasses
import json
import shutil

import pytest

from benchmarks.catalogue import resolve
from benchmarks.cli import main
from benchmarks.evaluation import draw_tasks
from benchmarks.markdown import factors_table
from benchmarks.policy_checkpoint import policy_folder
from benchmarks.recipes import EvaluationRecipe, override
from benchmarks.studies.cells import (
    FACTORS,
    HORIZONS,
    PLANNERS,
    Choice,
    Subject,
    generalisation_cells,
    planner_args,
    planner_cells,
    policy_cells,
)
from benchmarks.studies.figures import draw_generalisation
from envs.registration import make_simulator
from planners import PLANNERS as ALL_PLANNERS
from planners import make_planner
from tests.benchmarks.runs import smoke_run

TWO_ROOMS = "worldmodel/TwoRooms-v0"


def subject(run=None, **choice):
    recipe = resolve("two-rooms")
    return Subject(run or smoke_run(), recipe, TWO_ROOMS, recipe.evaluation, Choice(**choice))


@pytest.fixture
def run(tmp_path):
    shutil.copytree(smoke_run(), tmp_path / "run")
    return tmp_path / "run"


def test_the_planner_study_crosses_everything_and_changes_nothing_else():
    cells = planner_cells(subject())
    assert len(cells) == len(PLANNERS) * len(HORIZONS) * 5
    assert len({json.dumps(cell.labels) for cell in cells}) == len(cells)
    recipe = resolve("two-rooms").planner
    for cell in cells:
        planner = cell.planner
        assert cell.labels == {"planner": planner.name, "horizon": planner.horizon, "cost": planner.cost}
        assert (planner.execute, planner.action_repeat) == (recipe.execute, recipe.action_repeat)
    few = planner_cells(subject(costs=["critic"], horizons=[8], planners=["cem", "mppi"]))
    assert [cell.labels["planner"] for cell in few] == ["cem", "mppi"]


def test_a_recipe_without_a_critic_is_studied_by_distances():
    recipe = resolve("slow-features")
    cells = planner_cells(Subject(smoke_run(), recipe, "worldmodel/MovingDot-v0", recipe.evaluation))
    assert {cell.labels["cost"] for cell in cells} == {"last_distance", "summed_distance"}


@pytest.mark.parametrize("name", ALL_PLANNERS)
def test_every_planner_gets_about_the_same_number_of_imagined_futures(name):
    recipe = resolve("two-rooms").planner
    args = planner_args(recipe, name)
    make_planner(name, **args)
    budget = recipe.args["num_samples"] * recipe.args["num_iters"]
    spent = args.get("num_samples", 0) * args.get("num_iters", 1)
    spent += 3 * args.get("num_restarts", 0) * args["num_iters"] if name == "gradient" else 0
    spent += 3 * args.get("num_refined", 0) * args.get("num_steps", 0)
    assert 0.75 * budget <= spent <= 1.25 * budget


def test_the_policy_study_knows_the_policies_that_the_run_has(run):
    shutil.copytree(run / "policy", policy_folder(run, "dagger"))
    cells = policy_cells(subject(run))
    assert {cell.policy for cell in cells if cell.agent == "mode-1"} == {"imagination", "dagger"}
    samples = [cell.labels["samples"] for cell in cells if cell.agent == "mode-2"]
    assert samples == [64, 32, 16, 8]
    assert len([cell for cell in cells if cell.agent == "mode-2+1"]) == 2 * len(samples)
    for cell in cells:
        if cell.agent != "mode-1":
            make_planner(cell.planner.name, **cell.planner.args)


def test_the_generalisation_study_sets_one_factor_at_a_time_and_holds_the_default():
    cells = generalisation_cells(subject(factors=["door_size", "speed"]))
    simulator = make_simulator(TWO_ROOMS)
    start = draw_tasks(simulator, EvaluationRecipe(num_tasks=2)).start
    for factor in ("door_size", "speed"):
        values = [cell.labels["value"] for cell in cells if cell.labels["factor"] == factor]
        assert float(start[factor][0]) in values
    for cell in cells:
        assert cell.evaluation.variation == {cell.labels["factor"]: cell.labels["value"]}
        tasks = draw_tasks(
            simulator, EvaluationRecipe(num_tasks=3, variation=dict(cell.evaluation.variation))
        )
        assert tasks.start[cell.labels["factor"]].tolist() == [cell.labels["value"]] * 3
    with pytest.raises(ValueError, match="factors must be of door_size.*got 'gravity'"):
        generalisation_cells(subject(factors=["gravity"]))


def test_a_study_of_factors_may_be_of_some_agents():
    cells = generalisation_cells(subject(factors=["speed"], agents=["mode-1"]))
    assert [cell.agent for cell in cells] == ["mode-1"] * 5
    assert len(generalisation_cells(subject(factors=["speed"] * 2, agents=["mode-1"] * 2))) == 5
    with pytest.raises(ValueError, match="agent must be one of .*, got 'mode-3'; did you mean"):
        generalisation_cells(subject(agents=["mode-3"]))


@pytest.mark.parametrize(
    ("count", "columns"), [(5, [0, 1, 2, 3, 4]), (6, [0, 1, 2] * 2), (7, [0, 1, 2, 3] * 2)]
)
def test_factors_are_drawn_in_rows_of_five_panels_at_most(count, columns):
    rows = [
        {
            "labels": {"factor": factor, "value": 1.0, "agent": "mode-1"},
            "success_rate": 0.5,
            "ci95": [0.4, 0.6],
        }
        for factor in "abcdefg"[:count]
    ]
    panels = draw_generalisation(rows).axes
    assert [panel.get_visible() for panel in panels] == [place < count for place in range(len(columns))]
    assert [panel.get_subplotspec().colspan.start for panel in panels] == columns
    assert {panel.get_ylim() for panel in panels} == {(-3, 103)}


def test_the_table_of_factors_marks_what_the_data_have():
    def row(factor, value, agent, rate, variation):
        labels = {"factor": factor, "value": value, "agent": agent}
        final = rate / 2
        return {"labels": labels, "success_rate": rate, "success_rate_final": final, "variation": variation}

    usual = {"mass": 1.0}
    rows = [
        row("mass", 2.0, "mode-1", 0.5, {"mass": 2.0}),
        row("mass", 1.0, "mode-1", 0.9, usual),
        row("mass", 1.0, "mode-2", 1.0, usual),
    ]
    together = row("together", 0.0, "mode-1", 0.9, usual)
    assert factors_table({"a task": {"rows": [*rows, together]}}).splitlines()[2:] == [
        "| a task | mass | **1** / 2 | **100 (50)** / – | **90 (45)** / 50 (25) |",
        "| a task | together | **0** | **–** | **90 (45)** |",
    ]
    unmarked = factors_table({"a task": {"rows": rows}}).splitlines()[2]  # what the data have is not known
    assert unmarked == "| a task | mass | 1 / 2 | 100 (50) / – | 90 (45) / 50 (25) |"


def test_all_factors_together_go_from_their_defaults_to_their_last_values():
    cells = generalisation_cells(subject(factors=["together"]))
    start = draw_tasks(make_simulator(TWO_ROOMS), EvaluationRecipe(num_tasks=2)).start
    for cell in cells:
        share, variation = cell.labels["value"], cell.evaluation.variation
        assert set(variation) == set(FACTORS[TWO_ROOMS])
        for name, value in variation.items():
            near, far = float(start[name][0]), FACTORS[TWO_ROOMS][name][-1]
            assert value == pytest.approx(near + share * (far - near))
        draw_tasks(make_simulator(TWO_ROOMS), EvaluationRecipe(num_tasks=3, variation=dict(variation)))
    assert len(cells) == 5 * 3


@pytest.mark.parametrize("env_id", list(FACTORS))
def test_worlds_of_all_factors_together_can_be_drawn(env_id):
    own = dataclasses.replace(subject(), env_id=env_id, recipe=resolve("reacher-small"))
    own = dataclasses.replace(own, choice=Choice(factors=["together"]))
    for cell in generalisation_cells(own):
        tasks = draw_tasks(
            make_simulator(env_id), EvaluationRecipe(num_tasks=3, variation=cell.evaluation.variation)
        )
        assert len(tasks.start["seed"]) == 3


def test_colours_are_factors_of_rgb_frames_and_lead_away_from_the_default():
    recipe = override(resolve("two-rooms"), ['collect.env_kwargs={"rgb": true, "image_size": 32}'])
    rgb = Subject(smoke_run(), recipe, TWO_ROOMS, recipe.evaluation)
    cells = [cell for cell in generalisation_cells(rgb) if cell.labels["factor"].endswith("color")]
    assert len(cells) == 3 * 5 * 3
    simulator = make_simulator(TWO_ROOMS, rgb=True)
    default = draw_tasks(simulator, EvaluationRecipe(num_tasks=2)).start
    for cell in cells:
        factor, share = cell.labels["factor"], cell.labels["value"]
        tasks = draw_tasks(simulator, EvaluationRecipe(num_tasks=2, variation=cell.evaluation.variation))
        moved = (tasks.start[factor].int() - default[factor].int()).abs().sum()
        assert (moved == 0) == (share == 0)
    factors = {cell.labels["factor"] for cell in generalisation_cells(subject())}
    assert not any(factor.endswith("color") for factor in factors)


@pytest.mark.parametrize(
    ("name", "few"),
    [
        ("planners", ["--planners", "cem", "gradient", "--horizons", "2", "4", "--costs", "critic"]),
        ("policies", []),
        ("generalisation", ["--factors", "action_noise", "--agents", "mode-1"]),
    ],
)
def test_a_study_runs_is_drawn_and_goes_on_where_it_stopped(run, capsys, name, few):
    command = ["bench", name, str(run), "--episodes", "3", "--steps", "2", *few, "--quiet", "--json"]
    assert main(command) == 0
    value = json.loads(capsys.readouterr().out)
    path = run / "studies" / f"{name}.json"
    assert json.loads(path.read_text())["rows"] == value["rows"]
    assert (run / "studies" / f"{name}.png").stat().st_size > 5_000
    assert all(row["bounds_respected"] for row in value["rows"])
    if name == "generalisation":
        assert {row["labels"]["agent"] for row in value["rows"]} == {"mode-1"}
    path.write_text(json.dumps({**value, "rows": value["rows"][:-1]}))
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)["rows"]
    assert again[:-1] == value["rows"][:-1]  # with their times: they were not run again
    assert again[-1]["labels"] == value["rows"][-1]["labels"]
    assert again[-1]["success_rate"] == value["rows"][-1]["success_rate"]
    assert main(["report", str(run), "--quiet"]) == 0
    assert f'id="study-{name}"' in (run / "report.html").read_text()


def test_a_study_is_not_continued_with_other_tasks(run, capsys):
    command = ["bench", "generalisation", str(run), "--steps", "2", "--factors", "speed", "--quiet"]
    assert main([*command, "--episodes", "2"]) == 0
    assert main([*command, "--episodes", "3"]) == 1
    assert "continued with the same evaluation" in capsys.readouterr().err
    path = run / "studies" / "generalisation.json"
    value = json.loads(path.read_text())
    value["rows"][0]["variation"]["dot_size"] = 2.0  # as "together" was once, with fewer factors
    path.write_text(json.dumps(value))
    assert main([*command, "--episodes", "2"]) == 1
    assert "continued with the same variation of {'factor': 'speed'" in capsys.readouterr().err


def test_tasks_can_be_varied_and_are_told_apart_in_the_results(run, capsys):
    common = ["evaluate", str(run), "--episodes", "3", "--steps", "2", "--mode", "1", "--no-references"]
    for variation in ([], ["--variation", "door_size=7"]):
        assert main([*common, *variation, "--quiet"]) == 0
    rows = json.loads((run / "results.json").read_text())["evaluations"]
    assert [row["variation"] for row in rows] == [{}, {"door_size": 7}]
    assert main([*common, "--variation", "door_sise=7", "--quiet"]) == 1
    assert "did you mean 'door_size'" in capsys.readouterr().err
