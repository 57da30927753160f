"""From a store to what training needs: episodes by split, the model for its shapes, embeddings of all frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.collecting import renderer
from benchmarks.recipes import Recipe
from worldmodel.data import ResidentWindows, StreamingWindows, TrajectoryStore
from worldmodel.jepa import JEPA, ModelConfig, build_jepa

Windows = ResidentWindows | StreamingWindows
ENCODE_ROWS = 4096  # frames encoded at once


def split_episodes(recipe: Recipe, store: TrajectoryStore) -> dict[str, np.ndarray]:
    """Return the episode indices of "train" and "val"; layouts do not straddle the two where there are several."""
    episodes = store.episodes
    fraction = recipe.objective.val_fraction
    if fraction == 0 or store.num_episodes < 2:
        return {"train": episodes["episode_index"], "val": np.empty(0, np.int64)}
    has_layouts = "layout_id" in episodes and len(np.unique(episodes["layout_id"])) > 1
    shares = {"train": 1 - fraction, "val": fraction}
    return store.split_episodes(shares, seed=0, by="layout_id" if has_layouts else "seed")


def derived_keys(store: TrajectoryStore, keys: list[str]) -> dict[str, Any]:
    """Frames of a store that holds states only are rendered in the batch."""
    if "pixels" in keys and "pixels" not in store.spec and "state" in store.spec:
        return {"pixels": ("state", renderer(store.env))}
    return {}


def make_model(recipe: Recipe, store: TrajectoryStore, seed: int) -> JEPA:
    """Build the recipe's model for the shapes of ``store``, with its statistics and action scale."""
    spec = store.spec
    derived = derived_keys(store, list(recipe.model.keys))
    shapes = {
        key: tuple(store.env["observation"][key]) if key in derived else tuple(store.key_spec(key).shape)
        for key in recipe.model.keys
    }
    config = ModelConfig(
        observation=shapes,
        action_dim=spec["action"].shape[0],
        encoder=recipe.model.encoder,
        encoder_args=recipe.model.encoder_args,
        embedding_dim=recipe.model.embedding_dim,
        predictor=recipe.model.predictor,
        predictor_args=recipe.model.predictor_args,
        target=recipe.model.target,
        ema_momentum=recipe.model.ema_momentum,
        norm=recipe.model.norm,
    )
    model = build_jepa(config, seed)
    stored = [key for key in recipe.model.keys if key not in derived]
    episodes = split_episodes(recipe, store)["train"]
    for key, statistics in store.statistics(stored, episodes).items():
        model.normalizer.set(key, torch.from_numpy(statistics["mean"]), torch.from_numpy(statistics["std"]))
    for key, (source, function) in derived.items():
        rows = store.read([source], episodes[:64])[source]
        images = function(torch.from_numpy(rows)).float()
        model.normalizer.set(key, images.mean(dim=(0, 2, 3)), images.std(dim=(0, 2, 3)))
    bounds = store.env["action"]
    scale = [max(abs(low), abs(high)) for low, high in zip(bounds["low"], bounds["high"], strict=True)]
    model.get_buffer("action_scale").copy_(torch.tensor(scale))
    return model


@torch.no_grad()
def encode_rows(model: JEPA, windows: Windows, keys: list[str], derived: Mapping[str, Any]) -> Tensor:
    """Encode all rows of the windows' episodes to flat embeddings ``(rows, D)``, in order."""
    if not isinstance(windows, ResidentWindows):
        return _encode_streamed(model, windows, keys)
    num_rows = len(next(iter(windows.arrays.values())))
    parts = []
    for first in range(0, num_rows, ENCODE_ROWS):
        rows = slice(first, first + ENCODE_ROWS)
        obs = {
            key: derived[key][1](windows.arrays[derived[key][0]][rows])
            if key in derived
            else windows.arrays[key][rows]
            for key in keys
        }
        parts.append(model.encode(obs).flatten(1))
    return torch.cat(parts)


def _encode_streamed(model: JEPA, windows: StreamingWindows, keys: list[str]) -> Tensor:
    """Encode episode by episode through windows; the last window of an episode overlaps the one before."""
    length, offsets = windows.length, windows.offsets
    parts = []
    for first, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        starts = torch.tensor([*range(first, end - length, length), end - length])
        batch = windows.gather(starts)
        embeddings = model.encode({key: batch[key] for key in keys}).flatten(2)  # (W, T, D)
        overlap = len(starts) * length - (end - first)
        parts += [embeddings[:-1].flatten(0, 1), embeddings[-1, overlap:]]
    return torch.cat(parts)
