"""Recipes of the moving dot."""

from __future__ import annotations

from benchmarks.catalogue.weights import VARIANCE_COVARIANCE
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
from worldmodel.training import FitConfig


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
