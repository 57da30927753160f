import json

import numpy as np
import pytest
import torch

from envs.simulator import check_action
from envs.state import concat_states, index_state, repeat_state
from envs.two_rooms import TwoRooms
from envs.two_rooms_layouts import split_layouts


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_same_state(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        assert torch.equal(a[key], b[key]), key


def varied_state(sim, num=64, seed=0):
    """Worlds that differ in every factor."""
    rng = np.random.default_rng(seed)
    variation = {}
    for name, space in sim.variation_space.items():
        space.seed(int(rng.integers(2**31)))
        variation[name] = np.stack([space.sample() for _ in range(num)])
    return sim.initial(num, generator(seed), variation), variation


def test_the_default_image_has_the_literature_s_walls_and_dot():
    sim = TwoRooms()
    state = sim.goal_at(sim.initial(1, generator()), torch.tensor([12.0, 40.0]))
    dot, walls = sim.observation(state)["pixels"][0].numpy()
    assert set(np.unique(walls)) == {0, 255}
    expected = np.zeros((65, 65), bool)
    expected[4, 4:61] = expected[60, 4:61] = expected[4:61, 4] = expected[4:61, 60] = True
    expected[5:60, 31:34] = True
    expected[14:23, 31:34] = False  # nine pixels around y = 18
    np.testing.assert_array_equal(walls > 0, expected)
    rows, cols = np.mgrid[:65, :65]
    gauss = 255 * np.exp(-((cols - 12) ** 2 + (rows - 40) ** 2) / (2 * 1.3**2))
    assert np.abs(dot - gauss).max() <= 0.51


@pytest.mark.parametrize("size", [20, 32, 64])
def test_small_images_average_the_walls_over_a_pixel_s_area(size):
    big, small = TwoRooms(image_size=65 * 4), TwoRooms(image_size=size)
    state = big.initial(1, generator())
    walls = big.observation(state)["pixels"][0, 1].double()
    walls = walls.repeat_interleave(size, 0).repeat_interleave(size, 1)
    mean = walls.view(size, 260, size, 260).mean((1, 3))
    drawn = small.observation(state)["pixels"][0, 1].double()
    assert (drawn - mean).abs().max() <= 1.0


def test_the_dot_s_centre_of_mass_is_its_position_at_every_size():
    for size in (24, 32, 65, 130):
        sim = TwoRooms(image_size=size)
        state = sim.initial(200, generator())
        dot = sim.observation(state)["pixels"][:, 0].double()
        axis = (torch.arange(size) + 0.5) * 65 / size - 0.5
        mass = dot.sum((1, 2))
        centre = torch.stack([(dot.sum(1) * axis).sum(1) / mass, (dot.sum(2) * axis).sum(1) / mass], -1)
        inner = ((state["position"] > 8) & (state["position"] < 56)).all(-1)
        assert (centre - state["position"])[inner].abs().max() < 0.06


def test_rgb_images_show_the_colours_of_each_world():
    sim = TwoRooms(rgb=True)
    state, variation = varied_state(sim, 16)
    state = sim.goal_at(state, torch.tensor([10.0, 45.0]))
    pixels = sim.observation(state)["pixels"]
    assert pixels.shape == (16, 3, 65, 65)
    np.testing.assert_array_equal(pixels[:, :, 0, 0].numpy(), variation["background_color"])
    np.testing.assert_array_equal(pixels[:, :, 4, 60].numpy(), variation["wall_color"])


@pytest.mark.parametrize("kwargs", [{}, {"layout": "random", "image_size": 32}, {"rgb": True}])
def test_a_recorded_state_vector_renders_the_same_pixels(kwargs):
    sim = TwoRooms(**kwargs)
    state, _ = varied_state(sim)
    state = sim.transition(state, torch.randn((64, 2), generator=generator()))
    vector = sim.state_vector(state)
    assert vector.shape == (64, sim.state_dim)
    assert vector.dtype == torch.float32
    again = TwoRooms(**json.loads(json.dumps(sim.kwargs))).state_from_vector(vector)
    assert_same_state(again, state)
    for key, value in sim.observation(state).items():
        assert torch.equal(sim.observation(again)[key], value)


def test_problems_in_a_batch_do_not_see_each_other():
    sim = TwoRooms()
    state, _ = varied_state(sim, 33)
    goal = sim.goal(state, generator(1))
    action = torch.randn((33, 2), generator=generator(2)) * 2
    batch = sim.transition(state, action)
    ones = [index_state(state, slice(i, i + 1)) for i in range(33)]
    goals = [index_state(goal, slice(i, i + 1)) for i in range(33)]
    singles = [sim.transition(one, action[i : i + 1]) for i, one in enumerate(ones)]
    assert_same_state(concat_states(singles), batch)
    for function in (sim.distance, sim.expert, sim.success):
        parts = [function(one, one_goal) for one, one_goal in zip(ones, goals, strict=True)]
        assert torch.equal(torch.cat(parts), function(state, goal))
    pixels = torch.cat([sim.observation(one)["pixels"] for one in ones])
    assert torch.equal(pixels, sim.observation(state)["pixels"])


def test_no_function_changes_its_inputs():
    sim = TwoRooms(rgb=True)
    state, _ = varied_state(sim)
    goal = sim.goal(state, generator(1))
    action = torch.full((64, 2), 9.0)
    copies = [{key: value.clone() for key, value in each.items()} for each in (state, goal)]
    following = sim.transition(state, action)
    sim.observation(state)
    sim.success(state, goal), sim.distance(state, goal), sim.expert(state, goal), sim.goal(state, generator())
    sim.state_vector(state), sim.factors(state), sim.layout_id(state), sim.picture(state)
    following["position"].zero_()
    assert_same_state(state, copies[0])
    assert_same_state(goal, copies[1])
    assert torch.equal(action, torch.full((64, 2), 9.0))


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_world():
    sim = TwoRooms(layout="random")
    first, second, other = (sim.initial(50, generator(seed)) for seed in (3, 3, 4))
    assert_same_state(first, second)
    assert not torch.equal(first["position"], other["position"])
    assert_same_state(sim.goal(first, generator(5)), sim.goal(second, generator(5)))


def test_train_and_eval_layouts_never_overlap():
    train, evaluation = split_layouts("train"), split_layouts("eval")
    assert len(train) + len(evaluation) == 25 * 45
    assert 0.15 < len(evaluation) / (25 * 45) < 0.25
    sim = TwoRooms(layout="random")
    ids = {
        split: set(sim.layout_id(sim.initial(4000, generator(), split=split)).tolist())
        for split in ("train", "eval")
    }
    assert not ids["train"] & ids["eval"]
    assert len(ids["train"]) > 0.95 * len(train)
    assert len(ids["eval"]) == len(evaluation)
    for door in range(10, 55):  # half a layout still belongs to its split
        some = sim.initial(20, generator(), {"door_y": door}, split="eval")
        assert set(some["door_y"].tolist()) == {door}
        assert set(sim.layout_id(some).tolist()) <= ids["eval"]


def test_held_out_lines_are_in_no_layout_of_training():
    train, evaluation = split_layouts("train", "lines"), split_layouts("eval", "lines")
    assert (len(train), len(evaluation)) == (20 * 36, 5 * 9)
    for axis in (0, 1):
        assert not set(train[:, axis].tolist()) & set(evaluation[:, axis].tolist())
    sim = TwoRooms(layout="random", held_out="lines")
    assert TwoRooms(**sim.kwargs).held_out == "lines"
    state = sim.initial(1000, generator(), split="eval")
    assert set(state["wall_x"].tolist()) == set(evaluation[:, 0].tolist())
    assert set(state["door_y"].tolist()) == set(evaluation[:, 1].tolist())
    assert not set(sim.initial(4000, generator())["wall_x"].tolist()) & set(state["wall_x"].tolist())
    with pytest.raises(ValueError, match="held_out must be one of"):
        TwoRooms(layout="random", held_out="rows")
    with pytest.raises(ValueError, match="held_out must be 'layouts' where the layout is fixed, got 'lines'"):
        TwoRooms(held_out="lines")


def test_the_fixed_layout_is_one_layout_in_both_splits():
    sim = TwoRooms()
    ids = [sim.layout_id(sim.initial(50, generator(), split=split)) for split in ("train", "eval")]
    assert len(torch.cat(ids).unique()) == 1


@pytest.mark.parametrize("layout", ["fixed", "random"])
@pytest.mark.parametrize("room", ["other", "same", "any"])
def test_goals_lie_in_the_asked_room_and_are_never_solved_at_the_start(layout, room):
    sim = TwoRooms(layout=layout, goal_room=room)
    state = sim.initial(3000, generator())
    goal = sim.goal(state, generator(1))
    assert not sim.success(state, goal).any()
    is_same = (state["position"][:, 0] < state["wall_x"]) == (goal["position"][:, 0] < goal["wall_x"])
    share = is_same.float().mean().item()
    assert {"other": share == 0, "same": share == 1, "any": 0.4 < share < 0.6}[room]
    for key in state.keys() - {"position"}:
        assert torch.equal(state[key], goal[key])


def test_goals_differ_between_worlds_in_the_same_state():
    sim = TwoRooms()
    state = repeat_state(sim.initial(1, generator()), 100)
    assert len(sim.goal(state, generator(1))["position"].unique(dim=0)) == 100


@pytest.mark.parametrize("kwargs", [{}, {"layout": "random", "goal_room": "any"}])
def test_the_expert_always_arrives_within_the_budget(kwargs):
    sim = TwoRooms(**kwargs)
    state = sim.initial(2000, generator())
    goal = sim.goal(state, generator(1))
    budget = (sim.distance(state, goal) / sim.max_step).ceil() + 4
    steps = torch.zeros(2000)
    for _ in range(60):
        is_open = ~sim.success(state, goal)
        steps += is_open
        action = sim.expert(state, goal)
        assert (action.norm(dim=-1) <= sim.max_step + 1e-4).all()
        state = sim.transition(state, action)
    assert sim.success(state, goal).all()
    assert (steps <= budget).all()
    assert sim.distance(state, goal).max() < 0.01


def test_the_expert_arrives_with_every_factor_varied():
    sim = TwoRooms()
    state, _ = varied_state(sim, 500)
    state["action_noise"].zero_()
    goal = sim.goal(state, generator(1))
    for _ in range(sim.max_steps):
        state = sim.transition(state, sim.expert(state, goal))
    assert sim.success(state, goal).all()


def test_actions_are_clipped_to_the_norm_ball():
    sim = TwoRooms(max_step=2.0)
    state = sim.goal_at(sim.initial(1, generator()), torch.tensor([15.0, 45.0]))
    moved = sim.transition(state, torch.tensor([[30.0, 40.0]]))["position"] - state["position"]
    torch.testing.assert_close(moved, torch.tensor([[1.2, 1.6]]), atol=1e-5, rtol=0)
    moved = sim.transition(state, torch.tensor([[0.3, -0.4]]))["position"] - state["position"]
    torch.testing.assert_close(moved, torch.tensor([[0.3, -0.4]]), atol=1e-5, rtol=0)


def test_speed_multiplies_the_displacement_of_each_world():
    sim = TwoRooms()
    state = sim.initial(2, generator(), {"speed": [0.5, 2.0]})
    state = sim.goal_at(state, torch.tensor([15.0, 45.0]))
    moved = sim.transition(state, torch.ones(2, 2))["position"] - state["position"]
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.5], [2.0, 2.0]]), atol=1e-5, rtol=0)


def test_action_noise_is_a_function_of_the_state_and_has_the_asked_std():
    sim = TwoRooms()
    state = sim.goal_at(sim.initial(5000, generator(), {"action_noise": 0.5}), torch.tensor([17.0, 40.0]))
    zero = torch.zeros(5000, 2)
    first, again = sim.transition(state, zero), sim.transition(state, zero)
    assert torch.equal(first["position"], again["position"])
    noise = first["position"] - state["position"]
    following = sim.transition({**first, "position": state["position"]}, zero)["position"] - state["position"]
    for sample in (noise, following):
        assert sample.std(0).tolist() == pytest.approx([0.5, 0.5], rel=0.05)
        assert sample.mean(0).abs().max() < 0.03
    correlation = np.corrcoef(torch.cat([noise, following], 1).T.numpy())
    assert np.abs(correlation - np.eye(4)).max() < 0.06


def test_every_factor_of_variation_is_set_per_world_and_moves_the_result():
    sim = TwoRooms(rgb=True)
    state, variation = varied_state(sim, 32)
    factors = sim.factors(state)
    assert factors.keys() == set(sim.variation_space)
    plain = sim.initial(1, generator())
    for name, value in variation.items():
        np.testing.assert_allclose(factors[name].numpy(), value, rtol=1e-6)
        changed = sim.initial(1, generator(), {name: value[:1]})
        action = torch.tensor([[1.0, 0.5]])
        after = [sim.observation(sim.transition(each, action))["pixels"] for each in (plain, changed)]
        assert not torch.equal(*after), name


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"layout": "randum"}, "layout must be one of .*'randum'; did you mean 'random'"),
        ({"goal_room": "left"}, "goal_room must be one of"),
        ({"image_size": 2}, "image_size must be a whole number of at least 8, got 2"),
        ({"max_step": 0}, "max_step must be positive and finite, got 0"),
        ({"success_radius": float("nan")}, "success_radius must be positive and finite, got nan"),
        ({"max_steps": 1.5}, "max_steps must be a whole number of at least 1, got 1.5"),
    ],
)
def test_bad_arguments_are_refused_with_the_rule_and_the_value(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        TwoRooms(**kwargs)


@pytest.mark.parametrize(
    ("variation", "sentence"),
    [
        ({"door_sise": 9}, "known factor, got 'door_sise'; did you mean 'door_size'"),
        ({"wall_x": 50}, r"'wall_x' must be whole numbers in \[20, 44\], got 50"),
        ({"wall_x": 30.5}, "'wall_x' must be whole numbers"),
        ({"speed": float("nan")}, "'speed' must be in"),
        ({"speed": [1.0, 1.0]}, r"'speed' must have shape \(\) or \(3,\), got \(2,\)"),
    ],
)
def test_a_bad_variation_is_refused(variation, sentence):
    with pytest.raises(ValueError, match=sentence):
        TwoRooms().initial(3, generator(), variation)


@pytest.mark.parametrize("position", [[2.0, 30.0], [32.0, 40.0], [30.0, 64.0], [float("nan"), 30.0]])
def test_a_goal_outside_the_reachable_world_is_refused(position):
    sim = TwoRooms()
    state = sim.initial(2, generator())
    with pytest.raises(ValueError, match="a goal must lie in a room or the door"):
        sim.goal_at(state, torch.tensor(position))
    with pytest.raises(ValueError, match="a goal position must have shape"):
        sim.goal_at(state, torch.zeros(3, 2))


def test_a_goal_that_cannot_exist_is_refused():
    sim = TwoRooms(success_radius=200.0)
    with pytest.raises(ValueError, match="outside success_radius, got none"):
        sim.goal(sim.initial(2, generator()), generator())


def test_bad_actions_splits_and_vectors_are_refused():
    sim = TwoRooms()
    state = sim.initial(3, generator())
    with pytest.raises(ValueError, match=r"shape \(worlds, action_dim\) = \(3, 2\), got \(3, 3\)"):
        sim.transition(state, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="an action must be finite"):
        check_action(sim, torch.tensor([[0.0, float("nan")]] * 3), 3)
    with pytest.raises(ValueError, match="split must be one of .*did you mean 'train'"):
        sim.initial(3, generator(), split="trian")
    with pytest.raises(ValueError, match=r"a state vector must have shape \(worlds, 11\)"):
        sim.state_from_vector(torch.zeros(3, 4))
