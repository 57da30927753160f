"""Speed of the MuJoCo tasks on one core, beside MuJoCo used world by world: ``mj_step`` and ``mujoco.Renderer``."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import torch

from benchmarks.speed.envs import per_second
from envs.collect import collect
from envs.mujoco.cart_pole import CartPole
from envs.mujoco.point_maze import PointMaze
from envs.mujoco.push_policy import BlockWaypoints
from envs.mujoco.push_t import PushT
from envs.mujoco.reacher import Reacher
from envs.mujoco.renderer import MujocoRenderer
from envs.policies import CorrelatedNoise

Task = PointMaze | Reacher | PushT | CartPole
TARGETS: dict[str, float | None] = {"point maze": 10e3, "push-t": 5e3}  # frames/s collected


def run(smoke: bool = False) -> list[dict[str, Any]]:
    """Measure collection with 64 x 64 pixels, and steps alone; the caller sets the number of threads.

    Without an OpenGL context there is nothing to compare frames with, and their rows say so by having no comparison.
    """
    num, steps, repetitions = (16, 4, 1) if smoke else (512, 25, 3)
    tasks: dict[str, Task] = {
        "point maze": PointMaze(),
        "reacher": Reacher(),
        "push-t": PushT(),
        "cart-pole": CartPole(),
    }
    return [row for name, sim in tasks.items() for row in _rows(name, sim, num, steps, repetitions)]


def _rows(name: str, sim: Task, num: int, steps: int, repetitions: int) -> list[dict[str, Any]]:
    state = sim.initial(num, torch.Generator().manual_seed(0))
    one = _one_world(sim)
    action = torch.rand((num, sim.action_dim), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return [
        {
            "name": f"{name}, collected with 64x64 frames",
            "value": per_second(lambda: _collect(sim, num, steps), num * (steps + 1), repetitions),
            "unit": "frames/s",
            "target": TARGETS.get(name),
            **_rendered(sim, steps * 4, repetitions),
        },
        {
            "name": f"{name}, steps of {sim.num_substeps} substeps",
            "value": per_second(lambda: sim.transition(state, action), num, repetitions),
            "unit": "steps/s",
            "target": None,
            "baseline_name": "mj_step, one world",
            "baseline_value": per_second(
                lambda: _step_one(one, sim.num_substeps, steps * 4), steps * 4, repetitions
            ),
        },
    ]


def _collect(sim: Task, num: int, steps: int) -> None:
    policy = BlockWaypoints() if isinstance(sim, PushT) else CorrelatedNoise()  # noise hardly meets the block
    collect(sim, policy, num, steps, torch.Generator().manual_seed(0), keys=("pixels", "proprio"))


def _step_one(model: mujoco.MjModel, num_substeps: int, steps: int) -> None:
    """Advance one world as a loop in Python does."""
    data, random = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(steps):
        data.ctrl[:] = random.uniform(-1, 1, model.nu)
        mujoco.mj_step(model, data, num_substeps)


def _one_world(sim: Task) -> mujoco.MjModel:
    """Return the model of one world, with its walls in their places."""
    model = mujoco.MjModel.from_xml_string(sim.xml)
    for name, values in sim.fields(sim.initial(1, torch.Generator().manual_seed(0))).items():
        getattr(model, name)[:] = values[0].numpy()
    return model


def _rendered(sim: Task, steps: int, repetitions: int) -> dict[str, Any]:
    """One world that is stepped and drawn by MuJoCo, as environments of one world are."""
    try:
        renderer = MujocoRenderer(_one_world(sim), 64)
    except RuntimeError:
        return {"baseline_name": None, "baseline_value": None}
    random = np.random.default_rng(0)

    def prepare(world: int, model: mujoco.MjModel, data: mujoco.MjData) -> None:  # noqa: ARG001
        data.ctrl[:] = random.uniform(-1, 1, sim.action_dim)
        mujoco.mj_step(model, data, sim.num_substeps)

    value = per_second(lambda: renderer(steps, prepare), steps, repetitions)
    renderer.close()
    return {"baseline_name": "mj_step and mujoco.Renderer, one world", "baseline_value": value}
