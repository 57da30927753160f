import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from envs.collect import collect
from envs.hashing import hash_normal, hash_uniform
from envs.moving_dot import HIGH, LOW, MovingDot
from envs.policies import DirectedWalk
from envs.state import concat_states, index_state
from envs.von_mises import sample_von_mises

CONFIGS = [
    {},
    {"num_dots": 3},
    {"num_dots": 3, "distractor": "uniform", "motion": "changing"},
    *(
        {"distractor": d, "motion": m}
        for d in ("uniform", "structured")
        for m in ("fixed", "changing", "rolling")
    ),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_chance_figures_of_the_literature_are_reproduced():
    data = collect(MovingDot(), DirectedWalk(), 20_000, 16, generator(), keys=("proprio",))
    position, action = data["proprio"], data["action"]
    rmse = (position - position.mean(0)).square().sum(-1).mean(0).sqrt()  # (T + 1,) best constant guess
    assert rmse[0].item() == pytest.approx(
        21.8 / math.sqrt(6), abs=0.06
    )  # 8.90: uniform on a square of 21.8 px
    assert rmse[16].item() == pytest.approx(9.59, abs=0.15)
    assert rmse.mean().item() == pytest.approx(9.26, abs=0.15)
    moved = position[:, 1:] - position[:, :-1]
    is_clamped = ((moved - action[:, :-1]).abs() > 1e-4).any(-1)
    assert is_clamped.float().mean().item() == pytest.approx(0.16, abs=0.02)
    assert action[:, :-1].norm(dim=-1).max() < 4.0


def test_the_dot_has_the_literature_s_gaussian_and_peak():
    sim = MovingDot()
    state = sim.goal_at(sim.initial(1, generator()), torch.tensor([10.0, 17.0]))
    pixels = sim.observation(state)["pixels"][0, 0].numpy()
    rows, cols = np.mgrid[:28, :28]
    gauss = np.exp(-((cols - 10) ** 2 + (rows - 17) ** 2) / (2 * 1.3**2))
    assert np.abs(pixels - 255 * gauss).max() <= 0.51
    assert (1 / (2 * math.pi * 1.3**2)) == pytest.approx(0.0942, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 3.0])
def test_pixels_are_dot_plus_alpha_times_background_on_a_constant_scale(alpha):
    sim = MovingDot(distractor="uniform", motion="changing", alpha=alpha)
    state = sim.initial(50, generator())
    dot = (
        MovingDot()
        .observation({key: state[key] for key in state.keys() - {"alpha"}})["pixels"][:, 0]
        .double()
    )
    expected = (dot + alpha * sim.background(state).double()) / (1 + alpha)
    assert (sim.observation(state)["pixels"][:, 0].double() - expected).abs().max() <= 1.01


def test_positions_are_clamped_to_the_field_and_long_actions_to_four_pixels():
    sim = MovingDot()
    state = sim.goal_at(sim.initial(2, generator()), torch.tensor([12.0, 12.0]))
    action = torch.tensor([[30.0, 40.0], [0.0, 1.0]])
    moved = sim.transition(state, action)["position"]
    torch.testing.assert_close(moved, torch.tensor([[14.4, 15.2], [12.0, 13.0]]))
    for _ in range(5):
        state = sim.transition(state, action)
    assert torch.equal(state["position"].clamp(LOW, HIGH), state["position"])
    assert state["position"][0, 1] == torch.tensor(HIGH)


@pytest.mark.parametrize("distractor", ["uniform", "structured"])
def test_fixed_backgrounds_stay_changing_ones_do_not_and_rolling_ones_shift(distractor):
    frames = {}
    for motion in ("fixed", "changing", "rolling"):
        sim = MovingDot(distractor=distractor, motion=motion)
        state = sim.initial(40, generator())
        views = []
        for _ in range(17):
            views.append(sim.background(state))
            state = sim.transition(state, torch.zeros(40, 2))
        frames[motion] = torch.stack(views, 1)
    assert torch.equal(frames["fixed"], frames["fixed"][:, :1].expand_as(frames["fixed"]))
    assert len(frames["fixed"][:, 0].flatten(1).unique(dim=0)) == 40
    assert len(frames["changing"].flatten(0, 1).flatten(1).unique(dim=0)) == 40 * 17
    now, after = frames["rolling"][:, 0], frames["rolling"][:, 1]
    for first, second in zip(now, after, strict=True):  # shifted by at most one pixel per axis
        windows = [first[y : y + 26, x : x + 26] for y in range(3) for x in range(3)]
        assert any(torch.equal(window, second[1:27, 1:27]) for window in windows)
    assert not torch.equal(frames["rolling"][:, 0], frames["rolling"][:, 16])


def test_uniform_backgrounds_are_independent_uniform_pixels():
    sim = MovingDot(distractor="uniform", motion="changing")
    noise = sim.background(sim.initial(2000, generator())).double()
    assert noise.mean().item() == pytest.approx(127.5, abs=0.5)
    assert noise.std().item() == pytest.approx(256 / math.sqrt(12), abs=0.5)
    flat = noise[:, 10, 10:20].numpy()
    assert np.abs(np.corrcoef(flat.T) - np.eye(10)).max() < 0.1


def test_structured_backgrounds_are_smooth_at_several_scales():
    sim = MovingDot(distractor="structured")
    noise = sim.background(sim.initial(500, generator())).double()
    noise = noise - noise.mean()

    def correlation(lag):
        return ((noise[:, :, lag:] * noise[:, :, : 28 - lag]).mean() / noise.square().mean()).item()

    assert correlation(1) > 0.9
    assert correlation(1) > correlation(4) > correlation(12)
    assert 30 < noise.std() < 80


def test_train_and_eval_backgrounds_come_from_disjoint_images():
    textures = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 40), np.uint8)
    sim = MovingDot(distractor="structured", textures=textures)
    seen = [
        set(sim.background(sim.initial(500, generator(), split=s))[:, 0, 0].tolist())
        for s in ("train", "eval")
    ]
    assert seen == [set(range(8)), {8, 9}]


def test_the_user_s_textures_are_cropped_and_may_come_from_a_file(tmp_path):
    images = np.random.default_rng(0).random((5, 32, 30))
    np.save(tmp_path / "t.npy", images)
    array = MovingDot(distractor="structured", textures=images)
    file = MovingDot(distractor="structured", textures=tmp_path / "t.npy")
    state = array.initial(100, generator())
    crops = array.background(state)
    assert torch.equal(crops, file.background(state))
    rounded = np.round(images * 255).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(rounded, (28, 28), (1, 2)).reshape(-1, 28 * 28)
    known = {window.tobytes() for window in windows}
    assert all(crop.tobytes() in known for crop in crops.numpy().reshape(100, -1))
    assert MovingDot(**json.loads(json.dumps(file.kwargs))).kwargs == file.kwargs
    with pytest.raises(ValueError, match="textures must be given as the path"):
        _ = array.kwargs


@pytest.mark.parametrize("kwargs", CONFIGS)
def test_observations_are_functions_of_the_recorded_state(kwargs):
    sim = MovingDot(**kwargs)
    state = sim.initial(40, generator())
    for _ in range(3):
        state = sim.transition(state, torch.randn((40, 2), generator=generator()))
    again = MovingDot(**json.loads(json.dumps(sim.kwargs))).state_from_vector(sim.state_vector(state))
    pixels = sim.observation(state)["pixels"]
    assert pixels.shape == (40, sim.num_dots, 28, 28)
    assert torch.equal(sim.observation(again)["pixels"], pixels)
    singles = [sim.observation(index_state(state, slice(i, i + 1)))["pixels"] for i in range(40)]
    assert torch.equal(torch.cat(singles), pixels)
    moved = sim.transition(state, torch.ones(40, 2))
    parts = [sim.transition(index_state(state, slice(i, i + 1)), torch.ones(1, 2)) for i in range(40)]
    joined = concat_states(parts)
    assert all(torch.equal(joined[key], moved[key]) for key in moved)


def test_no_function_changes_its_inputs():
    sim = MovingDot(num_dots=3, distractor="structured", motion="rolling")
    state = sim.initial(10, generator())
    copy = {key: value.clone() for key, value in state.items()}
    goal = sim.goal(state, generator())
    sim.transition(state, torch.ones(10, 2))["position"].zero_()
    sim.observation(state), sim.expert(state, goal), sim.picture(state), sim.factors(state)
    assert all(torch.equal(state[key], copy[key]) for key in state)


def test_the_second_walker_walks_by_the_data_policy_s_rule_and_the_third_dot_stays():
    sim = MovingDot(num_dots=3)
    state = sim.initial(4000, generator())
    before = {**state, "other_positions": torch.full((4000, 2, 2), 13.5)}
    after = sim.transition(before, torch.zeros(4000, 2))["other_positions"]
    length = (after - 13.5)[:, 0].norm(dim=-1)
    assert stats.kstest(length.numpy() / 4, "uniform").pvalue > 1e-3
    assert torch.equal(after[:, 1], before["other_positions"][:, 1])
    assert torch.equal(after[:, 0], sim.transition(before, torch.ones(4000, 2))["other_positions"][:, 0])


def test_goals_are_unsolved_and_the_expert_reaches_all_of_them():
    sim = MovingDot(distractor="uniform")
    state = sim.initial(3000, generator())
    goal = sim.goal(state, generator(1))
    assert not sim.success(state, goal).any()
    for _ in range(sim.max_steps):
        state = sim.transition(state, sim.expert(state, goal))
    assert sim.success(state, goal).all()
    assert sim.distance(state, goal).max() < 1e-3


def test_a_goal_has_the_background_of_its_episode():
    for motion, is_same in (("fixed", True), ("changing", False)):
        sim = MovingDot(distractor="uniform", motion=motion)
        state = sim.initial(20, generator())
        goal = sim.goal(state, generator(1))
        assert torch.equal(sim.background(state), sim.background(goal)) == is_same


def test_every_factor_is_set_per_world_and_moves_the_result():
    sim = MovingDot(distractor="uniform")
    plain = sim.initial(2, generator())
    for name, space in sim.variation_space.items():
        values = torch.tensor([float(space.low), float(space.high)])
        changed = sim.initial(2, generator(), {name: values})
        assert torch.equal(sim.factors(changed)[name], values)
        after = [
            sim.observation(sim.transition(each, torch.ones(2, 2)))["pixels"] for each in (plain, changed)
        ]
        assert not torch.equal(after[0][1], after[1][1]), name


@pytest.mark.parametrize("kappa", [0.0, 0.2, 5.0, 50.0])
def test_von_mises_angles_follow_the_distribution(kappa):
    angles = sample_von_mises((20_000,), kappa, generator()).numpy()
    if kappa:
        assert stats.kstest(angles, stats.vonmises(kappa).cdf).pvalue > 1e-3
    else:
        assert stats.kstest(angles, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    assert np.array_equal(angles, sample_von_mises((20_000,), kappa, generator()).numpy())


def test_hashed_numbers_are_uniform_normal_and_independent_of_their_neighbours():
    seed, step = torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64)
    uniform = hash_uniform(seed, 3, step)
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(uniform, hash_uniform(seed, 4, step))[0, 1]) < 0.03
    assert stats.kstest(hash_normal(seed, step, 2).flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"num_dots": 2}, "num_dots must be 1 or 3, got 2"),
        ({"distractor": "unifrom"}, "distractor must be one of .*did you mean 'uniform'"),
        ({"motion": "moving"}, "motion must be one of"),
        ({"alpha": -1.0}, r"alpha must be in \[0, 3\], got -1.0"),
        ({"textures": np.zeros((2, 30, 30))}, "textures must come with distractor 'structured', got 'none'"),
        ({"distractor": "structured", "textures": np.zeros((2, 20, 30))}, r"at least 28, got \(2, 20, 30\)"),
        ({"distractor": "structured", "textures": np.full((2, 30, 30), 2.0)}, r"floats must lie in \[0, 1\]"),
        (
            {"distractor": "structured", "textures": np.zeros((2, 30, 30), int)},
            "uint8 or floats, got torch.int64",
        ),
        ({"success_radius": 50.0}, r"success_radius must be in \(0, 21.8\), got 50"),
    ],
)
def test_bad_arguments_are_refused_with_the_rule_and_the_value(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        MovingDot(**kwargs)


def test_a_goal_outside_the_field_and_a_wrong_action_are_refused():
    sim = MovingDot()
    state = sim.initial(2, generator())
    with pytest.raises(ValueError, match=r"a goal must lie in \[2.6, 24.4\]\^2, got \[1.0, 5.0\]"):
        sim.goal_at(state, torch.tensor([1.0, 5.0]))
    with pytest.raises(ValueError, match="an action must have shape"):
        sim.transition(state, torch.zeros(2))
