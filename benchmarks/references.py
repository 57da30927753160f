"""The reference rows beside every agent: what no action, noise, a straight line, a script and the true dynamics reach."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.evaluation import Actor, make_mpc, simulator_bounds
from benchmarks.recipes import PlannerRecipe
from benchmarks.seeding import make_generator
from envs.policies import CorrelatedNoise, Policy, StraightLine, UniformRandom, ZeroAction
from envs.simulator import PlanarWorld, Simulator
from envs.state import State, repeat_state


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
