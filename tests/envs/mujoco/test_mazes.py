"""Mazes are connected, their splits disjoint, and ways in them the shortest."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from scipy.sparse import lil_matrix
from scipy.sparse.csgraph import dijkstra

from envs.mujoco import mazes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [5, 7])
def test_drawn_mazes_are_connected_and_differ(size):
    drawn = mazes.draw_mazes(300, size, generator(), "train")
    assert all(label(~maze)[1] == 1 for maze in drawn.numpy())
    assert int(drawn.sum((1, 2)).max()) <= mazes.max_walls(size)
    assert float(drawn.sum((1, 2)).float().mean()) > 0.9 * mazes.max_walls(size)
    assert len(mazes.maze_number(drawn).unique()) >= 290


def test_connectedness_is_that_of_an_independent_labelling():
    drawn = torch.rand((500, 7, 7), generator=generator()) < 0.35
    expected = torch.tensor([label(~maze)[1] <= 1 for maze in drawn.numpy()])
    assert 20 < int(expected.sum()) < 480
    assert torch.equal(mazes.is_connected(drawn), expected)


def test_splits_share_no_maze_and_a_fifth_is_held_out():
    train, held = (mazes.draw_mazes(400, 7, generator(), split) for split in ("train", "eval"))
    assert not mazes.is_held_out(train).any()
    assert mazes.is_held_out(held).all()
    anything = torch.rand((4000, 7, 7), generator=generator(1)) < 0.35
    assert abs(float(mazes.is_held_out(anything).float().mean()) - 0.2) < 0.03


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split must be"):
        mazes.draw_mazes(1, 7, generator(), "test")


def reference_distances(maze, goal):
    """Dijkstra over the centres of the cells."""
    size = len(maze)
    graph = lil_matrix((size * size, size * size))
    for row, col in np.argwhere(~maze):
        for drow in (-1, 0, 1):
            for dcol in (-1, 0, 1):
                to = row + drow, col + dcol
                corners = [(row, to[1]), (to[0], col), to]
                if (drow or dcol) and all(
                    0 <= r < size and 0 <= c < size and not maze[r, c] for r, c in corners
                ):
                    graph[row * size + col, to[0] * size + to[1]] = math.hypot(drow, dcol)
    return dijkstra(graph.tocsr(), indices=goal[0] * size + goal[1]).reshape(size, size)


def test_distances_are_dijkstra_s():
    drawn = mazes.draw_mazes(20, 7, generator(), "train")
    for maze in drawn:
        cell = (~maze).nonzero()[3]
        ours = mazes.distances_to(maze[None], mazes.centre_of(cell, 7)[None])[0]
        expected = reference_distances(maze.numpy(), cell.tolist())
        np.testing.assert_allclose(ours[~maze], expected[~maze.numpy()], rtol=1e-5)
        assert torch.isinf(ours[maze]).all()


def test_the_way_leads_to_the_goal_and_its_length_falls_by_every_step_at_least():
    drawn = mazes.draw_mazes(50, 7, generator(), "train")
    free = (~drawn).flatten(1).float()
    start, goal = (
        mazes.centre_of(torch.stack([cell // 7, cell % 7], -1), 7)
        for cell in torch.multinomial(free, 2).unbind(1)
    )
    position, expected = start, None
    for _ in range(400):
        target, length = mazes.way_to(drawn, position, goal)
        if expected is not None:
            assert (length <= expected + 2e-4).all()  # less where a corner can be cut
        ahead = target - position
        step = ahead * (0.1 / ahead.norm(dim=-1, keepdim=True).clamp_min(0.1))
        position = position + step
        cell = mazes.cell_of(position, 7)
        assert not drawn[torch.arange(50), cell[:, 0], cell[:, 1]].any()
        expected = length - step.norm(dim=-1)
    assert (position - goal).norm(dim=-1).max() < 1e-4


def test_many_positions_per_task_get_the_same_ways_as_one():
    drawn = mazes.draw_mazes(6, 7, generator(), "train")
    goal = mazes.centre_of(torch.stack([(~maze).nonzero()[0] for maze in drawn]), 7)
    position = (torch.rand((6, 40, 2), generator=generator()) - 0.5) * 6.8
    many = mazes.way_to(drawn.repeat_interleave(40, 0), position.flatten(0, 1), goal.repeat_interleave(40, 0))
    for task in range(6):
        for index in range(0, 40, 7):
            target, length = mazes.way_to(drawn[task, None], position[task, index, None], goal[task, None])
            assert torch.equal(target[0], many[0][task * 40 + index])
            assert torch.equal(length[0], many[1][task * 40 + index])


def test_mazes_that_differ_in_one_cell_only_are_told_apart():
    drawn = torch.zeros((2, 7, 7), dtype=torch.bool)
    drawn[:, 6, 6] = True  # the highest bit, beside which float64 has no room for the lowest
    drawn[1, 0, 1] = True
    start, goal = (torch.tensor([place]).expand(2, 2) for place in ((-3.0, -3.0), (3.0, -3.0)))
    together = mazes.way_to(drawn, start, goal)
    alone = mazes.way_to(drawn[1:], start[1:], goal[1:])
    assert torch.equal(together[1][1], alone[1][0])
    assert together[1][0] < together[1][1]


def test_cells_and_centres_are_inverse():
    cells = torch.cartesian_prod(torch.arange(7), torch.arange(7))
    assert torch.equal(mazes.cell_of(mazes.centre_of(cells, 7), 7), cells)
    assert mazes.centre_of(torch.tensor([0, 6]), 7).tolist() == [3.0, -3.0]
