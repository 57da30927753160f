"""What holds for every MuJoCo task: physics bit for bit, pictures like MuJoCo's own, transitions that are functions."""

import itertools
import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest
import torch

from envs.goal_task import observation_space
from envs.mujoco.cart_pole import CartPole
from envs.mujoco.point_maze import PointMaze
from envs.mujoco.push_t import PushT
from envs.mujoco.raster import Rasteriser, View
from envs.mujoco.reacher import Reacher
from envs.state import index_state, repeat_state
from tests.envs.mujoco.worlds import compiled, generator, varied

TASKS = {
    "maze": PointMaze,
    "maze with forces": lambda **kwargs: PointMaze(actuation="force", size=5, **kwargs),
    "reacher": Reacher,
    "cart-pole": CartPole,
    "push-t": PushT,
}


@pytest.fixture(params=TASKS)
def make(request):
    return TASKS[request.param]


@pytest.mark.parametrize("is_varied", [False, True])
def test_a_batch_is_mujoco_s_own_step_on_compiled_models_bit_for_bit(make, is_varied):
    sim = make()
    state = varied(sim, 24) if is_varied else sim.initial(24, generator())
    models = [compiled(sim, state, world) for world in range(24)]
    random, contacts = generator(3), 0
    for step in range(50):
        if step % 25 == 0:  # long enough to come to a wall or a limit and press against it
            action = torch.randn((24, sim.action_dim), generator=random).clamp(-1, 1)
        if "push" in sim.xml and step < 25:
            action = sim.expert(state, sim.goal(state, generator(4)))
        after = sim.transition(state, action)
        for world, model in enumerate(models):
            data = mujoco.MjData(model)
            data.qpos[:], data.qvel[:] = state["position"][world], state["velocity"][world]
            data.ctrl[:] = action[world]
            for _ in range(sim.num_substeps):
                mujoco.mj_step(model, data)
                contacts += data.nefc - data.nf  # without dry friction
            assert np.array_equal(np.float32(data.qpos), after["position"][world])
            assert np.array_equal(np.float32(data.qvel), after["velocity"][world])
        state = after
    assert contacts > 200  # there was something to press against


def test_a_world_does_not_depend_on_the_factors_of_others(make):
    sim = make()
    state = sim.initial(8, generator())
    other = {**state, "gain": torch.tensor([0.5] + [1.0] * 7)}  # one sends all through the general path
    action = torch.rand((8, sim.action_dim), generator=generator(1))
    for _ in range(20):
        state, other = sim.transition(state, action), sim.transition(other, action)
    assert torch.equal(state["position"][1:], other["position"][1:])
    assert not torch.equal(state["position"][0], other["position"][0])


def test_every_physical_factor_changes_the_motion(make):
    sim = make()
    for name in sim.physical:
        state = varied(sim, 4)
        state |= {factor: torch.ones(4) for factor in sim.physical}
        other = {**state, name: torch.full((4,), 0.5)}
        for _ in range(4):
            action = torch.ones((4, sim.action_dim))
            state, other = sim.transition(state, action), sim.transition(other, action)
        assert (state["velocity"] != other["velocity"]).any(1).all(), name


def test_transitions_are_functions_of_state_and_action(make):
    sim = make()
    state = sim.initial(5, generator(), {"action_noise": 0.3})
    action = torch.rand((5, sim.action_dim), generator=generator(1))
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
    quiet = sim.transition({**state, "action_noise": torch.zeros(5)}, action)
    assert (quiet["velocity"] != after["velocity"]).any(1).all()


def test_actions_are_clipped_to_the_bounds(make):
    sim = make()
    state = sim.initial(3, generator())
    wide, narrow = (sim.transition(state, torch.full((3, sim.action_dim), value)) for value in (7.0, 1.0))
    assert torch.equal(wide["velocity"], narrow["velocity"])


def test_a_simulation_that_explodes_is_an_error_and_the_next_call_is_not(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    sim = make()
    state, action = sim.initial(3, generator()), torch.ones((3, sim.action_dim))
    expected = sim.transition(state, action)
    broken = {**state, "velocity": state["velocity"].clone()}
    broken["velocity"][1, 0] = torch.nan
    with pytest.raises(ArithmeticError, match="a simulation must stay finite, got mjWARN_BADQVEL"):
        sim.transition(broken, action)
    assert torch.equal(sim.transition(state, action)["position"], expected["position"])
    if not isinstance(sim, PointMaze):  # whose pictures need no kinematics
        nowhere = {**state, "position": torch.full_like(state["position"], torch.nan)}
        with pytest.raises(ArithmeticError, match="a simulation must stay finite"):
            sim.pixels(nowhere)
        assert torch.equal(sim.transition(state, action)["position"], expected["position"])


def test_splits_of_one_seed_have_other_tasks_and_no_goal_is_solved(make):
    sim = make()
    train, held = (sim.initial(40, generator(), split=split) for split in ("train", "eval"))
    assert (train["position"] != held["position"]).any(1).float().mean() > 0.9
    again = sim.goal(sim.goal(held, generator(1)), generator(2))
    assert not sim.success(sim.goal(held, generator(1)), again).any()
    assert float(sim.distance(again, again).abs().max()) < 1e-5
    with pytest.raises(ValueError, match="split must be"):
        sim.initial(1, generator(), split="test")


def test_proprioception_stays_in_its_space_under_extreme_factors(make):
    sim = make()
    space = observation_space(sim)["proprio"]
    for corner in itertools.product(*((factor.low, factor.high) for factor in sim.physical.values())):
        state = sim.initial(8, generator(), dict(zip(sim.physical, corner, strict=True)))
        for step in range(40):
            if step % 10 == 0:
                action = torch.randn((8, sim.action_dim), generator=generator(step)).sign()
            state = sim.transition(state, action)
            assert all(row in space for row in sim.proprio(state).numpy())


def test_a_rebuilt_simulator_draws_the_same_worlds_and_pictures(make):
    sim = make(image_size=32)
    again = type(sim)(**sim.kwargs)
    state, same = sim.initial(4, generator()), again.initial(4, generator())
    assert torch.equal(sim.pixels(state), again.pixels(same))
    assert torch.equal(sim.goal(state, generator(1))["position"], again.goal(same, generator(1))["position"])


def test_without_opengl_every_attempt_is_a_sentence():
    code = """
from envs.mujoco.reacher import Reacher
import torch
for _ in range(2):
    sim = Reacher(render_backend="mujoco")
    try:
        sim.pixels(sim.initial(1, torch.Generator()))
    except RuntimeError as error:
        print(str(error)[:51])
"""
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    without = {name: value for name, value in os.environ.items() if name not in hidden}
    asked = subprocess.run(
        [sys.executable, "-c", code], env=without, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    said = "MuJoCo's renderer must have an OpenGL context, got "
    assert asked.stdout.splitlines() in ([said] * 2, [])  # no lines: MuJoCo found a context by itself


@pytest.fixture(scope="module")
def opengl():
    """Skip where there is no OpenGL context to be had."""
    sim = Reacher(render_backend="mujoco")
    try:
        sim.pixels(sim.initial(1, generator()))
    except RuntimeError as error:
        pytest.skip(str(error))
    finally:
        sim.close()


@pytest.mark.render
@pytest.mark.usefixtures("opengl")
def test_the_rasteriser_draws_what_mujoco_draws(make):
    sim, reference = make(image_size=64), make(image_size=256, render_backend="mujoco")
    state = varied(sim, 32)
    for _ in range(5):
        state = sim.transition(state, torch.rand((32, sim.action_dim)) * 2 - 1)
    ours = sim.pixels(state).float()
    theirs = reference.pixels(state).float().view(32, 3, 64, 4, 64, 4).mean((3, 5))
    reference.close()
    assert float((ours - theirs).abs().mean()) < 1.0
    background = state["background_color"].float()[:, :, None, None]
    is_shown = [((image - background).abs().amax(1) > 20) for image in (ours, theirs)]
    intersection, union = (is_shown[0] & is_shown[1]).sum(), (is_shown[0] | is_shown[1]).sum()
    assert float(intersection / union) > 0.9


def test_looks_change_pictures_and_nothing_else(make):
    sim = make(image_size=32)
    plain = sim.initial(6, generator())
    assert float((sim.pixels(plain).float() - sim.pixels({**plain}).float()).abs().max()) == 0
    for name, value in {
        "camera_shift": torch.full((6, 2), 0.2),
        "camera_zoom": torch.full((6,), 0.7),
        "texture": torch.full((6,), 0.5),
        "num_distractors": torch.full((6,), 4, dtype=torch.uint8),
        **{size: torch.full((6,), 2.0) for size in sim.drawn_sizes},
    }.items():
        state = {**plain, name: value}
        assert bool((sim.pixels(state) != sim.pixels(plain)).flatten(1).any(1).all()), name
        after, before = (sim.transition(one, torch.ones(6, sim.action_dim)) for one in (state, plain))
        assert torch.equal(after["position"], before["position"])
        assert torch.equal(sim.proprio(state), sim.proprio(plain))
        one = sim.pixels({key: entry[2:3] for key, entry in state.items()})
        assert torch.equal(one, sim.pixels(state)[2:3])  # of its own world alone


def test_pictures_show_every_shape_as_it_is_compiled(make):
    sim = make(image_size=48)
    if sim._shapes is None:
        pytest.skip("the task has no shapes")
    names = sim._shapes.names
    ends = {name: [sim.physical[name].low, sim.physical[name].high, 1.0] for name in names}
    state = sim.initial(3, generator(), ends)
    plain = sim.pixels({**state, **dict.fromkeys(names, torch.ones(3))})
    for world in range(3):
        model = compiled(sim, state, world)
        data = mujoco.MjData(model)
        data.qpos[:] = state["position"][world]
        mujoco.mj_forward(model, data)
        draw = Rasteriser(model, View(48, sim.half_width), sim.layers)
        centres, rotations = torch.from_numpy(data.geom_xpos), torch.from_numpy(data.geom_xmat)
        colours = {name: state[name][world][None] for name in sim.layers}
        image = draw(centres.float()[None], rotations.float().view(1, -1, 3, 3), colours)[0]
        ours = sim.pixels(state)[world]
        assert int((image.int() - ours.int()).abs().max()) <= 1
        assert torch.equal(plain[world], ours) == (world == 2)


def test_a_shape_needs_a_model_to_be_compiled():
    text = Reacher().xml
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("envs.mujoco.reacher._model_xml", text)
        with pytest.raises(
            ValueError, match="a function of the factors without fields, link_length, got text"
        ):
            Reacher()


def test_distractors_move_behind_everything_and_textures_do_not():
    sim = PushT(image_size=64)
    state = sim.initial(20, generator(), {"num_distractors": 4})
    later = {**state, "step": state["step"] + 5}
    assert bool((sim.pixels(state) != sim.pixels(later)).flatten(1).any(1).all())
    block = sim.pixels({**state, "background_color": torch.full((20, 3), 255, dtype=torch.uint8)})
    plain = sim.pixels({**state, "num_distractors": torch.zeros(20, dtype=torch.uint8)})
    is_block = (plain.float() - state["block_color"].float()[:, :, None, None]).abs().amax(1) < 1
    assert is_block.any()
    assert torch.equal(block.movedim(1, -1)[is_block], plain.movedim(1, -1)[is_block])
    textured = sim.initial(20, generator(), {"texture": 1.0})
    same = {**textured, "step": textured["step"] + 5}
    assert torch.equal(sim.pixels(textured), sim.pixels(same))
    assert float(sim.pixels(textured).float().std(dim=0).mean()) > 10  # each world has its own


@pytest.mark.render
@pytest.mark.usefixtures("opengl")
def test_mujoco_s_renderer_refuses_what_it_cannot_draw():
    sim = Reacher(render_backend="mujoco")
    with pytest.raises(ValueError, match="must be 0 with render_backend 'mujoco', got 0.5 and 0"):
        sim.pixels(sim.initial(1, generator(), {"texture": 0.5}))
    sim.close()
