"""PointMaze: the physics is MuJoCo's bit for bit, walls hold, tasks are what they say, pictures agree."""

import mujoco
import numpy as np
import pytest
import torch

from envs.mujoco import mazes
from envs.mujoco.point_maze import PHYSICAL, PointMaze
from envs.mujoco.point_maze_model import NUM_SUBSTEPS, model_xml
from envs.state import index_state, repeat_state


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def varied(sim, num, seed=0):
    """Worlds that differ in every factor and move."""
    rng = np.random.default_rng(seed)
    variation = {
        name: rng.uniform(factor.low, factor.high, num).astype(np.float32)
        for name, factor in PHYSICAL.items()
    }
    for name in ("ball_color", "wall_color", "background_color"):
        variation[name] = rng.integers(0, 256, (num, 3)).astype(np.uint8)
    state = sim.initial(num, generator(seed), variation)
    velocity = torch.from_numpy(rng.normal(0, 2, (num, 2)).astype(np.float32))
    return {**state, "velocity": velocity}


def compiled(sim, state, world):
    """The model of one world, compiled with its walls where they are and its own mass, gain and damping."""
    spec = mujoco.MjSpec.from_string(model_xml(sim.size, sim.actuation, sim.half_width))
    cells = state["walls"][world].nonzero()
    for number in range(mazes.max_walls(sim.size)):
        geom = spec.geom(f"wall{number}")
        if number < len(cells):
            geom.pos[:2] = mazes.centre_of(cells[number], sim.size).numpy()
    model = spec.compile()
    for name, factor in (("body_mass", "mass"), ("actuator_gainprm", "gain"), ("dof_damping", "damping")):
        values = (
            np.float32(getattr(model, name)) * state[factor][world].numpy()
        )  # float32, as a state's factors are
        getattr(model, name)[:] = values
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


@pytest.mark.parametrize("actuation", ["velocity", "force"])
@pytest.mark.parametrize("is_varied", [False, True])
def test_a_batch_is_mujoco_s_own_step_on_compiled_layouts_bit_for_bit(actuation, is_varied):
    sim = PointMaze(actuation=actuation)
    state = varied(sim, 24) if is_varied else sim.initial(24, generator())
    models = [compiled(sim, state, world) for world in range(24)]
    random, hits = generator(3), 0
    for step in range(30):
        if step % 15 == 0:  # long enough to come to a wall and press against it
            action = torch.randn((24, 2), generator=random).clamp(-1, 1)
        after = sim.transition(state, action)
        for world, model in enumerate(models):
            data = mujoco.MjData(model)
            data.qpos[:], data.qvel[:] = state["position"][world], state["velocity"][world]
            data.ctrl[:] = action[world]
            for _ in range(NUM_SUBSTEPS):
                mujoco.mj_step(model, data)
                hits += data.ncon
            assert np.array_equal(np.float32(data.qpos), after["position"][world])
            assert np.array_equal(np.float32(data.qvel), after["velocity"][world])
        state = after
    assert hits > 500  # walls were pressed against


def test_varied_physics_with_default_factors_is_the_plain_one():
    sim = PointMaze()
    state = sim.initial(8, generator())
    other = {
        **state,
        "mass": torch.tensor([2.0] + [1.0] * 7),
    }  # one heavier world sends all through the other path
    for _ in range(20):
        action = 2 * torch.rand((8, 2), generator=generator(1)) - 1
        state, other = sim.transition(state, action), sim.transition(other, action)
    assert torch.equal(state["position"][1:], other["position"][1:])
    assert not torch.equal(state["position"][0], other["position"][0])


@pytest.mark.parametrize("name", PHYSICAL)
def test_every_physical_factor_moves_the_ball_differently(name):
    sim = PointMaze(actuation="force")
    state = sim.initial(4, generator())
    slow = {**state, name: torch.full((4,), 0.5)}
    action = torch.ones((4, 2))
    for _ in range(4):
        state, slow = sim.transition(state, action), sim.transition(slow, action)
    assert (state["velocity"] != slow["velocity"]).any(1).all()


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


def test_transitions_are_functions_of_state_and_action():
    sim = PointMaze()
    state = sim.initial(5, generator(), {"action_noise": 0.3})
    action = torch.rand((5, 2), generator=generator(1))
    before = {key: value.clone() for key, value in state.items()}
    after = sim.transition(state, action)
    assert all(torch.equal(state[key], before[key]) for key in state)
    many = sim.transition(repeat_state(state, 3), action.repeat_interleave(3, 0))
    for key, value in after.items():
        assert torch.equal(many[key], value.repeat_interleave(3, 0)), key
    one = sim.transition(index_state(state, slice(2, 3)), action[2:3])
    assert torch.equal(one["position"][0], after["position"][2])
    again = sim.state_from_vector(sim.state_vector(state))
    assert torch.equal(sim.transition(again, action)["position"], after["position"])


def test_a_simulation_that_explodes_is_an_error_and_the_next_call_is_not():
    sim = PointMaze()
    state = sim.initial(3, generator())
    broken = {**state, "velocity": torch.tensor([[0.0, 0.0], [torch.nan, 0.0], [0.0, 0.0]])}
    expected = sim.transition(state, torch.ones((3, 2)))
    with pytest.raises(ArithmeticError, match="a simulation must stay finite, got mjWARN_BADQVEL"):
        sim.transition(broken, torch.ones((3, 2)))
    assert torch.equal(sim.transition(state, torch.ones((3, 2)))["position"], expected["position"])


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
    with pytest.raises(ValueError, match="size must be one of 5, 7, got 6"):
        PointMaze(size=6)


@pytest.fixture(scope="module")
def opengl():
    """Skips where there is no OpenGL context to be had."""
    sim = PointMaze(render_backend="mujoco", image_size=256)
    try:
        sim.pixels(sim.initial(1, generator()))
    except RuntimeError as error:
        pytest.skip(str(error))
    return sim


@pytest.mark.render
def test_the_rasteriser_draws_what_mujoco_draws(opengl):
    sim = PointMaze(image_size=64)
    state = varied(sim, 32)
    ours = sim.pixels(state).float()
    theirs = opengl.pixels(state).float().view(32, 3, 64, 4, 64, 4).mean((3, 5))
    assert float((ours - theirs).abs().mean()) < 1.0
    background = state["background_color"].float()[:, :, None, None]
    is_shown = [((image - background).abs().amax(1) > 20) for image in (ours, theirs)]
    intersection, union = (is_shown[0] & is_shown[1]).sum(), (is_shown[0] | is_shown[1]).sum()
    assert float(intersection / union) > 0.9


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
