"""The recipes of the MuJoCo tasks: mazes with a policy that reads the value map, Push-T with the task's own cost."""

import dataclasses
import json
import shutil

import pytest
import torch

from benchmarks.agents import load_run, make_cost, task_rule
from benchmarks.cli import main
from benchmarks.distilling import DaggerConfig, distill_run
from benchmarks.pipeline import evaluate_run
from benchmarks.policy_checkpoint import load_policy, policy_folder
from benchmarks.recipes import EvaluationRecipe
from envs.mujoco.push_t import PushT
from envs.two_rooms import TwoRooms
from tests.benchmarks.runs import smoke_run
from worldmodel.readout import SeenPair
from worldmodel.value_map import Surroundings

BRIEF = DaggerConfig(rounds=1, episodes=4, num_steps=2, ask_every=1, train_steps=2, batch_size=8)


def test_the_policy_of_a_maze_reads_the_critic_s_value_map_and_leaves_it_as_it_was(tmp_path):
    run = smoke_run("point-maze-small")
    critic, policy = load_run(run).critic, load_policy(policy_folder(run, "imagination"))
    assert isinstance(policy.reader, Surroundings)
    ours = policy.reader.value_map.state_dict()
    assert set(ours) == set(critic.head.state_dict())
    assert all(torch.equal(ours[name], value) for name, value in critic.head.state_dict().items())
    shutil.copytree(run, tmp_path / "run")
    for own_start in (True, False):
        facts = distill_run(tmp_path / "run", dataclasses.replace(BRIEF, own_start=own_start))
        assert facts["started_from_own"] == own_start
        distilled = load_policy(policy_folder(tmp_path / "run", "dagger"))
        assert isinstance(distilled.reader, Surroundings)
        theirs = distilled.reader.value_map.state_dict()
        assert all(torch.equal(theirs[name], value) for name, value in ours.items())
        assert torch.equal(distilled.mean, critic.mean)


def test_push_t_plans_and_trains_its_policy_by_the_distance_that_a_readout_sees():
    run = load_run(smoke_run("push-t-small"))
    stages = {json.loads(line)["stage"] for line in (run.path / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"world_model", "predictor", "readout", "critic", "actor"}
    embeddings, goal = torch.randn(4, 3, 5, 32), torch.randn(4, 1, 32)
    found = make_cost("task", run)(embeddings, torch.zeros(4, 3, 5, 2), goal)
    seen, there = run.readout(embeddings), run.readout(goal)[..., None, :]
    expected = PushT(block_in_proprio=True).seen_distance(seen, there).sum(-1)
    torch.testing.assert_close(found, expected)


def test_push_t_s_critic_and_policy_read_what_its_cost_reads(tmp_path):
    run = load_run(smoke_run("push-t-small"))
    critic, policy = run.critic, load_policy(policy_folder(run.path, "imagination"))
    assert isinstance(policy.reader, SeenPair)
    for readout in (critic.readout, policy.reader.readout):
        ours, theirs = readout.state_dict(), run.readout.state_dict()
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    embedding, goal = torch.randn(2, 6, 32)
    assert run.readout.is_of_goal.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]  # the block, not the pusher
    seen, there = run.readout.standardised(embedding), run.readout.standardised(goal) * run.readout.is_of_goal
    torch.testing.assert_close(
        critic.distance(embedding, goal), critic.config.scale * critic.head(seen, there)
    )
    torch.testing.assert_close(
        policy(embedding, goal), policy.layers(torch.cat([seen, there], -1)).tanh()
    )  # Push-T's bounds are -1 and 1
    shutil.copytree(run.path, tmp_path / "run")
    distill_run(tmp_path / "run", BRIEF)
    distilled = load_policy(policy_folder(tmp_path / "run", "dagger"))
    assert isinstance(distilled.reader, SeenPair)


def test_where_the_recipe_has_it_the_planner_corrects_the_policy_and_that_one_is_evaluated(tmp_path):
    run = smoke_run("point-maze-small")
    corrected = load_policy(policy_folder(run, "dagger"))
    own = load_policy(policy_folder(run, "imagination"))
    assert not torch.equal(corrected.layers[0].weight, own.layers[0].weight)
    few = EvaluationRecipe(num_tasks=2, num_steps=2)
    settings = {"modes": ("1",), "with_references": False, "with_media": False, "evaluation": few}
    for policy, used in ((None, "dagger"), ("imagination", "imagination")):
        rows = evaluate_run(run, out=tmp_path / used, policy=policy, **settings)
        assert [row["policy"] for row in rows] == [used]


def test_a_task_whose_distance_is_not_seen_is_one_sentence(capsys):
    with pytest.raises(ValueError, match="cost 'task' must be of a task whose distance proprioception shows"):
        task_rule(TwoRooms())
    with pytest.raises(ValueError, match="block_in_proprio must be true"):
        task_rule(PushT())
    arguments = ["evaluate", str(smoke_run()), "--mode", "2", "--planner-args", "cost=task", "--quiet"]
    assert main(arguments) == 1
    assert "must have a trained readout" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["point-maze", "reacher", "cart-pole", "push-t"])
def test_at_full_size_the_tasks_are_seen_in_pictures(task, tmp_path):
    few = ["collect.num_episodes=12", "evaluation.num_tasks=2", "evaluation.num_steps=2"]
    if task == "point-maze":
        few += ["critic.paths.num_graphs=1", "collect.env_kwargs.num_mazes=3"]
    arguments = ["run", task, "--size", "full", "--preset", "smoke", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--set", *few, "--quiet", "--json", str(tmp_path / "s.json")]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["recipe"] == f"{task}-full"
    assert set(summary["agents"]) >= {"mode-2", "mode-1", "oracle", "random", "zero"}
    run = load_run(tmp_path / "run")
    size, shape = (72, (16, 9, 9)) if task == "point-maze" else (64, (64,))  # a position per cell of a maze
    assert run.model.config.observation["pixels"] == (3, size, size)
    assert run.model.embedding_shape == shape
    shown = run.model.config.observation.get("proprio", (0,))
    assert shown == ((2,) if task in {"reacher", "cart-pole"} else (0,))  # velocities alone
