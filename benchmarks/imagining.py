"""What is trained in imagination: a critic by value iteration, and the Mode-1 policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cached_rows import RowPairs
from benchmarks.evaluation import recorded_bounds
from benchmarks.policy_checkpoint import make_policy
from benchmarks.recipes import ActorRecipe, CriticRecipe, Recipe
from benchmarks.seeding import derive_seed
from planners.policy import GoalPolicy, ImaginationObjective
from worldmodel.carrying import CarriedStarts
from worldmodel.costs import Cost
from worldmodel.critic import Critic, CriticConfig, GoalPairs, make_value_map
from worldmodel.jepa import JEPA
from worldmodel.memory import ShortTermMemory
from worldmodel.readout import Readout, SeenPair
from worldmodel.training import BatchFn
from worldmodel.value_iteration import ValueIterationObjective
from worldmodel.value_map import Surroundings


def make_value_iteration(
    critic: Critic,
    model: JEPA,
    cost: Cost,
    bounds: Mapping[str, Any],
    config: CriticRecipe,
    seed: int,
) -> ValueIterationObjective:
    """Build what trains ``critic`` to predict the future of ``cost``.

    Args:
        critic: to be trained.
        model: imagines; frozen.
        cost: frozen.
        bounds: of actions: ``low``, ``high`` and ``max_norm``.
        config: of the critic, with ``values``.
        seed: of what is drawn.
    """
    allowed = recorded_bounds(bounds, model.device)
    low, high = allowed.low, allowed.high
    assert config.values is not None
    return ValueIterationObjective(
        critic, model.rollout, cost, allowed.project, low, high, config.values, config.batch_size, seed
    )


def make_imagination(
    policy: GoalPolicy, model: JEPA, cost: Cost, config: ActorRecipe, seed: int
) -> ImaginationObjective:
    """Build what trains ``policy`` to act in imagination so that ``cost`` is low; model and cost are frozen."""
    num_carried, size = int(config.carried * config.batch_size), math.prod(model.embedding_shape)
    carried = CarriedStarts(num_carried, size, seed + 1).to(model.device) if num_carried else None

    def imagine_step(
        embedding: Tensor, action: Tensor, memory: ShortTermMemory | None
    ) -> tuple[Tensor, ShortTermMemory | None]:
        if model.predictor.context == 0:
            return model.predict(embedding, action), None
        memory = memory or model.empty_memory(len(embedding))
        return model.predict(embedding, action, memory=memory), model.remember(memory, embedding, action)

    return ImaginationObjective(policy, imagine_step, cost, horizon=config.horizon, carried=carried)


def untrained_policy(
    recipe: Recipe, model: JEPA, bounds: Mapping[str, Any], num_values: int, seed: int
) -> GoalPolicy:
    """Build the policy of a recipe with an actor, and what it reads, untrained.

    Args:
        recipe: with an actor.
        model: whose embeddings it acts on.
        bounds: of actions: ``low``, ``high`` and ``max_norm``.
        num_values: that a readout says, ``K``.
        seed: of the weights.
    """
    assert recipe.actor is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "policy"))
        reader: nn.Module | None = None
        if recipe.actor.reads == "value_map":
            assert recipe.critic is not None
            reader = Surroundings(make_value_map(model.embedding_shape, recipe.critic.critic))
        elif recipe.actor.reads == "readout":
            assert recipe.readout is not None
            size = math.prod(model.embedding_shape)
            reader = SeenPair(Readout(size, num_values, recipe.readout.readout))
        policy = make_policy(model.embedding_shape, bounds, recipe.actor.architecture, reader)
        return policy.to(model.device)


def take_over(policy: GoalPolicy, critic: Critic | None, readout: Readout | None) -> GoalPolicy:
    """Return ``policy`` after it was given the weights of the trained critic or readout, where it reads one."""
    if isinstance(policy.reader, Surroundings):
        assert critic is not None
        policy.reader.value_map.load_state_dict(critic.head.state_dict())
    elif isinstance(policy.reader, SeenPair):
        assert readout is not None
        policy.reader.readout.load_state_dict(readout.state_dict())
    return policy


def starts_and_goals(
    embeddings: Tensor, offsets: Tensor, critic: CriticConfig | None, config: ActorRecipe, seed: int
) -> BatchFn:
    """Return batches of ``start`` and ``goal (batch_size, D)``, which a policy imagines from.

    Args:
        embeddings: ``(rows, D)``, all frames, episode after episode.
        offsets: ``(E + 1,)`` first row of each episode, and the number of rows.
        critic: how far off goals of the start's own trajectory are; None is a critic's default.
        config: the share of those, the others are any frames; and the pairs per batch.
        seed: batches are a function of ``(seed, step)``.
    """
    if config.hindsight == 0:
        return RowPairs(embeddings, config.batch_size, seed)
    settings = dataclasses.replace(critic or CriticConfig(), hindsight=config.hindsight)
    return GoalPairs(embeddings, offsets, settings, config.batch_size, seed)
