"""Layouts of Two Rooms: the fixed one, and random ones in disjoint train and eval splits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from envs.hashing import hash_randint
from envs.suggestions import check_choice

WALL_X = (20, 44)  # smallest and largest wall position of a random layout [px]
DOOR_Y = (10, 54)
FIXED_LAYOUT = (32, 18)  # wall x, door y [px]
EVAL_ONE_IN = 5  # about one random layout in five belongs to the eval split
_SPLIT_SALT = 4  # the first with which every wall and every door position occurs in both splits
HELD_WALL_X = (30, 34)  # the middle fifth of the columns, first and last [px]
HELD_DOOR_Y = (28, 36)  # and of the rows
HELD_OUT = ("layouts", "lines")


def split_layouts(split: str, held_out: str = "layouts") -> Tensor:
    """Return the random layouts of "train" or "eval", int64 ``(L, 2)`` of (wall x, door y).

    A rule decides, not a seed, so that the splits are disjoint and the same everywhere.

    Args:
        split: "train" or "eval".
        held_out: "layouts": pairs of a wall column and a door row, each of which training also has in other pairs.
            "lines": the middle fifth of the columns and of the rows; a layout of "eval" has a column *and* a row of
            them, one of "train" neither. Layouts with one of the two belong to no split.
    """
    check_choice("split", split, ("train", "eval"))
    check_choice("held_out", held_out, HELD_OUT)
    wall_x = torch.arange(WALL_X[0], WALL_X[1] + 1)
    door_y = torch.arange(DOOR_Y[0], DOOR_Y[1] + 1)
    layouts = torch.cartesian_prod(wall_x, door_y)
    if held_out == "layouts":
        is_eval = hash_randint(EVAL_ONE_IN, layouts[:, 0], layouts[:, 1], _SPLIT_SALT) == 0
        return layouts[is_eval if split == "eval" else ~is_eval]
    first, last = torch.tensor([HELD_WALL_X, HELD_DOOR_Y]).T
    is_held = (layouts >= first) & (layouts <= last)  # (L, 2)
    return layouts[is_held.all(dim=1) if split == "eval" else ~is_held.any(dim=1)]


def layout_number(wall_x: Tensor, door_y: Tensor) -> Tensor:
    """Return int64 ``(B,)``, one number per layout."""
    num_doors = DOOR_Y[1] - DOOR_Y[0] + 1
    return (wall_x.round().long() - WALL_X[0]) * num_doors + door_y.round().long() - DOOR_Y[0]


def draw_layout(
    layout: str,
    num: int,
    generator: torch.Generator,
    given: Mapping[str, Tensor],
    split: str,
    held_out: str = "layouts",
) -> tuple[Tensor, Tensor]:
    """Return wall x and door y, float32 ``(num,)`` each, on the generator's device or that of what is given.

    Args:
        layout: "fixed" or "random".
        num: Number of worlds.
        generator: Draws random layouts.
        given: May hold ``wall_x`` and ``door_y``, ``(num,)`` each, which are then taken.
        split: "train" or "eval"; where one number is given, the other is drawn among the split's layouts.
        held_out: what the splits differ in, see :func:`split_layouts`.

    Raises:
        ValueError: No layout of the split has the given wall or door.
    """
    if layout == "fixed" or {"wall_x", "door_y"} <= given.keys():
        fixed = (torch.full((num,), float(value)) for value in FIXED_LAYOUT)
        wall_x, door_y = (
            given.get(name, value).float() for name, value in zip(("wall_x", "door_y"), fixed, strict=True)
        )
        return wall_x, door_y
    layouts = split_layouts(split, held_out)  # (L, 2)
    weights = torch.ones((num, len(layouts)))
    for column, name in enumerate(("wall_x", "door_y")):
        if name in given:
            weights *= given[name].cpu()[:, None] == layouts[:, column]
    if not bool(weights.any(1).all()):
        raise ValueError(f"a given wall_x or door_y must occur in a layout of split {split!r}, got none")
    row = torch.multinomial(weights.to(generator.device), 1, generator=generator)[:, 0].cpu()
    chosen = layouts[row].to(torch.float32)
    return chosen[:, 0], chosen[:, 1]
