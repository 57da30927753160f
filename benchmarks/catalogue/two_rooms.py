"""Recipes of Two Rooms."""

from __future__ import annotations

import dataclasses

from benchmarks.catalogue.weights import CONTRAST, CONTRAST_ARGS, VARIANCE_COVARIANCE
from benchmarks.recipes import (
    ActorRecipe,
    CollectConfig,
    CriticRecipe,
    EvaluationRecipe,
    ModelRecipe,
    ObjectiveRecipe,
    PlannerRecipe,
    Recipe,
    RefitRecipe,
)
from worldmodel.critic import CriticConfig
from worldmodel.paths import PathConfig
from worldmodel.training import FitConfig

PLDM_RADIUS = 1.41  # the success radius of PLDM (arXiv 2502.14819) [px]; the environment's is EB-JEPA's 4.5


def two_rooms() -> Recipe:
    """Two Rooms, fixed layout, random-walk data, a laptop CPU: the recipe of ``worldmodel quickstart``."""
    return Recipe(
        name="two-rooms",
        collect=CollectConfig("worldmodel/TwoRooms-v0", {"image_size": 32}),
        model=ModelRecipe(),
        objective=ObjectiveRecipe(VARIANCE_COVARIANCE),
        world_model=FitConfig(num_steps=900, lr=2e-3, checkpoint_every=300),
        predictor=RefitRecipe(FitConfig(num_steps=600, lr=1e-3, checkpoint_every=300)),
        critic=CriticRecipe(
            FitConfig(num_steps=3000, lr=1e-3, checkpoint_every=1000),
            CriticConfig(max_lag=16, target_rate=0.03),
        ),
        actor=ActorRecipe(FitConfig(num_steps=1000, lr=1e-3, checkpoint_every=500), horizon=8),
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 2, "num_elites": 6, "min_std": 0.1},
        ),
        evaluation=EvaluationRecipe(strict_radius=PLDM_RADIUS),
    )


def two_rooms_small() -> Recipe:
    """Two Rooms at the size of two CPU cores: a new layout per episode, evaluated on layouts never seen.

    A feature map keeps the wall and the door where a vector drops them, its convolutional predictor knows collisions
    wherever they happen, the action contrast keeps the dot, and the critic is regressed on shortest paths.
    """
    return Recipe(
        name="two-rooms-small",
        collect=CollectConfig(
            "worldmodel/TwoRooms-v0",
            {"image_size": 32, "layout": "random"},
            # Presses against walls at full speed, as planners do.
            policy="waypoints",
            num_episodes=16_000,
            chunk=2000,
            states_only=True,
        ),
        model=ModelRecipe(
            encoder="conv",
            encoder_args={"channels": [16, 32, 32], "pool": 1, "feature_map": True},
            embedding_dim=16,
            predictor="conv",
            predictor_args={"hidden_channels": 32, "num_layers": 3},
        ),
        objective=ObjectiveRecipe(
            dict(CONTRAST),
            {"action_contrast": dict(CONTRAST_ARGS)},
            rollout_steps=8,
            window=9,
            batch_size=32,
        ),
        world_model=FitConfig(num_steps=2000, lr=4e-3, num_diagnoses=2),
        predictor=RefitRecipe(
            FitConfig(num_steps=2500, lr=3e-3, checkpoint_every=500), batch_size=128, max_episodes=4000
        ),
        critic=CriticRecipe(
            FitConfig(num_steps=3000, lr=1e-3, weight_decay=1e-4, checkpoint_every=1000),
            CriticConfig(feature_dim=64, scale=20.0),
            # 1.5 median steps of this data are 2.5 px, less than the wall is wide: no neighbours may lie across it.
            paths=PathConfig(near=1.5),
        ),
        actor=ActorRecipe(
            FitConfig(num_steps=1000, lr=1e-3, checkpoint_every=500),
            horizon=8,
            batch_size=128,
            hidden_dims=(256,),
            # One that misjudges the edge of the door by a pixel must not stand there forever.
            conv_channels=(32, 32),
            noise=0.4,
        ),
        planner=PlannerRecipe(
            args={"num_samples": 24, "num_iters": 2, "num_elites": 4, "min_std": 0.1},
        ),
        evaluation=EvaluationRecipe(num_tasks=500, strict_radius=PLDM_RADIUS),
    )


def two_rooms_full() -> Recipe:
    """Two Rooms at the peers' size, for a GPU: 65 x 65 frames, twice the episodes, a wider model."""
    small = two_rooms_small()
    assert small.predictor is not None
    assert small.critic is not None
    assert small.actor is not None
    return dataclasses.replace(
        small,
        name="two-rooms-full",
        collect=dataclasses.replace(
            small.collect, env_kwargs={"image_size": 65, "layout": "random"}, num_episodes=32_000
        ),
        model=dataclasses.replace(
            small.model,
            # 65 -> 33 -> 17 rows and columns, pooled to 8: the map of the small size, of finer frames.
            encoder_args={
                "channels": [32, 64, 64, 64],
                "kernels": [5, 5, 3, 3],
                "strides": [2, 2, 1, 1],
                "pool": 2,
                "feature_map": True,
            },
            predictor_args={"hidden_channels": 64, "num_layers": 4},
        ),
        objective=dataclasses.replace(small.objective, batch_size=128),
        world_model=dataclasses.replace(small.world_model, num_steps=4000),
        predictor=dataclasses.replace(
            small.predictor,
            fit=dataclasses.replace(small.predictor.fit, num_steps=4000),
            batch_size=512,
            max_episodes=16_000,
        ),
    )
