"""PointMaze: the physics is MuJoCo's bit for bit, walls hold, tasks are what they say, pictures agree."""

import pytest
import torch

from envs.mujoco import mazes
from envs.mujoco.point_maze import PointMaze
from tests.envs.mujoco.worlds import generator, varied


@pytest.mark.parametrize("size", [5, 7])
def test_the_ball_never_enters_a_wall(size):
    sim = PointMaze(size=size)
    state = sim.initial(200, generator())
    action = torch.zeros((200, 2))
    random = generator(5)
    for _ in range(100):
        action = torch.where(
            torch.rand((200, 1), generator=random) < 0.1, torch.randn((200, 2), generator=random), action
        )
        state = sim.transition(state, action)
        boxes = sim.wall_rectangles(state)
        nearest = torch.maximum(boxes[..., :2], torch.minimum(boxes[..., 2:], state["position"][:, None]))
        clearance = (state["position"][:, None] - nearest).norm(dim=-1).amin(1)
        assert clearance.min() > 0.1  # contacts of MuJoCo are soft: half of the ball's radius at full speed
    assert float((clearance < 0.21).float().mean()) > 0.2  # and many do press


def test_the_expert_arrives_and_a_straight_line_seldom_does():
    sim = PointMaze()
    start = sim.initial(100, generator(), split="eval")
    goal = sim.goal(start, generator(1))
    assert not sim.success(start, goal).any()
    assert float(sim.distance(start, goal).min()) > 5.5
    assert mazes.is_held_out(start["walls"].bool()).all()
    reached = {}
    for name, act in (("expert", sim.expert), ("straight", lambda s, g: sim.towards(s, g["position"]))):
        state, done = start, torch.zeros(100, dtype=torch.bool)
        for _ in range(sim.max_steps):
            state = sim.transition(state, act(state, goal))
            done |= sim.success(state, goal)
        reached[name] = float(done.float().mean())
    assert reached["expert"] == 1.0
    assert reached["straight"] < 0.5


def test_the_expert_arrives_with_forces_too():
    sim = PointMaze(actuation="force", size=5)
    state = sim.initial(64, generator(), split="eval")
    goal = sim.goal(state, generator(1))
    for _ in range(sim.max_steps):
        state = sim.transition(state, sim.expert(state, goal))
    assert sim.success(state, goal).float().mean() > 0.95


def test_goals_in_walls_and_mazes_without_goals_are_refused():
    sim = PointMaze()
    walls = torch.zeros((7, 7), dtype=torch.uint8)
    walls[3, 3] = 1
    state = sim.initial(2, generator(), {"walls": walls})
    with pytest.raises(ValueError, match="a goal must lie in a free cell"):
        sim.goal_at(state, torch.tensor([0.0, 0.0]))
    assert sim.goal_at(state, torch.tensor([1.0, 0.0]))["position"].shape == (2, 2)
    with pytest.raises(ValueError, match="walls must be at most 19 cells and leave the others connected"):
        sim.initial(1, generator(), {"walls": torch.ones((7, 7), dtype=torch.uint8)})
    with pytest.raises(ValueError, match="a maze must have a goal 30.0 cells from some start"):
        PointMaze(min_distance=30)
    with pytest.raises(ValueError, match="outside success_radius, 20.0, and behind"):
        PointMaze(success_radius=20)
    with pytest.raises(ValueError, match="size must be one of 5, 7, got 6"):
        PointMaze(size=6)


def test_touching_walls_leave_no_seam():
    sim = PointMaze(image_size=50)  # cells of 5.6 px: nearly all edges lie inside a pixel
    walls = torch.zeros((7, 7), dtype=torch.uint8)
    walls[2:4, 1:5] = 1
    pixels = sim.pixels(sim.initial(1, generator(), {"walls": walls}))[0]
    inside = pixels[:, 18:27, 13:32].reshape(3, -1)
    assert (inside == torch.tensor([[38], [50], [72]], dtype=torch.uint8)).all()


def test_training_can_be_kept_to_a_number_of_mazes_which_evaluation_never_has():
    sim, again = PointMaze(num_mazes=10), PointMaze(num_mazes=10, image_size=32)
    train = sim.layout_id(sim.initial(200, generator()))
    assert len(train.unique()) == 10
    assert torch.equal(train.unique(), again.layout_id(again.initial(200, generator(1))).unique())
    held = sim.layout_id(sim.initial(200, generator(), split="eval"))
    assert len(held.unique()) > 190
    assert not torch.isin(held, train).any()


def test_factors_and_layouts_come_back_as_given():
    sim = PointMaze()
    state = varied(sim, 4)
    factors = sim.factors(state)
    again = sim.initial(4, generator(9), factors)
    assert torch.equal(sim.layout_id(again), sim.layout_id(state))
    for name, value in factors.items():
        assert torch.equal(again[name], value), name


def test_the_detour_split_has_held_out_mazes_and_goals_twice_as_far_as_they_look():
    sim = PointMaze()
    state = sim.initial(200, generator(), split="detour")
    goal = sim.goal(state, generator(1))
    cell = (goal["position"] + 3.5).floor() - 3.0  # whose centre the way is measured to
    straight = (cell - state["position"]).norm(dim=-1)
    way = sim.distance(state, {**goal, "position": cell})
    assert bool(
        (way >= 1.7 * straight).all()
    )  # measured from the start and not from its cell, a little shorter
    assert bool((state["min_detour"] == 2.0).all())
    assert bool(mazes.is_held_out(state["walls"].bool()).all())
    plain = sim.initial(200, generator(), split="eval")
    far = sim.goal(plain, generator(1))
    ratio = sim.distance(plain, far) / (far["position"] - plain["position"]).norm(dim=-1)
    assert float((ratio >= 2).float().mean()) < 0.5  # goals of the other split are seldom so
    with pytest.raises(ValueError, match="one of \\['train', 'eval', 'detour'\\], got 'detuor'"):
        sim.initial(1, generator(), split="detuor")
