"""The first planned episodes as a small-multiples animated GIF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report.run_files import Json, read_run
from benchmarks.report.wording import title

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFont import FreeTypeFont

MAX_BYTES = 1_500_000
_SIZES = ((220, 72), (180, 60), (140, 50), (100, 30))  # side of a room [px], most frames; tried in turn
_OVERSAMPLING = 3
_FRAME_MS, _LAST_FRAME_MS = 90, 1800
_PAPER, _ROOM, _WALL, _INK, _MUTED = "#ffffff", "#f3f5f7", "#aab3bd", "#1a1e23", "#5c6570"
_DOT, _PATH, _FAINT, _IMAGINED = "#0a62a9", "#0a62a9", "#c3d7e8", "#cc5500"
_GOAL, _GOAL_FILL = "#00785a", "#d3e8e1"


def write_gif(run: Path, out: Path, *, num_episodes: int = 6) -> Path:
    """Draw the first episodes of ``media/episodes.json`` side by side as an animated GIF of at most 1.5 MB.

    Raises:
        ValueError: ``num_episodes`` is below 1, the run has no recorded episodes, or they do not fit 1.5 MB.
    """
    if num_episodes < 1:
        raise ValueError(f"num_episodes must be at least 1, got {num_episodes}")
    files = read_run(run)
    data = files.episodes
    if not data or not data.get("episodes"):
        raise ValueError(f"run must hold recorded episodes (`{files.evaluate_command}`), got {str(run)!r}")
    episodes = data["episodes"][:num_episodes]
    for side, num_frames in _SIZES:
        animation = _animation(data, episodes, side, num_frames)
        if len(animation) <= MAX_BYTES:
            out.write_bytes(animation)
            return out
    raise ValueError(f"num_episodes must be small enough for a GIF of {MAX_BYTES} bytes, got {num_episodes}")


def _animation(data: Json, episodes: list[Json], side: int, num_frames: int) -> bytes:
    """Encode all frames with one palette, so that only what moves is stored."""
    last = max(len(episode["path"]) for episode in episodes) - 1
    stride = max(1, -(-last // num_frames))
    steps = [*range(0, last, stride), last]
    rooms: dict[tuple[int, int], Picture] = {}  # drawn so far, by episode and step
    pictures = [_frame(data, episodes, side, step, rooms) for step in steps]
    palette = _Palette()
    frames = [palette.indexed(picture) for picture in pictures]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS],
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


class _Palette:
    """The colours drawn and their blends at edges, with the nearest of them for every colour met so far."""

    def __init__(self) -> None:
        from PIL import ImageColor

        drawn, behind = (
            np.array([ImageColor.getrgb(colour) for colour in colours], dtype=float)
            for colours in (
                (_INK, _MUTED, _WALL, _DOT, _FAINT, _IMAGINED, _GOAL, _GOAL_FILL),
                (_PAPER, _ROOM, _WALL, _GOAL_FILL),
            )
        )
        share = np.array([0, 0.25, 0.5, 0.75, 1])[:, None, None, None]
        blends = behind[:, None] + share * (drawn - behind[:, None])  # (shares, behind, drawn, 3)
        self.colours = np.unique(blends.round().astype(np.uint8).reshape(-1, 3), axis=0)  # (160 or fewer, 3)
        self.nearest = np.full(1 << 24, 255, dtype=np.uint8)  # 255: not met yet

    def indexed(self, picture: Picture) -> Picture:
        """Replace every pixel by the index of the nearest colour."""
        from PIL import Image

        channels = np.asarray(picture).astype(np.int32)  # (rows, cols, 3)
        pixels = (channels[..., 0] << 16) + (channels[..., 1] << 8) + channels[..., 2]
        unmet = np.unique(pixels[self.nearest[pixels] == 255])
        rgb = np.stack((unmet >> 16, unmet >> 8 & 255, unmet & 255), axis=1)
        distances = ((rgb[:, None] - self.colours.astype(np.int32)) ** 2).sum(2)
        self.nearest[unmet] = distances.argmin(1).astype(np.uint8)
        indexed = Image.fromarray(self.nearest[pixels])
        indexed.putpalette(self.colours.tobytes())
        return indexed


def _frame(
    data: Json, episodes: list[Json], side: int, step: int, rooms: dict[tuple[int, int], Picture]
) -> Picture:
    """Draw one step of every episode on a grid of at most three columns."""
    from PIL import Image, ImageDraw

    columns = min(3, len(episodes))
    rows = -(-len(episodes) // columns)
    x0, y0, x1, y1 = data["extent"]
    height = round(side * (y1 - y0) / (x1 - x0))
    gap, caption = 12, 22
    width_px, height_px = columns * side + (columns + 1) * gap, rows * (height + caption) + (rows + 1) * gap
    picture = Image.new("RGB", (width_px, height_px), _PAPER)
    canvas = ImageDraw.Draw(picture)
    font = _font(max(9, round(side / 17)))
    for index, episode in enumerate(episodes):
        left = gap + (index % columns) * (side + gap)
        top = gap + (index // columns) * (height + caption + gap)
        here = index, min(step, len(episode["path"]) - 1)
        if here not in rooms:
            rooms[here] = _room(data, episode, (side, height), here[1])
        picture.paste(rooms[here], (left, top))
        words, colour = _caption(episode, step)
        canvas.text((left, top + height + 4), words, fill=colour, font=font)
    return picture


def _room(data: Json, episode: Json, size: tuple[int, int], step: int) -> Picture:
    """Draw one room, larger than needed and scaled down, for smooth edges."""
    from PIL import Image, ImageDraw

    x0, y0, x1, _ = data["extent"]
    width, height = size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING
    scale = width / (x1 - x0)
    unit = width / 200  # line widths follow the room's size

    def at(point: list[float]) -> tuple[float, float]:
        return (point[0] - x0) * scale, (point[1] - y0) * scale

    picture = Image.new("RGB", (width, height), _ROOM)
    canvas = ImageDraw.Draw(picture)

    def disc(point: list[float], radius: float, fill: str, outline: str | None = None) -> None:
        x, y = at(point)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline, round(1.5 * unit))

    def line(points: list[list[float]], colour: str, thickness: float) -> None:
        if len(points) > 1:
            canvas.line([at(point) for point in points], colour, round(thickness * unit), joint="curve")

    for rx0, ry0, rx1, ry1 in episode.get("rects") or []:
        canvas.rectangle((*at([rx0, ry0]), *at([rx1, ry1])), _WALL)
    path, plans = episode["path"], episode.get("imagined") or []
    disc(episode["goal"], (data.get("success_radius") or 2) * scale, _GOAL_FILL, _GOAL)
    line(path, _FAINT, 1.6)
    line(path[: step + 1], _PATH, 2.2)
    disc(episode["start"], 3 * unit, _ROOM, _MUTED)
    planned = next((k for k in range(min(step, len(plans) - 1), -1, -1) if plans[k]), None)
    if planned is not None and step < len(path) - 1:
        line([path[planned], *plans[planned]], _IMAGINED, 2)
        disc(plans[planned][-1], 2.6 * unit, _IMAGINED)
    disc(path[step], 4.6 * unit, _DOT, _PAPER)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _caption(episode: Json, step: int) -> tuple[str, str]:
    """Say how the episode stands at this step."""
    agent = title(str(episode.get("agent") or ""))
    last = len(episode["path"]) - 1
    if episode.get("success"):
        steps = episode.get("steps_to_success")
        last = last if steps is None else steps  # a recording may go on after the goal
        outcome = f"{agent}  reached, {last} steps", _GOAL
    else:
        outcome = f"{agent}  not reached, {last} steps", _INK
    return outcome if step >= last else (f"{agent}  step {step}", _MUTED)


def _font(size: int) -> FreeTypeFont:
    """Load the font that matplotlib brings along, so that every machine draws the same."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
