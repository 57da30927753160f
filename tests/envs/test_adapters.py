import subprocess
import sys
from importlib.metadata import EntryPoint

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import envs
from envs.goal_task import normalize_action
from envs.simulator import Simulator

CONFIGS = [
    *((env_id, {}) for env_id in envs.registered_ids()),
    ("worldmodel/TwoRooms-v0", {"layout": "random", "rgb": True, "image_size": 32, "goal_room": "any"}),
    ("worldmodel/MovingDot-v0", {"num_dots": 3, "distractor": "uniform", "motion": "rolling"}),
    ("worldmodel/Reacher-v0", {"positions_in_proprio": False}),
    ("worldmodel/CartPole-v0", {"positions_in_proprio": False}),
]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("env_id", "kwargs"), CONFIGS)
def test_gymnasium_s_checker_finds_nothing_to_warn_about(env_id, kwargs):
    check_env(gymnasium.make(env_id, **kwargs).unwrapped)


@pytest.mark.parametrize("env_id", envs.registered_ids())
def test_every_registered_simulator_keeps_the_contract(env_id):
    assert isinstance(envs.make_simulator(env_id), Simulator)
    assert envs.make_simulator(env_id).env_id == env_id


@pytest.mark.parametrize(("env_id", "kwargs"), CONFIGS)
def test_a_vector_env_repeats_its_worlds_one_by_one(env_id, kwargs):
    radius = {"worldmodel/Reacher-v0": 1.0, "worldmodel/PointMaze-v0": 2.0, "worldmodel/PushT-v0": 0.2}.get(
        env_id, 6.0
    )
    radius = 0.5 if "CartPole" in env_id else radius
    kwargs = {**kwargs, "max_steps": 7, "success_radius": radius}  # ends often, in both ways
    batch = gymnasium.make_vec(env_id, num_envs=5, **kwargs)
    assert batch.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    singles = SyncVectorEnv([lambda: gymnasium.make(env_id, **kwargs)] * 5)
    rng = np.random.default_rng(0)
    ends = np.zeros(2, int)
    results = [env.reset(seed=3) for env in (batch, singles)]
    for _ in range(40):
        for key in results[0][0]:
            np.testing.assert_array_equal(results[0][0][key], results[1][0][key])
        for mine, theirs in zip(results[0][1:-1], results[1][1:-1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for key in ("success", "state", "_success", "_state"):
            np.testing.assert_array_equal(results[0][-1][key], results[1][-1][key])
        assert batch.observation_space.contains(results[0][0])
        action = rng.uniform(-1, 1, batch.action_space.shape).astype(np.float32)
        results = [env.step(action) for env in (batch, singles)]
        ends += [results[0][2].sum(), results[0][3].sum()]
    assert ends[1] > 0


def test_the_expert_s_normalised_actions_end_every_episode_with_the_reward():
    env = gymnasium.make_vec("worldmodel/TwoRooms-v0", num_envs=8)
    env.reset(seed=0)
    total, ended = np.zeros(8), np.zeros(8, bool)
    for _ in range(60):
        sim = env.simulator
        action = normalize_action(sim, sim.expert(env.state, env.goal))
        _, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(reward, terminated.astype(float))
        assert info["success"][terminated].all()
        assert not truncated.any()
        total, ended = total + reward * ~ended, ended | terminated
    assert ended.all()
    np.testing.assert_array_equal(total, 1.0)


def test_episodes_are_truncated_after_max_steps():
    env = gymnasium.make("worldmodel/TwoRooms-v0", max_steps=3)
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]


def test_reset_options_set_variation_split_and_goal_for_one_episode():
    env = gymnasium.make("worldmodel/TwoRooms-v0", layout="random").unwrapped
    ids = {"train": set(), "eval": set()}
    env.reset(seed=0)
    for split, seen in ids.items():
        for _ in range(30):
            obs, _ = env.reset(options={"split": split, "goal": [8.0, 50.0], "variation": {"speed": 0.5}})
            seen.add(int(env.simulator.layout_id(env.state)))
            np.testing.assert_allclose(obs["goal_proprio"], [8.0, 50.0])
            assert env.state["speed"].item() == 0.5
    assert not ids["train"] & ids["eval"]
    env.reset()
    assert env.state["speed"].item() == 1.0


def test_a_vector_env_takes_one_option_value_per_world():
    env = gymnasium.make_vec("worldmodel/TwoRooms-v0", num_envs=3)
    goals = [[8.0, 50.0], [50.0, 8.0], [32.0, 18.0]]
    obs, _ = env.reset(seed=0, options={"variation": {"speed": [0.5, 1.0, 2.0]}, "goal": goals})
    np.testing.assert_allclose(obs["goal_proprio"], goals)
    assert env.state["speed"].tolist() == [0.5, 1.0, 2.0]


def test_rendering_shows_state_and_goal():
    env = gymnasium.make("worldmodel/TwoRooms-v0", render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert before.shape == (260, 260, 3)
    env.step(np.ones(2, np.float32))
    assert not np.array_equal(before, env.render())
    frames = gymnasium.make_vec("worldmodel/MovingDot-v0", num_envs=2, render_mode="rgb_array")
    frames.reset(seed=0)
    assert [frame.shape for frame in frames.render()] == [(252, 252, 3)] * 2


def test_importing_is_light_and_registers():
    heavy = run_python(
        "import sys, envs, gymnasium; "
        "print([m for m in ('torch', 'mujoco', 'matplotlib') if m in sys.modules], "
        "'worldmodel/TwoRooms-v0' in gymnasium.registry)"
    )
    assert heavy.strip() == "[] True"
    used = run_python(
        "import sys; from envs import TwoRooms; print([m for m in ('mujoco', 'matplotlib') if m in sys.modules])"
    )
    assert used.strip() == "[]"


def test_an_environment_is_made_without_an_import_of_ours():
    code = (
        "import gymnasium; env = gymnasium.make('envs:worldmodel/TwoRooms-v0'); "
        "print(env.reset(seed=0)[0]['pixels'].shape)"
    )
    assert run_python(code).strip() == "(2, 65, 65)"


def test_the_entry_point_s_target_registers_once():
    target = EntryPoint("worldmodel", "envs.registration:register_envs", "gymnasium.envs").load()
    target()  # a second call would warn of an overridden environment
    assert set(envs.registered_ids()) <= gymnasium.registry.keys()


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ([np.nan, 0.0], "an action must be finite, got"),
        ([0.0, 0.0, 0.0], r"an action must have shape .* = \(1, 2\), got \(1, 3\)"),
        (0.0, "an action must have shape"),
    ],
)
def test_a_bad_action_is_refused(action, sentence):
    env = gymnasium.make("worldmodel/TwoRooms-v0", disable_env_checker=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=sentence):
        env.step(np.asarray(action, np.float32))


def test_bad_ids_keywords_and_options_are_refused_with_the_nearest_known_one():
    with pytest.raises(ValueError, match="'worldmodel/TwoRoom-v0'; did you mean 'worldmodel/TwoRooms-v0'"):
        envs.make_simulator("worldmodel/TwoRoom-v0")
    with pytest.raises(ValueError, match="got 'layuot'; did you mean 'layout'"):
        envs.make_simulator("worldmodel/TwoRooms-v0", layuot="fixed")
    with pytest.raises(ValueError, match="did you mean 'layout'"):
        gymnasium.make("worldmodel/TwoRooms-v0", layuot="fixed")
    env = gymnasium.make("worldmodel/TwoRooms-v0").unwrapped
    with pytest.raises(ValueError, match="got 'variations'; did you mean 'variation'"):
        env.reset(options={"variations": {}})
    with pytest.raises(ValueError, match="a goal must lie in a room or the door"):
        env.reset(options={"goal": [32.0, 50.0]})
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array', got 'human'"):
        envs.adapters.SimulatorEnv("worldmodel/TwoRooms-v0", render_mode="human")
    with pytest.raises(ValueError, match="seed must be one number or 2 of them, got 3"):
        gymnasium.make_vec("worldmodel/TwoRooms-v0", num_envs=2).reset(seed=[1, 2, 3])
    with pytest.raises(AttributeError, match="module 'envs' has no attribute 'ThreeRooms'"):
        _ = envs.ThreeRooms
