"""What can be probed: every column of a store, and quantities derived from the simulator's state.

``reward`` and ``expert_action`` are the targets of light-weight probing (arXiv 2208.12345), for one goal that all
trajectories share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.seeding import make_generator
from envs.distractors import Distractor
from envs.moving_dot import MovingDot
from envs.registration import make_simulator, registered_ids
from envs.simulator import PlanarWorld, Simulator
from envs.state import State, index_state
from worldmodel.data import TrajectoryStore
from worldmodel.jepa import require_known
from worldmodel.probing import UNKNOWN_CLASS

BOOKKEEPING = (
    "episode_index",
    "length",
    "seed",
    "split",
    "info",
)  # columns of the episodes that are no factors
MOST_CLASSES = 1000
BACKGROUND_CELLS = 4  # per side, of which "background" is the mean brightness
GOAL_CANDIDATES = 1000


@dataclass(frozen=True)
class ProbeTarget:
    """One quantity to decode.

    Attributes:
        name: as the user calls it.
        unit: of ``rmse``; empty where the store does not say it.
        measure: the one that a table shows: ``rmse``, ``r2`` or ``accuracy``.
        values: floats ``(E, T, K)``, NaN where unknown; or integer classes ``(E, T)``, -1 where unknown.
    """

    name: str
    unit: str
    measure: str
    values: Tensor


@dataclass(frozen=True)
class Recorded:
    """Episodes as a store holds them, from their first frame on.

    Attributes:
        episodes: ``(E,)`` episode indices.
        is_frame: ``(E, T)`` bool; what lies after the end of a short episode repeats its last row.
        columns: name -> ``(E, T, ...)``.
    """

    episodes: np.ndarray
    is_frame: Tensor
    columns: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Scene:
    """What a derived target is computed from: the states of all frames, ``E * T`` worlds, and the seed of the goal."""

    simulator: Simulator
    state: State
    shape: tuple[int, int]  # E, T
    seed: int


def known_targets(store: TrajectoryStore) -> list[str]:
    """Return the names that :func:`make_target` takes for a store."""
    factors = [name for name in store.episodes if name not in BOOKKEEPING]
    derived = list(DERIVED) if _has_states(store) else []
    return list(dict.fromkeys([*store.spec, *factors, *derived]))


def columns_of(store: TrajectoryStore, name: str) -> list[str]:
    """Return the step columns that a target is made from.

    Raises:
        ValueError: an unknown target; the message names the nearest known one.
    """
    require_known("target", name, known_targets(store))
    if name in store.spec:
        return [name, *(["action_valid"] if name == "action" and "action_valid" in store.spec else [])]
    return [] if name in store.episodes else ["state"]


def make_target(store: TrajectoryStore, recorded: Recorded, name: str, seed: int) -> ProbeTarget:
    """Build a target; a column of the store goes before a derived target of the same name.

    Args:
        store: where the episodes come from.
        recorded: with the columns of :func:`columns_of`.
        name: one of :func:`known_targets`.
        seed: chooses the goal of ``reward`` and ``expert_action``.

    Raises:
        ValueError: the target does not exist in this environment, or does not vary, or has too many classes.
    """
    shape = recorded.is_frame.shape
    if name in store.spec:
        target = _column(name, recorded.columns[name])
        if name == "action" and "action_valid" in recorded.columns:
            target.values[~torch.from_numpy(recorded.columns["action_valid"])] = float("nan")
    elif name in store.episodes:
        values = np.asarray(store.episodes[name])[store.index.positions(recorded.episodes)]
        target = _column(name, np.repeat(values[:, None], shape[1], axis=1))
    else:
        simulator = make_simulator(store.env["id"], **store.env.get("kwargs", {}))
        states = torch.from_numpy(recorded.columns["state"])
        scene = _Scene(
            simulator, simulator.state_from_vector(states.flatten(0, 1)), (shape[0], shape[1]), seed
        )
        function, unit, measure = DERIVED[name]
        values = function(scene).unflatten(0, shape)
        target = ProbeTarget(name, unit, measure, values.float() if values.is_floating_point() else values)
    is_class = not target.values.is_floating_point()
    target.values[~recorded.is_frame] = UNKNOWN_CLASS if is_class else float("nan")
    _check_varies(target)
    return target


def standardised(target: ProbeTarget, is_train: Tensor) -> ProbeTarget:
    """Divide each value of a column of several, whose units may differ, by its std over the training frames."""
    if target.unit or target.measure != "r2" or target.values.shape[-1] == 1:
        return target
    known = target.values[is_train].flatten(0, 1)
    known = known[~known.isnan().any(dim=-1)]
    std = known.std(dim=0, correction=0)
    scaled = (target.values - known.mean(dim=0)) / torch.where(std > 0, std, torch.ones_like(std))
    return ProbeTarget(target.name, "std", target.measure, scaled)


def _column(name: str, values: np.ndarray) -> ProbeTarget:
    """Regress floats and arrays; whole numbers, truth values and texts are classes. ``values (E, T, ...)``."""
    if values.ndim == 2 and values.dtype.kind not in "fc":
        _, classes = np.unique(values, return_inverse=True)
        return ProbeTarget(name, "", "accuracy", torch.from_numpy(classes.reshape(values.shape)))
    numbers = torch.from_numpy(values.astype(np.float32))
    return ProbeTarget(name, "", "r2", numbers.reshape(*values.shape[:2], -1))


def _has_states(store: TrajectoryStore) -> bool:
    return "state" in store.spec and store.env.get("id") in registered_ids()


def _check_varies(target: ProbeTarget) -> None:
    if target.values.is_floating_point():
        known = target.values[~target.values.isnan().any(dim=-1)]
        num = 2 if len(known) and bool((known != known[0]).any()) else min(1, len(known))
    else:
        num = len(target.values[target.values != UNKNOWN_CLASS].unique())
        if num > MOST_CLASSES:
            raise ValueError(
                f"target {target.name!r} must have at most {MOST_CLASSES} classes, got {num} in these trajectories"
            )
    if num < 2:
        raise ValueError(
            f"target {target.name!r} must vary over the trajectories to be probed, got {num or 'no'} value"
        )


def _position(scene: _Scene) -> Tensor:
    if not isinstance(scene.simulator, PlanarWorld):
        raise ValueError(f"a position must be of a point in a plane, got {scene.simulator.env_id}")
    return scene.simulator.position(scene.state)


def _velocity(scene: _Scene) -> Tensor:
    position = _position(scene).unflatten(0, scene.shape)
    velocity = torch.full_like(position, float("nan"))  # the first frame has none
    velocity[:, 1:] = position[:, 1:] - position[:, :-1]
    return velocity.flatten(0, 1)


def _layout(scene: _Scene) -> Tensor:
    if "wall_x" not in scene.state:
        raise ValueError(
            f"target 'layout' must be of an environment with layouts, got {scene.simulator.env_id}"
        )
    return torch.stack([scene.state["wall_x"], scene.state["door_y"]], dim=-1)


def _other_dot(index: int) -> Callable[[_Scene], Tensor]:
    def position(scene: _Scene) -> Tensor:
        if "other_positions" not in scene.state:
            raise ValueError(
                f"targets 'walker' and 'stationary' must be of three dots, got {scene.simulator.env_id} without them"
            )
        return scene.state["other_positions"][:, index]

    return position


def _dots_with_distractor(scene: _Scene, name: str) -> MovingDot:
    simulator = scene.simulator
    if not isinstance(simulator, MovingDot) or simulator.distractor == "none":
        raise ValueError(
            f"target {name!r} must be of dots before a distractor, got {simulator.env_id} without one"
        )
    return simulator


def _distractor(scene: _Scene) -> Tensor:
    """Which texture the background is cropped from."""
    dots = _dots_with_distractor(scene, "distractor")
    if dots.distractor != "structured":
        raise ValueError(
            f"target 'distractor' must be of textures that a crop tells apart, got {dots.distractor} noise; "
            "probe 'background' instead"
        )
    bank = Distractor(dots.distractor, dots.motion, dots.image_size, dots.textures, dots.device)
    return bank.offset(scene.state["seed"], scene.state["step"])[0]


def _background(scene: _Scene) -> Tensor:
    """Mean brightness of the distractor in a grid of cells, in [0, 1]."""
    dots = _dots_with_distractor(scene, "background")
    parts = []
    for first in range(0, len(scene.state["seed"]), 4096):
        images = dots.background(index_state(scene.state, slice(first, first + 4096))).float() / 255
        parts.append(torch.nn.functional.adaptive_avg_pool2d(images[:, None], BACKGROUND_CELLS).flatten(1))
    return torch.cat(parts)


def _shared_goal(scene: _Scene) -> State:
    """Draw one position that the agent can be at in every trajectory's world."""
    simulator = scene.simulator
    if not isinstance(simulator, PlanarWorld):
        raise ValueError(f"a goal must be a point in a plane, got {simulator.env_id}")
    first = index_state(scene.state, slice(0, None, scene.shape[1]))
    x0, y0, x1, y1 = simulator.extent
    generator = make_generator(scene.seed, "probe-goal")
    candidates = torch.rand((GOAL_CANDIDATES, 2), generator=generator) * torch.tensor([x1 - x0, y1 - y0])
    for point in candidates + torch.tensor([x0, y0]):
        if bool(simulator.is_reachable(first, point.expand(scene.shape[0], 2)).all()):
            return scene.simulator.goal_at(scene.state, point)
    raise ValueError("a goal must be reachable in all trajectories, got none; probe fewer layouts")


def _reward(scene: _Scene) -> Tensor:
    return -scene.simulator.distance(scene.state, _shared_goal(scene))[:, None]


def _expert_action(scene: _Scene) -> Tensor:
    return scene.simulator.expert(scene.state, _shared_goal(scene))


DERIVED: dict[str, tuple[Callable[[_Scene], Tensor], str, str]] = {  # function, unit, measure
    "position": (_position, "px", "rmse"),
    "velocity": (_velocity, "px per step", "rmse"),
    "layout": (_layout, "px", "rmse"),  # x of the wall, y of the door
    "walker": (_other_dot(0), "px", "rmse"),
    "stationary": (_other_dot(1), "px", "rmse"),
    "distractor": (_distractor, "", "accuracy"),
    "background": (_background, "share of the brightest", "r2"),
    "reward": (_reward, "px", "r2"),  # minus the shortest path to one goal
    "expert_action": (_expert_action, "px", "r2"),  # towards the same goal
}
