"""From a store to the trajectories of a probe: split, first frames, observations as the model sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.preparation import derived_keys
from benchmarks.probe_targets import Recorded
from benchmarks.runs import RunError
from benchmarks.seeding import make_generator
from worldmodel.data import TrajectoryStore
from worldmodel.jepa import JEPA

TRAIN_SHARE = 0.75  # of the trajectories; the others judge
CHUNK = 100  # trajectories that are read, rendered and encoded at once


@dataclasses.dataclass(frozen=True)
class ProbeData:
    """Trajectories as the model sees them, on the CPU.

    Attributes:
        obs: key -> ``(E, T, *O)`` raw observations.
        action: ``(E, T - 1, A)``.
        is_train: ``(E,)`` bool: trajectories that anything is fitted on.
    """

    obs: dict[str, Tensor]
    action: Tensor
    is_train: Tensor


def split_column(store: TrajectoryStore, target: str) -> str:
    """Part by layout where there are several, unless the number of the layout is what is asked for."""
    layouts = store.episodes.get("layout_id")
    return (
        "layout_id"
        if layouts is not None and len(np.unique(layouts)) > 1 and target != "layout_id"
        else "episode"
    )


def check_fits(model: JEPA, store: TrajectoryStore) -> None:
    """One sentence where a store's observations or actions are not the model's."""
    keys = list(model.observation_keys)
    derived = derived_keys(store, keys)
    for key, shape in model.config.observation.items():
        if key not in store.spec and key not in derived:
            raise RunError(
                f"a store must hold the observation {key!r} that the model reads, got {', '.join(store.spec)}"
            )
        found = tuple(store.env["observation"][key] if key in derived else store.spec[key].shape)
        if found != shape:
            raise RunError(
                f"observation {key!r} of the store must have the model's shape {shape}, got {found}"
            )
    found = tuple(store.spec["action"].shape) if "action" in store.spec else ()
    if found != (model.config.action_dim,):
        raise RunError(
            f"actions of the store must have the model's shape ({model.config.action_dim},), got {found}"
        )


def choose_trajectories(
    store: TrajectoryStore, most: int, split_by: str, seed: int
) -> tuple[np.ndarray, Tensor]:
    """Draw up to ``most`` trajectories, on both sides of a split.

    Returns:
        Episode indices ``(E,)``, and bool ``(E,)``: those that probes are fitted on.

    Raises:
        ValueError: fewer than two trajectories (or layouts) to split.
    """
    if most < 2:
        raise ValueError(f"trajectories must be >= 2, got {most}")
    parts = store.split_episodes({"train": TRAIN_SHARE, "test": 1 - TRAIN_SHARE}, seed=seed, by=split_by)
    num_train = min(max(1, round(TRAIN_SHARE * most)), most - 1)
    num_train = min(len(parts["train"]), max(num_train, most - len(parts["test"])))
    generator = make_generator(seed, "probe-trajectories")
    chosen = {}
    for name, count in (("train", num_train), ("test", most - num_train)):
        order = torch.randperm(len(parts[name]), generator=generator).numpy()
        chosen[name] = np.sort(parts[name][order[:count]])
    is_train = torch.arange(len(chosen["train"]) + len(chosen["test"])) < len(chosen["train"])
    return np.concatenate([chosen["train"], chosen["test"]]), is_train


def read_trajectories(
    store: TrajectoryStore,
    model: JEPA,
    columns: Sequence[str],
    episodes: np.ndarray,
    is_train: Tensor,
    num_frames: int,
    device: torch.device,
) -> tuple[ProbeData, Recorded]:
    """Read the first frames of episodes, rendering them where the store holds states only."""
    keys = list(model.observation_keys)
    derived = derived_keys(store, keys, device)
    stored = [key for key in keys if key not in derived]
    names = list(dict.fromkeys([*stored, *(source for source, _ in derived.values()), "action", *columns]))
    lengths = store.lengths[store.index.positions(episodes)]
    frames = np.arange(min(num_frames, int(lengths.max())))
    obs: dict[str, list[Tensor]] = {key: [] for key in keys}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in ("action", *columns)}
    for first in range(0, len(episodes), CHUNK):
        part = slice(first, first + CHUNK)
        arrays = store.read(names, episodes[part])
        starts = np.cumsum(lengths[part]) - lengths[part]
        rows = starts[:, None] + np.minimum(frames, lengths[part, None] - 1)  # (e, T)
        for key in keys:
            source = derived[key][0] if key in derived else key
            seen = torch.from_numpy(arrays[source][rows])
            if key in derived:
                seen = derived[key][1](seen.flatten(0, 1).to(device)).cpu().unflatten(0, rows.shape)
            obs[key].append(seen)
        for name, parts in kept.items():
            parts.append(arrays[name][rows])
    recorded = {name: np.concatenate(parts) for name, parts in kept.items()}
    is_frame = torch.from_numpy(frames < lengths[:, None])
    action = torch.from_numpy(recorded["action"]).float()[:, :-1]
    action = torch.where(is_frame[:, 1:, None], action, torch.zeros_like(action))
    data = ProbeData({key: torch.cat(parts) for key, parts in obs.items()}, action, is_train)
    return data, Recorded(episodes, is_frame, recorded)
