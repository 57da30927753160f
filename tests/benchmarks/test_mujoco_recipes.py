"""The recipes of the MuJoCo tasks: mazes with a policy that reads the value map, Push-T with the task's own cost."""

import dataclasses
import json
import shutil

import pytest
import torch

from benchmarks.agents import load_run, make_cost, task_rule
from benchmarks.cli import main
from benchmarks.distilling import DaggerConfig, distill_run
from benchmarks.policy_checkpoint import load_policy, policy_folder
from envs.mujoco.push_t import PushT
from envs.two_rooms import TwoRooms
from tests.benchmarks.runs import smoke_run
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


def test_a_task_whose_distance_is_not_seen_is_one_sentence(capsys):
    with pytest.raises(ValueError, match="cost 'task' must be of a task whose distance proprioception shows"):
        task_rule(TwoRooms())
    with pytest.raises(ValueError, match="block_in_proprio must be true"):
        task_rule(PushT())
    arguments = ["evaluate", str(smoke_run()), "--mode", "2", "--planner-args", "cost=task", "--quiet"]
    assert main(arguments) == 1
    assert "must have a trained readout" in capsys.readouterr().err
