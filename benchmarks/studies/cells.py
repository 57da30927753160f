"""What a study evaluates: its cells, each a named change of the recipe's own evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.policy_checkpoint import POLICIES, policy_folder
from benchmarks.recipes import EvaluationRecipe, PlannerRecipe, Recipe
from benchmarks.seeding import make_generator
from envs.registration import make_simulator
from worldmodel.jepa import require_known

COSTS = ("last_distance", "summed_distance", "critic", "summed_critic", "critic+last_distance", "task")
HORIZONS = (4, 8, 16, 32, 90)
PLANNERS = ("cem", "icem", "mppi", "gradient", "cem_gradient")
SHARES = (1.0, 0.5, 0.25, 0.125)  # of the recipe's samples
_PHYSICAL: dict[str, tuple[float, ...]] = {
    "mass": (0.5, 0.75, 1.0, 2.0, 4.0),
    "gain": (0.5, 0.75, 1.0, 1.5, 2.0),
    "action_noise": (0.0, 0.1, 0.25, 0.5, 1.0),
}
FACTORS: dict[
    str, dict[str, tuple[float, ...]]
] = {  # values in the factor's units; the default is among them
    "worldmodel/TwoRooms-v0": {
        "door_size": (5.0, 7.0, 9.0, 12.0, 15.0),
        "wall_width": (1.0, 2.0, 3.0, 5.0, 7.0),
        "speed": (0.5, 0.75, 1.0, 1.25, 1.5),
        "dot_size": (0.7, 1.0, 1.3, 2.0, 3.0),
        "action_noise": (0.0, 0.25, 0.5, 1.0, 2.0),
    },
    "worldmodel/MovingDot-v0": {
        "speed": (0.5, 0.75, 1.0, 1.25, 1.5),
        "dot_size": (0.7, 1.0, 1.3, 2.0, 3.0),
        "action_noise": (0.0, 0.25, 0.5, 1.0, 2.0),
    },
    "worldmodel/PointMaze-v0": {
        "min_detour": (1.0, 1.5, 2.0, 2.5),
        "mass": (0.25, 0.5, 1.0, 2.0, 4.0),
        "gain": (0.25, 0.5, 1.0, 1.5, 2.0),
        "action_noise": (0.0, 0.1, 0.25, 0.5, 1.0),
        "ball_size": (0.5, 0.75, 1.0, 1.5, 2.0),
        "camera_zoom": (0.8, 0.9, 1.0, 1.1, 1.25),
        "texture": (0.0, 0.1, 0.25, 0.5, 1.0),
        "num_distractors": (0, 1, 2, 4),
    },
    "worldmodel/Reacher-v0": _PHYSICAL
    | {"damping": (0.25, 0.5, 1.0, 2.0, 4.0), "link_length": (1.1, 1.0, 0.9, 0.75, 0.6)},
    "worldmodel/PushT-v0": _PHYSICAL
    | {
        "gain": (0.5, 0.75, 1.0, 1.25, 1.5),
        "friction": (0.25, 0.5, 1.0, 2.0, 4.0),
        "stem_length": (0.5, 0.75, 1.0, 1.25, 1.5),
    },
    "worldmodel/CartPole-v0": _PHYSICAL
    | {"damping": (0.25, 0.5, 1.0, 2.0, 4.0), "pole_length": (0.6, 0.8, 1.0, 1.2, 1.4)},
}
COLOURS: dict[
    str, tuple[tuple[int, int, int], tuple[int, int, int]]
] = {  # of RGB frames: default, and far from it
    "dot_color": ((214, 40, 40), (40, 80, 214)),  # red to blue
    "wall_color": ((38, 50, 72), (150, 90, 40)),  # slate to brown
    "background_color": ((245, 243, 238), (150, 190, 150)),  # white to green
}
COLOUR_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way
TOGETHER = "together"  # all factors at once, shares of the way from their defaults to their last values


@dataclass(frozen=True)
class Cell:
    """One evaluation.

    Attributes:
        labels: what is particular about it; they name it in the file and in the figure.
        agent: "mode-2", "mode-1", "mode-2+1", or a reference row's name.
        planner: settings of mode 2.
        evaluation: the tasks.
        policy: which of the run's policies; None is the recipe's.
    """

    labels: dict[str, Any]
    agent: str
    planner: PlannerRecipe
    evaluation: EvaluationRecipe
    policy: str | None = None


@dataclass(frozen=True)
class Choice:
    """What a caller leaves out of a study; None is everything."""

    costs: Sequence[str] | None = None
    horizons: Sequence[int] | None = None
    planners: Sequence[str] | None = None
    factors: Sequence[str] | None = None
    agents: Sequence[str] | None = None


@dataclass(frozen=True)
class Subject:
    """The run that is studied.

    Attributes:
        run: its folder.
        recipe: its recipe.
        env_id: its environment.
        evaluation: tasks of every cell.
        choice: what is left out.
    """

    run: Path
    recipe: Recipe
    env_id: str
    evaluation: EvaluationRecipe
    choice: Choice = field(default_factory=Choice)


def planner_cells(subject: Subject) -> list[Cell]:
    """Every cost, over every horizon, by every planner, with the recipe's other settings."""
    choice, recipe = subject.choice, subject.recipe
    costs = choice.costs or [
        cost
        for cost in COSTS
        if (recipe.critic is not None or "critic" not in cost)
        and (recipe.readout is not None or "task" not in cost)
    ]
    cells = []
    for name in choice.planners or PLANNERS:
        for horizon in choice.horizons or HORIZONS:
            for cost in costs:
                planner = dataclasses.replace(
                    recipe.planner,
                    name=name,
                    args=planner_args(recipe.planner, name),
                    horizon=horizon,
                    cost=cost,
                )
                labels = {"planner": name, "horizon": horizon, "cost": cost}
                cells.append(Cell(labels, "mode-2", planner, subject.evaluation))
    return cells


def planner_args(recipe: PlannerRecipe, name: str) -> dict[str, Any]:
    """Return hyperparameters that give planner ``name`` about the imagined futures of the recipe's own planner.

    A gradient step counts as three futures: forward, and twice as much backward.
    """
    if name == recipe.name:
        return dict(recipe.args)
    samples, iters = recipe.args.get("num_samples", 64), recipe.args.get("num_iters", 2)
    elites = recipe.args.get("num_elites", max(2, samples // 8))
    sampled = {"num_samples": samples, "num_iters": iters, "num_elites": elites}
    if name == "random_shooting":
        return {"num_samples": samples * iters}
    if name == "gradient":
        restarts = max(1, samples // 8)
        return {"num_restarts": restarts, "num_iters": max(1, samples * iters // (3 * restarts))}
    if name == "cem_gradient":
        refined = min(elites, max(1, samples // 8))
        steps = max(1, samples // (3 * refined))
        return {**sampled, "num_iters": max(1, iters - 1), "num_refined": refined, "num_steps": steps}
    return sampled


def policy_cells(subject: Subject) -> list[Cell]:
    """Mode 2 with fewer and fewer samples, alone and warm-started by each policy of the run; and each policy alone."""
    recipe, cells = subject.recipe, []
    policies = [name for name in POLICIES if (policy_folder(subject.run, name) / "config.json").exists()]
    for policy in policies:
        labels = {"mode": "1", "policy": policy, "samples": 0}
        cells.append(Cell(labels, "mode-1", recipe.planner, subject.evaluation, policy))
    for share in SHARES:
        planner = fewer_samples(recipe.planner, share)
        samples = planner.args.get("num_samples", planner.args.get("num_restarts"))
        labels = {"mode": "2", "policy": None, "samples": samples}
        cells.append(Cell(labels, "mode-2", planner, subject.evaluation))
        for policy in policies:
            labels = {"mode": "2+1", "policy": policy, "samples": samples}
            cells.append(Cell(labels, "mode-2+1", planner, subject.evaluation, policy))
    return cells


def fewer_samples(planner: PlannerRecipe, share: float) -> PlannerRecipe:
    """Return the planner with a share of its candidates, and of its elites, per iteration."""
    args = dict(planner.args)
    for key in ("num_samples", "num_restarts"):
        if key in args:
            args[key] = max(2, round(share * args[key]))
    if "num_elites" in args:
        args["num_elites"] = max(1, round(share * args["num_elites"]))
    return dataclasses.replace(planner, args=args)


def generalisation_cells(subject: Subject) -> list[Cell]:
    """Each factor of variation at values that the data never had, then all of them at once.

    The same planner on the true simulator is evaluated beside the agent.

    Raises:
        ValueError: an environment without factors, or an unknown factor or agent.
    """
    factors, cells = _settings(subject), []
    if not factors:
        raise ValueError(f"a study of factors must be of {' or '.join(FACTORS)}, got {subject.env_id}")
    agents = ["mode-2", "oracle"] if subject.recipe.actor is None else ["mode-2", "mode-1", "oracle"]
    for agent in subject.choice.agents or ():
        require_known("agent", agent, agents)
    for factor in dict.fromkeys(subject.choice.factors or factors):
        if factor not in factors:
            raise ValueError(f"factors must be of {', '.join(factors)}, got {factor!r}")
        for value, setting in factors[factor].items():
            evaluation = dataclasses.replace(
                subject.evaluation, variation={**subject.evaluation.variation, **setting}
            )
            for agent in dict.fromkeys(subject.choice.agents or agents):
                labels = {"factor": factor, "value": value, "agent": agent}
                cells.append(Cell(labels, agent, subject.recipe.planner, evaluation))
    return cells


def _settings(subject: Subject) -> dict[str, dict[float, dict[str, Any]]]:
    """Return each factor's places on its axis, with what factors of the environment are set to there."""
    numbers = FACTORS.get(subject.env_id, {})
    factors: dict[str, dict[float, dict[str, Any]]] = {
        name: {value: {name: value} for value in values} for name, values in numbers.items()
    }
    if factors and subject.recipe.collect.env_kwargs.get("rgb"):
        for name, (near, far) in COLOURS.items():
            factors[name] = {
                share: {name: [round(a + share * (b - a)) for a, b in zip(near, far, strict=True)]}
                for share in COLOUR_SHARES
            }
    if factors:
        factors[TOGETHER] = {share: _together(subject, numbers, share) for share in COLOUR_SHARES}
    return factors


def _together(subject: Subject, numbers: dict[str, tuple[float, ...]], share: float) -> dict[str, Any]:
    """Return every factor a share of the way from its default to the last of its values; colours stay."""
    simulator = make_simulator(subject.env_id, **subject.recipe.collect.env_kwargs)
    defaults = simulator.factors(simulator.initial(1, make_generator(0, "defaults")))
    setting: dict[str, Any] = {}
    for name, values in numbers.items():
        near, far = defaults[name][0].item(), values[-1]
        place = near + share * (far - near)
        setting[name] = round(place, 6) if isinstance(far, float) else round(place)
    return setting
