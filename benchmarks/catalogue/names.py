"""The recipes by name, their sizes and their smoke preset.

A recipe is a function that returns a :class:`benchmarks.recipes.Recipe`; ``preset="smoke"`` walks the same path in
seconds and reaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.catalogue.moving_dot import moving_dot, slow_features
from benchmarks.catalogue.mujoco import (
    cart_pole_full,
    cart_pole_small,
    point_maze_full,
    point_maze_small,
    push_t_full,
    push_t_small,
    reacher_full,
    reacher_small,
)
from benchmarks.catalogue.two_rooms import two_rooms, two_rooms_full, two_rooms_small
from benchmarks.recipes import Recipe, override
from benchmarks.smoke import smoke
from worldmodel.jepa import require_known

RECIPES: dict[str, Callable[[], Recipe]] = {
    "two-rooms": two_rooms,
    "two-rooms-small": two_rooms_small,
    "two-rooms-full": two_rooms_full,
    "point-maze-small": point_maze_small,
    "point-maze-full": point_maze_full,
    "reacher-small": reacher_small,
    "reacher-full": reacher_full,
    "cart-pole-small": cart_pole_small,
    "cart-pole-full": cart_pole_full,
    "push-t-small": push_t_small,
    "push-t-full": push_t_full,
    "moving-dot": moving_dot,
    "slow-features": slow_features,
}
PRESETS = ("default", "smoke")


def sized(name: str, size: str | None) -> str:
    """Return the name of the recipe ``name`` at a size, or the name itself where no size is given.

    Raises:
        ValueError: the recipe has no such size.
    """
    if size is None:
        return name
    if f"{name}-{size}" not in RECIPES:
        having = ", ".join(key.removesuffix(f"-{size}") for key in RECIPES if key.endswith(f"-{size}"))
        raise ValueError(f"size {size!r} must be given for a recipe that has it ({having}), got {name!r}")
    return f"{name}-{size}"


def resolve(name: str, preset: str = "default", overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe ``name`` under a preset, with ``overrides`` such as ``"world_model.lr=1e-3"``.

    Raises:
        ValueError: unknown recipe, preset or key (the message names the nearest known one), or a value of another
            type.
    """
    require_known("recipe", name, RECIPES)
    require_known("preset", preset, PRESETS)
    recipe = RECIPES[name]()
    if preset == "smoke":
        recipe = smoke(recipe)
    return override(recipe, overrides)
