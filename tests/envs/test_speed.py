import pytest
import torch

from benchmarks.speed import mujoco_tasks
from benchmarks.speed.envs import naive_moving_dot, naive_two_rooms, run
from envs.moving_dot import MovingDot
from envs.two_rooms import TwoRooms


def test_the_naive_renderers_draw_the_same_images():
    sim = TwoRooms(layout="random")
    state = sim.initial(20, torch.Generator().manual_seed(0))
    difference = naive_two_rooms(state).int() - sim.pixels(state).int()
    assert difference.abs().max() <= 1
    assert torch.equal(naive_two_rooms(state)[:, 1], sim.pixels(state)[:, 1])
    dot = MovingDot()
    state = dot.initial(20, torch.Generator().manual_seed(0))
    assert (255 * naive_moving_dot(state["position"]) - dot.pixels(state)[:, 0]).abs().max() <= 0.51


def test_the_benchmark_reports_every_target_beside_its_baseline():
    threads = torch.get_num_threads()
    rows = run(smoke=True)
    assert torch.get_num_threads() == threads
    assert {row["target"] for row in rows if row["target"]} == {500e3, 25e3, 1e6}
    assert all(row["value"] > 0 for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["two rooms 2x65x65"]["value"] > by_name["two rooms 2x65x65"]["baseline_value"]
    assert by_name["moving dot 28x28"]["baseline_value"] == pytest.approx(
        by_name["moving dot, uniform fixed"]["baseline_value"]
    )


def test_mujoco_tasks_are_measured_beside_mujoco_world_by_world():
    rows = mujoco_tasks.run(smoke=True)
    assert [row["target"] for row in rows if row["target"]] == [10e3, 5e3]
    assert all(row["value"] > 0 for row in rows)
    assert all(row["baseline_value"] > 0 for row in rows if "steps of" in row["name"])
