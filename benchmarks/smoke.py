"""The smoke preset of every recipe."""

from __future__ import annotations

import dataclasses

from benchmarks.recipes import Recipe
from worldmodel.paths import PathConfig
from worldmodel.training import FitConfig


def smoke(recipe: Recipe) -> Recipe:
    """Shrink a recipe until its whole path takes seconds; what it reaches means nothing."""

    def brief(fit: FitConfig) -> FitConfig:
        return dataclasses.replace(fit, num_steps=6, log_every=2, checkpoint_every=3, warmup_steps=2)

    return dataclasses.replace(
        recipe,
        collect=dataclasses.replace(recipe.collect, num_episodes=24, num_steps=16, chunk=12),
        objective=dataclasses.replace(recipe.objective, batch_size=16),
        world_model=brief(recipe.world_model),
        predictor=recipe.predictor
        and dataclasses.replace(recipe.predictor, fit=brief(recipe.predictor.fit), batch_size=32),
        critic=recipe.critic
        and dataclasses.replace(
            recipe.critic,
            fit=brief(recipe.critic.fit),
            batch_size=32,
            paths=recipe.critic.paths and PathConfig(num_graphs=3, episodes_per_graph=4, static_frames=4),
        ),
        actor=recipe.actor and dataclasses.replace(recipe.actor, fit=brief(recipe.actor.fit), batch_size=32),
        readout=recipe.readout
        and dataclasses.replace(recipe.readout, fit=brief(recipe.readout.fit), batch_size=32),
        distill=recipe.distill
        and dataclasses.replace(recipe.distill, train_steps=6, batch_size=32, episodes=4, num_steps=4),
        planner=dataclasses.replace(recipe.planner, args={**recipe.planner.args, "num_samples": 16}),
        evaluation=dataclasses.replace(recipe.evaluation, num_tasks=8, num_steps=12),
    )
