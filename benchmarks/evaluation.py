"""The evaluation protocol: tasks from a seed, all episodes together, reference rows beside the agent.

Tasks are drawn from the environment's ``eval`` split, not from the training data; none is solved at its start. Success is
reported ever within the budget and at its end. The clock runs on the agent's ``act`` alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from benchmarks.recipes import EvaluationRecipe, PlannerRecipe
from benchmarks.runs import command_line, versions
from benchmarks.seeding import make_generator
from benchmarks.statistics import wilson_interval
from envs.simulator import PlanarWorld, Simulator
from envs.state import State, index_state
from planners import ActionBounds, make_planner
from planners.mpc import MPC, MPCConfig

BOUND_TOLERANCE = 1e-4  # [action units]
LATENCY_STEPS = 40  # [env steps]


class Actor(Protocol):
    """What is evaluated: told the tasks once, then asked for actions."""

    def begin(self, goal: State) -> None:
        """Learn the tasks; a learned agent looks at the goals' observations only."""

    def observe(self, state: State) -> Any:  # noqa: ANN401  # what the actor is shown is its own affair
        """Return what the actor sees of ``state``: its observation for a learned agent. Not on the clock."""

    def act(self, seen: Any) -> Tensor:  # noqa: ANN401
        """Choose actions ``(B, A)`` from what :meth:`observe` returned. On the clock."""


@dataclass(frozen=True)
class Tasks:
    """Start and goal states of the evaluation's episodes.

    Attributes:
        name: environment id.
        split: split of the environment's layouts.
        start: ``B`` states.
        goal: ``B`` states, none of them reached at the start.
        num_steps: budget [env steps].
        seed: what they were drawn from.
        variation: factors of variation that were set.
        strict_radius: a second, narrower success [units of the simulator's distance], or None.
    """

    name: str
    split: str
    start: State
    goal: State
    num_steps: int
    seed: int
    variation: Mapping[str, Any] = field(default_factory=dict)
    strict_radius: float | None = None


@dataclass(frozen=True)
class Episodes:
    """What happened.

    Attributes:
        reached: ``(B, T)`` bool, goal reached after step ``t``.
        distance: ``(B, T)`` to the goal after step ``t`` [units of the simulator's distance].
        act_ms: ``(T,)`` milliseconds of ``act`` per episode.
        states: ``T + 1`` recorded states, or none when not recorded.
        is_bounded: whether every action kept the bounds.
        wall_s: seconds of the whole loop.
    """

    reached: Tensor
    distance: Tensor
    act_ms: np.ndarray
    states: list[State]
    is_bounded: bool
    wall_s: float


def draw_tasks(simulator: Simulator, config: EvaluationRecipe) -> Tasks:
    """Draw the tasks of ``config``: a function of its seed, the split and the environment."""
    generator = make_generator(config.seed, "tasks")
    start = simulator.initial(config.num_tasks, generator, config.variation or None, split=config.split)
    goal = simulator.goal(start, generator)
    if config.strict_radius is not None and not isinstance(simulator, PlanarWorld):
        raise ValueError(
            "evaluation.strict_radius must be null in a world whose distance has other units than its success, "
            f"{simulator.env_id}, got {config.strict_radius}"
        )
    widest = getattr(simulator, "success_radius", None)
    if config.strict_radius is not None and widest is not None and config.strict_radius > widest:
        raise ValueError(
            f"evaluation.strict_radius must be <= the environment's success_radius, {widest}, got {config.strict_radius}"
        )
    solved = int(simulator.success(start, goal).sum())
    if solved:
        raise RuntimeError(f"no task may be solved at its start, got {solved} of {config.num_tasks}")
    return Tasks(
        simulator.env_id,
        config.split,
        start,
        goal,
        config.num_steps,
        config.seed,
        dict(config.variation),
        config.strict_radius,
    )


def run_episodes(
    simulator: Simulator,
    actor: Actor,
    tasks: Tasks,
    *,
    record: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Episodes:
    """Advance all episodes together for the whole budget; a goal once reached does not end an episode.

    Args:
        simulator: the true world.
        actor: who acts.
        tasks: starts and goals.
        record: keep all states.
        on_step: called off the clock after each step with the step and the budget.
    """
    bounds = simulator_bounds(simulator)
    state = tasks.start
    began = time.perf_counter()
    actor.begin(tasks.goal)
    reached, distance, act_ms = [], [], []
    states, is_bounded = [state] if record else [], True
    num = len(next(iter(state.values())))
    for step in range(tasks.num_steps):
        seen = actor.observe(state)
        clock = time.perf_counter()
        action = actor.act(seen)
        act_ms.append(1000 * (time.perf_counter() - clock) / num)
        is_bounded &= bool(bounds.contains(action, BOUND_TOLERANCE).all())
        state = simulator.transition(state, action)
        reached.append(simulator.success(state, tasks.goal))
        distance.append(simulator.distance(state, tasks.goal))
        if record:
            states.append(state)
        if on_step is not None:
            on_step(step + 1, tasks.num_steps)
    wall_s = time.perf_counter() - began
    return Episodes(
        torch.stack(reached, dim=1),
        torch.stack(distance, dim=1),
        np.array(act_ms),
        states,
        is_bounded,
        wall_s,
    )


def summarise(
    episodes: Episodes,
    tasks: Tasks,
    *,
    agent: str,
    planner: PlannerRecipe | None = None,
    policy: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Return one row of ``results.json``."""
    reached = episodes.reached
    num, steps = reached.shape
    ever = reached.any(dim=1)
    first = (reached.int().argmax(dim=1) + 1)[ever].double().numpy()
    low, high = wilson_interval(int(ever.sum()), num)
    return {
        "task": tasks.name,
        "split": tasks.split,
        "agent": agent,
        "planner": planner.name if planner else None,
        "planner_settings": dataclasses.asdict(planner) if planner else None,
        "policy": policy,
        "model": model,
        "seeds": [] if seed is None else [seed],
        "episodes": num,
        "success_rate": float(ever.double().mean()),
        "ci95": [low, high],
        "success_rate_final": float(reached[:, -1].double().mean()),
        "strict": _strict(episodes.distance, tasks.strict_radius),
        "steps_to_success": {
            "median": float(np.median(first)) if len(first) else None,
            "p90": float(np.percentile(first, 90)) if len(first) else None,
        },
        # per environment step and episode, all episodes together; a plan of k steps counts once in k
        "plan_ms": {
            "mean": float(episodes.act_ms.mean()),
            "median": float(np.median(episodes.act_ms)),
            "p90": float(np.percentile(episodes.act_ms, 90)),
        },
        "task_seed": tasks.seed,
        "variation": dict(tasks.variation),
        "num_steps": steps,
        "env_steps": num * steps,
        "wall_s": episodes.wall_s,
        "bounds_respected": episodes.is_bounded,
        "device": device,
        "versions": versions(),
        "command": command_line(),
    }


def _strict(distance: Tensor, radius: float | None) -> dict[str, Any] | None:
    """Success within the narrower radius, or None where none was given."""
    if radius is None:
        return None
    reached = distance < radius
    num = int(reached.any(dim=1).sum())
    return {
        "radius": radius,
        "success_rate": num / len(reached),
        "ci95": list(wilson_interval(num, len(reached))),
        "success_rate_final": float(reached[:, -1].double().mean()),
    }


def measure_latency(
    simulator: Simulator, actor: Actor, tasks: Tasks, num_steps: int = LATENCY_STEPS
) -> float:
    """Return the mean milliseconds per action of an actor that has one episode only."""
    first = torch.zeros(1, dtype=torch.long)
    one = dataclasses.replace(
        tasks,
        start=index_state(tasks.start, first),
        goal=index_state(tasks.goal, first),
        num_steps=min(num_steps, tasks.num_steps),
    )
    return float(run_episodes(simulator, actor, one).act_ms.mean())


def simulator_bounds(simulator: Simulator) -> ActionBounds:
    """Return the allowed actions of a simulator."""
    return ActionBounds(simulator.action_low, simulator.action_high, simulator.max_action_norm)


def recorded_bounds(limits: Mapping[str, Any], device: torch.device) -> ActionBounds:
    """Return the allowed actions that a store and a checkpoint name: ``low``, ``high`` and ``max_norm``."""
    low, high = (torch.tensor(limits[end], dtype=torch.float32, device=device) for end in ("low", "high"))
    return ActionBounds(low, high, limits["max_norm"])


def make_mpc(config: PlannerRecipe, bounds: ActionBounds, generator: torch.Generator) -> MPC:
    """Build the model-predictive controller of a recipe; bad settings raise ``ValueError``."""
    is_cpu = bounds.low.device.type == "cpu"
    mpc_config = MPCConfig(
        horizon=config.horizon,
        action_repeat=config.action_repeat,
        execute=config.execute,
        init_std=config.init_std,
        warm_start=config.warm_start,
        max_rows=config.max_rows if is_cpu else None,
    )
    return MPC(make_planner(config.name, **config.args), bounds, mpc_config, generator=generator)
