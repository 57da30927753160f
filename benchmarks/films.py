"""Films of evaluated episodes, for worlds that are no map: what the report shows of arms, poles and blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.evaluation import Episodes, Tasks
from envs.goal_task import GOAL_OPACITY
from envs.simulator import Simulator
from envs.state import index_state

SIDE = 128  # of one episode [px]
COLUMNS = 4
MAX_FRAMES = 75
FRAME_MS, LAST_FRAME_MS = 80, 1500
BORDER = 4  # [px]
REACHED, NOT_YET = (0, 120, 90), (208, 212, 216)  # colour of the border


def film_path(folder: Path, agent: str) -> Path:
    """Return where the film of an agent lies in a run's ``media/``."""
    return folder / f"film-{agent}.gif"


def write_film(path: Path, simulator: Simulator, tasks: Tasks, episodes: Episodes, rows: Tensor) -> None:
    """Write an animated GIF of some episodes beside each other, each with its goal drawn faintly over it.

    Args:
        path: of the GIF.
        simulator: draws the pictures.
        tasks: the goals.
        episodes: recorded, with their states.
        rows: which of them, at least one.
    """
    from PIL import Image

    last = len(episodes.states) - 1
    stride = max(1, -(-last // MAX_FRAMES))
    steps = [*range(0, last, stride), last]
    goal = simulator.picture(index_state(tasks.goal, rows)).float()
    frames = []
    for step in steps:
        now = simulator.picture(index_state(episodes.states[step], rows)).float()
        pictures = torch.lerp(now, goal, GOAL_OPACITY).round().byte().cpu().numpy()
        is_reached = episodes.reached[rows, :step].any(1).tolist()
        frames.append(_grid(pictures, is_reached))
    images = [Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=[FRAME_MS] * (len(images) - 1) + [LAST_FRAME_MS],
        loop=0,
    )


def _grid(pictures: np.ndarray, is_reached: list[bool]) -> np.ndarray:
    """Lay square pictures ``(N, rows, cols, 3)`` out, each in a border that tells whether its goal was reached."""
    from PIL import Image

    columns = min(COLUMNS, len(pictures))
    tile = SIDE + 2 * BORDER
    grid = np.full((-(-len(pictures) // columns) * tile, columns * tile, 3), 255, np.uint8)
    for index, (picture, reached) in enumerate(zip(pictures, is_reached, strict=True)):
        top, left = index // columns * tile, index % columns * tile
        grid[top : top + tile, left : left + tile] = REACHED if reached else NOT_YET
        small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
        grid[top + BORDER : top + BORDER + SIDE, left + BORDER : left + BORDER + SIDE] = np.asarray(small)
    return grid
