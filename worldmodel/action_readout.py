"""How well the recorded actions can be read off the motion of an embedding, on trajectories held out of the fit.

The regression target is the displacement ``a_t + ... + a_{t+k-1}``, the input the motion ``s_{t+k} - s_t`` over the
same gap ``k``. An embedding of the background stands still or moves by itself: then the R^2 is 0, however large the
variance and however small the prediction loss. It is the inverse-dynamics criterion of "JEPAs focus on slow
features" (arXiv 2211.10831, section 5) as a statistic in closed form, which trains nothing in the model.

Where the map from the state to the embedding is curved, one action moves the embedding in directions that depend on
where it is. The readout therefore has two candidates: linear in the motion, and *bilinear*, with the products of the
motion and the leading principal components of where it happens (a first-order expansion of the inverse of the map's
Jacobian). Cross-validation over trajectories of the fit half chooses candidate and ridge strength, so that neither
noise nor a straight embedding pays for the products; the other half only evaluates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GAP = 4  # k, steps
MOTION_DIMS = 64  # principal components of the motion that are kept
PRODUCT_DIMS = (32, 8)  # components of the motion and of the place that are multiplied
RIDGES = tuple(10.0**exponent for exponent in range(-5, 3))  # penalty per row on standardised features
STATIC_RIDGE = 1e-2  # penalty per row of the readout whose constant part is measured
NUM_FOLDS = 4
LEAST_TRAJECTORIES = 2 * (NUM_FOLDS + 1)
LEAST_R2 = -1.0  # what is reported for a readout that does worse


def action_r2(
    embeddings: Tensor, actions: Tensor, *, gap: int = GAP, trajectories: Tensor | None = None
) -> float:
    """Return the held-out R^2 of the actions read off the embedding's motion: 1 fully, 0 not at all.

    Half of the trajectories fit (every second one), the other half evaluates. Not linear in the embedding: see the
    module's docstring for the two candidates.

    Args:
        embeddings: ``(B, T, D)``.
        actions: ``(B, T, A)`` or ``(B, T - 1, A)``; ``actions[:, t]`` leads from frame ``t`` to ``t + 1``.
        gap: ``k`` [steps], shortened to ``T - 1`` where windows are shorter than that.
        trajectories: ``(B,)`` integers; windows of one trajectory are never in both halves. None: all differ.

    Returns:
        ``1 - sum |y - y_hat|^2 / sum |y - mean y|^2`` over the evaluated rows and action dimensions, at least -1;
        0 where the embedding or the actions do not vary at all.

    Raises:
        ValueError: fewer than ten trajectories, or a gap below 1.
    """
    if gap < 1:
        raise ValueError(f"gap must be >= 1, got {gap}")
    if trajectories is None:
        trajectories = torch.arange(len(embeddings))
    _, group = trajectories.cpu().unique(return_inverse=True)
    if int(group.max()) + 1 < LEAST_TRAJECTORIES:
        raise ValueError(
            f"embeddings must be of at least {LEAST_TRAJECTORIES} trajectories, got {int(group.max()) + 1}"
        )
    motion, place, displacement = _pairs(embeddings.double().cpu(), actions.double().cpu(), gap)
    is_fit = group % 2 == 0
    fold = (group[is_fit] // 2 % NUM_FOLDS)[:, None].expand(-1, motion.shape[1]).flatten()
    target = displacement[is_fit].flatten(0, 1)
    held_out = displacement[~is_fit].flatten(0, 1)
    spread = (held_out - held_out.mean(dim=0)).square().sum()
    features = _Features.fit(
        motion[is_fit].flatten(0, 1), place[is_fit].flatten(0, 1), len(group[is_fit].unique())
    )
    if features is None or spread == 0 or not bool(target.std(dim=0).any()):
        return 0.0
    best: tuple[float, bool, float] | None = None
    for is_bilinear in (False, True):
        rows = features(motion[is_fit].flatten(0, 1), place[is_fit].flatten(0, 1), is_bilinear=is_bilinear)
        for ridge, error in zip(RIDGES, _fold_errors(rows, target, fold), strict=True):
            if best is None or error < best[0]:
                best = error, is_bilinear, ridge
    assert best is not None
    _, is_bilinear, ridge = best
    rows = features(motion[is_fit].flatten(0, 1), place[is_fit].flatten(0, 1), is_bilinear=is_bilinear)
    tested = features(motion[~is_fit].flatten(0, 1), place[~is_fit].flatten(0, 1), is_bilinear=is_bilinear)
    predicted = _ridge_predictions(rows, target, tested, [ridge])[0]
    return max(LEAST_R2, float(1 - (held_out - predicted).square().sum() / spread))


def static_ratio(embeddings: Tensor, actions: Tensor, spaced: Tensor, *, gap: int = GAP) -> float:
    """Return how much of the action readout is constant in time: between- over within-trajectory variance.

    The linear readout of the displacement, fitted on the motion of windows, is applied to frames that are spaced over
    whole trajectories. Where the embedding holds nothing but what the actions move, the readout is the moving state up
    to a constant: its variance between trajectories is that of where they happen, a few times the one within. A
    background that leaks into the same directions cancels in the motion, and adds to the variance between only.

    It needs trajectories that are long enough to get around: in a world that is large beside what a trajectory covers,
    the ratio is large without any background.

    Args:
        embeddings: ``(B, T, D)`` of windows.
        actions: ``(B, T, A)`` or ``(B, T - 1, A)``.
        spaced: ``(E, K, D)``, K frames of each trajectory from its first to its last.
        gap: as in :func:`action_r2`.

    Returns:
        ``Var_i(mean_t u) / mean_i Var_t(u)`` of the readout ``u``, summed over action dimensions and at most 1e6; 1
        where the embedding or the actions do not move.
    """
    motion, _, displacement = _pairs(embeddings.double().cpu(), actions.double().cpu(), gap)
    rows, target = motion.flatten(0, 1), displacement.flatten(0, 1)
    if not bool(target.std(dim=0).any()) or not bool(rows.std(dim=0).any()):
        return 1.0
    axes = whitening(rows, MOTION_DIMS)
    components = rows @ axes
    gram = components.T @ components + STATIC_RIDGE * len(rows) * torch.eye(axes.shape[1], dtype=axes.dtype)
    readout = spaced.double().cpu() @ (axes @ torch.linalg.solve(gram, components.T @ target))  # (E, K, A)
    within = readout.var(dim=1, correction=0).mean(dim=0).sum()
    between = readout.mean(dim=1).var(dim=0, correction=0).sum()
    return min(1e6, float(between / within)) if within > 0 else 1.0


def _pairs(embeddings: Tensor, actions: Tensor, gap: int) -> tuple[Tensor, Tensor, Tensor]:
    """Motion, place and displacement of all frames ``gap`` apart, each ``(B, T - gap, ...)``."""
    num_steps = embeddings.shape[1] - 1
    gap = min(gap, num_steps)
    before, after = embeddings[:, :-gap], embeddings[:, gap:]
    path = torch.nn.functional.pad(actions[:, :num_steps].cumsum(dim=1), (0, 0, 1, 0))
    return after - before, (after + before) / 2, path[:, gap:] - path[:, :-gap]


@dataclass(frozen=True)
class _Features:
    """Standardised principal components of motion and place.

    Attributes:
        motion: ``(D, R)`` maps motions to components of unit variance.
        place: ``(D, Q)`` maps centred places to components of unit variance.
        centre: ``(D,)`` mean place.
    """

    motion: Tensor
    place: Tensor
    centre: Tensor

    @classmethod
    def fit(cls, motion: Tensor, place: Tensor, num_trajectories: int) -> _Features | None:
        """Fit the components on rows ``(M, D)``; None if nothing moves."""
        scale = place.square().mean().sqrt()
        if motion.std(dim=0).norm() <= 1e-6 * scale * motion.shape[1] ** 0.5:
            return None
        centre = place.mean(dim=0)
        dims = min(MOTION_DIMS, num_trajectories // 2)
        return cls(whitening(motion, dims), whitening(place - centre, PRODUCT_DIMS[1]), centre)

    def __call__(self, motion: Tensor, place: Tensor, *, is_bilinear: bool) -> Tensor:
        """Return the features ``(M, F)`` of rows ``(M, D)``."""
        moved = motion @ self.motion
        if not is_bilinear:
            return moved
        where = (place - self.centre) @ self.place
        products = moved[:, : PRODUCT_DIMS[0], None] * where[:, None]
        return torch.cat([moved, products.flatten(1)], dim=1)


def whitening(samples: Tensor, num_dims: int) -> Tensor:
    """Return the map ``(D, R)`` of rows ``(M, D)`` to their leading principal components with unit variance.

    ``R`` is at most ``num_dims``; components with less than 1e-6 of the largest variance are left out.
    """
    centred = samples - samples.mean(dim=0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / max(1, len(centred) - 1))
    variances, axes = variances.flip(0)[:num_dims], axes.flip(1)[:, :num_dims]
    kept = variances > 1e-6 * variances[0].clamp(min=1e-300)
    return axes[:, kept] / variances[kept].sqrt()


def _fold_errors(rows: Tensor, target: Tensor, fold: Tensor) -> list[float]:
    """Sum of squared errors of each ridge strength over folds, each predicted from the others."""
    errors = torch.zeros(len(RIDGES), dtype=rows.dtype)
    for k in range(NUM_FOLDS):
        inside = fold == k
        predictions = _ridge_predictions(rows[~inside], target[~inside], rows[inside], list(RIDGES))
        errors += (predictions - target[inside]).square().sum(dim=(1, 2))
    return errors.tolist()


def _ridge_predictions(rows: Tensor, target: Tensor, tested: Tensor, ridges: list[float]) -> Tensor:
    """Fit ridge regressions with an intercept and return their predictions ``(len(ridges), M, A)``."""
    centre, mean = rows.mean(dim=0), target.mean(dim=0)
    scale = rows.std(dim=0).clamp(min=1e-12)
    x = (rows - centre) / scale
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    inside = vectors.T @ (x.T @ (target - mean) / len(x))  # (F, A)
    projected = ((tested - centre) / scale) @ vectors
    strength = torch.tensor(ridges, dtype=rows.dtype)[:, None]
    shrunk = inside / (values.clamp(min=0) + strength)[..., None]  # (ridges, F, A)
    return projected @ shrunk + mean
