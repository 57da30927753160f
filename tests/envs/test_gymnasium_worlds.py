"""Environments of Gymnasium as sources of trajectories."""

import gc

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from benchmarks.catalogue import resolve
from benchmarks.collecting import collect_store, make_data_policy, make_source
from benchmarks.recipes import CollectConfig
from benchmarks.stages import train_run
from envs.gymnasium_worlds import GymnasiumWorlds, is_foreign
from envs.policies import CorrelatedNoise, UniformRandom
from worldmodel.data import TrajectoryStore

PENDULUM = "InvertedPendulum-v5"


class Corridor(gymnasium.Env):
    """A goal environment: a place in [0, 1] that actions move; 1 ends the episode."""

    observation_space = spaces.Dict(
        {
            name: spaces.Box(-9, 9, (1,), np.float32)
            for name in ("observation", "achieved_goal", "desired_goal")
        }
    )
    action_space = spaces.Box(-0.1, 0.1, (1,), np.float32)

    def _seen(self):
        place = np.array([self.place], np.float32)
        return {
            "observation": place,
            "achieved_goal": 2 * place,
            "desired_goal": np.full(1, 9.0, np.float32),
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.place = self.np_random.uniform(0.4, 0.6)
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place += float(action[0])
        return self._seen(), 0.0, self.place >= 1.0, False, {}


@pytest.fixture(scope="module", autouse=True)
def _corridor():
    gymnasium.register("Corridor-v0", Corridor, max_episode_steps=60)
    yield
    del gymnasium.registry["Corridor-v0"]


def record(env_id, num=5, num_steps=40, policy=None, seed=0, **kwargs):
    worlds = GymnasiumWorlds(env_id, 3, **kwargs)
    generator = torch.Generator().manual_seed(seed)
    try:
        return worlds, worlds.record(policy or CorrelatedNoise(), num, num_steps, generator)
    finally:
        worlds.close()


def test_actions_lead_from_row_to_row_and_an_episode_that_ends_is_shorter():
    _, episodes = record("Corridor-v0", num=8, num_steps=50)
    lengths = {len(episode["action"]) for episode in episodes}
    assert max(lengths) == 51
    assert min(lengths) < 51
    for episode in episodes:
        place = episode["proprio"]
        assert place.shape[1] == 2  # achieved_goal and observation: the goal is not seen
        np.testing.assert_allclose(np.diff(place[:, 1:], axis=0), episode["action"][:-1], atol=1e-6)
        np.testing.assert_allclose(place[:, 0], 2 * place[:, 1], atol=1e-6)
        assert not episode["action"][-1].any()
        assert not np.allclose(place, 9.0)


def test_of_mujoco_s_environments_the_joints_are_recorded_and_the_same_seed_gives_the_same():
    worlds, episodes = record(PENDULUM)
    assert worlds.state_dim == 4
    _, again = record(PENDULUM)
    for one, other in zip(episodes, again, strict=True):
        np.testing.assert_array_equal(one["state"], other["state"])
        np.testing.assert_array_equal(one["proprio"], one["state"])  # what this environment shows
        assert len(one["action"]) < 41  # the pole falls
    assert not np.allclose(episodes[0]["state"][0], episodes[1]["state"][0])


# Gymnasium gives the OpenGL context back; MuJoCo's own finaliser then complains that it is gone.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_pictures_are_reduced_to_the_size_that_is_asked_for():
    worlds, episodes = record(PENDULUM, num=1, num_steps=2, image_size=24)
    assert worlds.pixels_shape == (3, 24, 24)
    assert episodes[0]["pixels"].shape[1:] == (3, 24, 24)
    assert episodes[0]["pixels"].dtype == np.uint8
    assert episodes[0]["pixels"].std() > 5
    gc.collect()


def test_a_store_of_it_trains_a_world_model(tmp_path):
    config = CollectConfig("Corridor-v0", policy="correlated", num_episodes=24, num_steps=20, chunk=12)
    store = collect_store(config, tmp_path / "store", seed=0)
    assert store.num_episodes == 24
    assert store.env["observation"] == {"proprio": [2]}
    again = collect_store(config, tmp_path / "again", seed=0)
    np.testing.assert_array_equal(store.read(["proprio"])["proprio"], again.read(["proprio"])["proprio"])
    settings = ["collect.env_id=Corridor-v0", "objective.window=5", "objective.rollout_steps=4"]
    recipe = resolve("reacher-small", "smoke", [*settings, "predictor.num_steps=4"])
    train_run(recipe, TrajectoryStore.open(tmp_path / "store"), tmp_path / "run", seed=0)
    assert (tmp_path / "run" / "policy" / "config.json").exists()


def test_ours_are_not_foreign_and_what_does_not_fit_is_said_in_a_sentence():
    assert is_foreign(PENDULUM)
    assert not is_foreign("worldmodel/Reacher-v0")
    assert not is_foreign("Nothing-v9")
    with pytest.raises(ValueError, match="actions must be a bounded vector, got Discrete"):
        GymnasiumWorlds("CartPole-v1", 1)
    with pytest.raises(ValueError, match="observations must be vectors, got Discrete"):
        GymnasiumWorlds("FrozenLake-v1", 1)
    with pytest.raises(ValueError, match="keywords that it knows"):
        GymnasiumWorlds(PENDULUM, 1, nonsense=3)
    with pytest.raises(ValueError, match="id must be registered with Gymnasium, got 'Nothing-v9'"):
        GymnasiumWorlds("Nothing-v9", 1)
    with pytest.raises(ValueError, match="an environment id must be registered, got 'Nothing-v9'"):
        make_source("Nothing-v9", {})
    with pytest.raises(ValueError, match="must be uniform or correlated in Corridor-v0"):
        record("Corridor-v0", policy=make_data_policy("expert", {}))
    with pytest.raises(ValueError, match="image_size must be a whole number of at least 16"):
        GymnasiumWorlds(PENDULUM, 1, image_size=3)


def test_mixtures_of_noise_are_recorded_too():
    _, episodes = record("Corridor-v0", policy=make_data_policy("0.5*uniform+0.5*correlated", {}))
    assert len(episodes) == 5
    assert isinstance(make_data_policy("uniform", {}), UniformRandom)
