"""The cells of the slow-feature benchmark: an objective, a world with a distractor, and a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.objectives import OBJECTIVES, with_objective
from benchmarks.recipes import Recipe, resolve
from worldmodel.jepa import require_known

WORLDS = ("dot", "three-dots", "two-rooms")
DISTRACTORS = ("none", "uniform", "structured")
MOTIONS = ("fixed", "changing", "rolling")
SIZES = ("smoke", "small", "full")
PAPER_ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
CORE = (
    *("random", "supervised", "vicreg", "simclr", "barlow"),
    *("byol", "sigreg", "idm", "reconstruction", "controllable"),
)
EVERYWHERE = ("supervised", "vicreg", "simclr", "sigreg", "idm", "reconstruction", "controllable")
CURVES = ("supervised", "vicreg", "idm", "reconstruction", "controllable")  # drawn against alpha
WANTED = ("vicreg", "controllable", "controllable-static")  # where something static is wanted


@dataclass(frozen=True)
class Condition:
    """A world and its distractor.

    Attributes:
        world: ``dot``, ``three-dots`` (a second walker and a stationary dot in channels of their own) or ``two-rooms``
            (random walls, which are static and wanted).
        distractor: ``none``, ``uniform`` or ``structured``.
        motion: ``fixed``, ``changing`` or ``rolling``; ``fixed`` where there is no distractor.
        alpha: brightness of the distractor relative to the dot's peak; 0 where there is none.
    """

    world: str = "dot"
    distractor: str = "none"
    motion: str = "fixed"
    alpha: float = 0.0

    def __post_init__(self) -> None:
        require_known("world", self.world, WORLDS)
        require_known("distractor", self.distractor, DISTRACTORS)
        require_known("motion", self.motion, MOTIONS)
        if (self.distractor == "none") != (self.alpha == 0):
            raise ValueError(f"alpha must be 0 without a distractor and > 0 with one, got {self}")
        if self.world == "two-rooms" and self.distractor != "none":
            raise ValueError(f"two-rooms must have the distractor none, got {self.distractor!r}")

    @property
    def name(self) -> str:
        """Name in files and tables."""
        what = "none" if self.distractor == "none" else f"{self.distractor}-{self.motion}-{self.alpha:g}"
        return f"{self.world}-{what}"

    @property
    def env_id(self) -> str:
        """Environment that the trajectories come from."""
        return "worldmodel/TwoRooms-v0" if self.world == "two-rooms" else "worldmodel/MovingDot-v0"

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        if self.world == "two-rooms":
            return {"layout": "random", "image_size": 32}
        dots = {"num_dots": 3 if self.world == "three-dots" else 1, "distractor": self.distractor}
        return dots if self.distractor == "none" else {**dots, "motion": self.motion, "alpha": self.alpha}


@dataclass(frozen=True)
class Cell:
    """One training: the objective ``objective`` on data of ``condition`` with ``seed``."""

    objective: str
    condition: Condition
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell's folder."""
        return f"{self.condition.name}-{self.objective}-seed{self.seed}"


def cell_recipe(cell: Cell, size: str) -> Recipe:
    """Return what a cell is trained with: one recipe, the objective's setting, the condition's data."""
    recipe = with_objective(
        resolve("slow-features", "smoke" if size == "smoke" else "default"), cell.objective
    )
    if size == "full":
        recipe = full_size(recipe)
    collect = dataclasses.replace(
        recipe.collect,
        env_id=cell.condition.env_id,
        env_kwargs=cell.condition.env_kwargs,
        policy="heading" if cell.condition.world == "two-rooms" else "directed",
    )
    return dataclasses.replace(recipe, collect=collect)


def full_size(recipe: Recipe) -> Recipe:
    """Return the recipe at the size of Sobal et al. 2022: their encoder, 512 features, a million trajectories."""
    return dataclasses.replace(
        recipe,
        collect=dataclasses.replace(recipe.collect, num_episodes=1_000_000, chunk=20_000),
        model=dataclasses.replace(recipe.model, encoder_args={}, embedding_dim=512),
        objective=dataclasses.replace(recipe.objective, rollout_steps=16, window=17, batch_size=128),
        world_model=dataclasses.replace(
            recipe.world_model, num_steps=8000, lr=1e-3, log_every=100, checkpoint_every=1000
        ),
    )


def select(
    cells: Iterable[Cell], objectives: Iterable[str] | None, conditions: Iterable[str] | None
) -> list[Cell]:
    """Keep the cells of the named objectives and of the conditions whose name holds one of the given texts.

    Raises:
        ValueError: an unknown objective, or nothing left.
    """
    objectives = None if objectives is None else list(objectives)
    for name in objectives or ():
        require_known("objective", name, OBJECTIVES)
    texts = None if conditions is None else list(conditions)
    kept = [
        cell
        for cell in cells
        if (objectives is None or cell.objective in objectives)
        and (texts is None or any(text in cell.condition.name for text in texts))
    ]
    if not kept:
        raise ValueError(
            f"the grid must have a cell, got none for objectives {objectives} and conditions {texts}"
        )
    return kept


def grid(size: str, seeds: Iterable[int]) -> list[Cell]:
    """Return the cells of a size, those of the first seed first, so that an early look sees every condition."""
    require_known("size", size, SIZES)
    return [Cell(objective, condition, seed) for seed in seeds for objective, condition in _pairs(size)]


def _pairs(size: str) -> list[tuple[str, Condition]]:
    """List objective and condition of one seed's cells, those of the paper's question first."""
    fixed, changing = (Condition("dot", "uniform", motion, 1.0) for motion in ("fixed", "changing"))
    if size == "smoke":
        return [("vicreg", fixed), ("controllable", fixed), ("controllable", Condition())]
    wanted = [
        Condition("three-dots"),
        Condition("three-dots", "uniform", "fixed", 1.0),
        Condition("two-rooms"),
    ]
    if size == "full":
        moving = [Condition("dot", d, m, a) for d in DISTRACTORS[1:] for m in MOTIONS for a in PAPER_ALPHAS]
        return [(name, condition) for condition in (Condition(), *moving, *wanted) for name in OBJECTIVES]
    others = [name for name in OBJECTIVES if name not in CORE]
    rest = [Condition("dot", d, m, 1.0) for d in DISTRACTORS[1:] for m in MOTIONS]
    rest = [condition for condition in rest if condition not in (fixed, changing)]
    brightness = [Condition("dot", "uniform", m, a) for m in ("fixed", "changing") for a in (0.5, 2.0)]
    return [
        *((name, condition) for condition in (Condition(), fixed, changing) for name in CORE),
        *((name, condition) for condition in rest for name in EVERYWHERE),
        *((name, condition) for condition in brightness for name in CURVES),
        *((name, condition) for condition in wanted for name in WANTED),
        *((name, condition) for condition in (fixed, changing) for name in others),
    ]
