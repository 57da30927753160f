"""Probes: what can be read off frozen embeddings, and how long it survives in the imagination.

A probe is fitted on some trajectories and judged on others: linear in closed form, linear by minibatches, or an MLP. Real
targets are regressed; integer targets are classes. Along a rollout one probe is shared over all steps, after "Joint
embedding predictive architectures focus on slow features" (arXiv 2211.10831, section 4), which differs in that its
layer has no bias and is shared with the encoding too. Reward of a state and action of an expert as targets are the
light-weight probes of arXiv 2208.12345.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.encoders import mlp
from worldmodel.jepa import require_known

PROBE_KINDS = ("linear", "sgd", "mlp")
UNKNOWN_CLASS = -1  # a frame whose class is not known; a real target is unknown where it is NaN

Probe: TypeAlias = Callable[[Tensor], Tensor]
"""Decodes flat embeddings ``(..., D)`` to targets ``(..., K)``, or to one score per class ``(..., K)``."""

ProbeReport: TypeAlias = dict[str, Any]
"""What :func:`probe_rollouts` returns; JSON-able."""


@dataclass(frozen=True)
class ProbeConfig:
    """What a probe is and how it is fitted; holds no tensors."""

    kind: str = "linear"  # linear: closed form; sgd: linear, by minibatches; mlp
    ridge: float = 1e-4  # of "linear": penalty on the weights of standardised features, per row
    num_steps: int = 2000  # of "sgd" and "mlp", as all below: AdamW with a rate that falls linearly to 0
    batch_size: int = 256  # rows
    lr: float = 5e-3  # first learning rate, on standardised inputs and targets
    weight_decay: float = 0.0
    hidden_dims: tuple[int, ...] = (128, 128)  # of "mlp"

    def __post_init__(self) -> None:
        require_known("probe kind", self.kind, PROBE_KINDS)
        object.__setattr__(self, "hidden_dims", tuple(self.hidden_dims))
        for name in ("num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("ridge", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if not self.hidden_dims or min(self.hidden_dims) < 1:
            raise ValueError(f"hidden_dims must be at least one width >= 1, got {self.hidden_dims}")


@dataclass(frozen=True)
class LinearProbe:
    """An affine map from embeddings to a target.

    Attributes:
        weight: ``(D, K)``.
        bias: ``(K,)``.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Decode flat embeddings ``(..., D)`` to ``(..., K)``."""
        return embeddings @ self.weight + self.bias


@dataclass(frozen=True)
class MLPProbe:
    """A network between standardised embeddings and standardised targets.

    Attributes:
        network: maps ``(..., D)`` to ``(..., K)``.
        mean: ``(D,)`` of the embeddings.
        std: ``(D,)`` of the embeddings.
        target_mean: ``(K,)``; 0 for the scores of classes.
        target_std: ``(K,)``; 1 for the scores of classes.
    """

    network: nn.Module
    mean: Tensor
    std: Tensor
    target_mean: Tensor
    target_std: Tensor

    @torch.no_grad()
    def __call__(self, embeddings: Tensor) -> Tensor:
        """Decode flat embeddings ``(..., D)`` to ``(..., K)``."""
        return self.network((embeddings - self.mean) / self.std) * self.target_std + self.target_mean


def fit_linear_probe(embeddings: Tensor, targets: Tensor, ridge: float = 1e-4) -> LinearProbe:
    """Fit ``targets (M, K)`` on flat ``embeddings (M, D)`` by ridge regression in double precision.

    Args:
        embeddings: the inputs.
        targets: the quantities to decode.
        ridge: penalty on the weights of standardised features, relative to the number of rows.
    """
    x, y = embeddings.double(), targets.double()
    mean, std = x.mean(dim=0), x.std(dim=0).clamp(min=1e-8)
    z = (x - mean) / std
    y_mean = y.mean(dim=0)
    gram = z.T @ z + ridge * len(z) * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    weight = torch.linalg.solve(gram, z.T @ (y - y_mean)) / std[:, None]
    return LinearProbe(weight.float(), (y_mean - mean @ weight).float())


def fit_probe(
    embeddings: Tensor,
    targets: Tensor,
    config: ProbeConfig = ProbeConfig(),
    generator: torch.Generator | None = None,
) -> Probe:
    """Fit a probe on flat ``embeddings (M, D)``.

    Args:
        embeddings: the inputs; detached, so that nothing is trained but the probe.
        targets: floats ``(M, K)`` to regress, or integer classes ``(M,)`` from 0. The closed form fits one-hot
            vectors of them, the others a softmax.
        config: kind and hyperparameters.
        generator: CPU generator of first weights and batches; "linear" needs none.

    Raises:
        ValueError: no rows, other shapes, values that are not finite, or no generator for a kind that draws.
    """
    is_class = not targets.is_floating_point()
    _check_rows(embeddings, targets, is_class)
    x = embeddings.detach().float()
    if config.kind == "linear":
        return fit_linear_probe(x, F.one_hot(targets.long()) if is_class else targets, config.ridge)
    if generator is None:
        raise ValueError(f"generator must be given for a probe of kind {config.kind!r}, got None")
    mean, std = _standardisation(x)
    if is_class:
        num_outputs = int(targets.max()) + 1
        y, y_mean, y_std = targets.long(), x.new_zeros(num_outputs), x.new_ones(num_outputs)
    else:
        num_outputs = targets.shape[1]
        y_mean, y_std = _standardisation(targets.float())
        y = (targets.float() - y_mean) / y_std
    hidden = () if config.kind == "sgd" else config.hidden_dims
    network = _train((x - mean) / std, y, (x.shape[1], *hidden, num_outputs), config, generator)
    if config.kind == "mlp":
        return MLPProbe(network, mean, std, y_mean, y_std)
    layer = network[0]
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.detach().T / std[:, None] * y_std
    return LinearProbe(weight, layer.bias.detach() * y_std + y_mean - mean @ weight)


def _train(
    x: Tensor, y: Tensor, sizes: Sequence[int], config: ProbeConfig, generator: torch.Generator
) -> nn.Sequential:
    """Train a network of the layer widths ``sizes`` on standardised rows."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = mlp(sizes).to(x.device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        for step in range(config.num_steps):
            optimizer.param_groups[0]["lr"] = config.lr * (1 - step / config.num_steps)
            rows = torch.randint(len(x), (min(config.batch_size, len(x)),), generator=generator).to(x.device)
            outputs = network(x[rows])
            loss = (
                F.mse_loss(outputs, y[rows]) if y.is_floating_point() else F.cross_entropy(outputs, y[rows])
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return network.requires_grad_(False)


def _standardisation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of each column of ``(M, D)``; a column that does not vary has std 1."""
    mean, std = values.mean(dim=0), values.std(dim=0, correction=0)
    return mean, torch.where(std > 1e-6 * (mean.abs() + 1e-6), std, torch.ones_like(std))


def distance_rmse(predictions: Tensor, targets: Tensor) -> Tensor:
    """Root mean squared Euclidean error over all but the time axis: ``(M, T, K)`` twice to ``(T,)``."""
    return (predictions - targets).square().sum(dim=-1).mean(dim=0).sqrt()


def r_squared(predictions: Tensor, targets: Tensor) -> float:
    """Return ``1 - sum |y - y_hat|^2 / sum |y - mean y|^2`` over rows and columns of ``(M, K)`` twice.

    1 is exact, 0 is the mean of these targets; NaN where they do not vary.
    """
    y = targets.double()
    spread = float((y - y.mean(dim=0)).square().sum())
    return 1 - float((y - predictions.double()).square().sum()) / spread if spread > 0 else float("nan")


def probe_rollouts(
    encoded: Tensor,
    rollout: Tensor,
    targets: Tensor,
    is_train: Tensor,
    config: ProbeConfig = ProbeConfig(),
    *,
    horizons: Sequence[int] = (1, 4, 8, 16),
    generator: torch.Generator | None = None,
) -> ProbeReport:
    """Probe encodings, and predictions from the first frame on; fit and judge on different trajectories.

    Args:
        encoded: ``(E, T, *D)`` embeddings of the frames.
        rollout: ``(E, H, *D)``, ``H < T``; entry ``k`` is the prediction of frame ``k + 1`` from frame 0.
        targets: floats ``(E, T, K)``, NaN where unknown; or integer classes ``(E, T)``, -1 where unknown.
        is_train: ``(E,)`` bool: trajectories that probes are fitted on; errors are of the others.
        config: kind and hyperparameters of the probes.
        horizons: frames at which errors are reported; those beyond ``H``, and those without a known target on held-out
            trajectories, are left out.
        generator: CPU generator of the probes that draw.

    Returns:
        ``{"kind", "task", "horizons", "num_train", "num_test"}`` and four entries. ``encoding``: the probe fitted on
        encodings of all frames. ``rollout``: one probe fitted on predictions of all steps. ``transfer``: the
        encoding's probe read on predictions, which is good only if they lie on the scale of encodings. ``chance``:
        always the mean, or the most frequent class, of the training frames. Each maps its measures to a number per
        horizon (``"8"``) and for ``"all"`` its frames. Task "regression" has ``rmse``, the root mean squared Euclidean
        error in the target's unit, and ``r2``, about the mean of the held-out frames (None where they do not vary);
        "classification" has ``accuracy``.

    Raises:
        ValueError: shapes that do not fit, no trajectory on one of the two sides, or a horizon below 1.
    """
    encoded, rollout = encoded.flatten(2), rollout.flatten(2)
    _check_trajectories(encoded, rollout, targets, is_train, horizons)
    is_class = not targets.is_floating_point()
    is_known = targets != UNKNOWN_CLASS if is_class else ~targets.isnan().any(dim=-1)  # (E, T)
    is_train = is_train.to(is_known.device)
    num_steps = rollout.shape[1]
    fit_on, fit_rollout_on = is_known & is_train[:, None], is_known[:, 1 : num_steps + 1] & is_train[:, None]
    probe = fit_probe(encoded[fit_on], targets[fit_on], config, generator)
    rollout_probe = fit_probe(
        rollout[fit_rollout_on], targets[:, 1 : num_steps + 1][fit_rollout_on], config, generator
    )
    held_out = ~is_train
    is_judged, truth = is_known[held_out], targets[held_out]
    horizons = [h for h in horizons if h <= num_steps and bool(is_judged[:, h].any())]
    ahead = is_judged[:, 1 : num_steps + 1], truth[:, 1 : num_steps + 1]
    chance = _chance(targets[fit_on], is_class).expand(*truth.shape[:2], -1)
    return {
        "kind": config.kind,
        "task": "classification" if is_class else "regression",
        "horizons": horizons,
        "num_train": int(is_train.sum()),
        "num_test": int(held_out.sum()),
        "encoding": _scores(probe(encoded[held_out]), truth, is_judged, horizons, first=0),
        "rollout": _scores(rollout_probe(rollout[held_out]), ahead[1], ahead[0], horizons, first=1),
        "transfer": _scores(probe(rollout[held_out]), ahead[1], ahead[0], horizons, first=1),
        "chance": _scores(chance, truth, is_judged, horizons, first=0),
    }


def _chance(known: Tensor, is_class: bool) -> Tensor:
    """Return the mean target ``(K,)`` of training rows, or scores that choose their most frequent class."""
    if is_class:
        return F.one_hot(known.long().bincount().argmax(), int(known.max()) + 1).float()
    return known.mean(dim=0)


def _scores(
    outputs: Tensor, targets: Tensor, is_judged: Tensor, horizons: Sequence[int], *, first: int
) -> dict[str, dict[str, float | None]]:
    """Judge ``outputs (E, T, K)``, whose entry 0 is of frame ``first``, at each horizon and over all frames."""
    parts = {str(h): slice(h - first, h - first + 1) for h in horizons}
    scores: dict[str, dict[str, float | None]] = {}
    for name, part in {**parts, "all": slice(None)}.items():
        mask = is_judged[:, part]
        y_hat, y = outputs[:, part][mask], targets[:, part][mask]
        if not targets.is_floating_point():
            measured = {"accuracy": float((y_hat.argmax(dim=-1) == y).float().mean())}
        else:
            rmse = float((y_hat - y).double().square().sum(dim=-1).mean().sqrt())
            measured = {"rmse": rmse, "r2": r_squared(y_hat, y)}
        for measure, value in measured.items():
            scores.setdefault(measure, {})[name] = value if value == value else None
    return scores


def _check_rows(embeddings: Tensor, targets: Tensor, is_class: bool) -> None:
    expected = "classes (M,)" if is_class else "targets (M, K)"
    if embeddings.ndim != 2 or targets.ndim != (1 if is_class else 2) or len(embeddings) != len(targets):
        raise ValueError(
            f"a probe must be fitted on embeddings (M, D) and {expected}, "
            f"got {tuple(embeddings.shape)} and {tuple(targets.shape)}"
        )
    if len(embeddings) < 2:
        raise ValueError(f"a probe must be fitted on at least 2 rows, got {len(embeddings)}")
    if not bool(embeddings.isfinite().all()):
        raise ValueError("embeddings must be finite, got NaN or infinity")
    if is_class and int(targets.min()) < 0:
        raise ValueError(f"classes must be >= 0, got {int(targets.min())}")
    if not is_class and not bool(targets.isfinite().all()):
        raise ValueError("targets must be finite, got NaN or infinity")


def _check_trajectories(
    encoded: Tensor, rollout: Tensor, targets: Tensor, is_train: Tensor, horizons: Sequence[int]
) -> None:
    num, frames, dim = encoded.shape
    steps = rollout.shape[1]
    if rollout.shape[0] != num or rollout.shape[2] != dim or not 1 <= steps < frames:
        raise ValueError(
            f"rollout must be (E, H, D) with 1 <= H < T for encodings (E, T, D) = {(num, frames, dim)}, "
            f"got {tuple(rollout.shape)}"
        )
    if targets.shape[:2] != (num, frames) or targets.ndim != (3 if targets.is_floating_point() else 2):
        raise ValueError(
            f"targets must be floats (E, T, K) or classes (E, T) with E, T = {(num, frames)}, "
            f"got {targets.dtype} {tuple(targets.shape)}"
        )
    if is_train.dtype != torch.bool or is_train.shape != (num,):
        raise ValueError(f"is_train must be bool ({num},), got {is_train.dtype} {tuple(is_train.shape)}")
    if bool(is_train.all()) or not bool(is_train.any()):
        raise ValueError(
            f"is_train must name at least one trajectory and leave one out, got {int(is_train.sum())} of {num}"
        )
    if not horizons or min(horizons) < 1:
        raise ValueError(f"horizons must be frames >= 1, at least one, got {list(horizons)}")
