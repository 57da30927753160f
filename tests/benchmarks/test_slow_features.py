import dataclasses
import inspect
import json
import shutil
import sys
import types

import pytest
import torch

from benchmarks.catalogue import RECIPES, resolve
from benchmarks.cli import main
from benchmarks.display import make_console
from benchmarks.objectives import OBJECTIVES, resolve_with_objective, with_objective
from benchmarks.pipeline import evaluate_run
from benchmarks.report import render_report
from benchmarks.slow_features import run_benchmark
from benchmarks.slow_features.alarm_quality import alarm_quality, judge
from benchmarks.slow_features.cell_run import cell_folder, run_cell, targets_of
from benchmarks.slow_features.cells import CORE, Cell, Condition, cell_recipe, grid, select
from benchmarks.slow_features.figures import draw_alpha, draw_loss
from benchmarks.slow_features.table import cells_table, encoding_rmse, markdown_table, rmse, slim, tuned
from envs.registration import make_simulator
from tests.benchmarks.runs import smoke_run


def fake_cell(objective="vicreg", motion="fixed", alpha=1.0, seed=0, encoding=9.0, rollout=9.5, alarm=True):
    """A cell as `run_cell` writes it, with chance at 9 px."""
    errors = {"1": rollout, "4": rollout, "8": rollout, "all": rollout}
    probe = {
        "encoding": {"rmse": {**errors, "all": encoding}},
        "rollout": {"rmse": errors},
        "transfer": {"rmse": errors},
        "chance": {"rmse": dict.fromkeys(errors, 9.0)},
    }
    diagnostics = {"between_trajectory_share": 0.99, "rankme": 20.0, "action_r2": 0.0, "identity_ratio": 1.0}
    return {
        "objective": objective,
        "world": "dot",
        "distractor": "none" if alpha == 0 else "uniform",
        "motion": motion,
        "alpha": alpha,
        "seed": seed,
        "lr": None,
        "probes": {"position": probe},
        "diagnostics": diagnostics,
        "alarm": {"kind": "constant"} if alarm else None,
        "planning": {"success_rate": 0.1},
        "terms": {"prediction": 0.01},
        "loss": 0.25,
        "seconds": 1.0,
    }


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_every_recipe_with_its_own_terms(name):
    for recipe_name in RECIPES:
        recipe = with_objective(resolve(recipe_name, "smoke"), name)
        assert recipe.objective.weights == OBJECTIVES[name].weights
        assert recipe.model.target == OBJECTIVES[name].target
        assert recipe.objective.window == resolve(recipe_name, "smoke").objective.window


def test_overrides_come_after_the_objective():
    recipe = resolve_with_objective("slow-features", "vicreg", "default", ["objective.weights.variance=3"])
    assert recipe.objective.weights["variance"] == 3
    with pytest.raises(ValueError, match="objective must be one of .*did you mean 'vicreg'"):
        resolve_with_objective("slow-features", "vicregg")


def test_the_small_grid_has_one_setting_per_objective_and_every_condition_of_the_paper():
    cells = grid("small", [0, 1, 2])
    assert len(set(cells)) == len(cells)
    recipes = {}
    for cell in cells:
        recipe = cell_recipe(dataclasses.replace(cell, lr=None), "small")
        trained = (recipe.model, recipe.objective, recipe.world_model)
        assert recipes.setdefault(cell.objective, trained) == trained
    assert set(recipes) == {cell.objective for cell in cells}
    assert {cell.objective for cell in grid("full", [0])} == set(OBJECTIVES)
    conditions = {cell.condition for cell in cells if cell.objective == "controllable"}
    for distractor in ("uniform", "structured"):
        for motion in ("fixed", "changing", "rolling"):
            assert Condition("dot", distractor, motion, 1.0) in conditions
    assert {cell.seed for cell in cells} == {0, 1, 2}
    for name in CORE:
        assert Cell(name, Condition("dot", "uniform", "fixed", 1.0), 2) in cells


def test_full_is_the_size_of_the_paper():
    recipe = cell_recipe(Cell("vicreg", Condition("dot", "uniform", "fixed", 0.5), 0), "full")
    assert recipe.model.embedding_dim == 512
    assert recipe.objective.rollout_steps == 16
    assert recipe.collect.num_episodes == 1_000_000
    alphas = {cell.condition.alpha for cell in grid("full", [0])}
    assert {0, 0.25, 1.0, 3.0} <= alphas


def test_conditions_and_selections_that_make_no_sense_are_one_sentence():
    with pytest.raises(ValueError, match="alpha must be 0 without a distractor"):
        Condition("dot", "none", "fixed", 1.0)
    with pytest.raises(ValueError, match="two-rooms must have the distractor none"):
        Condition("two-rooms", "uniform", "fixed", 1.0)
    with pytest.raises(ValueError, match="did you mean 'rolling'"):
        Condition("dot", "uniform", "roling", 1.0)
    with pytest.raises(ValueError, match="the grid must have a cell"):
        select(grid("smoke", [0]), ["vicreg"], ["two-rooms"])
    with pytest.raises(ValueError, match="did you mean 'vicreg'"):
        select(grid("smoke", [0]), ["vicrg"], None)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A finished smoke grid of two cells, run once."""
    out = tmp_path_factory.mktemp("grid")
    value = run_benchmark(
        out, size="smoke", seeds=[3], conditions=["uniform"], jobs=2, console=make_console(quiet=True)
    )
    return out, value


def test_the_smoke_grid_writes_results_figures_and_runs(smoke):
    out, value = smoke
    assert [cell["objective"] for cell in value["cells"]] == ["vicreg", "controllable"]
    for name in ("slow_features.json", "slow_features_alpha.png", "slow_features_loss.png"):
        assert (out / name).stat().st_size > 1000
    cell = value["cells"][0]
    assert set(cell["probes"]["position"]["rollout"]["rmse"]) == {"1", "4", "8", "all"}
    assert 0 <= cell["planning"]["success_rate"] <= 1
    assert cell["planning"]["bounds_respected"]
    assert cell["terms"].keys() == {"prediction", "variance", "covariance"}
    assert {"between_trajectory_share", "rankme", "action_r2"} <= cell["diagnostics"].keys()
    assert json.loads((out / "slow_features.json").read_text())["cells"] == value["cells"]


def test_a_grid_goes_on_where_it_was_killed_and_repeats_its_bits(smoke, tmp_path):
    _, value = smoke
    first = grid("smoke", [3])[0]
    again = run_cell(first, "smoke", tmp_path)
    for key in ("probes", "diagnostics", "terms"):
        assert slim(again)[key] == value["cells"][0][key]
    folder = cell_folder(tmp_path, first)
    (folder / "cell.json").write_text((folder / "cell.json").read_text().replace('"seed": 3', '"seed": 99'))
    assert run_cell(first, "smoke", tmp_path)["seed"] == 99  # a finished cell is read, not run


def test_a_folder_of_another_size_is_refused(smoke):
    out, _ = smoke
    with pytest.raises(ValueError, match="must be continued with the same size"):
        run_benchmark(out, size="small", seeds=[3], objectives=["vicreg"], console=make_console(quiet=True))


def test_the_command_prints_the_table_and_says_how_the_alarm_did(smoke, capsys):
    out, _ = smoke
    arguments = ["bench", "slow-features", "--size", "smoke", "--seeds", "3", "--conditions", "uniform"]
    assert main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().err
    assert "controllable" in printed
    assert "sensitivity" in printed
    assert (
        main(["bench", "slow-features", "--size", "smoke", "--objectives", "vicrg", "--out", str(out)]) == 1
    )
    assert "did you mean 'vicreg'" in capsys.readouterr().err


def test_the_world_of_a_cell_is_probed_for_what_is_in_it():
    rooms = make_simulator("worldmodel/TwoRooms-v0", layout="random")
    state = rooms.initial(5, torch.Generator().manual_seed(0))
    found = targets_of(rooms, rooms.state_vector(state))
    torch.testing.assert_close(found["layout"][:, 0], state["wall_x"].float())
    dots = make_simulator("worldmodel/MovingDot-v0", num_dots=3)
    state = dots.initial(5, torch.Generator().manual_seed(0))
    found = targets_of(dots, dots.state_vector(state))
    torch.testing.assert_close(found["stationary"], state["other_positions"][:, 1])
    torch.testing.assert_close(found["position"], state["position"])


def test_the_alarm_is_judged_against_what_the_probe_reads():
    lost, kept, between = (
        fake_cell(encoding=8.0),
        fake_cell(encoding=1.0, alarm=False),
        fake_cell(encoding=4.5),
    )
    assert [judge(cell) for cell in (lost, kept, between)] == ["failing", "healthy", "between"]
    quality = alarm_quality([lost, kept, between, fake_cell(encoding=9.0, alarm=False, seed=7)])
    assert quality["sensitivity"] == 0.5
    assert quality["specificity"] == 1
    assert quality["between"] == 1
    assert [cell["seed"] for cell in quality["wrong"]] == [7]
    assert alarm_quality([kept])["sensitivity"] is None


def test_the_loss_of_a_cell_is_the_weighted_sum_of_its_held_out_terms(smoke):
    _, value = smoke
    for cell in value["cells"]:
        weights = OBJECTIVES[cell["objective"]].weights
        assert cell["loss"] == pytest.approx(
            sum(weights[name] * cell["terms"][name] for name in weights), rel=1e-2
        )


def test_the_objectives_are_listed_with_what_they_are(capsys):
    assert main(["objectives", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert set(listed) == set(OBJECTIVES)
    assert listed["controllable"]["weights"] == OBJECTIVES["controllable"].weights
    assert main(["objectives"]) == 0
    assert OBJECTIVES["sigreg"].about in capsys.readouterr().err


def test_ray_gets_functions_and_the_whole_job(monkeypatch, tmp_path):
    class Handle:
        def __init__(self, function):
            self.function = function

        def remote(self, *arguments):
            return Reference(lambda: self.function(*arguments))

    class Reference:
        def __init__(self, call):
            self.call = call

    class RayError(Exception):
        pass

    def remote(**resources):
        def wrap(function):
            assert inspect.isfunction(function)  # as Ray demands
            assert set(resources) <= {"num_cpus", "num_gpus"}
            return Handle(function)

        return wrap

    def get(found):
        return [one.call() for one in found] if isinstance(found, list) else found.call()

    fake = types.SimpleNamespace(
        is_initialized=lambda: True,
        remote=remote,
        get=get,
        wait=lambda pending, num_returns: (pending[:num_returns], pending[num_returns:]),
        exceptions=types.SimpleNamespace(RayError=RayError),
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    value = run_benchmark(
        tmp_path,
        size="smoke",
        seeds=[4],
        objectives=["vicreg"],
        use_ray=True,
        console=make_console(quiet=True),
    )
    assert [cell["objective"] for cell in value["cells"]] == ["vicreg"]
    with pytest.raises(ValueError, match="device on Ray.* must be cpu or cuda, got 'cuda:1'"):
        run_benchmark(
            tmp_path / "x",
            size="smoke",
            seeds=[4],
            device="cuda:1",
            use_ray=True,
            console=make_console(quiet=True),
        )


def test_rollouts_shorter_than_the_table_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        ValueError, match="rollouts must have the 8 steps that the table shows, got rollout_steps 4"
    ):
        run_benchmark(
            tmp_path / "out",
            size="smoke",
            seeds=[0],
            overrides=["objective.rollout_steps=4"],
            console=make_console(quiet=True),
        )
    assert not (tmp_path / "out").exists()


def test_tables_average_seeds_and_keep_the_worst():
    cells = [fake_cell(rollout=9.0, seed=0), fake_cell(rollout=10.0, seed=1, alarm=False)]
    assert rmse(cells[0]) == 9.0
    assert encoding_rmse(cells[0]) == 9.0
    conditions = [("dot", "uniform", "fixed", 1.0), ("dot", "none", "fixed", 0.0)]
    text = markdown_table(cells, {"vicreg": "VICReg"}, conditions, title="error")
    assert text.splitlines()[0] == "| error | fixed uniform | none |"
    assert text.splitlines()[2] == "| VICReg | 9.50 (10.00) ⚠ 1/2 | – |"
    assert cells_table(cells).row_count == 2  # the condition, and its objective


def test_the_tuned_column_takes_the_best_learning_rate_on_the_same_data():
    cells = [
        fake_cell(rollout=9.0, seed=0),
        fake_cell(rollout=1.0, seed=1),  # another seed has no tuned cells
        {**fake_cell(rollout=8.0, seed=0), "lr": 0.001},
        {**fake_cell(rollout=9.5, seed=0), "lr": 0.01},
        fake_cell("sigreg", rollout=7.0, seed=0),
    ]
    assert tuned(cells) == {"vicreg": (0.001, 8.0)}
    assert cells_table(cells).row_count == 3 + 2


@pytest.mark.render
def test_figures_draw_a_curve_per_objective_and_a_point_per_cell():
    cells = [
        fake_cell(objective, motion, alpha, seed, rollout=1 + alpha)
        for objective in ("vicreg", "controllable")
        for motion in ("fixed", "changing")
        for alpha in (0.0, 0.5, 1.0)
        for seed in (0, 1)
    ]
    alpha = draw_alpha(cells)
    assert len(alpha.axes) == 2  # fixed and changing noise
    curve = next(line for line in alpha.axes[0].lines if line.get_label() == "vicreg")
    assert list(curve.get_ydata()) == [1.0, 1.5, 2.0]
    assert len(draw_loss(cells).axes[1].collections) == len(cells)


def test_ray_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'worldmodel\[ray\]'"):
        run_benchmark(
            tmp_path,
            size="smoke",
            seeds=[0],
            objectives=["vicreg"],
            use_ray=True,
            console=make_console(quiet=True),
        )


def test_a_run_without_critic_and_policy_is_evaluated_by_planning_alone(tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(smoke_run("slow-features"), run)
    rows = evaluate_run(run, with_references=False)
    assert [row["agent"] for row in rows] == ["mode-2"]
    maps = json.loads((run / "media" / "cost_map.json").read_text())
    assert set(maps["rank_correlation"]) == {"embedding_distance"}
    assert all("cost" not in entry for entry in maps["maps"])
    assert "Embedding distance" in render_report(run).read_text()
    assert main(["evaluate", str(run), "--mode", "1", "--quiet"]) == 1
    assert "mode 1 must have a policy" in capsys.readouterr().err
    with pytest.raises(ValueError, match="planner.cost of a recipe without a critic must be a distance"):
        resolve("slow-features", "smoke", ["planner.cost=critic"])
    with pytest.raises(ValueError, match="a recipe with an actor must have a critic"):
        resolve("two-rooms", "smoke", ["critic=null"])
