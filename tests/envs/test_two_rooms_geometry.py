"""Motion and distances of Two Rooms against references that share no code with them."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from envs.two_rooms import TwoRooms
from envs.two_rooms_geometry import CLEARANCE, HIGH, LOW, faces, is_free, shortest_path, slide


def random_worlds(num, seed=0, action_std=3.0):
    """Random layouts with random walls and doors, free positions and displacements of any length."""
    generator = torch.Generator().manual_seed(seed)

    def rand(low, high):
        return low + (high - low) * torch.rand(num, generator=generator)

    layout = {
        "wall_x": rand(20, 44).round(),
        "door_y": rand(10, 54).round(),
        "wall_width": rand(1, 7),
        "door_size": rand(3, 15),
    }
    wall = faces(**layout)
    position = torch.stack([rand(LOW, HIGH), rand(LOW, HIGH)], -1)
    in_door = torch.stack([rand(0, 1) * (wall.right - wall.left) + wall.left, layout["door_y"]], -1)
    position = torch.where(is_free(position, wall)[:, None], position, in_door)
    displacement = torch.randn((num, 2), generator=generator) * action_std
    return layout, wall, position, displacement


def blocked(points, layout):
    """Say for points (B, K, 2) whether they are inside the wall or beyond the border, from the definition."""
    x, y = points[..., 0], points[..., 1]
    column = {name: value[:, None] for name, value in layout.items()}
    in_slab = (x - column["wall_x"]).abs() < column["wall_width"] / 2
    in_door = (y - column["door_y"]).abs() < column["door_size"] / 2
    beyond = (points <= 4.5).any(-1) | (points >= 59.5).any(-1)
    return beyond | (in_slab & ~in_door)


def free_prefix(position, displacement, layout, num=4001):
    """Walk along the segment in fine steps: the last point before the first blocked one."""
    share = torch.linspace(0, 1, num)[None, :, None]
    points = position[:, None] + share * displacement[:, None]
    hit = blocked(points, layout)
    first = torch.where(hit.any(1), hit.to(torch.int8).argmax(1), num)
    last = points[torch.arange(len(points)), (first - 1).clamp_min(0)]
    return last, hit.any(1)


@pytest.mark.parametrize("action_std", [0.5, 3.0, 40.0])
def test_no_path_crosses_a_wall(action_std):
    layout, wall, position, displacement = random_worlds(4000, seed=1, action_std=action_std)
    end = slide(position, displacement, wall)
    assert not blocked(end[:, None], layout).any()
    assert is_free(end, wall).all()
    stop, hit = free_prefix(position, displacement, layout)
    assert hit.float().mean() > 0.02
    torch.testing.assert_close(end[~hit], (position + displacement)[~hit])
    # After a hit the dot keeps, from where the segment stops, one of its two components at most.
    tolerance = 2e-3 + displacement.norm(dim=-1) / 4000 * 1.5
    apart = (end - stop).abs()[hit]
    assert (apart.amin(-1) <= tolerance[hit]).all()
    # The slide is itself free: every point between the stop and the end.
    between, hit_between = free_prefix(stop, end - stop, layout, num=1001)
    assert (((between - end).norm(dim=-1) <= 2 * tolerance) | ~hit_between).all()


def test_a_blocked_dot_slides_the_whole_tangential_rest():
    wall = faces(*(torch.tensor([value]) for value in (32.0, 18.0, 3.0, 9.0)))
    end = slide(torch.tensor([[29.5, 40.0]]), torch.tensor([[2.0, 1.5]]), wall)
    torch.testing.assert_close(end, torch.tensor([[30.5 - CLEARANCE, 41.5]]))
    end = slide(torch.tensor([[10.0, 58.5]]), torch.tensor([[2.0, 2.0]]), wall)
    torch.testing.assert_close(end, torch.tensor([[12.0, 59.5 - CLEARANCE]]))


def test_a_step_of_fifty_pixels_stops_at_the_wall_and_passes_through_the_door():
    wall = faces(*(torch.tensor([value] * 2) for value in (32.0, 18.0, 3.0, 9.0)))
    end = slide(torch.tensor([[7.0, 40.0], [7.0, 18.0]]), torch.tensor([[50.0, 0.0]] * 2), wall)
    torch.testing.assert_close(end, torch.tensor([[30.5 - CLEARANCE, 40.0], [57.0, 18.0]]))


@pytest.mark.parametrize("mirror", [False, True])
def test_a_long_step_through_the_door_slides_on_along_the_border_of_the_other_room(mirror):
    wall = faces(*(torch.tensor([value]) for value in (32.0, 18.0, 3.0, 9.0)))
    start, step, expected = [[29.0, 14.0]], [[40.0, 64.0]], [[HIGH, HIGH]]
    if mirror:
        start, step, expected = [[35.0, 14.0]], [[-40.0, 64.0]], [[64.0 - HIGH, HIGH]]
    torch.testing.assert_close(slide(torch.tensor(start), torch.tensor(step), wall), torch.tensor(expected))


def test_a_dot_in_a_corner_stays_there():
    wall = faces(*(torch.tensor([value]) for value in (32.0, 18.0, 3.0, 9.0)))
    corner = torch.tensor([[LOW, LOW]])
    torch.testing.assert_close(slide(corner, torch.tensor([[-3.0, -2.0]]), wall), corner)


def test_a_thousand_steps_never_leave_the_free_world():
    _, wall, position, _ = random_worlds(500, seed=2)
    generator = torch.Generator().manual_seed(3)
    for _ in range(1000):
        position = slide(position, torch.randn((500, 2), generator=generator) * 4, wall)
        assert is_free(position, wall).all()


def grid_distances(layout, start, step=0.5):
    """Shortest paths on a fine grid with 32 directions, an upper bound that is at most 1.4 % too long."""
    axis = np.arange(4.75, 59.5, step)
    size = len(axis)
    grid = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="xy"), -1).reshape(1, -1, 2))  # x, y
    one = {name: torch.tensor([value], dtype=torch.float64) for name, value in layout.items()}
    free = ~blocked(grid, one)[0].numpy().reshape(size, size)
    number = np.arange(size * size).reshape(size, size)
    rows, cols, weights = [], [], []
    moves = [(1, 0), (0, 1), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1)]
    moves += [(1, 3), (3, 1), (2, 3), (3, 2), (1, -3), (3, -1), (2, -3), (3, -2)]
    for dy, dx in moves:
        a = (slice(0, size - dy), slice(max(0, -dx), size - max(0, dx)))
        b = (slice(dy, size), slice(max(0, dx), size + min(0, dx)))
        ok = free[a] & free[b]
        for share in (0.25, 0.5, 0.75):  # an edge must not cut a corner of the door
            between = grid.view(size, size, 2)[a] + share * step * torch.tensor([dx, dy])
            ok &= ~blocked(between.reshape(1, -1, 2), one)[0].numpy().reshape(ok.shape)
        rows.append(number[a][ok])
        cols.append(number[b][ok])
        weights.append(np.full(ok.sum(), step * np.hypot(dx, dy)))
    rows, cols, weights = (np.concatenate(part) for part in (rows, cols, weights))
    graph = coo_matrix((weights, (rows, cols)), shape=(size * size, size * size)).tocsr()
    source = int(np.abs(grid[0].numpy() - start).sum(1).argmin())
    points = grid[0].numpy()
    return points[source], points, dijkstra(graph, directed=False, indices=source)


@pytest.mark.parametrize(
    ("wall_x", "door_y", "start"),
    [
        (32.0, 18.0, (12.0, 50.0)),
        (24.0, 40.0, (50.0, 8.0)),
        (40.0, 54.0, (39.0, 54.0)),
        (32.0, 30.0, (29.5, 6.0)),
    ],
)
def test_distance_equals_the_shortest_path_on_a_fine_grid(wall_x, door_y, start):
    layout = {"wall_x": wall_x, "door_y": door_y, "wall_width": 3.0, "door_size": 9.0}
    source, points, reference = grid_distances(layout, start)
    reachable = np.isfinite(reference)
    ends = torch.from_numpy(points[reachable]).float()
    num = len(ends)
    wall = faces(*(torch.full((num,), value) for value in layout.values()))
    free = is_free(ends, wall)
    begin = torch.from_numpy(source).float().expand(num, 2)
    length = shortest_path(begin, ends, wall).length.numpy()[free]
    expected = reference[reachable][free]
    assert free.float().mean() > 0.99
    assert (length <= expected + 0.01).all()
    assert (length >= expected / 1.014 - 1.0).all()
    np.testing.assert_allclose(
        shortest_path(ends, begin, wall).length.numpy()[free], length, rtol=1e-5, atol=1e-4
    )


def test_distance_is_euclidean_within_a_room_and_longer_across():
    sim = TwoRooms()
    state = sim.initial(500, torch.Generator().manual_seed(0))
    for room, is_longer in (("same", False), ("other", True)):
        goal = sim.goal(state, torch.Generator().manual_seed(1), room=room)
        straight = (goal["position"] - state["position"]).norm(dim=-1)
        distance = sim.distance(state, goal)
        if is_longer:
            assert (distance >= straight - 1e-4).all()
            assert (distance > straight + 1).float().mean() > 0.4
        else:
            torch.testing.assert_close(distance, straight)


def test_distance_around_two_corners_of_the_door_has_its_closed_form():
    sim = TwoRooms()
    state = sim.goal_at(sim.initial(1, torch.Generator().manual_seed(0)), torch.tensor([30.0, 50.0]))
    goal = sim.goal_at(state, torch.tensor([34.0, 50.0]))
    corner = np.array([30.5 - CLEARANCE, 22.5 - CLEARANCE])
    expected = 2 * np.linalg.norm(corner - [30.0, 50.0]) + 3 + 2 * CLEARANCE
    assert sim.distance(state, goal).item() == pytest.approx(expected, abs=1e-4)


def test_a_goal_behind_the_wall_is_not_reached_through_it():
    sim = TwoRooms()
    state = sim.goal_at(sim.initial(1, torch.Generator().manual_seed(0)), torch.tensor([30.2, 50.0]))
    goal = sim.goal_at(state, torch.tensor([33.8, 50.0]))
    assert (goal["position"] - state["position"]).norm() < sim.success_radius
    assert not sim.success(state, goal)
