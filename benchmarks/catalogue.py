"""The recipes by name, their sizes and their smoke preset.

A recipe is a function that returns a :class:`benchmarks.recipes.Recipe`; ``preset="smoke"`` walks the same path in
seconds and reaches nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

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
    override,
)
from benchmarks.smoke import smoke
from worldmodel.critic import CriticConfig
from worldmodel.jepa import require_known
from worldmodel.paths import PathConfig
from worldmodel.training import FitConfig
from worldmodel.value_iteration import ValueIterationConfig

VARIANCE_COVARIANCE = {
    "prediction": 1.0,
    "variance": 16.0,
    "covariance": 8.0,
    "temporal_similarity": 12.0,
    "inverse_dynamics": 1.0,
}
CONTRAST = {"action_contrast": 1.0, "prediction": 0.5, "variance": 4.0, "covariance": 2.0}
CONTRAST_ARGS = {"num_shuffled": 4, "temperature": 0.002}
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
            FitConfig(num_steps=18000, lr=1e-3, checkpoint_every=1000),
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


def moving_dot() -> Recipe:
    """One moving dot without distractors: a GRU predictor open loop over the whole trajectory."""
    return Recipe(
        name="moving-dot",
        collect=CollectConfig(
            "worldmodel/MovingDot-v0",
            {"distractor": "none"},
            policy="directed",
            num_episodes=5000,
            num_steps=16,
            chunk=1000,
        ),
        model=ModelRecipe(encoder="conv", embedding_dim=64, predictor="gru", norm=False),
        objective=ObjectiveRecipe(
            {"prediction": 25.0, "variance": 25.0, "covariance": 1.0},
            rollout_steps=8,
            window=9,
            batch_size=64,
        ),
        world_model=FitConfig(num_steps=600, lr=2e-3, checkpoint_every=300),
        predictor=RefitRecipe(FitConfig(num_steps=300, lr=1e-3, checkpoint_every=300), num_steps=8),
        critic=CriticRecipe(
            FitConfig(num_steps=1500, lr=1e-3, checkpoint_every=500),
            CriticConfig(max_lag=4, hindsight_mean=6.0),
        ),
        actor=ActorRecipe(FitConfig(num_steps=600, lr=1e-3, checkpoint_every=300)),
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.2},
            horizon=8,
            action_repeat=1,
            execute=1,
            init_std=2.0,
        ),
        evaluation=EvaluationRecipe(num_steps=16),
    )


def slow_features() -> Recipe:
    """A moving dot in front of a distractor, world model only: a cell of ``worldmodel bench slow-features``.

    The encoder is that of Sobal et al. 2022 with an eighth of the work per frame; plans minimise the distance to the goal
    in embedding space.
    """
    return Recipe(
        name="slow-features",
        collect=CollectConfig(
            "worldmodel/MovingDot-v0",
            {"distractor": "uniform", "motion": "fixed", "alpha": 1.0},
            policy="directed",
            num_episodes=20_000,
            num_steps=16,
            chunk=5000,
            states_only=True,
        ),
        model=ModelRecipe(
            encoder="conv",
            encoder_args={"channels": [8, 16, 32]},
            embedding_dim=64,
            predictor="gru",
            norm=False,
        ),
        objective=ObjectiveRecipe(VARIANCE_COVARIANCE, rollout_steps=8, window=9, batch_size=32),
        world_model=FitConfig(num_steps=500, lr=4e-3, checkpoint_every=250, num_diagnoses=3),
        predictor=None,
        critic=None,
        actor=None,
        planner=PlannerRecipe(
            args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.2},
            cost="last_distance",
            horizon=4,
            action_repeat=1,
            execute=2,
            init_std=2.0,
        ),
        evaluation=EvaluationRecipe(num_tasks=200, num_steps=10),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "two-rooms": two_rooms,
    "two-rooms-small": two_rooms_small,
    "two-rooms-full": two_rooms_full,
    "point-maze-small": point_maze_small,
    "reacher-small": reacher_small,
    "cart-pole-small": cart_pole_small,
    "push-t-small": push_t_small,
    "moving-dot": moving_dot,
    "slow-features": slow_features,
}
PRESETS = ("default", "smoke")


def sized(name: str, size: str | None) -> str:
    """Return the name of the recipe ``name`` at a size, or the name itself where no size is given.

    Raises:
        ValueError: the recipe has no such size.
    """
    if size is None:
        return name
    if f"{name}-{size}" not in RECIPES:
        having = ", ".join(key.removesuffix(f"-{size}") for key in RECIPES if key.endswith(f"-{size}"))
        raise ValueError(f"size {size!r} must be given for a recipe that has it ({having}), got {name!r}")
    return f"{name}-{size}"


def resolve(name: str, preset: str = "default", overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe ``name`` under a preset, with ``overrides`` such as ``"world_model.lr=1e-3"``.

    Raises:
        ValueError: unknown recipe, preset or key (the message names the nearest known one), or a value of another
            type.
    """
    require_known("recipe", name, RECIPES)
    require_known("preset", preset, PRESETS)
    recipe = RECIPES[name]()
    if preset == "smoke":
        recipe = smoke(recipe)
    return override(recipe, overrides)
