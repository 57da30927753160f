"""Checkpoints: a folder with ``config.json`` and ``model.safetensors``, and nothing that runs when it is loaded.

A checkpoint carries all that inference needs: architecture, weights, normalisation statistics (they are buffers),
and whatever the recipe adds under ``"extra"`` (environment, action bounds, training settings, software versions).
``config.json`` holds the SHA-256 of the weights and of itself, so a changed byte is found at loading.
Writing is atomic: a kill leaves the previous folder or the next one, never a half of each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from worldmodel.jepa import JEPA, ModelConfig, build_jepa

FORMAT = "worldmodel-checkpoint/1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one sentence."""


def state_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the module's state as contiguous copies on the CPU, so that shared weights are stored twice."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def save_folder(path: Path | str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write ``config`` and ``tensors`` as the folder ``path``, replacing what was there in one rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        blob = safetensors.torch.save(dict(tensors))
        (staging / "model.safetensors").write_bytes(blob)
        full = {"format": FORMAT, **config, "sha256": hashlib.sha256(blob).hexdigest()}
        full["config_sha256"] = _config_digest(full)
        (staging / "config.json").write_text(json.dumps(full, indent=2) + "\n")
        for file in staging.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        staging.chmod(0o755)
        if path.exists():
            retired = staging.with_name(staging.name + ".old")
            path.rename(retired)
            staging.rename(path)
            shutil.rmtree(retired)
        else:
            staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _recover(path: Path) -> None:
    """Bring back the previous folder when a kill fell between the two renames of :func:`save_folder`."""
    retired = sorted(path.parent.glob(f".{path.name}.*.old"))
    if retired and not path.exists():
        retired[-1].rename(path)


def _config_digest(config: Mapping[str, Any]) -> str:
    """Digest of a configuration without its own digest, whatever the order and spacing of its JSON."""
    rest = {key: value for key, value in config.items() if key != "config_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def load_folder(path: Path | str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a checkpoint folder of one ``kind``: "jepa", "critic" or "policy".

    Raises:
        CheckpointError: a file is missing or damaged, the weights do not match the recorded SHA-256, or the format
            is another one.
    """
    path = Path(path)
    _recover(path)
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise CheckpointError(f"checkpoint must have the file {name}, got {path} without it")
    try:
        config = json.loads((path / "config.json").read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"config.json must be JSON, got {path / 'config.json'}: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        got = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise CheckpointError(f"checkpoint format must be {FORMAT}, got {got!r} in {path}")
    if config.get("kind") != kind:
        raise CheckpointError(f"checkpoint kind must be {kind!r}, got {config.get('kind')!r} in {path}")
    if _config_digest(config) != config.get("config_sha256"):
        raise CheckpointError(
            f"config.json must have the SHA-256 recorded in it, got another in {path}: "
            "it was changed or damaged after it was written"
        )
    blob = (path / "model.safetensors").read_bytes()
    digest = hashlib.sha256(blob).hexdigest()
    if digest != config.get("sha256"):
        raise CheckpointError(
            f"model.safetensors must have the SHA-256 recorded in config.json, got {digest[:12]}… in {path}: "
            "the file was changed or damaged after it was written"
        )
    try:
        return config, safetensors.torch.load(blob)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"model.safetensors must be a safetensors file, got {path}: {error}") from error


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Copy ``tensors`` into ``module``, naming the first one that does not fit.

    Raises:
        CheckpointError: names or shapes differ from the module's.
    """
    own = module.state_dict()
    for name in sorted({*own, *tensors}):
        if name not in tensors or name not in own:
            where_to = "checkpoint" if name in own else "architecture"
            raise CheckpointError(
                f"weights must fit the architecture, got {name!r} missing in the {where_to} ({where})"
            )
        if own[name].shape != tensors[name].shape:
            raise CheckpointError(
                f"weights must fit the architecture, got {name!r} of shape {tuple(tensors[name].shape)} for "
                f"{tuple(own[name].shape)} ({where})"
            )
    module.load_state_dict(dict(tensors))


def save_jepa(path: Path | str, model: JEPA, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``model`` as the checkpoint folder ``path``; ``extra`` is JSON kept beside the architecture."""
    config = {"kind": "jepa", "model": dataclasses.asdict(model.config), "extra": dict(extra or {})}
    save_folder(path, config, state_tensors(model))


def load_jepa(path: Path | str, device: torch.device | str = "cpu") -> tuple[JEPA, dict[str, Any]]:
    """Load a JEPA and its ``extra`` from the folder ``path``; the model is in evaluation mode.

    Raises:
        CheckpointError: the folder is not a usable JEPA checkpoint.
    """
    config, tensors = load_folder(path, "jepa")
    try:
        model = build_jepa(ModelConfig.from_json(config["model"]), seed=0)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"config.json must describe a model, got {path}: {error}") from error
    load_state(model, tensors, path)
    return model.to(device).eval(), config.get("extra", {})
