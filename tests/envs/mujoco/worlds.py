"""Worlds that the tests of the MuJoCo tasks have in common."""

import mujoco
import numpy as np
import torch

from envs.mujoco import cart_pole, mazes, push_t, reacher

SHAPED = {
    cart_pole.CartPole: cart_pole._model_xml,
    push_t.PushT: push_t._model_xml,
    reacher.Reacher: reacher._model_xml,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def varied(sim, num, seed=0):
    """Worlds that differ in every physical factor and colour, and move."""
    rng = np.random.default_rng(seed)
    variation = {
        name: rng.uniform(factor.low, factor.high, num).astype(np.float32)
        for name, factor in sim.physical.items()
    }
    variation |= {name: rng.integers(0, 256, (num, 3)).astype(np.uint8) for name in sim.colours}
    variation |= {name: rng.uniform(0.7, 1.5, num).astype(np.float32) for name in sim.drawn_sizes}
    variation["camera_zoom"] = rng.uniform(0.7, 1.4, num).astype(np.float32)
    variation["camera_shift"] = rng.uniform(-0.3, 0.3, (num, 2)).astype(np.float32)
    state = sim.initial(num, generator(seed), variation)
    return {**state, "velocity": torch.from_numpy(rng.normal(0, 2, (num, sim.model.nv)).astype(np.float32))}


def compiled(sim, state, world):
    """The model of one world: walls and shapes compiled as they are, its own physical factors, constants recomputed."""
    shapes = {name: float(state[name][world]) for name, factor in sim.physical.items() if not factor.fields}
    model = mujoco.MjModel.from_xml_string(SHAPED[type(sim)](**shapes) if shapes else sim.xml)
    if "walls" in state:
        spec = mujoco.MjSpec.from_string(sim.xml)
        for number, cell in enumerate(state["walls"][world].nonzero()):
            spec.geom(f"wall{number}").pos[:2] = mazes.centre_of(cell, sim.size).numpy()
        model = spec.compile()
    for name, factor in sim.physical.items():
        for field in factor.fields:
            getattr(model, field)[:] *= float(state[name][world])
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
