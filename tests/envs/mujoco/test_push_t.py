"""Push-T: the block rests, moves when it is pushed, and counts as placed by place and angle."""

import math

import mujoco
import numpy as np
import pytest
import torch

from benchmarks.evaluation import draw_tasks, run_episodes
from benchmarks.recipes import EvaluationRecipe, PlannerRecipe
from benchmarks.references import OracleActor
from envs.collect import collect
from envs.mujoco.push_policy import BlockWaypoints
from envs.mujoco.push_t import ANGLE, BAR, CLEARANCE, RADIUS, PushT
from envs.mujoco.reacher import Reacher
from envs.policies import UniformRandom
from tests.envs.mujoco.worlds import compiled, generator


def test_the_block_stays_where_it_is_left():
    sim = PushT()
    state = sim.initial(50, generator())
    moving = {**state, "velocity": torch.full((50, 5), 0.3)}
    for _ in range(5):
        moving = sim.transition(moving, torch.zeros((50, 2)))
    later = sim.transition(moving, torch.zeros((50, 2)))
    torch.testing.assert_close(later["position"][:, 2:], moving["position"][:, 2:], atol=1e-6, rtol=0)
    assert (
        float((moving["position"] - state["position"])[:, 2:4].norm(dim=-1).max()) < 0.1
    )  # friction stops it


def test_a_push_through_the_centre_moves_the_block_and_one_at_an_end_turns_it():
    sim = PushT()
    start = sim.goal_at(sim.initial(2, generator()), torch.tensor([0.0, -0.6, 0.0, 0.0, 0.0]))
    start["position"][1, 0] = 0.2
    state = start
    for _ in range(9):
        state = sim.transition(state, torch.tensor([0.0, 1.0]).expand(2, 2))
    moved = state["position"] - start["position"]
    assert moved[0, 3] > 0.1
    assert moved[0, 4].abs() < 0.05
    assert moved[1, 4] > 0.5


@pytest.mark.parametrize("is_shaped", [False, True])
def test_the_clearance_is_mujoco_s_distance_between_geoms(is_shaped):
    sim = PushT()
    stems = np.linspace(0.5, 1.5, 400, dtype=np.float32)
    state = sim.initial(400, generator(), {"stem_length": stems} if is_shaped else None)
    goal = sim.goal(state, generator(1))["position"]
    assert sim.clearance(goal[:, :2], goal[:, 2:], state["stem_length"]).min() > CLEARANCE
    ours = sim.clearance(state["position"][:, :2], state["position"][:, 2:], state["stem_length"])
    assert ours.min() > CLEARANCE
    ids = [sim.model.geom(name).id for name in ("bar", "stem", "pusher")]
    for world in range(0, 400, 4):
        model = compiled(sim, state, world)
        data = mujoco.MjData(model)
        data.qpos[:] = state["position"][world]
        mujoco.mj_forward(model, data)
        gaps = [mujoco.mj_geomDistance(model, data, geom, ids[2], 10.0, np.zeros(6)) for geom in ids[:2]]
        assert float(ours[world]) == pytest.approx(min(gaps), abs=1e-5)


def test_the_pusher_never_sinks_into_the_block():
    sim = PushT()
    state, random = sim.initial(200, generator()), generator(2)
    pushed = torch.zeros(200, dtype=torch.bool)
    for _ in range(40):
        ahead = (
            state["position"][:, 2:4]
            - state["position"][:, :2]
            + 0.1 * torch.randn((200, 2), generator=random)
        )
        after = sim.transition(state, ahead.sign())
        pushed |= (after["position"] - state["position"])[:, 2:4].norm(dim=-1) > 1e-3
        state = after
        assert (
            sim.clearance(state["position"][:, :2], state["position"][:, 2:]).min() > -0.03
        )  # half of its radius
    assert pushed.float().mean() > 0.9


def test_success_is_the_block_s_place_and_angle_and_for_both_the_pusher_s():
    block, both = PushT(), PushT(criterion="both")
    start = block.initial(1, generator())
    goal = block.goal_at(start, torch.tensor([0.6, 0.6, 0.1, -0.2, 0.3]))

    def at(*position):
        return block.goal_at(start, torch.tensor(position))

    assert block.success(at(-0.6, 0.6, 0.1, -0.2, 0.3 + 2 * math.pi), goal).item()
    assert block.success(at(-0.6, 0.6, 0.15, -0.2, 0.3 - 0.9 * ANGLE), goal).item()
    assert not block.success(at(0.6, 0.6, 0.1, -0.2, 0.3 + 1.1 * ANGLE), goal).item()
    assert not block.success(at(0.6, 0.6, 0.2, -0.2, 0.3), goal).item()
    assert not both.success(at(-0.6, 0.6, 0.1, -0.2, 0.3), goal).item()
    assert both.success(at(0.65, 0.6, 0.1, -0.2, 0.3), goal).item()
    with pytest.raises(ValueError, match="a goal must have shape"):
        block.goal_at(start, torch.zeros(2))
    for unreachable in (
        (0.0, 0.0, 0.9, 0.0, 0.0),
        (0.1, 0.0, 0.1, 0.0, 0.0),
    ):  # off the arena; inside the block
        with pytest.raises(ValueError, match=r"its block within 0\.75 of the middle"):
            block.goal_at(start, torch.tensor(unreachable))


def test_a_block_at_the_edge_has_a_goal_too():
    sim = PushT()
    edge = sim.goal_at(sim.initial(200, generator()), torch.tensor([-0.5, -0.5, 0.75, 0.75, 0.0]))
    goal = sim.goal(edge, generator(1))["position"]
    assert goal[:, 2:4].abs().max() <= 0.5
    assert not sim.success(edge, {**edge, "position": goal}).any()


def test_the_distance_leads_to_the_goal_under_both_criteria():
    for criterion in ("block", "both"):
        sim = PushT(criterion=criterion)
        goal = sim.goal(sim.initial(200, generator()), generator(1))
        astray = {**goal, "position": goal["position"].clone()}
        astray["position"][:, :2] = (goal["position"][:, :2] + goal["position"][:, 2:4]) / 2
        nearer = sim.distance(goal, goal) < sim.distance(astray, goal)
        assert (
            nearer.all() if criterion == "both" else torch.equal(sim.distance(astray, goal), torch.zeros(200))
        )


@pytest.mark.parametrize("stem_length", [0.5, 1.0, 1.5])
def test_distance_is_the_root_mean_square_way_of_the_corners(stem_length):
    sim = PushT()
    start = sim.initial(1, generator(), {"stem_length": stem_length})
    state = sim.goal_at(start, torch.tensor([0.12, 0.12, 0.0, 0.0, 0.0]))
    shifted = sim.goal_at(start, torch.tensor([0.8, 0.1, 0.0, 0.3, 0.0]))
    turned = sim.goal_at(start, torch.tensor([0.8, 0.1, 0.0, 0.0, 1.0]))
    away = 0.1 * (math.hypot(0.12, 0.12) - BAR[1] - RADIUS)  # of the pusher to the block
    assert float(sim.distance(state, shifted)) == pytest.approx(0.3 + away, abs=1e-6)
    corners = []
    for each in (state, turned):
        model = compiled(sim, each, 0)
        data = mujoco.MjData(model)
        data.qpos[:] = each["position"][0]
        mujoco.mj_forward(model, data)
        for geom in ("bar", "stem"):
            half, rotation = model.geom(geom).size[:2], data.geom(geom).xmat.reshape(3, 3)[:2, :2]
            signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
            corners.append(data.geom(geom).xpos[:2] + (signs * half) @ rotation.T)
    moved = np.concatenate(corners[:2]) - np.concatenate(corners[2:])
    expected = math.sqrt(np.square(moved).sum(1).mean()) + away
    assert float(sim.distance(state, turned)) == pytest.approx(expected, abs=1e-6)


def test_a_pusher_at_a_goal_is_beside_the_block_whatever_its_shape():
    sim = PushT()
    beside = torch.tensor([0.0, 0.3, 0.0, 0.0, 0.0])  # below the stem
    sim.goal_at(sim.initial(1, generator(), {"stem_length": 0.5}), beside)
    with pytest.raises(ValueError, match="beside each other, got"):
        sim.goal_at(sim.initial(1, generator(), {"stem_length": 1.5}), beside)


def test_the_block_turns_about_its_centre_of_mass_whatever_its_shape():
    sim = PushT()
    state = sim.initial(3, generator(), {"stem_length": np.array([0.5, 1.0, 1.5], np.float32)})
    for world in range(3):
        assert np.abs(compiled(sim, state, world).body("block").ipos).max() < 1e-9


@pytest.mark.parametrize("criterion", ["block", "both"])
def test_what_proprioception_shows_of_the_distance_is_the_distance(criterion):
    sim = PushT(criterion=criterion, block_in_proprio=True)
    state = sim.initial(200, generator())
    goal = sim.goal(state, generator(1))
    seen, there = sim.proprio(state), sim.proprio(goal)
    torch.testing.assert_close(sim.seen_distance(seen, there), sim.distance(state, goal))
    scaled = torch.cat([seen[:, :6], 3.0 * seen[:, 6:]], 1)  # a readout's angle need not be on the circle
    torch.testing.assert_close(sim.seen_distance(scaled, there), sim.distance(state, goal))
    assert sim.seen_distance(seen[:, None], there[:3]).shape == (200, 3)
    at_goal = there.clone().requires_grad_(True)
    sim.seen_distance(at_goal, there).sum().backward()
    assert bool(at_goal.grad.isfinite().all())
    with pytest.raises(ValueError, match="block_in_proprio must be true for proprioception to show"):
        PushT().seen_distance(seen, there)


def test_waypoints_in_the_block_s_frame_move_the_block_and_independent_noise_hardly_does():
    sim, share = PushT(), {}
    for name, policy in {"waypoints": BlockWaypoints(), "noise": UniformRandom()}.items():
        states = collect(sim, policy, 100, 60, generator(), keys=("state",))["state"]
        block = states[..., 2:4]
        share[name] = float(((block[:, 1:] - block[:, :-1]).norm(dim=-1) > 1e-3).float().mean())
    assert share["waypoints"] > 0.4
    assert share["noise"] < 0.1
    with pytest.raises(ValueError, match="BlockWaypoints must be used in Push-T, got worldmodel/Reacher-v0"):
        collect(Reacher(), BlockWaypoints(), 2, 2, generator())


@pytest.mark.slow
def test_the_planner_on_the_true_simulator_places_the_block():
    sim = PushT()
    tasks = draw_tasks(sim, EvaluationRecipe(num_tasks=6, num_steps=60))
    args = {"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.1}
    planner = PlannerRecipe(args=args, horizon=12, action_repeat=3, execute=3, init_std=1.0)
    episodes = run_episodes(sim, OracleActor(sim, planner, seed=0), tasks)
    assert episodes.reached.any(1).float().mean() >= 4 / 6


def test_the_block_is_in_proprioception_where_it_is_asked_for():
    plain, full = PushT(), PushT(block_in_proprio=True)
    state = full.initial(20, generator())
    seen = full.proprio(state)
    assert (plain.proprio_dim, full.proprio_dim) == (4, 8) == (plain.proprio(state).shape[1], seen.shape[1])
    torch.testing.assert_close(seen[:, :4], plain.proprio(state))
    torch.testing.assert_close(seen[:, 4:6], state["position"][:, 2:4])
    turned = {**state, "position": state["position"] + torch.tensor([0, 0, 0, 0, 2 * math.pi])}
    torch.testing.assert_close(full.proprio(turned), seen, atol=1e-5, rtol=0)  # a full turn is seen as none
    assert bool((seen.abs() <= full.proprio_high).all())
