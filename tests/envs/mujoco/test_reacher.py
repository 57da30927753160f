"""Reacher: geometry, limits and tasks."""

import math

import mujoco
import numpy as np
import pytest
import torch

from envs.mujoco.reacher import LIMIT, Reacher
from envs.policies import CorrelatedNoise
from tests.envs.mujoco.worlds import generator


def test_the_fingertip_is_where_mujoco_has_it():
    sim = Reacher()
    state = sim.initial(20, generator())
    tip = sim.model.geom("tip").id
    for world in range(20):
        data = mujoco.MjData(sim.model)
        data.qpos[:] = state["position"][world]
        mujoco.mj_forward(sim.model, data)
        np.testing.assert_allclose(
            sim.fingertip(state["position"])[world], data.geom_xpos[tip, :2], atol=1e-6
        )
    centres, _ = sim.poses(state)
    torch.testing.assert_close(centres[:, tip, :2], sim.fingertip(state["position"]), atol=1e-6, rtol=0)


def test_a_shorter_arm_needs_a_larger_turn_to_move_its_fingertip_as_far():
    sim = Reacher(criterion="fingertip")
    state = sim.goal_at(sim.initial(2, generator(), {"link_length": [1.0, 0.6]}), torch.tensor([0.5, 1.0]))
    turned = sim.goal_at(state, torch.tensor([0.6, 1.0]))
    tips = [sim.poses(each)[0][:, sim.model.geom("tip").id, :2] for each in (state, turned)]
    moved = (tips[1] - tips[0]).norm(dim=-1)
    torch.testing.assert_close(moved[1], 0.6 * moved[0], atol=1e-6, rtol=0)
    assert (moved < sim.success_radius).tolist() == sim.success(state, turned).tolist() == [False, True]


def test_a_goal_of_a_short_arm_is_as_far_for_its_fingertip():
    sim = Reacher(criterion="fingertip", success_radius=0.1)
    state = sim.initial(200, generator(), {"link_length": 0.6})
    assert not sim.success(state, sim.goal(state, generator(1))).any()


@pytest.mark.parametrize("criterion", ["joints", "fingertip"])
def test_the_expert_takes_every_goal_and_stays_and_noise_hardly_takes_any(criterion):
    sim = Reacher(criterion=criterion)
    start = sim.initial(200, generator(), split="eval")
    goal = sim.goal(start, generator(1))
    assert not sim.success(start, goal).any()
    noise = CorrelatedNoise()
    noise.reset(sim, start, random := generator(2))
    rates = {}
    for name, act in (
        ("expert", lambda s: sim.expert(s, goal)),
        ("noise", lambda s: noise.act(sim, s, random)),
    ):
        state, done = start, torch.zeros(200, dtype=torch.bool)
        for _ in range(sim.max_steps):
            state = sim.transition(state, act(state))
            done |= sim.success(state, goal)
        rates[name] = (float(done.float().mean()), float(sim.success(state, goal).float().mean()))
    assert rates["expert"] == (1.0, 1.0)
    assert rates["noise"][0] < 0.25


def test_joints_stop_at_their_limits():
    sim = Reacher()
    state = sim.initial(50, generator())
    for _ in range(60):
        state = sim.transition(state, torch.ones((50, 2)))
    assert (state["position"] > LIMIT - 0.1).all()
    assert (state["position"] < LIMIT + 0.1).all()


def test_success_is_about_both_joints_or_the_fingertip():
    joints, tip = Reacher(), Reacher(criterion="fingertip")
    state = joints.goal_at(joints.initial(1, generator()), torch.tensor([0.5, 1.0]))
    near = joints.goal_at(state, torch.tensor([0.54, 0.96]))
    far = joints.goal_at(state, torch.tensor([0.5, 1.06]))
    assert joints.success(state, near).item()
    assert not joints.success(state, far).item()
    assert tip.success(state, far).item()  # .0066 m
    mirrored = joints.goal_at(state, torch.tensor([0.0, -1.0]))
    assert not joints.success(state, mirrored).item()
    with pytest.raises(ValueError, match=r"a goal's angles must lie within 2\.793 rad"):
        joints.goal_at(state, torch.tensor([math.pi, 0.0]))


def test_without_positions_proprioception_has_the_velocities_alone():
    plain, blind = Reacher(), Reacher(positions_in_proprio=False)
    state = plain.initial(3, generator())
    state = plain.transition(state, torch.ones(3, 2))
    assert blind.proprio_dim == len(blind.proprio_high) == len(blind.proprio_low) == 2
    assert torch.equal(blind.proprio(state), plain.proprio(state)[:, 2:])
    assert (blind.proprio(state) != 0).all()
    assert Reacher(**blind.kwargs).proprio_dim == 2
