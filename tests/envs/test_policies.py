import math

import numpy as np
import pytest
import torch
from scipy import stats

from envs.collect import collect
from envs.moving_dot import MovingDot
from envs.mujoco.point_maze import PointMaze
from envs.policies import (
    CorrelatedNoise,
    DirectedWalk,
    DoorCrossing,
    Expert,
    HeadingRandomWalk,
    Mixture,
    OneRoom,
    RandomWaypoints,
    StraightLine,
    UniformRandom,
    ZeroAction,
)
from envs.two_rooms import TwoRooms

POLICIES = {
    "zero": ZeroAction,
    "uniform": UniformRandom,
    "heading": HeadingRandomWalk,
    "correlated": CorrelatedNoise,
    "directed": lambda: DirectedWalk(step_max=2.0),
    "expert": lambda: Expert(noise=0.5),
    "straight": StraightLine,
    "door": DoorCrossing,
    "waypoints": RandomWaypoints,
    "one room": lambda: OneRoom(RandomWaypoints()),
    "mixture": lambda: Mixture({Expert(): 1.0, UniformRandom(): 3.0}),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def changes_room(data):
    """Say which trajectories are in both rooms at some time, (B,)."""
    x = data["proprio"][..., 0]
    return (x < 30.6).any(1) & (x > 33.4).any(1)


@pytest.mark.parametrize("name", POLICIES)
def test_recorded_transitions_are_the_simulator_s_own(name):
    sim = TwoRooms(layout="random", image_size=16)
    data = collect(sim, POLICIES[name](), 20, 30, generator())
    assert data["pixels"].shape == (20, 31, 2, 16, 16)
    assert data["pixels"].dtype == torch.uint8
    assert data["action"].dtype == torch.float32
    assert data["action_valid"].tolist() == [[True] * 30 + [False]] * 20
    assert (data["action"][:, -1] == 0).all()
    assert (data["action"].norm(dim=-1) <= sim.max_step + 1e-5).all()
    now = sim.state_from_vector(data["state"][:, :-1].flatten(0, 1))
    after = sim.state_vector(sim.transition(now, data["action"][:, :-1].flatten(0, 1)))
    assert torch.equal(after, data["state"][:, 1:].flatten(0, 1))
    view = sim.observation(now)
    assert torch.equal(view["pixels"], data["pixels"][:, :-1].flatten(0, 1))
    assert torch.equal(view["proprio"], data["proprio"][:, :-1].flatten(0, 1))
    assert data["factors"].keys() == {*sim.variation_space, "layout_id"}
    again = collect(sim, POLICIES[name](), 20, 30, generator())
    assert all(torch.equal(again[key], data[key]) for key in ("pixels", "action", "state"))
    if name != "zero":
        other = collect(sim, POLICIES[name](), 20, 30, generator(1))
        assert not torch.equal(other["action"], data["action"])


def test_heading_walk_has_the_asked_turns_and_lengths():
    sim = TwoRooms()
    action = collect(sim, HeadingRandomWalk(), 400, 90, generator(), keys=("proprio",))["action"][:, :-1]
    length = action.norm(dim=-1).flatten().numpy()
    expected = stats.truncnorm(-2.0, 2.0, loc=1.0, scale=0.4)
    assert stats.kstest(length[:5000], expected.cdf).pvalue > 1e-3
    heading = torch.atan2(action[..., 1], action[..., 0])
    turn = (heading[:, 1:] - heading[:, :-1]).flatten().numpy()
    turn = (turn + math.pi) % (2 * math.pi) - math.pi
    assert stats.kstest(turn[:5000], stats.vonmises(5.0).cdf).pvalue > 1e-3


def test_kappa_changes_how_far_a_walk_gets():
    sim = TwoRooms()
    shifts = []
    for kappa in (0.0, 5.0, 100.0):
        walk = HeadingRandomWalk(kappa=kappa)
        position = collect(sim, walk, 300, 20, generator(), keys=("proprio",))["proprio"]
        shifts.append((position[:, -1] - position[:, 0]).norm(dim=-1).mean().item())
    assert shifts[0] < 0.6 * shifts[1] < 0.9 * shifts[2]


def test_uniform_actions_fill_the_ball():
    sim = MovingDot()
    action = collect(sim, UniformRandom(), 500, 10, generator(), keys=("proprio",))["action"][:, :-1]
    share = (action.norm(dim=-1).flatten().numpy() / 4.0) ** 2  # uniform in the disc's area
    assert stats.kstest(share, "uniform").pvalue > 1e-3


def test_directed_walk_keeps_one_mean_direction_per_trajectory():
    action = collect(MovingDot(), DirectedWalk(kappa=20.0), 500, 40, generator(), keys=("proprio",))["action"]
    direction = torch.nn.functional.normalize(action[:, :-1], dim=-1).mean(1)
    assert direction.norm(dim=-1).min() > 0.9
    angle = torch.atan2(direction[:, 1], direction[:, 0]).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


def test_the_door_policy_sends_its_rate_through_the_door():
    sim = TwoRooms()
    shares = {}
    for rate in (0.0, 0.5, 1.0):
        data = collect(sim, DoorCrossing(rate=rate), 1000, 90, generator(), keys=("proprio",))
        shares[rate] = changes_room(data).float().mean().item()
    by_chance = shares[0.0]
    assert by_chance < 0.3
    assert shares[1.0] > 0.9
    assert shares[0.5] == pytest.approx((by_chance + shares[1.0]) / 2, abs=0.05)


def test_the_walk_of_the_door_policy_can_be_given_by_its_arguments():
    walk = {"step_mean": 2.0, "step_min": 1.9, "step_max": 2.1}
    policy = DoorCrossing(rate=0.5, walk=walk)
    data = collect(TwoRooms(), policy, 50, 10, generator(), keys=("proprio",))
    length = data["action"][:, :-1].norm(dim=-1)
    assert length.min() > 1.89
    assert length.max() < 2.11
    with pytest.raises(TypeError, match="step_maxx"):
        DoorCrossing(walk={"step_maxx": 1.0})


def test_waypoints_press_against_walls_and_pass_doors_where_a_walk_does_neither():
    sim, shares, contacts = TwoRooms(layout="random", image_size=16), {}, {}
    for name, policy in (("walk", HeadingRandomWalk()), ("waypoints", RandomWaypoints())):
        data = collect(sim, policy, 1000, 90, generator(), keys=("proprio",))
        wall = data["factors"]["wall_x"][:, None]
        is_left = data["proprio"][..., 0] < wall
        shares[name] = float((is_left.any(1) & ~is_left.all(1)).float().mean())
        moved = data["proprio"].diff(dim=1)
        is_blocked = (moved - data["action"][:, :-1]).norm(dim=-1) > 0.05
        is_at_wall = (data["proprio"][:, 1:, 0] - wall).abs() < 2
        contacts[name] = float((is_blocked & is_at_wall).float().mean())
    assert shares["waypoints"] > 0.4 > 2 * shares["walk"]
    assert contacts["waypoints"] > 1.5 * contacts["walk"]


@pytest.mark.parametrize("layout", ["fixed", "random"])
@pytest.mark.parametrize("walk", [HeadingRandomWalk, RandomWaypoints])
def test_who_is_kept_in_one_room_is_never_in_the_door_and_still_walks(walk, layout):
    sim = TwoRooms(layout=layout, image_size=16)
    data = collect(sim, OneRoom(walk()), 500, 90, generator(), keys=("proprio",))
    clearance = data["proprio"][..., 0] - data["factors"]["wall_x"][:, None]
    assert clearance.abs().min() >= 1.5
    assert ((clearance < 0).all(1) | (clearance > 0).all(1)).all()
    free = collect(sim, walk(), 500, 90, generator(), keys=("proprio",))
    way = [one["proprio"].diff(dim=1).norm(dim=-1).mean() for one in (data, free)]
    assert way[0] > 0.95 * way[1]


def test_waypoints_keep_a_direction_for_at_most_their_patience():
    data = collect(TwoRooms(), RandomWaypoints(patience=3, turn=0.0), 200, 40, generator(), keys=("proprio",))
    action = data["action"][:, :-1]
    kept = ((action[:, 1:] - action[:, :-1]).norm(dim=-1) < 1e-3).float()
    runs = kept.unfold(1, 3, 1).sum(-1)  # 4 equal actions in a row: longer than the patience
    assert float((runs == 3).float().mean()) < 0.01
    assert float(kept.mean()) > 0.2
    assert action.norm(dim=-1).min() > 1.19


def test_the_expert_changes_rooms_again_and_again_and_the_straight_line_does_not():
    sim = TwoRooms()
    crossing = {}
    for policy in (Expert(), StraightLine()):
        data = collect(sim, policy, 200, 100, generator(), keys=("proprio",))
        is_left = data["proprio"][..., 0] < 32
        crossing[type(policy)] = (is_left[:, 1:] != is_left[:, :-1]).sum(1).float().mean().item()
    assert crossing[Expert] > 2
    assert crossing[StraightLine] < 0.7 * crossing[Expert]


def test_correlated_noise_has_the_asked_correlation_and_spread():
    sim = PointMaze(size=5)
    policy, state = CorrelatedNoise(decay=0.8, noise=0.15), sim.initial(1, generator())
    state = {key: value.repeat_interleave(4000, 0) for key, value in state.items()}
    policy.reset(sim, state, random := generator(2))
    actions = torch.stack([policy.act(sim, state, random) for _ in range(6)])
    for at in (0, 5):  # stationary from the first step on; hardly ever clipped at .25 half widths
        assert abs(float(actions[at].std()) - 0.15 / math.sqrt(1 - 0.8**2)) < 0.01
    pairs = torch.stack([actions[0].flatten(), actions[1].flatten()])
    assert abs(float(torch.corrcoef(pairs)[0, 1]) - 0.8) < 0.02
    with pytest.raises(ValueError, match="decay must be in"):
        CorrelatedNoise(decay=1.0)


def test_correlated_noise_goes_farther_than_independent_noise():
    sim = PointMaze(actuation="force")
    gone = {}
    for policy in (CorrelatedNoise(), UniformRandom()):
        data = collect(sim, policy, 100, 40, generator(), keys=("proprio",))
        moved = data["proprio"][:, -1, :2] - data["proprio"][:, 0, :2]
        gone[type(policy)] = float(moved.norm(dim=-1).mean())
    assert gone[CorrelatedNoise] > 1.5 * gone[UniformRandom]


def test_a_given_goal_is_kept():
    sim = TwoRooms()
    state = sim.initial(50, generator())
    goal = sim.goal(state, generator(1))
    policy = Expert()
    policy.reset(sim, state, generator(), goal=goal)
    for _ in range(80):
        state = sim.transition(state, policy.act(sim, state, generator()))
    torch.testing.assert_close(state["position"], goal["position"], atol=1e-2, rtol=0)


def test_a_mixture_gives_each_world_one_policy_in_proportion():
    data = collect(
        TwoRooms(),
        Mixture({ZeroAction(): 1.0, UniformRandom(): 3.0}),
        2000,
        5,
        generator(),
        keys=("proprio",),
    )
    is_moving = data["action"][:, :-1].norm(dim=-1) > 0
    assert (is_moving.all(1) | ~is_moving.any(1)).all()
    assert is_moving[:, 0].float().mean().item() == pytest.approx(0.75, abs=0.04)


def test_collect_honours_split_variation_and_keys():
    sim = TwoRooms(layout="random")
    ids = {
        split: set(
            collect(sim, ZeroAction(), 300, 1, generator(), split=split, keys=())["factors"][
                "layout_id"
            ].tolist()
        )
        for split in ("train", "eval")
    }
    assert not ids["train"] & ids["eval"]
    speed = np.linspace(0.5, 1.5, 10)
    data = collect(sim, ZeroAction(), 10, 1, generator(), keys=("state",), variation={"speed": speed})
    np.testing.assert_allclose(data["factors"]["speed"], speed, rtol=1e-6)
    assert data.keys() == {"state", "action", "action_valid", "factors"}


def test_bad_input_is_refused_with_the_rule_and_the_value():
    sim = TwoRooms()
    with pytest.raises(ValueError, match="a key must be one of .*'pixel'; did you mean 'pixels'"):
        collect(sim, ZeroAction(), 2, 2, generator(), keys=("pixel",))
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 2"):
        collect(sim, ZeroAction(), 0, 2, generator())
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5"):
        DoorCrossing(rate=1.5)
    with pytest.raises(ValueError, match="noise must be at least 0, got -1"):
        Expert(noise=-1)
    with pytest.raises(ValueError, match="weights must be at least 0"):
        Mixture({ZeroAction(): -1.0})
    with pytest.raises(ValueError, match="step lengths must have a positive std"):
        HeadingRandomWalk(step_std=0.0)
    with pytest.raises(ValueError, match="patience must be >= 1, step_min and turn >= 0, got 0"):
        RandomWaypoints(patience=0)
    with pytest.raises(ValueError, match="step_min must be <= the largest action, 2.45, got 3"):
        collect(sim, RandomWaypoints(step_min=3.0), 2, 2, generator())
    with pytest.raises(ValueError, match="kappa must be finite and at least 0, got -1"):
        collect(sim, HeadingRandomWalk(kappa=-1.0), 2, 2, generator())
    with pytest.raises(
        ValueError, match="DoorCrossing must be used in a world with a door, got worldmodel/MovingDot"
    ):
        collect(MovingDot(), DoorCrossing(), 2, 2, generator())
