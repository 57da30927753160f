"""Recipes of the MuJoCo tasks.

At the size of two CPU cores mazes are seen in pictures, the other tasks from proprioception. At the full size, for a
GPU, all are seen in pictures: Reacher and cart-pole with velocities beside them, which no picture of one moment shows,
mazes and Push-T without. What proprioception has of these two, Push-T's block included, is a label of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.catalogue.two_rooms import two_rooms_full, two_rooms_small
from benchmarks.catalogue.weights import CONTRAST, VARIANCE_COVARIANCE
from benchmarks.recipes import (
    ActorRecipe,
    CollectConfig,
    CriticRecipe,
    DaggerConfig,
    EvaluationRecipe,
    ModelRecipe,
    ObjectiveRecipe,
    PlannerRecipe,
    ReadoutRecipe,
    Recipe,
    RefitRecipe,
)
from worldmodel.critic import CriticConfig
from worldmodel.paths import PathConfig
from worldmodel.training import FitConfig
from worldmodel.value_iteration import ValueIterationConfig


def point_maze_small() -> Recipe:
    """PointMaze 7 x 7 from pictures, at the size of two CPU cores, evaluated on mazes never seen.

    What holds for rooms holds for mazes: a feature map, here of one position per cell, and shortest paths over the
    episodes that share a maze. A distance of features finds no ways in mazes that it never saw; values that spread over
    the map do. Proprioception is predicted and not seen: seen, it would be everywhere on the map instead of where the
    ball is; without it, a ball that moves half a pixel per step is not found.
    """
    rooms = two_rooms_small()
    assert rooms.predictor is not None
    return dataclasses.replace(
        rooms,
        name="point-maze-small",
        collect=CollectConfig(
            "worldmodel/PointMaze-v0",
            {"image_size": 36, "num_mazes": 400},
            policy="correlated",
            num_episodes=16_000,
            num_steps=100,
            chunk=2000,
            states_only=True,
        ),
        objective=dataclasses.replace(
            rooms.objective, weights={**CONTRAST, "supervised": 1.0}
        ),  # of proprioception
        world_model=dataclasses.replace(rooms.world_model, num_steps=1500),
        predictor=dataclasses.replace(
            rooms.predictor, fit=dataclasses.replace(rooms.predictor.fit, num_steps=1500)
        ),
        critic=CriticRecipe(
            FitConfig(num_steps=2500, lr=5e-3, weight_decay=1e-4, checkpoint_every=500),
            CriticConfig(head="value_map", feature_dim=8, hidden_dims=(32,), scale=20.0),
            # All but a few of the episodes that a maze has: fewer leave places unvisited, more are of other mazes.
            # Three median steps are a third of what a wall is wide.
            paths=PathConfig(episodes_per_graph=30, near=3.0, every=3),
            starts_per_goal=16,
        ),
        actor=ActorRecipe(
            FitConfig(num_steps=1000, lr=1e-3, checkpoint_every=100),
            horizon=8,
            batch_size=256,
            noise=0.4,
            reads="value_map",
        ),
        # In a corner that it presses into, the policy has no gradient; its planner knows the way out.
        distill=DaggerConfig(),
        evaluation=EvaluationRecipe(num_tasks=200, num_steps=150),
    )


def reacher_small() -> Recipe:
    """Reacher from proprioception, angles and velocities of its joints, at the size of two CPU cores."""
    return Recipe(
        name="reacher-small",
        collect=CollectConfig(
            "worldmodel/Reacher-v0",
            policy="correlated",
            num_episodes=4000,
            num_steps=50,
            chunk=1000,
            states_only=True,
        ),
        model=ModelRecipe(keys=("proprio",), encoder="mlp", embedding_dim=32),
        objective=ObjectiveRecipe(VARIANCE_COVARIANCE, rollout_steps=8, window=9),
        world_model=FitConfig(num_steps=2000, lr=2e-3, checkpoint_every=500),
        predictor=RefitRecipe(FitConfig(num_steps=2000, lr=1e-3, checkpoint_every=500)),
        critic=CriticRecipe(
            FitConfig(num_steps=3000, lr=1e-3, checkpoint_every=1000),
            CriticConfig(max_lag=8, hindsight_mean=12.0, target_rate=0.03),
        ),
        actor=ActorRecipe(FitConfig(num_steps=1000, lr=1e-3, checkpoint_every=500), horizon=8),
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.05}, execute=1
        ),
        evaluation=EvaluationRecipe(num_steps=50),
    )


def push_t_small() -> Recipe:
    """Push-T from the places of pusher and block, at the size of two CPU cores."""
    return Recipe(
        name="push-t-small",
        collect=CollectConfig(
            "worldmodel/PushT-v0",
            {"block_in_proprio": True},
            policy="0.8*block_waypoints+0.2*correlated",
            num_episodes=8000,
            num_steps=60,
            chunk=1000,
            states_only=True,
        ),
        model=ModelRecipe(
            keys=("proprio",),
            encoder="mlp",
            embedding_dim=32,
            predictor_args={"hidden_dims": [512, 512]},
        ),
        objective=ObjectiveRecipe(
            {**VARIANCE_COVARIANCE, "temporal_similarity": 0.0, "supervised": 4.0},  # of proprioception
            rollout_steps=8,
            window=9,
        ),
        world_model=FitConfig(num_steps=3000, lr=2e-3, checkpoint_every=500),
        predictor=RefitRecipe(FitConfig(num_steps=6000, lr=1e-3, checkpoint_every=500)),
        readout=ReadoutRecipe(FitConfig(num_steps=4000, lr=2e-3, checkpoint_every=1000)),
        # The task's distance rates what a plan reaches; what comes after it, the way round the block, is the critic's.
        critic=CriticRecipe(
            FitConfig(num_steps=6000, lr=1e-3, weight_decay=1e-4, checkpoint_every=1000),
            CriticConfig(head="mlp", reads="readout", hidden_dims=(256, 256, 256), hindsight=0.8, scale=40.0),
            batch_size=256,
            values=ValueIterationConfig(),
        ),
        actor=ActorRecipe(
            FitConfig(num_steps=36000, lr=1e-3, checkpoint_every=1000),
            cost="task+critic",
            horizon=4,
            batch_size=256,
            hindsight=0.8,
            carried=0.5,
            reads="readout",
        ),
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.1},
            cost="task+critic",
            horizon=6,
            action_repeat=3,
            execute=3,
            init_std=1.0,
        ),
        evaluation=EvaluationRecipe(num_steps=60),
    )


def cart_pole_small() -> Recipe:
    """Cart-pole swing-up from proprioception, at the size of two CPU cores."""
    return Recipe(
        name="cart-pole-small",
        collect=CollectConfig(
            "worldmodel/CartPole-v0",
            # Who is never pushed about shows nobody how a deviation is mended.
            policy="0.3*correlated+0.2*expert+0.5*noisy_expert",
            num_episodes=4000,
            num_steps=120,
            chunk=1000,
            states_only=True,
        ),
        model=ModelRecipe(keys=("proprio",), encoder="mlp", embedding_dim=32),
        objective=ObjectiveRecipe(VARIANCE_COVARIANCE, rollout_steps=8, window=9),
        world_model=FitConfig(num_steps=2000, lr=2e-3, checkpoint_every=500),
        predictor=RefitRecipe(FitConfig(num_steps=2000, lr=1e-3, checkpoint_every=500)),
        critic=CriticRecipe(
            FitConfig(num_steps=4000, lr=1e-3, checkpoint_every=1000),
            CriticConfig(max_lag=16, hindsight_mean=25.0, target_rate=0.03),
        ),
        actor=ActorRecipe(FitConfig(num_steps=3000, lr=1e-3, checkpoint_every=500), horizon=8),
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.05},
            horizon=12,
            action_repeat=1,
            execute=1,
        ),
        evaluation=EvaluationRecipe(num_tasks=100, num_steps=120),
    )


# 64 -> 32 -> 16 -> 8 -> 4 rows and columns, flattened.
PICTURE_ENCODER = {"channels": [32, 64, 64, 128], "kernels": [5, 5, 3, 3], "strides": [2, 2, 2, 2], "pool": 1}


def _from_pictures(
    small: Recipe, name: str, keys: tuple[str, ...], num_episodes: int, env_kwargs: Mapping[str, Any]
) -> Recipe:
    """Return the recipe ``small`` as the recipe ``name`` from pictures, with a world model that is trained longer."""
    assert small.predictor is not None
    return dataclasses.replace(
        small,
        name=name,
        collect=dataclasses.replace(
            small.collect, env_kwargs={"image_size": 64, **env_kwargs}, num_episodes=num_episodes
        ),
        model=dataclasses.replace(
            small.model,
            keys=keys,
            encoder="conv",
            encoder_args=dict(PICTURE_ENCODER),
            embedding_dim=64,
            predictor_args={"hidden_dims": [512, 512]},
        ),
        world_model=dataclasses.replace(small.world_model, num_steps=12_000, lr=1e-3, checkpoint_every=1000),
        predictor=dataclasses.replace(
            small.predictor,
            fit=dataclasses.replace(small.predictor.fit, num_steps=8000, checkpoint_every=1000),
        ),
    )


def reacher_full() -> Recipe:
    """Reacher from pictures and the velocities of its joints, for a GPU."""
    keys = ("pixels", "proprio")
    return _from_pictures(reacher_small(), "reacher-full", keys, 8000, {"positions_in_proprio": False})


def cart_pole_full() -> Recipe:
    """Cart-pole swing-up from pictures and the velocities of cart and pole, for a GPU."""
    keys = ("pixels", "proprio")
    return _from_pictures(cart_pole_small(), "cart-pole-full", keys, 8000, {"positions_in_proprio": False})


def push_t_full() -> Recipe:
    """Push-T from pictures alone, for a GPU; where pusher and block are is a label of training, as for its readout."""
    return _from_pictures(push_t_small(), "push-t-full", ("pixels",), 16_000, {"block_in_proprio": True})


def point_maze_full() -> Recipe:
    """PointMaze 7 x 7 from finer pictures of more mazes, a wider model, for a GPU: again as for rooms of this size."""
    small, rooms = point_maze_small(), two_rooms_full()
    assert small.predictor is not None
    assert rooms.predictor is not None
    assert small.critic is not None
    assert small.critic.paths is not None
    # 72 -> 36 -> 18 -> 9 rows and columns: one position per cell, as at the small size.
    cells = {**rooms.model.encoder_args, "strides": [2, 2, 2, 1], "pool": 1}
    return dataclasses.replace(
        small,
        name="point-maze-full",
        collect=dataclasses.replace(
            small.collect, env_kwargs={"image_size": 72, "num_mazes": 1000}, num_episodes=40_000
        ),
        model=dataclasses.replace(rooms.model, encoder_args=cells),
        objective=dataclasses.replace(small.objective, batch_size=rooms.objective.batch_size),
        world_model=rooms.world_model,
        predictor=dataclasses.replace(
            small.predictor, fit=rooms.predictor.fit, max_episodes=rooms.predictor.max_episodes
        ),
        critic=dataclasses.replace(
            small.critic, paths=dataclasses.replace(small.critic.paths, num_graphs=500)
        ),
    )
