"""Mazes of unit cells: drawing random connected ones in disjoint splits, and shortest paths in them.

A maze is a mask ``(n, n)`` of rows and columns, true where a cell is wall; a border of walls surrounds it. Cell
(row, col) is the square around ``(col - (n - 1) / 2, row - (n - 1) / 2)``, y downwards.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from envs.hashing import hash_bits
from envs.suggestions import check_choice

SPLITS = ("train", "eval")
EVAL_ONE_IN = 5  # about one maze in five is held out
_SPLIT_SALT = 7
WALL_SHARE = 0.4  # of the cells, at most: where more would be, the maze would be corridors only
_STEPS = (
    *((row, col, 1.0) for row, col in ((0, 1), (1, 0), (0, -1), (-1, 0))),
    *((row, col, math.sqrt(2.0)) for row, col in ((1, 1), (1, -1), (-1, 1), (-1, -1))),
)


def max_walls(size: int) -> int:
    """Return how many wall cells a maze of ``size`` x ``size`` cells has at most."""
    return int(WALL_SHARE * size * size)


def draw_mazes(num: int, size: int, generator: torch.Generator, split: str) -> Tensor:
    """Draw ``num`` mazes of a split, bool ``(num, n, n)``, whose free cells are connected.

    Cells in random order become wall unless that cuts the free ones in two, until :func:`max_walls` are. Which split a
    maze belongs to is a hash of its mask, not of a seed: the splits are disjoint and the same everywhere.
    """
    check_choice("split", split, SPLITS)
    mazes = torch.empty((0, size, size), dtype=torch.bool)
    while len(mazes) < num:
        drawn = _draw(max(64, 2 * num if split == "train" else 8 * num), size, generator)
        is_split = is_held_out(drawn) ^ (split == "train")
        mazes = torch.cat([mazes, drawn[is_split]])
    return mazes[:num]


def is_held_out(mazes: Tensor) -> Tensor:
    """Tell for mazes ``(B, n, n)`` whether training never has them, bool ``(B,)``."""
    return (hash_bits(maze_number(mazes), _SPLIT_SALT) >> 33) % EVAL_ONE_IN == 0


def maze_number(mazes: Tensor) -> Tensor:
    """Return int64 ``(B,)``, one number per mask ``(B, n, n)``: a bit per cell, an unset one after each row.

    The unset bits keep rows apart where bits are shifted to their neighbours; n is at most 7.
    """
    size = mazes.shape[-1]
    index = torch.arange(size, device=mazes.device)
    places = index[:, None] * (size + 1) + index
    return (mazes.to(torch.int64) << places).sum((1, 2))


def is_connected(mazes: Tensor) -> Tensor:
    """Tell for mazes ``(B, n, n)`` whether every free cell can be reached from every other, bool ``(B,)``."""
    return _is_connected(maze_number(~mazes), mazes.shape[-1])


def _is_connected(free: Tensor, size: int) -> Tensor:
    """Tell it for the numbers ``(B,)`` of the free cells: flood from the first of them."""
    reached = free & -free
    while True:
        around = (reached << 1) | (reached >> 1) | (reached << (size + 1)) | (reached >> (size + 1))
        grown = (reached | around) & free
        if torch.equal(grown, reached):
            return reached == free
        reached = grown


def _draw(num: int, size: int, generator: torch.Generator) -> Tensor:
    cells = torch.arange(size * size)
    bits = torch.ones((), dtype=torch.int64) << (cells // size * (size + 1) + cells % size)
    order = torch.rand((num, size * size), generator=generator, device=generator.device).cpu().argsort(1)
    free = bits.sum().expand(num)
    left = torch.full((num,), max_walls(size))
    for bit in bits[order].unbind(1):
        tried = free & ~bit
        is_kept = _is_connected(tried, size) & (left > 0)
        free, left = torch.where(is_kept, tried, free), left - is_kept.long()
    return ((free[:, None] & bits) == 0).view(num, size, size)


def cell_of(position: Tensor, size: int) -> Tensor:
    """Return the cells (row, col) of positions ``(..., 2)``, int64; outside ones are moved to the nearest cell."""
    cell = torch.floor(position + size / 2).long().clamp(0, size - 1)
    return cell.flip(-1)


def centre_of(cell: Tensor, size: int) -> Tensor:
    """Return the centres ``(..., 2)`` of cells (row, col)."""
    return cell.flip(-1).to(torch.float32) - (size - 1) / 2


def distances_to(mazes: Tensor, goal: Tensor) -> Tensor:
    """Return how far every cell's centre is from positions ``goal (B, 2)``, ``(B, n, n)``; inf where no way leads.

    Ways lead from a cell to its eight neighbours, across a corner only where all four cells around it are free.
    """
    num, size, _ = mazes.shape
    cell = cell_of(goal, size)
    far = torch.full(mazes.shape, torch.inf, device=mazes.device)
    worlds = torch.arange(num, device=mazes.device)
    far[worlds, cell[:, 0], cell[:, 1]] = (goal - centre_of(cell, size)).norm(dim=-1)
    passages = _passages(mazes)
    while True:
        nearer = far
        for (row, col, length), is_open in zip(_STEPS, passages.unbind(1), strict=True):
            arriving = _neighbour(far, row, col, torch.inf) + length
            nearer = torch.where(is_open, torch.minimum(nearer, arriving), nearer)
        if torch.equal(nearer, far):
            return far
        far = nearer


def way_to(mazes: Tensor, position: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next point ``(B, 2)`` of the shortest way from ``position (B, 2)`` to ``goal (B, 2)``, and its length.

    The next point is the goal itself where it lies in the same or a neighbouring cell, else a cell's centre.
    """
    size = mazes.shape[-1]
    # Planners ask for many positions per task: one map of distances for each run of equal mazes and goals.
    number = maze_number(mazes)[:, None]
    keys = torch.cat([number >> 28, number & (2**28 - 1), goal.to(torch.float64)], 1)  # 2 x 28 bits are exact
    keys, index = keys.unique_consecutive(dim=0, return_inverse=True)
    first = torch.searchsorted(index, torch.arange(len(keys), device=index.device))
    maps, passages = distances_to(mazes[first], goal[first]), _passages(mazes[first])
    here, there = cell_of(position, size), cell_of(goal, size)
    steps = torch.tensor([(0, 0), *((row, col) for row, col, _ in _STEPS)], device=mazes.device)
    cells = here[:, None] + steps  # (B, 9, 2)
    inside = cells.clamp(0, size - 1)
    rows, cols = inside.unbind(-1)
    is_open = passages[index, :, here[:, 0], here[:, 1]]  # (B, 8)
    is_goal = (cells == there[:, None]).all(-1)
    # The centre of the own cell leads nowhere that a neighbour does not, at no less length.
    is_open = torch.cat([is_goal[:, :1], is_open], 1)
    points = torch.where(is_goal[..., None], goal[:, None], centre_of(inside, size))
    beyond = torch.where(is_goal, 0.0, maps[index[:, None], rows, cols])
    length = torch.where(is_open, (points - position[:, None]).norm(dim=-1) + beyond, torch.inf)
    best = length.argmin(1, keepdim=True)  # (B, 1)
    return points.gather(1, best[..., None].expand(-1, 1, 2))[:, 0], length.gather(1, best)[:, 0]


def _passages(mazes: Tensor) -> Tensor:
    """Return which of the eight steps lead on from every cell, bool ``(B, 8, n, n)``."""
    free, passages = ~mazes, []
    for row, col, _ in _STEPS:
        is_open = free & _neighbour(free, row, col, False)
        if row and col:
            is_open = is_open & _neighbour(free, row, 0, False) & _neighbour(free, 0, col, False)
        passages.append(is_open)
    return torch.stack(passages, 1)


def _neighbour(grid: Tensor, row: int, col: int, outside: float) -> Tensor:
    """Return for every cell of ``(B, n, n)`` the value of the cell ``row`` rows below and ``col`` columns right."""
    size = grid.shape[-1]
    wide = pad(grid, (1, 1, 1, 1), value=outside)
    return wide[:, 1 + row : 1 + row + size, 1 + col : 1 + col + size]
