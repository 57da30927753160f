"""Label-free statistics of what an encoder and a predictor have learned, computed on windows of trajectories.

None of them reads the state of the world: embeddings, predictions and recorded actions are all there is. They answer
in turn whether the embedding has collapsed (:func:`rankme`, :func:`spectrum`), whether it moves within a trajectory
(:func:`between_trajectory_share`, :func:`slowness`), whether it moves with the actions
(:func:`worldmodel.action_readout.action_r2`, :func:`linear_cka`, :func:`cca`), and whether the predictor does more than
stand still (:func:`identity_ratio`, :func:`action_sensitivity`, retrieval and distance correlations).

Sources: RankMe, arXiv 2210.02885; slow features, arXiv 2211.10831; slowness, Wiskott & Sejnowski 2002; CKA, arXiv
1905.00414, equation 3 (linear kernel); canonical correlations, Hotelling 1936, here with a ridge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.action_readout import GAP, action_r2, static_ratio, whitening
from worldmodel.jepa import JEPA

ENCODE_FRAMES = 1024  # frames that the encoder sees at once
MAX_DIM = 512  # wider embeddings are projected at random to this width
MAX_ROWS = 256  # trajectories that retrieval compares with each other
CCA_DIMS = 32  # principal components that enter the canonical correlations
TINY = 1e-30  # a variance below this counts as none


class NonFiniteEmbeddingError(ValueError):
    """A model returned embeddings that are not numbers or infinite."""


def rankme(samples: Tensor) -> float:
    """Return the effective rank ``exp(-sum_k p_k log p_k)`` with ``p_k = sigma_k / sum sigma + 1e-7``.

    ``sigma`` are the singular values of the uncentred ``samples (M, D)`` (arXiv 2210.02885, equations 1-2); between 1
    and ``min(M, D)``. It rises while the state is lost to a background, so it says that nothing collapsed, not more.
    """
    sigma = torch.linalg.svdvals(samples.double())
    p = sigma / sigma.sum().clamp(min=TINY) + 1e-7
    return float(torch.exp(-(p * p.log()).sum()))


def spectrum(samples: Tensor) -> Tensor:
    """Return the eigenvalues of the covariance of ``samples (M, D)``, descending, as shares of their sum, ``(D,)``."""
    values = _covariance_eigh(samples)[0]
    return values / values.sum().clamp(min=TINY)


def relative_variance(embeddings: Tensor) -> float:
    """Return ``sum_j Var s_j / E |s|^2`` of ``(B, T, D)``: 1 without a mean, 0 for one constant embedding."""
    flat = embeddings.double().flatten(0, 1)
    return float(flat.var(dim=0, correction=0).sum() / flat.square().sum(dim=1).mean().clamp(min=TINY))


def between_trajectory_share(embeddings: Tensor) -> float:
    """Return ``Var_i(mean_t s) / Var(s)`` of ``(B, T, D)``, numerator and denominator summed over the features.

    1: the embedding is constant within trajectories; ``1 / T``: its frames are independent.
    """
    s = embeddings.double()
    total = s.flatten(0, 1).var(dim=0, correction=0).sum()
    return float(s.mean(dim=1).var(dim=0, correction=0).sum() / total) if total > TINY else 1.0


def slowness(embeddings: Tensor) -> Tensor:
    """Return ``E (c_{t+1} - c_t)^2 / (2 Var c)`` per principal component ``c`` of ``(B, T, D)``, ``(D,)``.

    Components come by descending variance. 0: constant in time, 1: white noise, ``1 - rho``: an AR(1) process; above
    1: it swings back and forth. 0 also where a component has no variance.
    """
    values, axes = _covariance_eigh(embeddings.flatten(0, 1))
    steps = (embeddings[:, 1:] - embeddings[:, :-1]).double() @ axes
    squares = steps.square().mean(dim=(0, 1))
    kept = values > 1e-9 * values[0].clamp(min=TINY)
    return torch.where(kept, squares / (2 * values).clamp(min=TINY), torch.zeros_like(values))


def mean_slowness(embeddings: Tensor) -> float:
    """Return ``E |s_{t+1} - s_t|^2 / (2 sum_j Var s_j)`` of ``(B, T, D)``: the slowness of the whole embedding."""
    s = embeddings.double()
    total = s.flatten(0, 1).var(dim=0, correction=0).sum()
    steps = (s[:, 1:] - s[:, :-1]).square().sum(dim=-1).mean()
    return float(steps / (2 * total)) if total > TINY else 0.0


def action_sensitivity(predictions: Tensor, other: Tensor, embeddings: Tensor) -> float:
    """Return how far a rollout's end moves when it is given another trajectory's actions.

    ``sqrt(E |p_H - p'_H|^2 / sum_j Var s_j)``: 0 if the predictor ignores the actions.

    Args:
        predictions: ``(B, H, D)`` under the recorded actions.
        other: ``(B, H, D)`` from the same starts under the actions of other trajectories.
        embeddings: ``(B, T, D)``, for the scale.
    """
    moved = (predictions[:, -1] - other[:, -1]).double().square().sum(dim=-1).mean()
    total = embeddings.double().flatten(0, 1).var(dim=0, correction=0).sum()
    return float((moved / total).sqrt()) if total > TINY else 0.0


def identity_ratio(predictions: Tensor, embeddings: Tensor) -> float:
    """Return ``E |p_t - s_t|^2 / E |s_0 - s_t|^2``: the error beside that of a predictor that stands still.

    Above 1 the identity would do better; 1 also where the embedding never moves. Capped at 1e6.

    Args:
        predictions: ``(B, H, D)``; entry ``k`` predicts frame ``k + 1``.
        embeddings: ``(B, T, D)`` with ``T > H``.
    """
    s = embeddings.double()
    targets = s[:, 1 : predictions.shape[1] + 1]
    error = (predictions.double() - targets).square().mean()
    still = (s[:, :1] - targets).square().mean()
    return min(1e6, float(error / still)) if still > TINY else 1.0


def time_retrieval(predictions: Tensor, embeddings: Tensor) -> float:
    """Return how often the frame nearest to ``p_t``, among those of its own trajectory, is frame ``t``.

    Chance is ``1 / T``; a tie counts as a miss, so a constant embedding scores 0.

    Args:
        predictions: ``(B, H, D)``; entry ``k`` predicts frame ``k + 1``.
        embeddings: ``(B, T, D)`` with ``T > H``.
    """
    distances = torch.cdist(predictions.double(), embeddings.double())  # (B, H, T)
    return _hits(distances, torch.arange(1, predictions.shape[1] + 1)[None])


def trajectory_retrieval(predictions: Tensor, embeddings: Tensor) -> float:
    """Return how often the embedding nearest to ``p_t``, among all trajectories at time ``t``, is its own.

    Chance is ``1 / B``; a tie counts as a miss. Arguments as in :func:`time_retrieval`.
    """
    targets = embeddings[:, 1 : predictions.shape[1] + 1].double().transpose(0, 1)
    distances = torch.cdist(predictions.double().transpose(0, 1), targets)  # (H, B, B)
    return _hits(distances, torch.arange(len(embeddings))[None])


def _hits(distances: Tensor, right: Tensor) -> float:
    """Share of rows ``(G, M, N)`` whose entry number ``right (1, M)`` is smaller than every other one."""
    index = right.to(distances.device).expand(len(distances), -1)[..., None]
    own = distances.gather(2, index)
    others = distances.scatter(2, index, torch.inf).amin(dim=2, keepdim=True)
    return float((own < others).double().mean())


@dataclass(frozen=True)
class DistanceCorrelation:
    """Spearman correlations of ``|s_t - s_u|`` over all pairs of frames within a trajectory.

    Attributes:
        steps: with ``|t - u|``.
        path: with the length of the summed actions between the two.
        rollout: with ``|p_t - p_u|``, the same distance in the imagination.
    """

    steps: float
    path: float
    rollout: float


def distance_correlation(embeddings: Tensor, actions: Tensor, predictions: Tensor) -> DistanceCorrelation:
    """Return whether distances between embeddings grow with what lies between the frames.

    Args:
        embeddings: ``(B, T, D)``.
        actions: ``(B, T, A)`` or ``(B, T - 1, A)``; ``actions[:, t]`` leads from frame ``t`` to ``t + 1``.
        predictions: ``(B, H, D)``; entry ``k`` predicts frame ``k + 1``; the start is frame 0 itself.
    """
    num_frames = embeddings.shape[1]
    first, second = torch.triu_indices(num_frames, num_frames, offset=1)
    distances = (embeddings[:, first] - embeddings[:, second]).double().norm(dim=-1)
    path = torch.nn.functional.pad(actions[:, : num_frames - 1].double().cumsum(dim=1), (0, 0, 1, 0))
    moved = (path[:, first] - path[:, second]).norm(dim=-1)
    imagined = torch.cat([embeddings[:, :1], predictions], dim=1)
    kept = second < imagined.shape[1]
    imagined_distances = (imagined[:, first[kept]] - imagined[:, second[kept]]).double().norm(dim=-1)
    return DistanceCorrelation(
        steps=spearman(distances.flatten(), (second - first).expand(len(distances), -1).flatten()),
        path=spearman(distances.flatten(), moved.flatten()),
        rollout=spearman(distances[:, kept].flatten(), imagined_distances.flatten()),
    )


def spearman(x: Tensor, y: Tensor) -> float:
    """Return the rank correlation of two vectors ``(M,)``, ties on their mean rank; 0 if one is constant."""
    a, b = (ranks - ranks.mean() for ranks in (_mean_ranks(x), _mean_ranks(y)))
    scale = a.norm() * b.norm()
    return float(a @ b / scale) if scale > 0 else 0.0


def _mean_ranks(x: Tensor) -> Tensor:
    _, index, counts = x.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[index]


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return ``|Y'X|^2 / (|X'X| |Y'Y|)`` of centred ``x (M, D)`` and ``y (M, A)``, Frobenius norms, in 0..1."""
    a, b = (samples.double() - samples.double().mean(dim=0) for samples in (x, y))
    scale = (a.T @ a).norm() * (b.T @ b).norm()
    return float((b.T @ a).square().sum() / scale) if scale > TINY else 0.0


def cca(x: Tensor, y: Tensor, *, ridge: float = 1e-3) -> float:
    """Return the mean canonical correlation of ``x (M, D)`` and ``y (M, A)`` over ``min(D, A)`` directions, in 0..1.

    ``x`` enters with at most 32 principal components. The correlations are those of the sample they are fitted on:
    independent noise reaches about ``sqrt(32 / M)``.

    Args:
        x: samples of the embedding's motion.
        y: samples of the actions.
        ridge: added to the variances of the principal components, relative to each.
    """
    whitened = []
    for samples in (x.double(), y.double()):
        if not bool(samples.std(dim=0).any()):
            return 0.0
        whitened.append((samples - samples.mean(dim=0)) @ whitening(samples, CCA_DIMS))
    cross = whitened[0].T @ whitened[1] / (len(x) - 1) / (1 + ridge)
    return float(torch.linalg.svdvals(cross).sum() / min(x.shape[1], y.shape[1], CCA_DIMS))


def _covariance_eigh(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending and not negative, and eigenvectors of the covariance of ``samples (M, D)``."""
    centred = samples.double() - samples.double().mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    return values.flip(0).clamp(min=0), vectors.flip(1)


@dataclass(frozen=True)
class Diagnostics:
    """What :func:`diagnose` found.

    Attributes:
        scalars: each statistic by name; all finite.
        spectrum: share of the variance per principal component, descending.
        slowness: slowness of the same components.
    """

    scalars: dict[str, float]
    spectrum: list[float]
    slowness: list[float]


@torch.no_grad()
def diagnose(
    model: JEPA,
    batch: Mapping[str, Tensor],
    *,
    spaced: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    gap: int = GAP,
) -> Diagnostics:
    """Compute every statistic of ``model`` on windows, without touching its weights, mode or torch's randomness.

    The model rolls out from frame 0 over the whole window, under its own actions and under those of another window.
    Embeddings with more than 512 numbers, e.g. feature maps, are projected to 512 by a fixed random matrix.

    Args:
        model: the world model.
        batch: observations ``(B, T, *O)``, ``"action" (B, T, A)``, and optionally ``"trajectory" (B,)``, integers
            that say which windows are of one trajectory.
        spaced: observations ``(E, K, *O)`` of frames spaced over whole trajectories, for
            :func:`worldmodel.action_readout.static_ratio`; None leaves that out.
        seed: of the random projection, and of the exchange of actions.
        gap: steps over which actions are read off the motion, see :func:`worldmodel.action_readout.action_r2`.

    Raises:
        ValueError: fewer than ten trajectories.
        NonFiniteEmbeddingError: an embedding or a prediction is not finite.
    """
    actions = batch["action"]
    generator = torch.Generator().manual_seed(seed)
    was_training = model.training
    model.eval()
    try:
        start, embeddings = _encode(model, batch)
        shift = 1 + int(torch.randint(len(actions) - 1, (), generator=generator))
        rollouts = [_rollout(model, start, taken[:, :-1]) for taken in (actions, actions.roll(shift, dims=0))]
        frames = None if spaced is None else _encode(model, spaced)[1]
    finally:
        model.train(was_training)
    for tensor in (embeddings, *rollouts):
        if not bool(tensor.isfinite().all()):
            raise NonFiniteEmbeddingError("embeddings and rollouts must be finite, got nan or infinity")
    dim = embeddings.shape[-1]
    if dim > MAX_DIM:
        projection = torch.randn(dim, MAX_DIM, generator=generator) / MAX_DIM**0.5
        embeddings, *rollouts = (tensor @ projection for tensor in (embeddings, *rollouts))
        frames = None if frames is None else frames @ projection
    predictions, other = rollouts
    actions = actions.float().cpu()
    trajectories = batch.get("trajectory", torch.arange(len(actions)))
    distances = distance_correlation(embeddings[:MAX_ROWS], actions[:MAX_ROWS], predictions[:MAX_ROWS])
    motion = (embeddings[:, 1:] - embeddings[:, :-1]).flatten(0, 1)
    taken = actions[:, :-1].flatten(0, 1)
    samples = embeddings.flatten(0, 1)
    scalars = {
        "action_r2": action_r2(embeddings, actions, gap=gap, trajectories=trajectories),
        "between_trajectory_share": between_trajectory_share(embeddings),
        "rankme": rankme(samples),
        "relative_variance": relative_variance(embeddings),
        "slowness": mean_slowness(embeddings),
        "action_sensitivity": action_sensitivity(predictions, other, embeddings),
        "identity_ratio": identity_ratio(predictions, embeddings),
        "time_retrieval": time_retrieval(predictions, embeddings),
        "trajectory_retrieval": trajectory_retrieval(predictions[:MAX_ROWS], embeddings[:MAX_ROWS]),
        "distance_steps": distances.steps,
        "distance_path": distances.path,
        "distance_rollout": distances.rollout,
        "action_cka": linear_cka(motion, taken),
        "action_cca": cca(motion, taken),
        "num_trajectories": float(len(trajectories.unique())),
    }
    if frames is not None:
        scalars["static_ratio"] = static_ratio(embeddings, actions, frames, gap=gap)
    return Diagnostics(scalars, spectrum(samples).tolist(), slowness(embeddings).tolist())


def _encode(model: JEPA, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Encode windows in chunks: first embeddings ``(B, *D)`` on the device, all ``(B, T, D)`` flat on the CPU."""
    num_windows, num_frames = batch[model.observation_keys[0]].shape[:2]
    size = max(1, ENCODE_FRAMES // num_frames)
    starts, parts = [], []
    for first in range(0, num_windows, size):
        rows = {key: batch[key][first : first + size].to(model.device) for key in model.observation_keys}
        embeddings = model.encode(rows).float()
        starts.append(embeddings[:, 0])
        parts.append(embeddings.flatten(2).cpu())
    return torch.cat(starts), torch.cat(parts)


def _rollout(model: JEPA, start: Tensor, actions: Tensor) -> Tensor:
    """Roll out in chunks, ``(B, H, D)`` flat on the CPU."""
    parts = [
        model.rollout(start[first : first + ENCODE_FRAMES], actions[first : first + ENCODE_FRAMES].to(start))
        for first in range(0, len(start), ENCODE_FRAMES)
    ]
    return torch.cat(parts).flatten(2).float().cpu()
