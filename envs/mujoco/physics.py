"""Steps of a MuJoCo model for a batch of worlds, as a pure function of their states."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np
import torch
from mujoco.batch import Batch
from torch import Tensor

STATIC_GEOMS = frozenset(
    {"geom_pos", "geom_rgba"}
)  # may differ between worlds without anything derived from it


class Physics:
    """Advances worlds of one model; what differs between worlds is given with every call.

    Nothing is carried over: positions, velocities, controls and model fields of a world decide its next state, and the
    solver starts cold. So a batch is bit for bit the worlds one by one, each with ``mujoco.mj_step``.

    Args:
        model: the compiled model; ``timestep`` and everything that all worlds share are taken from it.
        num_substeps: MuJoCo steps per call.
        fields: names of model fields that each world has values of its own for.
    """

    def __init__(self, model: mujoco.MjModel, num_substeps: int, fields: tuple[str, ...] = ()) -> None:
        self.model, self.num_substeps, self.fields = model, num_substeps, fields
        # Derived constants, such as inverse weights, follow from these fields; walls that no body carries need none.
        self._needs_constants = bool(set(fields) & set(mujoco.MjModel._setconst_inputs) - STATIC_GEOMS)
        self._batch: Batch | None = None

    def step(
        self, qpos: Tensor, qvel: Tensor, ctrl: Tensor, fields: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return positions ``(B, nq)`` and velocities ``(B, nv)`` after ``num_substeps``, float32.

        Args:
            qpos: ``(B, nq)``.
            qvel: ``(B, nv)``.
            ctrl: ``(B, nu)``.
            fields: model field -> ``(B, ...)``, exactly those of the constructor.

        Raises:
            ArithmeticError: MuJoCo reports that a world became unstable (it would silently start again).
        """
        num = len(qpos)
        batch = self._load(qpos, qvel, ctrl, fields)
        batch.step(ids=np.arange(num), nstep=self.num_substeps)
        self._check(batch, num)
        device = qpos.device
        return tuple(
            torch.from_numpy(batch.bind(name)[:num].astype(np.float32)).to(device)
            for name in ("qpos", "qvel")
        )  # type: ignore[return-value]

    def poses(self, position: Tensor, fields: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return where the geoms are at ``position (B, nq)``: centres ``(B, G, 3)`` and rotations ``(B, G, 3, 3)``.

        Raises:
            ArithmeticError: a position is not finite.
        """
        num, nothing = len(position), torch.zeros(len(position), 1)
        batch = self._load(
            position, nothing.expand(-1, self.model.nv), nothing.expand(-1, self.model.nu), fields
        )
        found = [batch.bind(name) for name in ("geom_xpos", "geom_xmat")]
        batch.forward(ids=np.arange(num), stage=mujoco.mjtStage.mjSTAGE_POS)
        self._check(batch, num)
        centres, rotations = (
            torch.from_numpy(value[:num].astype(np.float32)).to(position.device) for value in found
        )
        return centres, rotations.view(num, -1, 3, 3)

    def _load(self, qpos: Tensor, qvel: Tensor, ctrl: Tensor, fields: Mapping[str, Tensor]) -> Batch:
        if set(fields) != set(self.fields):
            raise ValueError(f"fields must be {', '.join(self.fields)}, got {', '.join(fields)}")
        num = len(qpos)
        if self._batch is None or self._batch.nsim < num:
            self._batch = Batch(self.model, nsim=1 << (num - 1).bit_length(), nthread=torch.get_num_threads())
        batch = self._batch
        for name, values in fields.items():
            batch.expand(name)[:num] = values.cpu().numpy()
        for name, values in (("qpos", qpos), ("qvel", qvel), ("ctrl", ctrl)):
            batch.bind(name)[:num] = values.cpu().numpy()
        for name in ("time", "qacc_warmstart"):
            batch.bind(name)[:num] = 0.0
        if self._needs_constants:
            batch.set_const(ids=np.arange(num))
        return batch

    @staticmethod
    def _check(batch: Batch, num: int) -> None:
        raised = batch.warning[:num].any(0)
        if raised.any():
            names = [mujoco.mjtWarning(int(kind)).name for kind in raised.nonzero()[0]]
            batch.reset()
            raise ArithmeticError(f"a simulation must stay finite, got {', '.join(names)}")
