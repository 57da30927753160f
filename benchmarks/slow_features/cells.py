"""The cells of the slow-feature benchmark: an objective, a world with a distractor, and a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.catalogue import resolve
from benchmarks.objectives import OBJECTIVES, with_objective
from benchmarks.recipes import Recipe, override
from worldmodel.jepa import require_known

WORLDS = ("dot", "three-dots", "two-rooms")
DISTRACTORS = ("none", "uniform", "structured")
MOTIONS = ("fixed", "changing", "rolling")
SIZES = ("smoke", "small", "full")
PAPER_ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
# Which objectives a small grid trains where; a full one trains all of them everywhere.
CORE = (  # without a distractor, and under fixed and changing noise
    *("random", "supervised", "vicreg", "simclr", "barlow"),
    *("byol", "sigreg", "idm", "reconstruction", "controllable"),
)
STRUCTURED = ("supervised", "vicreg", "idm", "reconstruction", "controllable")  # fixed and changing textures
ROLLING = ("supervised", "vicreg", "controllable")
CURVES = ("supervised", "vicreg", "idm", "reconstruction", "controllable")  # darker and brighter noise
WANTED = ("vicreg", "controllable", "controllable-static")  # where something static is wanted
TUNED = ("vicreg", "simclr", "barlow", "byol", "sigreg")  # at other learning rates, under fixed noise
TUNED_LRS = (0.0005, 0.001, 0.008)
OTHERS = (
    "infonce-within",
    "swav",
    "vicreg-idm",
    "vicreg-temporal",
    "controllable-static",
    "rssm",
)  # noise only


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
    """One training: the objective ``objective`` on data of ``condition`` with ``seed``.

    Attributes:
        objective: name in :data:`benchmarks.objectives.OBJECTIVES`.
        condition: world and distractor.
        seed: of data, weights and batches.
        lr: learning rate of a cell of the tuned column; None is the one of all cells.
    """

    objective: str
    condition: Condition
    seed: int
    lr: float | None = None

    @property
    def name(self) -> str:
        """Name of the cell's folder."""
        tuned = "" if self.lr is None else f"-lr{self.lr:g}"
        return f"{self.condition.name}-{self.objective}{tuned}-seed{self.seed}"


def cell_recipe(cell: Cell, size: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return what a cell is trained with: one recipe, the objective's setting, the condition's data, then overrides."""
    recipe = with_objective(
        resolve("slow-features", "smoke" if size == "smoke" else "default"), cell.objective
    )
    if size == "full":
        recipe = full_size(recipe)
    collect = dataclasses.replace(
        recipe.collect, env_id=cell.condition.env_id, env_kwargs=cell.condition.env_kwargs
    )
    if cell.condition.world == "two-rooms":  # a walk gets around in 90 steps; as many frames as of the dot
        collect = dataclasses.replace(collect, policy="heading")
        if size != "smoke":
            num_episodes, chunk = collect.num_episodes // 5, collect.chunk // 5
            collect = dataclasses.replace(collect, num_steps=90, num_episodes=num_episodes, chunk=chunk)
    recipe = dataclasses.replace(recipe, collect=collect)
    if cell.lr is not None:
        recipe = dataclasses.replace(recipe, world_model=dataclasses.replace(recipe.world_model, lr=cell.lr))
    return override(recipe, overrides)


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
    seeds = list(seeds)
    cells = [Cell(objective, condition, seed) for seed in seeds for objective, condition in _pairs(size)]
    if size == "smoke":
        return cells
    noise = Condition("dot", "uniform", "fixed", 1.0)
    return cells + [Cell(name, noise, seeds[0], lr) for name in TUNED for lr in TUNED_LRS]


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
    structured = [Condition("dot", "structured", motion, 1.0) for motion in ("fixed", "changing")]
    rolling = [Condition("dot", distractor, "rolling", 1.0) for distractor in DISTRACTORS[1:]]
    brightness = [
        Condition("dot", "uniform", m, a) for m, a in (("fixed", 0.5), ("fixed", 2.0), ("changing", 2.0))
    ]
    return [
        (name, condition)
        for names, conditions in (
            (CORE, (Condition(), fixed, changing)),
            (STRUCTURED, structured),
            (ROLLING, rolling),
            (CURVES, brightness),
            (WANTED, wanted),
            (OTHERS, (fixed, changing)),
        )
        for condition in conditions
        for name in names
    ]
