"""The reference rows beside every agent: what no action, noise, a straight line, a script and the true dynamics reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.evaluation import (
    Actor,
    Tasks,
    make_mpc,
    run_episodes,
    simulator_bounds,
    summarise,
)
from benchmarks.recipes import PlannerRecipe
from benchmarks.seeding import make_generator
from envs.policies import CorrelatedNoise, Policy, StraightLine, UniformRandom, ZeroAction
from envs.simulator import PlanarWorld, Simulator
from envs.state import State, repeat_state

# What solves a task on the true simulator; others are planned with the defaults of a recipe.
ORACLES = {
    "worldmodel/CartPole-v0": PlannerRecipe(
        args={"num_samples": 256, "num_iters": 3, "num_elites": 24, "min_std": 0.1},
        horizon=30,
        action_repeat=3,
        execute=3,
        init_std=1.0,
    ),
    "worldmodel/PointMaze-v0": PlannerRecipe(
        args={"num_samples": 24, "num_iters": 2, "num_elites": 4, "min_std": 0.1}
    ),
    "worldmodel/PushT-v0": PlannerRecipe(
        args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.1},
        horizon=12,
        action_repeat=3,
        execute=3,
        init_std=1.0,
    ),
    "worldmodel/Reacher-v0": PlannerRecipe(
        args={"num_samples": 64, "num_iters": 3, "num_elites": 8, "min_std": 0.05}, execute=1
    ),
}
DEFAULT_ORACLE = PlannerRecipe(args={"num_samples": 64, "num_iters": 2, "num_elites": 6, "min_std": 0.1})
ORACLE_COSTS = {  # what oracles minimise in the place of a recipe's cost
    "oracle": "summed_true_distance",
    "oracle-straight": "summed_straight_distance",
}
OnStep = Callable[[str, int, int, Mapping[str, float]], None]


class ScriptedActor:
    """A reference row: an action that is a function of state and goal.

    Args:
        function: ``(state, goal) -> action (B, A)``.
    """

    def __init__(self, function: Callable[[State, State], Tensor]) -> None:
        self.function = function
        self.goal: State = {}

    def begin(self, goal: State) -> None:
        """Keep the goals."""
        self.goal = goal

    def observe(self, state: State) -> State:
        """Return the state itself."""
        return state

    def act(self, seen: State) -> Tensor:
        """Choose actions ``(B, A)``."""
        return self.function(seen, self.goal)


class PolicyActor:
    """A reference row: a data policy, which does not look at the goal.

    Args:
        simulator: whose actions.
        policy: who acts.
        generator: draws what it draws.
    """

    def __init__(self, simulator: Simulator, policy: Policy, generator: torch.Generator) -> None:
        self.simulator, self.policy, self.generator = simulator, policy, generator

    def begin(self, goal: State) -> None:
        """Start as many trajectories as there are goals."""
        self.policy.reset(self.simulator, goal, self.generator)

    def observe(self, state: State) -> State:
        """Return the state itself."""
        return state

    def act(self, seen: State) -> Tensor:
        """Choose actions ``(B, A)``."""
        return self.policy.act(self.simulator, seen, self.generator)


class OracleActor:
    """The suite's planner on the true simulator with the true distance to the goal, summed over the plan.

    Args:
        simulator: dynamics and distance.
        config: the planner that the learned model is given, too.
        seed: of the planner's samples.
        distance: ``(state, goal) -> (B,)``; None takes the simulator's, along the shortest path.
    """

    def __init__(
        self,
        simulator: Simulator,
        config: PlannerRecipe,
        seed: int,
        distance: Callable[[State, State], Tensor] | None = None,
    ) -> None:
        self.simulator = simulator
        self.distance = simulator.distance if distance is None else distance
        generator = make_generator(seed, "oracle")
        self.mpc = make_mpc(config, simulator_bounds(simulator), generator)
        self.goal: State = {}

    def begin(self, goal: State) -> None:
        """Keep the goals."""
        self.goal = goal
        self.mpc.reset()

    def observe(self, state: State) -> State:
        """Return the state itself."""
        return state

    def act(self, seen: State) -> Tensor:
        """Choose actions ``(B, A)``."""
        num = len(next(iter(seen.values())))

        def cost_fn(actions: Tensor) -> Tensor:
            batch, candidates, horizon = actions.shape[:3]
            future, goal = repeat_state(seen, candidates), repeat_state(self.goal, candidates)
            flat = actions.flatten(0, 1)
            cost = torch.zeros(len(flat), device=flat.device)
            for k in range(horizon):
                future = self.simulator.transition(future, flat[:, k])
                cost += self.distance(future, goal)
            return cost.view(batch, candidates)

        return self.mpc.act(cost_fn, num)


def reference_actors(simulator: Simulator, planner: PlannerRecipe, seed: int) -> dict[str, Actor]:
    """Return the reference rows of every table: zero, random, correlated noise, straight line, expert, oracles.

    Where there are walls, a second oracle plans by the straight distance: what a distance that knows no walls reaches.
    """
    generator = make_generator(seed, "references")
    zero, uniform, line = ZeroAction(), UniformRandom(), StraightLine()

    def straight_line(state: State, goal: State) -> Tensor:
        line.reset(simulator, state, generator, goal=goal)
        return line.act(simulator, state, generator)

    actors: dict[str, Actor] = {
        "zero": ScriptedActor(lambda state, goal: zero.act(simulator, state, generator)),
        "random": ScriptedActor(lambda state, goal: uniform.act(simulator, state, generator)),
        "correlated": PolicyActor(simulator, CorrelatedNoise(), make_generator(seed, "correlated")),
    }
    if isinstance(simulator, PlanarWorld):
        actors["straight-line"] = ScriptedActor(straight_line)
    actors["expert"] = ScriptedActor(simulator.expert)
    actors["oracle"] = OracleActor(simulator, planner, seed)
    one = simulator.initial(1, make_generator(seed, "walls"))
    if isinstance(simulator, PlanarWorld) and simulator.wall_rectangles(one).shape[1]:

        def straight_distance(state: State, goal: State) -> Tensor:
            return (simulator.position(state) - simulator.position(goal)).norm(dim=-1)

        actors["oracle-straight"] = OracleActor(simulator, planner, seed, straight_distance)
    return actors


def oracle_planner(env_id: str) -> PlannerRecipe:
    """Return the planner that the oracle of an environment is given where no recipe has one."""
    return ORACLES.get(env_id, DEFAULT_ORACLE)


def evaluate_references(
    simulator: Simulator,
    planner: PlannerRecipe,
    tasks: Tasks,
    *,
    seed: int,
    on_step: OnStep | None = None,
) -> list[dict[str, Any]]:
    """Evaluate every reference row.

    Args:
        simulator: the environment.
        planner: of the oracles.
        tasks: starts, goals and budget.
        seed: of noise and samples.
        on_step: called with the row's name after each step.

    Returns:
        Rows as in ``results.json``.
    """
    rows = []
    for name, actor in reference_actors(simulator, planner, seed).items():
        report = None if on_step is None else partial(_report, on_step, name)
        episodes = run_episodes(simulator, actor, tasks, on_step=report)
        used = dataclasses.replace(planner, cost=ORACLE_COSTS[name]) if name in ORACLE_COSTS else None
        rows.append(summarise(episodes, tasks, agent=name, planner=used))
    return rows


def _report(on_step: OnStep, name: str, step: int, total: int) -> None:
    on_step(name, step, total, {})
