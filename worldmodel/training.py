"""The training loop: AdamW, warm-up and cosine, gradient clipping, bf16 on a GPU, and exact resumption.

One loop trains everything here (world model, predictor, critic, policy): a module that returns named loss terms, a
function from the step number to a batch, and weights. Because batch and randomness are functions of the step, a run
that was killed and resumed gives, on a CPU with the same number of threads, the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from worldmodel.checkpoint import CheckpointError, load_state, state_tensors
from worldmodel.distributed import rank_and_world_size
from worldmodel.metrics import MetricsLog

STATE_FORMAT = "worldmodel-train-state/1"
ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")

BatchFn = Callable[[int], Mapping[str, Tensor]]  # step -> batch
ProgressFn = Callable[[int, Mapping[str, float]], None]  # step, scalars
DiagnoseFn = Callable[[], Mapping[str, float]]  # scalars of the module as it is
DIAGNOSTIC = "diag_"  # prefix of their names in the log


class NonFiniteLossError(RuntimeError):
    """Training stopped because a loss term was not a number or infinite."""


@dataclass(frozen=True)
class FitConfig:
    """Hyperparameters of :func:`fit`; the objective's own live with the objective."""

    num_steps: int
    lr: float = 2e-3  # peak learning rate
    weight_decay: float = 1e-5
    warmup_steps: int = 50  # linear, from 0
    final_lr: float = 0.0  # share of the peak at the end of the cosine
    grad_clip: float = 2.0  # largest gradient norm over all parameters
    precision: str = "auto"  # float32, bfloat16, or auto: bfloat16 on a GPU
    log_every: int = 20  # steps
    checkpoint_every: int = 500  # steps
    num_diagnoses: int = 6  # label-free checks, evenly spread, the last at the end; 0: none

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "num_diagnoses"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("num_steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("lr", "grad_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be auto, float32 or bfloat16, got {self.precision!r}")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of ``step``: linear warm-up, then a cosine to ``final_lr``."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * (self.final_lr + (1 - self.final_lr) * cosine)

    def is_diagnosed(self, done: int) -> bool:
        """Whether a check is due after ``done`` steps."""
        return done * self.num_diagnoses // self.num_steps > (done - 1) * self.num_diagnoses // self.num_steps


@dataclass(frozen=True)
class FitResult:
    """What :func:`fit` did: the step reached, the last scalars, seconds spent in this process."""

    step: int
    metrics: dict[str, float]
    seconds: float


def fit(
    module: nn.Module,
    batches: BatchFn,
    weights: Mapping[str, float],
    config: FitConfig,
    *,
    run: Path,
    stage: str,
    device: torch.device | str = "cpu",
    val_batch: Mapping[str, Tensor] | None = None,
    after_step: Callable[[], None] | None = None,
    diagnose: DiagnoseFn | None = None,
    on_step: ProgressFn | None = None,
    tensorboard: bool = False,
) -> FitResult:
    """Train ``module`` until ``config.num_steps``, resuming from ``run/train_state/<stage>.safetensors`` if it exists.

    Args:
        module: called as ``module(batch, step)``; returns scalar loss terms by name. Parameters with
            ``requires_grad`` are trained.
        batches: the batch of a step, on ``device``; a pure function, so that a resumed run sees the same data.
        weights: weight per term; the loss is the weighted sum.
        config: hyperparameters.
        run: folder that gets ``metrics.jsonl`` and ``train_state/``.
        stage: name of this training, e.g. ``"world_model"``.
        device: where module and batches are.
        val_batch: held-out batch on which the terms are also computed, and logged as ``val_<name>``, at every
            checkpoint; this rank's slice of it under data parallelism.
        after_step: called after each update, e.g. to move an EMA target.
        diagnose: called ``config.num_diagnoses`` times; its scalars are logged as ``diag_<name>``. It must leave
            weights, mode and torch's randomness as they are.
        on_step: called after each update with the step and, when it was logged, its scalars (else an empty mapping).
        tensorboard: also write TensorBoard events.

    Raises:
        NonFiniteLossError: a term is not finite; the last good checkpoint stays on disk.
        CheckpointError: the state to resume from is damaged or belongs to other settings.
    """
    device = torch.device(device)
    rank, world_size = rank_and_world_size()
    optimizer = torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        lr=config.lr,
        weight_decay=config.weight_decay,
        fused=True,
    )
    path = run / "train_state" / f"{stage}.safetensors"
    fingerprint = json.dumps({"fit": dataclasses.asdict(config), "weights": dict(weights)}, sort_keys=True)
    start = _load(path, module, optimizer, fingerprint) if path.exists() else 0
    forward: nn.Module = module
    if world_size > 1:
        forward = nn.parallel.DistributedDataParallel(module)
    use_bf16 = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_bf16)

    module.train()
    began = last_log = time.perf_counter()
    last_step, scalars = start, dict[str, float]()
    with contextlib.ExitStack() as stack:
        log: MetricsLog | None = None
        if rank == 0:
            log = stack.enter_context(MetricsLog(run, stage, resume_step=start, tensorboard=tensorboard))
        for step in range(start, config.num_steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step)
            with autocast:
                terms = forward(batches(step), step)
            loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
            is_saved = (step + 1) % config.checkpoint_every == 0 or step + 1 == config.num_steps
            is_diagnosed = diagnose is not None and config.is_diagnosed(step + 1)
            is_logged = (step + 1) % config.log_every == 0 or is_saved or is_diagnosed
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(module.parameters(), config.grad_clip)
            # A look at the values waits for a GPU, so there it happens only where something is written.
            if (device.type == "cpu" or is_logged) and not bool(torch.isfinite(loss) & torch.isfinite(norm)):
                raise NonFiniteLossError(_non_finite_message(stage, step, {**terms, "grad_norm": norm}, path))
            optimizer.step()
            if after_step is not None:
                after_step()
            if is_logged:
                now = time.perf_counter()
                scalars = {
                    "loss": float(loss.detach()),
                    **{name: float(value.detach()) for name, value in terms.items()},
                }
                if is_saved and val_batch is not None:
                    scalars |= _validate(module, val_batch, step, autocast)
                seconds = now - last_log
                if is_diagnosed and diagnose is not None:
                    scalars |= {f"{DIAGNOSTIC}{name}": value for name, value in diagnose().items()}
                    now = time.perf_counter()  # what the diagnosis took is not the training's
                scalars["grad_norm"] = float(norm)
                scalars["lr"] = config.lr_at(step)
                scalars["steps_per_s"] = (step + 1 - last_step) / seconds
                last_log, last_step = now, step + 1
                if log is not None:
                    log.write(step + 1, scalars)
            if is_saved and rank == 0:
                _save(path, module, optimizer, step + 1, fingerprint)
            if on_step is not None:
                on_step(step + 1, scalars if is_logged else {})
    module.eval()
    return FitResult(config.num_steps, scalars, time.perf_counter() - began)


@torch.no_grad()
def _validate(
    module: nn.Module, batch: Mapping[str, Tensor], step: int, autocast: torch.autocast
) -> dict[str, float]:
    """Compute the terms on the held-out batch in evaluation mode."""
    module.eval()
    with autocast:
        terms = module(batch, step)
    module.train()
    return {f"val_{name}": float(value) for name, value in terms.items()}


def _non_finite_message(stage: str, step: int, terms: Mapping[str, Tensor], path: Path) -> str:
    values = {name: float(value.detach()) for name, value in terms.items()}
    bad = [f"{name} = {value:g}" for name, value in values.items() if not math.isfinite(value)]
    kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"
    return f"loss terms must be finite, got {', '.join(bad) or 'an infinite sum'} at step {step} of {stage}; {kept}"


def _save(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, fingerprint: str
) -> None:
    """Write module and optimizer state as one file, replacing the previous one atomically."""
    tensors = {f"module.{name}": tensor for name, tensor in state_tensors(module).items()}
    for name, parameter in module.named_parameters():
        for key in ADAM_STATE if parameter in optimizer.state else ():
            tensors[f"optimizer.{name}.{key}"] = optimizer.state[parameter][key].detach().cpu().clone()
    metadata = {"format": STATE_FORMAT, "step": str(step), "fingerprint": fingerprint}
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(".tmp")
    with staging.open("wb") as handle:
        handle.write(safetensors.torch.save(tensors, metadata=metadata))
        handle.flush()
        os.fsync(handle.fileno())
    staging.replace(path)


def _load(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str) -> int:
    """Restore module and optimizer from ``path`` and return the step they had reached."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"training state must be a safetensors file, got {path}: {error}") from error
    if metadata.get("format") != STATE_FORMAT:
        raise CheckpointError(
            f"training state format must be {STATE_FORMAT}, got {metadata.get('format')!r} in {path}"
        )
    if metadata["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"a run must be resumed with the settings it was started with, got others for {path}: "
            "remove the file to start afresh"
        )
    prefix = "module."
    load_state(module, {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}, path)
    for name, parameter in module.named_parameters():
        if f"optimizer.{name}.step" in tensors:
            state = {key: tensors[f"optimizer.{name}.{key}"].to(parameter.device) for key in ADAM_STATE}
            optimizer.state[parameter] = state
    return int(metadata["step"])
