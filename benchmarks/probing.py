"""``probe``: what a trained world model knows, beside chance, the same networks untrained and trained on the target.

``probes.json`` of a run: ``{"probes": [{"target", "unit", "measure", "kind", "task", "horizons", "store", "num_train",
"num_test", "encoding", "rollout", "transfer", "chance", "random", "supervised", ...}]}``. The lines ``encoding`` to
``chance`` are those of :func:`worldmodel.probing.probe_rollouts`; ``random`` and ``supervised`` hold the first three of
another model each, ``supervised`` may be null.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.agents import load_run
from benchmarks.probe_data import (
    CHUNK,
    ProbeData,
    check_fits,
    choose_trajectories,
    read_trajectories,
    split_column,
)
from benchmarks.probe_targets import columns_of, make_target, standardised
from benchmarks.runs import command_line, versions, write_json
from benchmarks.seeding import derive_seed, make_generator
from worldmodel.data import TrajectoryStore
from worldmodel.jepa import JEPA, build_jepa
from worldmodel.probing import UNKNOWN_CLASS, ProbeConfig, ProbeReport, probe_rollouts

FILE = "probes.json"
LINEAR = ProbeConfig()
HORIZONS = (1, 4, 8, 16)
TRAJECTORIES = 2000
SUPERVISED_STEPS = 300
SUPERVISED_LR = 1e-3
SUPERVISED_BATCH = 32  # trajectories
LINES = ("encoding", "rollout", "transfer")

OnStep = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, of how many, scalars


def probe_run(
    run: Path,
    store_path: str | Path,
    *,
    target: str,
    config: ProbeConfig = LINEAR,
    horizons: Sequence[int] = HORIZONS,
    trajectories: int = TRAJECTORIES,
    supervised_steps: int = SUPERVISED_STEPS,
    seed: int = 0,
    device: torch.device | str = "cpu",
    out: Path | None = None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Probe a run's world model on the trajectories of a store and add the result to ``probes.json``.

    Frames up to the largest horizon are encoded, and imagined from frame 0 under the recorded actions. They lie in
    memory, so ask for fewer trajectories where images are large.

    Args:
        run: folder of the run.
        store_path: any store whose observations and actions fit the model.
        target: a column of the store or one of :data:`benchmarks.probe_targets.DERIVED`.
        config: the probe.
        horizons: frames at which errors are reported.
        trajectories: at most as many are used, drawn at random.
        supervised_steps: optimiser steps of the supervised model; 0 leaves it out.
        seed: of everything that is drawn: trajectories, weights, batches, the goal of reward and expert action.
        device: of the networks.
        out: folder of ``probes.json``; None is the run's.
        on_step: called along the training of the supervised model.

    Raises:
        ValueError: a target that is unknown or does not vary, a store that does not fit, no horizon within an episode.
    """
    horizons = sorted(set(horizons))
    if not horizons or horizons[0] < 1:
        raise ValueError(f"horizons must be frames >= 1, at least one, got {horizons}")
    if supervised_steps < 0:
        raise ValueError(f"supervised_steps must be >= 0, got {supervised_steps}")
    trained = load_run(run, device)
    model, store = trained.model, TrajectoryStore.open(store_path)
    columns = columns_of(store, target)
    check_fits(model, store)
    split_by = split_column(store, target)
    episodes, is_train = choose_trajectories(store, trajectories, split_by, seed)
    data, recorded = read_trajectories(
        store, model, columns, episodes, is_train, horizons[-1] + 1, trained.device
    )
    chosen = standardised(make_target(store, recorded, target, seed), is_train)

    def lines_of(network: JEPA, name: str) -> ProbeReport:
        encoded, rollout = encode_and_imagine(network, data)
        generator = make_generator(seed, "probe", name)
        return probe_rollouts(
            encoded, rollout, chosen.values, is_train, config, horizons=horizons, generator=generator
        )

    report = lines_of(model, "trained")
    if not report["horizons"]:
        raise ValueError(
            f"horizons must reach a frame with a known target, got {horizons} in episodes of "
            f"{data.action.shape[1]} steps"
        )
    random_model = untrained(model, data, derive_seed(seed, "probe", "weights"))
    baselines: dict[str, Any] = {"random": _only_lines(lines_of(random_model, "random")), "supervised": None}
    if supervised_steps:
        train_supervised(random_model, data, chosen.values, supervised_steps, seed, on_step)
        baselines["supervised"] = _only_lines(lines_of(random_model, "supervised"))
    result = {
        "target": target,
        "unit": chosen.unit,
        "measure": chosen.measure,
        "store": str(store_path),
        "env": store.env["id"],
        "split_by": split_by,
        **report,
        **baselines,
        "supervised_steps": supervised_steps,
        "probe": {**dataclasses.asdict(config), "hidden_dims": list(config.hidden_dims)},
        "seed": seed,
        "device": str(trained.device),
        "command": command_line(),
        "versions": versions(),
    }
    add_probe((out or run) / FILE, result)
    return result


def add_probe(path: Path, result: dict[str, Any]) -> None:
    """Add a probe to ``probes.json``; it replaces an earlier one of the same target, kind and store."""
    earlier = json.loads(path.read_text())["probes"] if path.exists() else []
    same = ("target", "kind", "store")
    kept = [probe for probe in earlier if any(probe.get(key) != result[key] for key in same)]
    write_json(path, {"probes": [*kept, result]})


@torch.no_grad()
def encode_and_imagine(model: JEPA, data: ProbeData) -> tuple[Tensor, Tensor]:
    """Encode all frames, ``(E, T, D)``, and imagine them from frame 0 on, ``(E, T - 1, D)``; both on the CPU."""
    encoded, imagined = [], []
    for first in range(0, len(data.action), CHUNK):
        rows = slice(first, first + CHUNK)
        s = model.encode({key: value[rows].to(model.device) for key, value in data.obs.items()})
        p = model.rollout(s[:, 0], data.action[rows].to(model.device))
        encoded.append(s.flatten(2).cpu())
        imagined.append(p.flatten(2).cpu())
    return torch.cat(encoded), torch.cat(imagined)


def untrained(model: JEPA, data: ProbeData, seed: int) -> JEPA:
    """Build the model's architecture with first weights, its statistics, and BatchNorm set to the training frames."""
    fresh = build_jepa(model.config, seed).to(model.device)
    fresh.normalizer.load_state_dict(model.normalizer.state_dict())
    fresh.get_buffer("action_scale").copy_(model.get_buffer("action_scale"))
    _calibrate(fresh, data)
    return fresh


@torch.no_grad()
def _calibrate(model: JEPA, data: ProbeData) -> None:
    """Set the running statistics of BatchNorm to those over training frames; leaves the model in eval mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of the batches
    model.train()
    train = data.is_train.nonzero()[:, 0]
    for rows in train.split(CHUNK) if norms else ():
        model.encode({key: value[rows].to(model.device) for key, value in data.obs.items()})
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def train_supervised(
    model: JEPA, data: ProbeData, targets: Tensor, num_steps: int, seed: int, on_step: OnStep | None = None
) -> None:
    """Train encoder and predictor in place so that one linear head reads the target off encodings and predictions.

    Only training trajectories are seen. What the architecture can do with labels, in as many steps.

    Args:
        model: untrained.
        data: the trajectories.
        targets: as in :func:`worldmodel.probing.probe_rollouts`.
        num_steps: optimiser steps, at a learning rate that falls linearly to 0.
        seed: of the head and the batches.
        on_step: called after each step.
    """
    is_class = not targets.is_floating_point()
    train = data.is_train.nonzero()[:, 0]
    known = targets[train].flatten(0, 1)
    if is_class:
        num_outputs = int(known.max()) + 1
    else:
        known = known[~known.isnan().any(dim=-1)]
        std = known.std(dim=0, correction=0)
        targets = (targets - known.mean(dim=0)) / torch.where(std > 0, std, torch.ones_like(std))
        num_outputs = targets.shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "probe", "head"))
        head = nn.Linear(int(np.prod(model.embedding_shape)), num_outputs).to(model.device)
    model.train().requires_grad_(True)
    weights = [*model.encoder.parameters(), *model.encoder_norm.parameters()]
    weights += [*model.predictor.parameters(), *model.predictor_norm.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(list(dict.fromkeys(weights)), lr=SUPERVISED_LR)
    generator = make_generator(seed, "probe", "batches")
    for step in range(num_steps):
        optimizer.param_groups[0]["lr"] = SUPERVISED_LR * (1 - step / num_steps)
        rows = train[torch.randint(len(train), (SUPERVISED_BATCH,), generator=generator)]
        s = model.encode({key: value[rows].to(model.device) for key, value in data.obs.items()})
        p = model.rollout(s[:, 0], data.action[rows].to(model.device))
        labels = targets[rows].to(model.device)
        loss = _head_loss(head(s.flatten(2)), labels) + _head_loss(head(p.flatten(2)), labels[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if on_step is not None:
            on_step("supervised", step + 1, num_steps, {"loss": float(loss.detach())})
    model.requires_grad_(False)
    _calibrate(model, data)


def _head_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Squared error or cross-entropy over known labels, 0 where there are none; ``outputs (e, T, K)``."""
    is_class = not labels.is_floating_point()
    is_known = labels != UNKNOWN_CLASS if is_class else ~labels.isnan().any(dim=-1)
    loss = F.cross_entropy if is_class else F.mse_loss
    total = loss(outputs[is_known], labels[is_known], reduction="sum")
    return total / max(1, labels[is_known].numel())


def probe_table(result: Mapping[str, Any]) -> Table:
    """Return a result as a table: one row per line, one column per horizon."""
    table = Table(title=measure_name(result), title_justify="left", header_style="bold")
    table.add_column(f"{result['kind']} probe of {result['target']}")
    for horizon in result["horizons"]:
        table.add_column(f"t = {horizon}", justify="right")
    for name, scores in report_lines(result).items():
        values = [scores[result["measure"]][str(horizon)] for horizon in result["horizons"]]
        table.add_row(name, *("–" if value is None else f"{value:.3g}" for value in values))
    return table


def report_lines(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the scores of a result by the name of their line, for people."""
    lines = {name: result[name] for name in (*LINES, "chance")}
    for baseline in ("random", "supervised"):
        for name in LINES[:2] if result[baseline] else ():
            lines[f"{baseline} {name}"] = result[baseline][name]
    return lines


def measure_name(result: Mapping[str, Any]) -> str:
    """Return what a result's numbers are: ``RMSE of the position [px]``."""
    what = str(result["target"]).replace("_", " ")
    if result["measure"] == "rmse":
        return f"RMSE of {what} [{result['unit']}]"
    return f"R² of {what}" if result["measure"] == "r2" else f"accuracy of {what}"


def _only_lines(report: ProbeReport) -> dict[str, Any]:
    return {name: report[name] for name in LINES}
