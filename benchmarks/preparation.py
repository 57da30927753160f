"""From a store to what training needs: episodes by split, the model for its shapes, embeddings of all frames."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.collecting import RECORDED, renderer
from benchmarks.recipes import CollectConfig, Recipe
from benchmarks.runs import RunError, read_config
from envs.registration import registered_ids
from worldmodel.data import ResidentWindows, StreamingWindows, TrajectoryStore
from worldmodel.jepa import JEPA, ModelConfig, build_jepa

Windows = ResidentWindows | StreamingWindows
ENCODE_ROWS = 4096  # frames encoded at once


def split_episodes(recipe: Recipe, store: TrajectoryStore) -> dict[str, np.ndarray]:
    """Part the store's training episodes into "train" and "val"; layouts do not straddle the two if there are several.

    Raises:
        ValueError: the store has no episodes of its split "train".
    """
    episodes = store.episodes
    ours = episodes["episode_index"][np.asarray(episodes["split"]) == "train"]
    if len(ours) == 0:
        found = ", ".join(sorted(set(episodes["split"]))) or "no episodes"
        raise ValueError(f"a store to train on must have episodes of the split 'train', got {found}")
    fraction = recipe.objective.val_fraction
    if fraction == 0 or len(ours) < 2:
        return {"train": ours, "val": np.empty(0, np.int64)}
    has_layouts = "layout_id" in episodes and len(np.unique(episodes["layout_id"])) > 1
    shares = {"train": 1 - fraction, "val": fraction}
    split = store.split_episodes(shares, seed=0, by="layout_id" if has_layouts else "episode")
    return {name: np.intersect1d(indices, ours) for name, indices in split.items()}


def with_collection_of(recipe: Recipe, store: TrajectoryStore) -> Recipe:
    """Return the recipe with the settings that the store was really collected with.

    Of recordings made by other means, only the environment's arguments and the number of episodes are known.

    Raises:
        RunError: the store is of another environment than the recipe's, does not say what bounds its actions, or has no
            simulator where the recipe needs one.
    """
    if store.env["id"] != recipe.collect.env_id:
        raise RunError(
            f"recipe {recipe.name} must be trained on {recipe.collect.env_id}, got a store of {store.env['id']}; "
            f"pass --set collect.env_id={store.env['id']} to train it there"
        )
    _check_env(recipe, store)
    settings = store.metadata.get("collect", {})
    names = {f.name for f in dataclasses.fields(CollectConfig)}
    if settings:
        collect = CollectConfig(**{key: value for key, value in settings.items() if key in names})
    else:
        collect = dataclasses.replace(
            recipe.collect, env_kwargs=dict(store.env["kwargs"]), policy=RECORDED, policy_kwargs={}
        )
    return dataclasses.replace(recipe, collect=dataclasses.replace(collect, num_episodes=store.num_episodes))


def _check_env(recipe: Recipe, store: TrajectoryStore) -> None:
    if "action" not in store.spec or len(store.spec["action"].shape) != 1:
        raise RunError(f"a store to train on must have actions (A,), got {', '.join(store.spec)}")
    num, bounds = store.spec["action"].shape[0], store.env.get("action") or {}
    is_whole = "kwargs" in store.env and {"low", "high", "max_norm"} <= bounds.keys()
    if not is_whole or not len(bounds["low"]) == len(bounds["high"]) == num:
        raise RunError(
            f"a store to train on must say its env's kwargs and what bounds its {num} actions, as EnvSpec of "
            f"worldmodel.data does with action_low and action_high, got {store.env}"
        )
    if recipe.distill is not None and store.env["id"] not in registered_ids():
        raise RunError(
            f"recipe {recipe.name} lets its planner correct the policy in the simulator, got a store of "
            f"{store.env['id']}, which is not registered; pass --set distill=null"
        )


def store_facts(store: TrajectoryStore) -> dict[str, Any]:
    """Return what a run says about the store that it was trained on."""
    return {
        "path": str(store.path),
        "env": store.env,
        "num_episodes": store.num_episodes,
        "num_steps": store.num_steps,
    }


def open_store_of(run: Path) -> TrajectoryStore:
    """Open the store that a run was trained on.

    Raises:
        RunError: its ``config.json`` names none.
    """
    path = read_config(run).get("store", {}).get("path")
    if path is None:
        raise RunError(f"a run must name its store in config.json, got none in {run}")
    return TrajectoryStore.open(path)


def derived_keys(
    store: TrajectoryStore, keys: list[str], device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Frames of a store that holds states only are rendered in the batch, on ``device``."""
    if "pixels" in keys and "pixels" not in store.spec and "state" in store.spec:
        return {"pixels": ("state", renderer(store.env, device))}
    return {}


def label_dims(store: TrajectoryStore) -> dict[str, int]:
    """Return the columns that a supervised term can be trained on, with their number of values."""
    return {
        key: math.prod(array.shape)
        for key, array in store.spec.items()
        if len(array.shape) <= 1 and key not in ("action", "action_valid")
    }


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
        latent_dim=recipe.model.latent_dim,
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
def encode_rows(
    model: JEPA, arrays: Mapping[str, Tensor], rows: Tensor, keys: list[str], derived: Mapping[str, Any]
) -> Tensor:
    """Encode the chosen ``rows (M,)`` of stored arrays to flat embeddings ``(M, D)``, a few thousand at a time."""
    parts = []
    for chosen in rows.split(ENCODE_ROWS):
        obs = {}
        for key in keys:
            source, function = derived.get(key, (key, None))
            array = arrays[source]
            values = array[chosen.to(array.device)].to(model.device)
            obs[key] = values if function is None else function(values)
        parts.append(model.encode(obs).flatten(1))
    return torch.cat(parts)


def encode_resident(
    model: JEPA, windows: ResidentWindows, keys: list[str], derived: Mapping[str, Any]
) -> Tensor:
    """Encode all rows of the windows' episodes to flat embeddings ``(rows, D)``, in order."""
    num_rows = len(next(iter(windows.arrays.values())))
    return encode_rows(model, windows.arrays, torch.arange(num_rows), keys, derived)


class EpisodeFrames:
    """Frames of whole episodes, encoded.

    Args:
        model: whose encoder.
        store: where the episodes are.
    """

    def __init__(self, model: JEPA, store: TrajectoryStore) -> None:
        self.model, self.store = model, store
        self.keys = list(model.observation_keys)
        self.derived = derived_keys(store, self.keys, model.device)
        self.sources = list(
            dict.fromkeys(self.derived[key][0] if key in self.derived else key for key in self.keys)
        )

    def read(self, episodes: np.ndarray) -> tuple[dict[str, Tensor], np.ndarray]:
        """Return the rows of ``episodes``, one after the other, with their actions; and their lengths."""
        lengths = self.store.index.length[self.store.index.positions(episodes)]
        arrays = self.store.read([*self.sources, "action"], episodes)
        return {key: torch.from_numpy(array) for key, array in arrays.items()}, lengths

    def encode(self, arrays: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """Return the flat embeddings ``(rows, D)``."""
        return encode_rows(self.model, arrays, rows, self.keys, self.derived)


@torch.no_grad()
def encode_episodes(
    model: JEPA, store: TrajectoryStore, episodes: np.ndarray, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Encode all frames of some episodes, reading some thousand frames at a time.

    Returns:
        Flat embeddings ``(rows, D)`` of ``dtype``, actions ``(rows, A)`` and offsets ``(E + 1,)`` of the episodes.
    """
    frames, embeddings, actions = EpisodeFrames(model, store), [], []
    offsets = np.append(0, store.index.length[store.index.positions(episodes)].cumsum())
    for block in np.array_split(episodes, -(-int(offsets[-1]) // ENCODE_ROWS)):
        arrays, length = frames.read(block)
        embeddings.append(frames.encode(arrays, torch.arange(int(length.sum()))).to(dtype))
        actions.append(arrays["action"])
    return torch.cat(embeddings), torch.cat(actions).to(model.device), torch.from_numpy(offsets)


def choose_episodes(episodes: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return at most ``most`` of the episodes, drawn by ``seed``, in their order."""
    if len(episodes) <= most:
        return episodes
    return np.sort(np.random.default_rng(seed).choice(episodes, most, replace=False))
