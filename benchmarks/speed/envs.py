"""Speed of the simulators on one core, beside a renderer that computes every pixel by itself.

Each figure is the best of several repetitions, so that other work on the machine disturbs it least.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from envs.moving_dot import MovingDot
from envs.simulator import Simulator
from envs.two_rooms import TwoRooms

Row = dict[str, Any]


def per_second(function: Callable[[], object], num: int, repetitions: int) -> float:
    """Return how many of the ``num`` items of one call are done per second, at best."""
    function()
    best = float("inf")
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return num / best


def naive_moving_dot(position: Tensor, size: int = 28, std: float = 1.3) -> Tensor:
    """Draw dots ``(B, 2)`` with one exponential per pixel, a frame at a time, as float ``(B, size, size)``."""
    axis = torch.arange(size, dtype=torch.float32)
    rows, cols = torch.meshgrid(axis, axis, indexing="ij")
    frames = [torch.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * std**2)) for x, y in position]
    return torch.stack(frames)


def naive_two_rooms(state: dict[str, Tensor], size: int = 65) -> Tensor:
    """Draw dot and walls with one formula per pixel, a frame at a time, as uint8 ``(B, 2, size, size)``."""
    axis = torch.arange(size, dtype=torch.float32)
    rows, cols = torch.meshgrid(axis, axis, indexing="ij")
    border = (rows == 4) | (rows == 60) | (cols == 4) | (cols == 60)
    inside = (rows >= 4) & (rows <= 60) & (cols >= 4) & (cols <= 60)
    frames = []
    for world, (x, y) in enumerate(state["position"]):
        dot = 255 * torch.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * state["dot_size"][world] ** 2))
        in_wall = (cols - state["wall_x"][world]).abs() < state["wall_width"][world] / 2
        in_door = (rows - state["door_y"][world]).abs() < state["door_size"][world] / 2
        walls = 255.0 * (inside & (border | (in_wall & ~in_door)))
        frames.append(torch.stack([dot.round(), walls]).to(torch.uint8))
    return torch.stack(frames)


def _row(name: str, value: float, unit: str, target: float | None, baseline: tuple[str, float] | None) -> Row:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "target": target,
        "baseline_name": baseline[0] if baseline else None,
        "baseline_value": baseline[1] if baseline else None,
    }


def _frames(sim: Simulator, num: int, repetitions: int) -> float:
    state = sim.initial(num, torch.Generator().manual_seed(0))
    return per_second(lambda: sim.pixels(state), num, repetitions)


def run(smoke: bool = False) -> list[Row]:
    """Measure on one thread and return rows of name, value, unit, target and the naive renderer's value."""
    num, num_naive, repetitions = (256, 16, 2) if smoke else (8192, 256, 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*_moving_dot(num, num_naive, repetitions), *_two_rooms(num, num_naive, repetitions)]
    finally:
        torch.set_num_threads(threads)


def _moving_dot(num: int, num_naive: int, repetitions: int) -> list[Row]:
    state = MovingDot().initial(num_naive, torch.Generator().manual_seed(0))
    naive = (
        "per-pixel renderer",
        per_second(lambda: naive_moving_dot(state["position"]), num_naive, repetitions),
    )
    rows = [_row("moving dot 28x28", _frames(MovingDot(), num, repetitions), "frames/s", 500e3, naive)]
    for distractor in ("uniform", "structured"):
        for motion in ("fixed", "changing", "rolling"):
            value = _frames(MovingDot(distractor=distractor, motion=motion), num, repetitions)
            rows.append(_row(f"moving dot, {distractor} {motion}", value, "frames/s", None, naive))
    value = _frames(MovingDot(num_dots=3), num // 2, repetitions)
    return [*rows, _row("moving dot, three dots", value, "frames/s", None, None)]


def _two_rooms(num: int, num_naive: int, repetitions: int) -> list[Row]:
    sim = TwoRooms(layout="random")
    state = sim.initial(num, torch.Generator().manual_seed(0))
    goal = sim.goal(state, torch.Generator().manual_seed(1))
    action = torch.randn((num, 2), generator=torch.Generator().manual_seed(2))
    some = sim.initial(num_naive, torch.Generator().manual_seed(0))
    naive = ("per-pixel renderer", per_second(lambda: naive_two_rooms(some), num_naive, repetitions))
    frames = {
        "two rooms 2x65x65": (sim, 25e3),
        "two rooms 2x32x32": (TwoRooms(image_size=32), None),
        "two rooms RGB 65x65": (TwoRooms(rgb=True), None),
    }
    rows = [
        _row(name, _frames(each, num // 4, repetitions), "frames/s", target, naive if target else None)
        for name, (each, target) in frames.items()
    ]
    functions = {
        "two rooms transition": (lambda: sim.transition(state, action), 1e6),
        "two rooms geodesic distance": (lambda: sim.distance(state, goal), None),
        "two rooms expert": (lambda: sim.expert(state, goal), None),
    }
    for name, (function, target) in functions.items():
        rows.append(_row(name, per_second(function, num, repetitions), "worlds/s", target, None))
    return rows
