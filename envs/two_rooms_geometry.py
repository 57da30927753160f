"""Geometry of Two Rooms: swept motion with sliding, and exact shortest paths through the door.

Coordinates are pixels of the 65 x 65 world, x to the right and y down; pixel i covers [i - 0.5, i + 0.5].
What is free for the dot's centre is a closed polygon: two convex rooms joined by a convex corridor (the
door). Every face is moved ``CLEARANCE`` into the free side, so that rounding can never put the dot inside a
wall.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WORLD_SIZE = 65  # [px]
BORDER = (4, 60)  # index of the border lines, one pixel thick
CLEARANCE = 1e-3  # [px]
LOW = BORDER[0] + 0.5 + CLEARANCE  # smallest free coordinate [px]
HIGH = BORDER[1] - 0.5 - CLEARANCE


class Faces(NamedTuple):
    """The wall's faces as seen by the dot's centre, each ``(B,)`` [px]."""

    left: Tensor  # x of the wall's left face; the left room is x <= left
    right: Tensor  # x of the right face
    top: Tensor  # smallest free y in the door
    bottom: Tensor  # largest free y in the door


class Path(NamedTuple):
    """Shortest path start -> (gate_x, first_y) -> (gate_x, second_y) -> end, in the order of travel."""

    first: Tensor  # (B, 2) where the path enters the corridor
    second: Tensor  # (B, 2) where it leaves the corridor
    length: Tensor  # (B,) [px]
    same_room: Tensor  # (B,) bool: the straight line is free, the two gates mean nothing


def faces(
    wall_x: Tensor, door_y: Tensor, wall_width: Tensor, door_size: Tensor, margin: float = 0.0
) -> Faces:
    """Return the faces of a layout; ``margin`` [px] narrows the door (but never past its middle)."""
    half = (door_size / 2 - CLEARANCE - margin).clamp_min(0.0)
    half_width = wall_width / 2 + CLEARANCE
    top, bottom = (door_y - half).clamp_min(LOW), (door_y + half).clamp_max(HIGH)
    return Faces(wall_x - half_width, wall_x + half_width, top, bottom)


def is_free(position: Tensor, wall: Faces) -> Tensor:
    """Return ``(B,)`` bool: ``position (B, 2)`` lies in a room or in the door."""
    x, y = position.unbind(-1)
    in_world = ((position >= LOW) & (position <= HIGH)).all(-1)
    beside = (x <= wall.left) | (x >= wall.right)
    return in_world & (beside | ((y >= wall.top) & (y <= wall.bottom)))


def slide(position: Tensor, displacement: Tensor, wall: Faces) -> Tensor:
    """Move along a straight line to the first hit, then slide along what was hit.

    The rest of the displacement loses its normal component. It is then parallel to an axis, so it ends at its
    end point or at the next face, where nothing tangential is left: two legs are exact, whatever the speed.

    Args:
        position: ``(B, 2)`` free points [px].
        displacement: ``(B, 2)`` [px], of any length.
        wall: The faces of each world.

    Returns:
        ``(B, 2)`` free points [px].
    """
    x, y = position.unbind(-1)
    dx, dy = displacement.unbind(-1)
    time_x, face_x, time_y, face_y = _first_hits(x, y, dx, dy, wall)

    hits_x, hits_y = (time_x <= time_y) & (time_x <= 1), (time_y < time_x) & (time_y <= 1)
    time = torch.minimum(time_x, time_y).clamp_max(1.0)
    # First leg. A face that was hit is copied, not computed: the point lies on it exactly.
    x_hit = torch.where(hits_x, face_x, x + time * dx)
    y_hit = torch.where(hits_y, face_y, y + time * dy).clamp(LOW, HIGH)
    # Second leg: along y at a face of the wall or border, or along x at an edge of the door or border.
    y_end = torch.where(hits_x, y + dy, y_hit).clamp(LOW, HIGH)
    x_end = torch.where(hits_y, x + dx, x_hit)
    blocked = hits_y & ((y_hit < wall.top) | (y_hit > wall.bottom))
    x_end = torch.where(blocked & (x_hit <= wall.left), torch.minimum(x_end, wall.left), x_end)
    x_end = torch.where(blocked & (x_hit >= wall.right), torch.maximum(x_end, wall.right), x_end).clamp(
        LOW, HIGH
    )
    # Whoever ends between the faces is in the door; this only removes rounding.
    inside = (x_end > wall.left) & (x_end < wall.right)
    y_end = torch.where(inside, y_end.clamp(wall.top, wall.bottom), y_end)
    return torch.stack([x_end, y_end], -1)


def _first_hits(
    x: Tensor, y: Tensor, dx: Tensor, dy: Tensor, wall: Faces
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return time and face of the first hit across x and across y; a time of 2 means none."""
    never = torch.full_like(x, 2.0)
    safe_dx, safe_dy = torch.where(dx == 0, 1.0, dx), torch.where(dy == 0, 1.0, dy)
    x_end, y_end = x + dx, y + dy

    border_x, border_y = x_end.clamp(LOW, HIGH), y_end.clamp(LOW, HIGH)
    time_x = torch.where(border_x != x_end, (border_x - x) / safe_dx, never)
    time_y = torch.where(border_y != y_end, (border_y - y) / safe_dy, never)

    # The x interval between the faces: entered at `enter` through `near`, left at `leave` through `far`.
    rightward = dx > 0
    near, far = torch.where(rightward, wall.left, wall.right), torch.where(rightward, wall.right, wall.left)
    starts_inside = (x > wall.left) & (x < wall.right)
    from_left = (x <= wall.left) & (x_end > wall.left)
    crosses = from_left | ((x >= wall.right) & (x_end < wall.right))
    enter = torch.where(starts_inside, 0.0, (near - x) / safe_dx).clamp(0.0, 1.0)
    exits = torch.where(rightward, x_end >= wall.right, x_end <= wall.left)
    leave = torch.where(exits & (dx != 0), (far - x) / safe_dx, never)

    y_enter = y + enter * dy
    through_door = (y_enter >= wall.top) & (y_enter <= wall.bottom)
    hits_face = crosses & ~through_door
    face_first = hits_face & (enter <= time_x)
    time_x = torch.where(face_first, enter, time_x)
    face_x = torch.where(face_first, near, border_x)

    edge = torch.where(dy > 0, wall.bottom, wall.top)
    time_edge = ((edge - y) / safe_dy).clamp_min(0.0)
    beyond = torch.where(dy > 0, y_end > wall.bottom, (y_end < wall.top) & (dy < 0))
    hits_edge = (starts_inside | (crosses & through_door)) & beyond & (time_edge <= leave)
    edge_first = hits_edge & (time_edge <= time_y)
    time_y = torch.where(edge_first, time_edge, time_y)
    face_y = torch.where(edge_first, edge, border_y)
    return time_x, face_x, time_y, face_y


def shortest_path(start: Tensor, end: Tensor, wall: Faces) -> Path:
    """Return the shortest free path between free points, exact and in closed form.

    A path between rooms crosses two gates, the ends of the corridor, at heights (y1, y2). Its length is
    convex in both, and for a fixed height at one gate the best height at the other is where the straight line
    goes, clipped to the door. Hence the optimum is the clipped straight line or one of four strings pulled
    around a corner of the door.

    Args:
        start: ``(B, 2)`` free points [px].
        end: ``(B, 2)`` free points [px].
        wall: The faces of each world.
    """
    (sx, sy), (ex, ey) = start.unbind(-1), end.unbind(-1)
    rightward = ex >= sx
    low, high = torch.minimum(sx, ex), torch.maximum(sx, ex)
    left, right = (
        wall.left.clamp(low, high),
        wall.right.clamp(low, high),
    )  # a gate behind an end is at that end
    first_x, second_x = torch.where(rightward, left, right), torch.where(rightward, right, left)

    def at_second(y_first: Tensor) -> Tensor:
        return _height(first_x, y_first, ex, ey, second_x).clamp(wall.top, wall.bottom)

    def at_first(y_second: Tensor) -> Tensor:
        return _height(sx, sy, second_x, y_second, first_x).clamp(wall.top, wall.bottom)

    straight = _height(sx, sy, ex, ey, first_x).clamp(wall.top, wall.bottom)
    first_y = torch.stack(
        [straight, wall.top, wall.bottom, at_first(wall.top), at_first(wall.bottom)]
    )  # (5, B)
    straight = _height(sx, sy, ex, ey, second_x).clamp(wall.top, wall.bottom)
    second_y = torch.stack([straight, at_second(wall.top), at_second(wall.bottom), wall.top, wall.bottom])
    lengths = (
        torch.hypot(first_x - sx, first_y - sy)
        + torch.hypot(second_x - first_x, second_y - first_y)
        + torch.hypot(ex - second_x, ey - second_y)
    )
    length, best = lengths.min(0)
    first = torch.stack([first_x, first_y.gather(0, best[None])[0]], -1)
    second = torch.stack([second_x, second_y.gather(0, best[None])[0]], -1)
    same_room = (high <= wall.left) | (low >= wall.right)
    return Path(first, second, torch.where(same_room, torch.hypot(ex - sx, ey - sy), length), same_room)


def _height(x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, x: Tensor) -> Tensor:
    """Return y at ``x`` on the line through two points; ``y0`` where the line is vertical."""
    run = x1 - x0
    return y0 + (y1 - y0) * (x - x0) / torch.where(run == 0, 1.0, run)


def next_waypoint(start: Tensor, end: Tensor, wall: Faces, tolerance: float = 1e-2) -> Tensor:
    """Return ``(B, 2)``, the farthest of (end, second gate, first gate) that a straight line reaches."""
    path = shortest_path(start, end, wall)
    sx, sy = start.unbind(-1)

    def visible(target: Tensor, gate: Tensor) -> Tensor:
        height = _height(sx, sy, target[:, 0], target[:, 1], gate[:, 0])
        return (height >= wall.top - tolerance) & (height <= wall.bottom + tolerance)

    sees_second = visible(path.second, path.first)
    sees_end = path.same_room | (visible(end, path.first) & visible(end, path.second))
    target = torch.where(sees_second[:, None], path.second, path.first)
    return torch.where(sees_end[:, None], end, target)
