"""Cart-pole: which way is up, what counts as balanced, who swings up."""

import math

import pytest
import torch

from envs.mujoco.cart_pole import HOLD, RAIL, CartPole
from envs.policies import CorrelatedNoise, UniformRandom
from tests.envs.mujoco.worlds import generator


def test_an_upright_pole_falls_and_a_hanging_one_stays():
    sim = CartPole()
    state = sim.initial(2, generator())
    state = {**state, "position": torch.tensor([[0.0, 0.05], [0.0, math.pi]])}
    still = torch.zeros((2, 1))
    for _ in range(20):
        state = sim.transition(state, still)
    assert abs(float(state["position"][0, 1])) > 0.5
    assert abs(float(state["position"][1, 1]) - math.pi) < 1e-3


def test_the_pole_is_drawn_above_the_cart_when_it_is_upright():
    sim = CartPole()
    state = sim.goal_at(sim.initial(1, generator()), torch.tensor([0.5, 0.0]))
    pixels = sim.pixels(state)[0].int()
    is_pole = (pixels[0] - pixels[2]) > 100  # red
    rows, cols = is_pole.nonzero().unbind(1)
    assert rows.max() <= 33  # the picture's upper half
    assert rows.min() < 20
    pixel = 2 * sim.half_width / 64
    assert abs((float(cols.float().mean()) + 0.5) * pixel - sim.half_width - 0.5) < pixel


def test_a_success_is_ten_steps_over_the_goal():
    sim = CartPole()
    start = sim.initial(1, generator())
    goal = sim.goal_at(start, torch.tensor([0.3, 0.0]))
    state = sim.goal_at(start, torch.tensor([0.3, 0.3]))
    balanced = 0
    for _ in range(80):
        state = sim.transition(state, sim.expert(state, goal))
        place, tilt = (state["position"] - goal["position"])[0].abs()
        balanced = balanced + 1 if place < sim.success_radius and tilt < 0.2 else 0
        assert bool(sim.success(state, goal)) == (balanced >= HOLD)
    assert balanced >= HOLD
    turned = {**state, "recent": state["recent"] + torch.tensor([0.0, 2 * math.pi])}
    assert sim.success(turned, goal).item()  # a full turn more is upright too


def test_the_expert_swings_up_everywhere_and_noise_nowhere():
    sim = CartPole()
    start = sim.initial(200, generator(), split="eval")
    goal = sim.goal(start, generator(1))
    assert not sim.success(start, goal).any()
    noises = {"correlated": CorrelatedNoise(), "uniform": UniformRandom()}
    rates = {}
    for name in ("expert", *noises):
        state, done, random = start, torch.zeros(200, dtype=torch.bool), generator(2)
        if name in noises:
            noises[name].reset(sim, start, random)
        for _ in range(sim.max_steps):
            action = noises[name].act(sim, state, random) if name in noises else sim.expert(state, goal)
            state = sim.transition(state, action)
            done |= sim.success(state, goal)
        rates[name] = float(done.float().mean())
        assert (state["position"][:, 0].abs() < RAIL + 0.1).all()
    assert rates == {"expert": 1.0, "correlated": 0.0, "uniform": 0.0}


def test_goals_beyond_the_rail_are_refused():
    sim = CartPole()
    with pytest.raises(ValueError, match=r"a goal's place must lie on the rail, within 1\.5 m, got"):
        sim.goal_at(sim.initial(1, generator()), torch.tensor([2.0, 0.0]))


def test_motion_is_shown_by_velocities_by_the_step_before_or_not_at_all():
    sims = {motion: CartPole(motion=motion) for motion in ("velocity", "history", "nothing")}
    before = sims["history"].initial(6, generator())
    state = sims["history"].transition(before, torch.ones(6, 1))
    seen = {motion: sim.proprio(state) for motion, sim in sims.items()}
    assert {motion: values.shape[1] for motion, values in seen.items()} == {
        "velocity": 5,
        "history": 6,
        "nothing": 3,
    }
    assert all(
        sim.proprio_dim == len(sim.proprio_high) == seen[motion].shape[1] for motion, sim in sims.items()
    )
    torch.testing.assert_close(seen["history"][:, 3:], sims["nothing"].proprio(before))
    torch.testing.assert_close(seen["velocity"][:, 3:], state["velocity"])
    assert all(torch.equal(values[:, :3], seen["nothing"]) for values in seen.values())
    with pytest.raises(ValueError, match="motion must be one of .*, got 'speed'"):
        CartPole(motion="speed")


def test_what_proprioception_shows_of_the_distance_is_the_distance():
    sim = CartPole()
    state = sim.initial(50, generator())
    goal = sim.goal(state, generator(1))
    for _ in range(15):
        state = sim.transition(state, torch.rand((50, 1), generator=generator(2)) * 2 - 1)
    seen, there = sim.proprio(state), sim.proprio(goal)
    torch.testing.assert_close(sim.seen_distance(seen, there), sim.distance(state, goal))
    assert sim.seen_distance(seen[:, None], there[:3]).shape == (50, 3)
    with pytest.raises(ValueError, match="motion must be 'velocity' for proprioception to show"):
        CartPole(motion="history").seen_distance(seen, there)


@pytest.mark.parametrize("pole_length", [0.6, 1.2])
def test_the_expert_knows_how_long_the_pole_is(pole_length):
    sim = CartPole()
    state = sim.initial(50, generator(), {"pole_length": pole_length}, split="eval")
    goal, done = sim.goal(state, generator(1)), torch.zeros(50, dtype=torch.bool)
    for _ in range(sim.max_steps):
        state = sim.transition(state, sim.expert(state, goal))
        done |= sim.success(state, goal)
    assert done.float().mean() > 0.9


def test_the_tip_of_a_shorter_pole_lacks_less_height():
    sim = CartPole()
    state = sim.initial(2, generator(), {"pole_length": [0.6, 1.0]})
    upright, hanging = (sim.goal_at(state, torch.tensor([0.0, angle])) for angle in (0.0, math.pi))
    torch.testing.assert_close(sim.distance(hanging, upright), torch.tensor([1.2, 2.0]))


def test_without_positions_proprioception_has_the_velocities_alone():
    plain, blind = CartPole(), CartPole(positions_in_proprio=False)
    state = plain.transition(plain.initial(3, generator()), torch.ones(3, 1))
    assert blind.proprio_dim == len(blind.proprio_high) == len(blind.proprio_low) == 2
    seen = blind.proprio(state)
    assert torch.equal(seen, plain.proprio(state)[:, 3:])
    assert (seen != 0).all()
    assert CartPole(**blind.kwargs).proprio_dim == 2
    with pytest.raises(
        ValueError, match="positions_in_proprio must be true for proprioception to show the dist"
    ):
        blind.seen_distance(seen, seen)
    with pytest.raises(ValueError, match="motion must be 'velocity' where proprioception shows no positions"):
        CartPole(motion="history", positions_in_proprio=False)
