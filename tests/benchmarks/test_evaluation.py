import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.agents import LearnedActor, load_agent, load_run, make_cost, with_planner
from benchmarks.catalogue import resolve
from benchmarks.cli import main
from benchmarks.evaluation import (
    draw_tasks,
    run_episodes,
    simulator_bounds,
    summarise,
)
from benchmarks.films import film_path
from benchmarks.pipeline import evaluate_run
from benchmarks.recipes import EvaluationRecipe, PlannerRecipe
from benchmarks.references import OracleActor, ScriptedActor, reference_actors
from benchmarks.report import render_report
from benchmarks.runs import read_results
from envs.registration import make_simulator
from envs.state import index_state
from tests.benchmarks.runs import smoke_run
from worldmodel.checkpoint import CheckpointError
from worldmodel.costs import ActionEffort, SummedDistance

TWO_ROOMS = "worldmodel/TwoRooms-v0"


def tasks(simulator, num=20, **changes):
    return draw_tasks(simulator, EvaluationRecipe(num_tasks=num, **changes))


def test_tasks_are_a_function_of_their_seed_and_never_solved():
    simulator = make_simulator(TWO_ROOMS, image_size=16)
    one, again, other = tasks(simulator), tasks(simulator), tasks(simulator, seed=7)
    assert torch.equal(one.start["position"], again.start["position"])
    assert not torch.equal(one.start["position"], other.start["position"])
    assert not simulator.success(one.start, one.goal).any()


def test_random_layout_tasks_come_from_held_out_layouts():
    simulator = make_simulator(TWO_ROOMS, layout="random", image_size=16)
    drawn = tasks(simulator, num=200)
    train = simulator.initial(2000, torch.Generator().manual_seed(0), split="train")
    assert not np.isin(simulator.layout_id(drawn.start).numpy(), simulator.layout_id(train).numpy()).any()


def test_reference_rows_are_what_they_say():
    simulator = make_simulator(TWO_ROOMS, image_size=16)
    drawn = tasks(simulator, num=60)
    planner = resolve("two-rooms").planner
    rates = {}
    for name, actor in reference_actors(simulator, planner, seed=0).items():
        episodes = run_episodes(simulator, actor, drawn)
        assert episodes.is_bounded
        rates[name] = summarise(episodes, drawn, agent=name)["success_rate"]
    assert rates["zero"] == 0
    assert rates["expert"] == 1
    assert rates["oracle"] >= 0.98
    assert rates["random"] <= 0.15
    assert rates["straight-line"] < 0.9
    assert rates["oracle-straight"] < 0.9
    assert rates["correlated"] < 0.5


def test_the_oracle_plans_on_the_true_simulator_alike_alone_and_together():
    simulator = make_simulator(TWO_ROOMS, image_size=16)
    drawn = tasks(simulator, num=4)
    planner = PlannerRecipe(args={"num_samples": 32, "num_iters": 2, "num_elites": 4})
    together = OracleActor(simulator, planner, seed=1)
    together.begin(drawn.goal)
    actions = together.act(together.observe(drawn.start))
    for row in range(4):
        alone = OracleActor(simulator, planner, seed=1)
        rows = torch.tensor([row])
        alone.begin(index_state(drawn.goal, rows))
        torch.testing.assert_close(alone.act(index_state(drawn.start, rows))[0], actions[row])


def test_success_is_counted_ever_and_at_the_end():
    simulator = make_simulator(TWO_ROOMS, image_size=16)
    drawn = tasks(simulator, num=30, num_steps=160)
    calls = []

    def there_and_away(state, goal):
        calls.append(1)
        return simulator.expert(state, goal) if len(calls) <= 80 else simulator.expert(state, drawn.start)

    row = summarise(run_episodes(simulator, ScriptedActor(there_and_away), drawn), drawn, agent="x")
    assert row["success_rate"] == 1.0
    assert row["success_rate_final"] == 0.0
    assert 5 < row["steps_to_success"]["median"] < row["steps_to_success"]["p90"] <= 80
    assert row["env_steps"] == 30 * 160
    assert row["ci95"][0] < 1.0 == pytest.approx(row["ci95"][1])


def test_a_narrower_radius_is_counted_beside():
    simulator = make_simulator(TWO_ROOMS, image_size=16)
    drawn = draw_tasks(simulator, EvaluationRecipe(num_tasks=30, num_steps=90, strict_radius=1.41))

    def almost(state, goal):  # stops 1.5 to 4 px from the goal
        far = simulator.distance(state, goal) > 1.5 + simulator.max_step
        return simulator.expert(state, goal) * far[:, None]

    row = summarise(run_episodes(simulator, ScriptedActor(almost), drawn), drawn, agent="x")
    assert (row["success_rate_final"], row["strict"]["success_rate"]) == (1.0, 0.0)
    episodes = run_episodes(simulator, ScriptedActor(simulator.expert), drawn)
    row = summarise(episodes, drawn, agent="expert")
    assert row["strict"]["success_rate"] == row["strict"]["success_rate_final"] == 1.0
    assert row["strict"]["radius"] == 1.41
    torch.testing.assert_close(episodes.distance < simulator.success_radius, episodes.reached)
    with pytest.raises(ValueError, match="strict_radius must be > 0 or null, got -1"):
        EvaluationRecipe(strict_radius=-1)
    with pytest.raises(
        ValueError, match="strict_radius must be <= the environment's success_radius, 4.5, got 9"
    ):
        draw_tasks(simulator, EvaluationRecipe(num_tasks=2, strict_radius=9))
    wide = dataclasses.replace(drawn, strict_radius=None)
    assert summarise(episodes, wide, agent="expert")["strict"] is None


def test_an_action_out_of_bounds_is_reported():
    simulator = make_simulator(TWO_ROOMS, image_size=16)
    drawn = tasks(simulator, num=3, num_steps=2)
    episodes = run_episodes(simulator, ScriptedActor(lambda state, goal: torch.full((3, 2), 2.0)), drawn)
    assert not episodes.is_bounded
    assert not summarise(episodes, drawn, agent="x")["bounds_respected"]


@pytest.mark.parametrize("name", ["two-rooms", "moving-dot"])
def test_a_smoke_run_is_evaluated_with_every_row_and_medium(tmp_path, name):
    rows = evaluate_run(smoke_run(name), out=tmp_path)
    walls = {"oracle-straight"} if name == "two-rooms" else set()
    assert {row["agent"] for row in rows} == walls | {
        "mode-2",
        "mode-1",
        "zero",
        "random",
        "correlated",
        "straight-line",
        "expert",
        "oracle",
    }
    assert all(row["bounds_respected"] for row in rows)
    episodes = json.loads((tmp_path / "media" / "episodes.json").read_text())["episodes"]
    planned = [episode for episode in episodes if episode["agent"] == "mode-2"]
    assert planned
    for episode in planned:
        assert len(episode["imagined"]) == len(episode["path"]) - 1
        assert episode["imagined"][0] is not None
        assert np.isfinite(np.array(episode["imagined"][0])).all()
    probe = json.loads((tmp_path / "media" / "probe.json").read_text())
    assert len(probe["rmse"]) == len(probe["steps"])
    maps = json.loads((tmp_path / "media" / "cost_map.json").read_text())
    assert len(maps["maps"][0]["cost"]) == len(maps["maps"][0]["true_distance"])


def test_a_world_that_is_no_map_is_filmed_and_the_report_shows_it(tmp_path):
    run = smoke_run("reacher-small")
    rows = evaluate_run(run, out=tmp_path)
    assert {row["agent"] for row in rows} == {
        "mode-2",
        "mode-1",
        "zero",
        "random",
        "correlated",
        "expert",
        "oracle",
    }
    with Image.open(film_path(tmp_path / "media", "mode-2")) as film:
        assert film.n_frames == 13
        assert film.size == (4 * 136, 2 * 136)  # eight episodes
    assert not (tmp_path / "media" / "episodes.json").exists()
    page = render_report(tmp_path).read_text()
    assert page.count("data:image/gif;base64,") == 2
    assert 'id="cost-maps"' not in page
    assert 'id="training"' in page


@pytest.mark.parametrize("name", ["point-maze-small", "push-t-small", "cart-pole-small"])
def test_the_recipes_of_the_mujoco_tasks_go_from_nothing_to_a_report(tmp_path, name):
    run = smoke_run(name)
    rows = {row["agent"]: row for row in evaluate_run(run, out=tmp_path)}
    assert {"mode-2", "mode-1", "zero", "random", "correlated", "expert", "oracle"} <= rows.keys()
    assert ("oracle-straight" in rows) == (name == "point-maze-small")
    assert render_report(tmp_path).exists()


def test_an_oracle_that_named_the_recipes_cost_is_replaced(tmp_path):
    run = smoke_run()
    rows = evaluate_run(run, out=tmp_path)
    for row in rows:
        if row["agent"].startswith("oracle"):
            row["planner_settings"]["cost"] = "summed_critic"  # as version 0.2 wrote it
    (tmp_path / "results.json").write_text(json.dumps({"evaluations": rows}))
    evaluate_run(run, out=tmp_path)
    found = [row for row in read_results(tmp_path) if row["agent"].startswith("oracle")]
    assert sorted((row["agent"], row["planner_settings"]["cost"]) for row in found) == [
        ("oracle", "summed_true_distance"),
        ("oracle-straight", "summed_straight_distance"),
    ]


def test_evaluating_again_replaces_a_row_and_other_settings_add_one(tmp_path):
    run = smoke_run()
    first = evaluate_run(run, out=tmp_path)
    planned = [e for e in recorded(tmp_path) if e["agent"] == "mode-2"]
    evaluate_run(run, out=tmp_path, modes=("1",), with_references=False)
    assert len(read_results(tmp_path)) == len(first)
    assert [e for e in recorded(tmp_path) if e["agent"] == "mode-2"] == planned
    few = EvaluationRecipe(num_tasks=3, num_steps=2)
    evaluate_run(run, out=tmp_path, modes=("1",), with_references=False, evaluation=few)
    assert len(read_results(tmp_path)) == len(first) + 1
    assert render_report(tmp_path).exists()  # a folder of results is enough for a page


def recorded(folder):
    return json.loads((folder / "media" / "episodes.json").read_text())["episodes"]


def test_one_seed_gives_one_evaluation_and_another_seed_another(tmp_path):
    def steps(seed, folder):
        evaluation = EvaluationRecipe(num_tasks=6, num_steps=4)
        evaluate_run(
            smoke_run(), out=tmp_path / folder, seed=seed, evaluation=evaluation, with_references=False
        )
        return json.loads((tmp_path / folder / "media" / "episodes.json").read_text())

    assert steps(0, "a") == steps(0, "b")
    assert steps(0, "a") != steps(1, "c")


@pytest.mark.parametrize("planner", ["random_shooting", "cem", "icem", "mppi", "gradient", "cem_gradient"])
def test_every_planner_acts_on_a_learned_model(planner):
    run = load_run(smoke_run())
    simulator = run.simulator
    drawn = tasks(simulator, num=3, num_steps=3)
    recipe = with_planner(resolve("two-rooms", "smoke").planner, planner, [])
    actor = LearnedActor(run, simulator, mode="2", planner=recipe, seed=0)
    episodes = run_episodes(simulator, actor, drawn)
    assert episodes.is_bounded


@pytest.mark.parametrize("mode", ["1", "2", "2+1"])
def test_an_agent_acts_without_a_simulator_as_in_one(mode, monkeypatch):
    run = load_run(smoke_run())
    simulator = run.simulator
    drawn = tasks(simulator, num=3)
    actor = LearnedActor(run, simulator, mode=mode, planner=resolve("two-rooms", "smoke").planner, seed=4)
    actor.begin(drawn.goal)
    seen = actor.observe(drawn.start)
    monkeypatch.setattr("benchmarks.agents.make_simulator", None)  # to be called would raise
    agent = load_agent(str(smoke_run()), mode=mode, seed=4)
    agent.set_goal(actor.observe(drawn.goal))
    actions = agent.act(seen)
    assert actions.shape == (3, 2)
    assert torch.equal(actions, actor.act(seen))
    bounds = simulator_bounds(simulator)
    assert torch.equal(agent.bounds.low, bounds.low)
    assert torch.equal(agent.bounds.high, bounds.high)
    assert agent.bounds.max_norm == bounds.max_norm


def test_an_agent_of_unknown_words_is_one_sentence():
    with pytest.raises(ValueError, match="mode must be one of 1, 2, 2[+]1, got '3'"):
        load_agent(smoke_run(), mode="3")
    with pytest.raises(ValueError, match="policy must be one of .*, got 'dager'; did you mean 'dagger'"):
        load_agent(smoke_run(), policy="dager")


@pytest.mark.parametrize(
    "overrides",
    [
        ("model.predictor=transformer", 'model.predictor_args={"context":2,"width":16,"num_layers":1}'),
        ('model.encoder_args={"feature_map":true}', "model.predictor=conv", "model.embedding_dim=4"),
        ("model.target=ema", "objective.starts=every", "objective.rollout_steps=3"),
        ('model.keys=["pixels","proprio"]',),
        ('model.keys=["proprio"]', "model.encoder=mlp"),
        ("model.encoder=impala", 'model.encoder_args={"stacks":[4,4]}', "model.predictor=gru"),
        ("collect.states_only=true",),
        ("predictor=null",),
        ('objective.weights={"prediction":1,"sigreg":0.1,"temporal_std":1}',),
    ],
)
def test_every_kind_of_model_goes_the_whole_way(tmp_path, overrides):
    run = smoke_run("two-rooms", overrides)
    rows = evaluate_run(
        run, out=tmp_path, evaluation=EvaluationRecipe(num_tasks=3, num_steps=3), with_references=False
    )
    assert len(rows) == 2


def test_costs_are_built_from_words():
    run = load_run(smoke_run())
    embeddings, actions = torch.randn(2, 3, 4, 32), torch.randn(2, 3, 4, 2)
    goal = torch.randn(2, 1, 32)
    both = make_cost("summed_distance + 0.5*action_effort", run)(embeddings, actions, goal)
    expected = SummedDistance()(embeddings, actions, goal) + 0.5 * ActionEffort()(embeddings, actions, goal)
    torch.testing.assert_close(both, expected)
    assert make_cost("critic", run)(embeddings, actions, goal).shape == (2, 3)
    with pytest.raises(ValueError, match="cost must be one of .*did you mean 'critic'"):
        make_cost("critc", run)
    with pytest.raises(ValueError, match="weight of a cost must be a number, got 'much'"):
        make_cost("much*critic", run)


def test_the_policy_can_start_the_planner(tmp_path):
    def first_rows(proposal):
        planner = with_planner(resolve("two-rooms", "smoke").planner, None, [("policy_proposal", proposal)])
        run = load_run(smoke_run())
        drawn = tasks(run.simulator, num=4)
        actor = LearnedActor(run, run.simulator, mode="2", planner=planner, seed=0)
        actor.begin(drawn.goal)
        actor.act(actor.observe(drawn.start))
        return actor.agent.mpc.last_plan.cost

    assert (first_rows(proposal=True) <= first_rows(proposal=False) + 1e-4).any()
    assert not torch.equal(first_rows(proposal=True), first_rows(proposal=False))


def test_planner_settings_fall_to_the_config_they_belong_to():
    recipe = with_planner(resolve("two-rooms").planner, "mppi", [("horizon", 4), ("temperature", 0.1)])
    assert (recipe.name, recipe.horizon, recipe.args) == ("mppi", 4, {"temperature": 0.1})


def test_unfinished_and_tampered_runs_are_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="run must have a trained model"):
        load_run(tmp_path)
    shutil.copytree(smoke_run(), tmp_path / "run")
    path = tmp_path / "run" / "policy" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="SHA-256"):
        evaluate_run(tmp_path / "run", modes=("1",), with_references=False)


def test_simulator_bounds_are_those_of_the_simulator():
    bounds = simulator_bounds(make_simulator(TWO_ROOMS))
    assert bounds.max_norm == pytest.approx(2.45)


def test_references_need_no_run(capsys):
    command = ["bench", "references", "worldmodel/PointMaze-v0", "--episodes", "4", "--steps", "3"]
    assert (
        main([*command, "--env-args", "size=5", "--planner-args", "num_samples=8", "--quiet", "--json"]) == 0
    )
    rows = json.loads(capsys.readouterr().out)["evaluations"]
    assert {row["agent"] for row in rows} == {
        "zero",
        "random",
        "correlated",
        "straight-line",
        "expert",
        "oracle",
        "oracle-straight",
    }
    planned = {row["agent"]: row["planner_settings"] for row in rows if row["planner"]}
    assert planned.keys() == {"oracle", "oracle-straight"}
    assert planned["oracle"]["args"]["num_samples"] == 8
    assert planned["oracle"]["cost"] == "summed_true_distance"
    assert planned["oracle-straight"]["cost"] == "summed_straight_distance"
    assert all(row["episodes"] == 4 and row["num_steps"] == 3 for row in rows)
