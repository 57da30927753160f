"""Pictures by MuJoCo's own renderer: slower, one world at a time, and the reference that the rasteriser is held to."""

from __future__ import annotations

from collections.abc import Callable

import mujoco
import numpy as np
import torch
from torch import Tensor

CAMERA = "picture"


def camera_xml(half_width: float) -> str:
    """Return the MJCF of the camera that sees what a rasteriser draws: from below, so that y points down."""
    return (
        f'<camera name="{CAMERA}" pos="0 0 -10" xyaxes="1 0 0 0 -1 0" projection="orthographic" '
        f'fovy="{2 * half_width}"/>'
    )


class MujocoRenderer:
    """Draws worlds through one OpenGL context, without light, shadows, reflections or sky.

    Args:
        model: the model, which is written to, with the camera of :func:`camera_xml` and a headlight that is ambient only.
        size: pixels per side.

    Raises:
        RuntimeError: there is no OpenGL context to be had (``MUJOCO_GL=egl`` needs no display).
    """

    _refusal: str | None = None  # why there was none: asked again, MuJoCo 4.0 would abort the process

    def __init__(self, model: mujoco.MjModel, size: int) -> None:
        if MujocoRenderer._refusal is not None:
            raise RuntimeError(MujocoRenderer._refusal)
        for name in ("offwidth", "offheight"):  # of the framebuffer
            setattr(model.vis.global_, name, max(size, getattr(model.vis.global_, name)))
        try:
            self._renderer = mujoco.Renderer(model, size, size)
        except Exception as error:  # the bindings raise whatever their OpenGL library does
            sentence = (
                f"MuJoCo's renderer must have an OpenGL context, got {error!r}; try MUJOCO_GL=egl, "
                "or render_backend='raster'"
            )
            if "platform library has not been loaded" in str(error):
                MujocoRenderer._refusal = sentence
            raise RuntimeError(sentence) from error
        for flag in (
            mujoco.mjtRndFlag.mjRND_SHADOW,
            mujoco.mjtRndFlag.mjRND_REFLECTION,
            mujoco.mjtRndFlag.mjRND_SKYBOX,
        ):
            self._renderer.scene.flags[flag] = False
        self.model = model

    def __call__(self, num: int, prepare: Callable[[int, mujoco.MjModel, mujoco.MjData], None]) -> Tensor:
        """Return uint8 ``(num, 3, S, S)``; ``prepare(world, model, data)`` writes a world into model and data first."""
        data, frames = mujoco.MjData(self.model), []
        for world in range(num):
            prepare(world, self.model, data)
            mujoco.mj_forward(self.model, data)
            self._renderer.update_scene(data, CAMERA)
            frames.append(self._renderer.render().copy())
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()

    def close(self) -> None:
        """Give the OpenGL context back."""
        self._renderer.close()
