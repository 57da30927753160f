"""Worlds whose bodies have other shapes: the fields of a model that is compiled for each shape.

A length decides more fields than the one that it is written in: masses, inertia, where bodies and geoms hang, and the
volumes that contacts are looked for in. Changed alone, a stale volume lets things pass through each other silently. So
MuJoCo's compiler works them all out, once per shape, and a batch is given every field in which models can differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mujoco
import numpy as np
import torch
from mujoco.batch import MODEL_FIELDS
from torch import Tensor

from envs.state import State

MOST_KEPT = 20_000  # shapes, of about a kilobyte


class Shapes:
    """Fields of the models of different shapes.

    Args:
        xml: factors -> the model as MJCF; all have the same joints and geoms.
        ranges: name of each factor -> its lowest and highest value. At 1 the model is the plain one.
    """

    def __init__(self, xml: Callable[..., str], ranges: Mapping[str, tuple[float, float]]) -> None:
        self._xml, self.names = xml, tuple(ranges)
        self._kept: dict[tuple[float, ...], dict[str, np.ndarray]] = {}
        self._last: tuple[np.ndarray, dict[str, Tensor]] = (np.empty(0), {})  # worlds keep their shapes
        plain = mujoco.MjModel.from_xml_string(xml())
        ends = [self._compile({name: value}) for name, span in ranges.items() for value in span]
        self.fields = tuple(
            name
            for name in sorted(MODEL_FIELDS)
            if not name.startswith("opt.")
            and any(not np.array_equal(getattr(plain, name), getattr(end, name)) for end in ends)
        )

    def __call__(self, state: State) -> dict[str, Tensor]:
        """Return every field of :attr:`fields`, float64 ``(B, ...)``, for the factors of ``state``, ``(B,)`` each."""
        device = state[self.names[0]].device
        values = torch.stack([state[name] for name in self.names], 1).cpu().numpy()
        if not np.array_equal(values, self._last[0]):
            shapes, which = np.unique(values, axis=0, return_inverse=True)
            models = [self._fields_of(tuple(map(float, shape))) for shape in shapes]
            stacked = {name: np.stack([model[name] for model in models]) for name in self.fields}
            which = which.reshape(-1)
            self._last = (
                values,
                {name: torch.from_numpy(each[which]).to(device) for name, each in stacked.items()},
            )
        return dict(self._last[1])

    def _fields_of(self, shape: tuple[float, ...]) -> dict[str, np.ndarray]:
        if shape not in self._kept:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            model = self._compile(dict(zip(self.names, shape, strict=True)))
            self._kept[shape] = {name: np.array(getattr(model, name)) for name in self.fields}
        return self._kept[shape]

    def _compile(self, shape: Mapping[str, float]) -> mujoco.MjModel:
        return mujoco.MjModel.from_xml_string(self._xml(**shape))
