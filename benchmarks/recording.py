"""What the report draws: recorded episodes, probe error along rollouts, and maps of the cost to the goal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypeIs

from benchmarks.agents import LearnedActor, TrainedRun
from benchmarks.evaluation import Episodes, Tasks
from benchmarks.runs import write_json
from benchmarks.seeding import make_generator
from envs.collect import collect
from envs.policies import Policy
from envs.simulator import PlanarWorld, Simulator
from envs.state import State, index_state
from planners.mpc import MPC
from planners.plan import Plan
from worldmodel.critic import Critic
from worldmodel.diagnostics import spearman
from worldmodel.probing import LinearProbe, distance_rmse, fit_linear_probe

PROBE_WORLDS = 4000  # frames the position probe is fitted on
PROBE_ROLLOUTS = 500
PROBE_STEPS = 20
MAP_CELLS = 40  # cells per side of a cost map
MAP_GOALS = 3
RANK_PAIRS = 2000


class PlanarSimulator(Simulator, PlanarWorld, Protocol):
    """A simulator that the report can draw."""


def is_planar(simulator: Simulator) -> TypeIs[PlanarSimulator]:
    """Whether the report can draw the simulator's world."""
    return isinstance(simulator, PlanarWorld)


class PlanRecorder:
    """Keeps every new plan of an actor's planner; called after each step, off the clock.

    Args:
        mpc: the controller to watch.
    """

    def __init__(self, mpc: MPC) -> None:
        self.mpc = mpc
        self.plans: list[
            Tensor | None
        ] = []  # per step: (B, H, A), or None where an earlier plan was followed
        self._last: Plan | None = None

    def __call__(self) -> None:
        """Look at the controller once."""
        plan = self.mpc.last_plan
        self.plans.append(None if plan is None or plan is self._last else plan.actions)
        self._last = plan


def imagined_paths(
    actor: LearnedActor, probe: LinearProbe, states: list[State], plans: list[Tensor | None], rows: Tensor
) -> list[np.ndarray | None]:
    """Roll the model out along the recorded plans and decode positions, per step ``(rows, H, 2)`` or None.

    Models with a memory are drawn as they would imagine without it.
    """
    model = actor.run.model
    paths: list[np.ndarray | None] = []
    for state, plan in zip(states, plans, strict=False):
        if plan is None:
            paths.append(None)
            continue
        with torch.no_grad():
            start = model.encode(actor.observe(index_state(state, rows)))
            future = model.rollout(start, plan[rows.to(plan.device)])
        paths.append(probe(future.flatten(2)).cpu().numpy())
    return paths


def position_probe(run: TrainedRun, simulator: PlanarSimulator, seed: int) -> LinearProbe:
    """Fit the position on the embeddings of random worlds (for inspection only; nothing trains on it)."""
    state = simulator.initial(PROBE_WORLDS, make_generator(seed, "probe"))
    embeddings = _encode(run, simulator.observation(state))
    return fit_linear_probe(embeddings, simulator.position(state).to(run.device))


def _encode(run: TrainedRun, obs: dict[str, Tensor]) -> Tensor:
    """Encode observations to flat embeddings ``(B, D)``."""
    with torch.no_grad():
        seen = {key: obs[key].to(run.device) for key in run.model.observation_keys}
        return run.model.encode(seen).flatten(1)


def episode_media(
    simulator: PlanarSimulator,
    tasks: Tasks,
    episodes: Episodes,
    imagined: list[np.ndarray | None],
    rows: Tensor,
    agent: str,
) -> list[dict[str, Any]]:
    """Return the recorded ``rows`` in the form that the report draws."""
    path = torch.stack([simulator.position(index_state(s, rows)) for s in episodes.states], 1)
    goal = simulator.position(index_state(tasks.goal, rows))
    rectangles = simulator.wall_rectangles(index_state(tasks.start, rows)).tolist()
    entries = []
    for i, row in enumerate(rows.tolist()):
        reached = episodes.reached[row]
        is_success = bool(reached.any())
        first = int(reached.int().argmax()) + 1 if is_success else None
        num = min(first + 6, len(episodes.states) - 1) if first is not None else len(episodes.states) - 1
        entries.append(
            {
                "agent": agent,
                "success": is_success,
                "steps_to_success": first,
                "start": _rounded(path[i, 0].tolist()),
                "goal": _rounded(goal[i].tolist()),
                "rects": [_rounded(rect) for rect in rectangles[i]],
                "path": [_rounded(point) for point in path[i, : num + 1].tolist()],
                "imagined": [
                    None if step is None else [_rounded(point) for point in step[i].tolist()]
                    for step in imagined[:num]
                ],
            }
        )
    return entries


def choose_rows(reached: Tensor, num: int) -> Tensor:
    """Choose up to ``num`` episodes to show: failures first, at most half, then successes in task order."""
    ever = reached.any(dim=1)
    failures = (~ever).nonzero()[:, 0][: num // 2]
    successes = ever.nonzero()[:, 0][: num - len(failures)]
    return torch.cat([successes, failures])


def write_episodes(path: Path, simulator: PlanarSimulator, entries: list[dict[str, Any]]) -> None:
    """Write ``media/episodes.json``; episodes of agents that were not recorded now stay as they were."""
    fresh = {entry["agent"] for entry in entries}
    earlier = json.loads(path.read_text())["episodes"] if path.exists() else []
    kept = [entry for entry in earlier if entry["agent"] not in fresh]
    entries = sorted(entries + kept, key=lambda entry: entry["agent"], reverse=True)  # mode 2 first
    value = {
        "extent": list(simulator.extent),
        "unit": simulator.unit,
        "success_radius": simulator.success_radius,
        "episodes": entries,
    }
    write_json(path, value)


def write_probe(
    path: Path, run: TrainedRun, simulator: PlanarSimulator, policy: Policy, seed: int
) -> dict[str, Any]:
    """Measure the position error of the linear probe along open-loop rollouts, in the data policy's own motion.

    The rollouts are fresh trajectories of the ``eval`` split.
    """
    probe = position_probe(run, simulator, seed)
    steps = min(PROBE_STEPS, simulator.max_steps)
    keys = dict.fromkeys([*run.model.observation_keys, "state"])
    data = collect(
        simulator,
        policy,
        PROBE_ROLLOUTS,
        steps,
        make_generator(seed, "probe-rollouts"),
        split="eval",
        keys=tuple(keys),
    )
    device = run.device
    first = {key: data[key][:, 0].to(device) for key in run.model.observation_keys}
    with torch.no_grad():
        start = run.model.encode(first)
        rollout = run.model.rollout(start, data["action"][:, :steps].to(device)).flatten(2)
    states = simulator.state_from_vector(data["state"].flatten(0, 1))
    positions = simulator.position(states).view(PROBE_ROLLOUTS, steps + 1, 2).to(device)
    encoded = probe(start.flatten(1))
    error = distance_rmse(probe(rollout), positions[:, 1:])
    centred = positions - positions.mean(dim=(0, 1))
    value = {
        "target": "position",
        "unit": simulator.unit,
        "steps": list(range(1, steps + 1)),
        "rmse": [round(v, 4) for v in error.tolist()],
        "encoding_rmse": round(float(distance_rmse(encoded[:, None], positions[:, :1])[0]), 4),
        "chance": round(float(centred.square().sum(dim=-1).mean().sqrt()), 4),
        "num_rollouts": PROBE_ROLLOUTS,
    }
    write_json(path, value)
    return value


def write_cost_maps(path: Path, run: TrainedRun, simulator: PlanarSimulator, seed: int) -> dict[str, Any]:
    """Evaluate critic (if the run has one), embedding distance and true distance on a grid of positions."""
    critic = run.critic if run.has_critic else None
    generator = make_generator(seed, "cost-map")
    world = simulator.initial(MAP_GOALS, generator, split="eval")
    goals = simulator.goal(world, generator)
    x0, y0, x1, y1 = simulator.extent
    xs = x0 + (np.arange(MAP_CELLS) + 0.5) * (x1 - x0) / MAP_CELLS
    ys = y0 + (np.arange(MAP_CELLS) + 0.5) * (y1 - y0) / MAP_CELLS
    grid = torch.tensor([[x, y] for y in ys for x in xs], dtype=torch.float32)
    maps = []
    rectangles = simulator.wall_rectangles(world).tolist()
    for i in range(MAP_GOALS):
        everywhere = index_state(goals, torch.full((len(grid),), i))
        free = simulator.is_reachable(everywhere, grid)
        goal = index_state(everywhere, free.nonzero()[:, 0])
        values = _distances(run, critic, simulator, simulator.goal_at(goal, grid[free]), goal)
        maps.append(
            {
                "goal": _rounded(simulator.position(goal)[0].tolist()),
                "rects": [_rounded(rect) for rect in rectangles[i]],
                **{name: _as_grid(value, free) for name, value in values.items()},
            }
        )
    value = {
        "extent": list(simulator.extent),
        "unit": simulator.unit,
        "maps": maps,
        "rank_correlation": rank_correlations(run, critic, simulator, generator),
    }
    write_json(path, value)
    return value


def _distances(
    run: TrainedRun, critic: Critic | None, simulator: Simulator, states: State, goals: State
) -> dict[str, Tensor]:
    here = _encode(run, simulator.observation(states))
    there = _encode(run, simulator.observation(goals))
    with torch.no_grad():
        cost = {} if critic is None else {"cost": critic.distance(here, there).cpu()}
        return {
            **cost,
            "embedding_distance": (here - there).square().mean(dim=-1).cpu(),
            "true_distance": simulator.distance(states, goals).cpu(),
        }


def rank_correlations(
    run: TrainedRun, critic: Critic | None, simulator: Simulator, generator: torch.Generator
) -> dict[str, float]:
    """Spearman correlation with the true distance over random starts and goals of the task."""
    start = simulator.initial(RANK_PAIRS, generator, split="eval")
    goal = simulator.goal(start, generator)
    values = _distances(run, critic, simulator, start, goal)
    names = {"critic": "cost", "embedding_distance": "embedding_distance"}
    return {
        name: spearman(values[key], values["true_distance"]) for name, key in names.items() if key in values
    }


def _as_grid(values: Tensor, free: Tensor) -> list[list[float | None]]:
    cells: list[float | None] = [None] * len(free)
    for cell, value in zip(free.nonzero()[:, 0].tolist(), values.tolist(), strict=True):
        cells[cell] = round(value, 4)
    return [cells[row * MAP_CELLS : (row + 1) * MAP_CELLS] for row in range(MAP_CELLS)]


def _rounded(values: list[float]) -> list[float]:
    return [round(float(v), 2) for v in values]
