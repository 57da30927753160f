"""Barlow Twins, cosine prediction and SwAV against numpy, scipy and an independent Sinkhorn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine

from tests.worldmodel.factories import make, make_batch
from worldmodel.objectives import (
    BarlowTwins,
    CosinePrediction,
    JEPAObjective,
    JEPAOutputs,
    SwAV,
    TermSizes,
)
from worldmodel.objectives.distillation import matched_samples, sinkhorn

B, T, D, A, S, H = 5, 6, 4, 2, 2, 3
SIZES = TermSizes((D,), A)
KINDS = (BarlowTwins, CosinePrediction, SwAV)


def outputs(shape=(D,)) -> JEPAOutputs:
    generator = torch.Generator().manual_seed(11)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    targets = randn(B, T, *shape)
    noise = randn(B, S, H, *shape)
    near = torch.stack([targets[:, i + 1 : i + 1 + H] for i in range(S)], dim=1)
    return JEPAOutputs(randn(B, T, *shape), targets, near + 0.8 * noise, randn(B, T - 1, A))


def rows(out):
    """Predictions and the frames they predict, ``(M, D)`` each, by indices."""
    index = [(b, i, k) for b in range(B) for i in range(S) for k in range(H)]
    p = np.array([out.predictions[b, i, k].numpy() for b, i, k in index])
    s = np.array([out.targets[b, i + k + 1].numpy() for b, i, k in index])
    return p, s


def build(kind, sizes=SIZES, **changes):
    torch.manual_seed(0)
    return kind(sizes, **changes).double()


def test_samples_pair_a_prediction_with_the_frame_it_predicts():
    for got, expected in zip(matched_samples(outputs()), rows(outputs()), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("redundancy", [0.005, 0.5])
def test_barlow_twins_is_the_distance_of_numpys_correlations_from_the_identity(redundancy):
    p, s = rows(outputs())
    correlation = np.corrcoef(p.T, s.T)[:D, D:]
    off_diagonal = correlation[~np.eye(D, dtype=bool)]
    expected = ((1 - np.diag(correlation)) ** 2).sum() + redundancy * (off_diagonal**2).sum()
    assert float(BarlowTwins(SIZES, redundancy=redundancy)(outputs())) == pytest.approx(expected, rel=1e-4)


def decorrelated():
    """Outputs whose predictions are their targets, with features that are uncorrelated over the samples."""
    samples = np.random.default_rng(0).normal(size=(B * H, D))
    q = np.linalg.qr(samples - samples.mean(axis=0))[0] * np.array([1.0, 20.0, 3.0, 8.0]) + 5
    p = torch.from_numpy(q).view(B, 1, H, D)
    s = torch.cat([p[:, 0, :1], p[:, 0]], dim=1)
    return JEPAOutputs(s, s, p, torch.zeros(B, H, A))


def test_barlow_twins_is_zero_at_features_that_agree_and_are_not_redundant():
    out = decorrelated()
    assert float(BarlowTwins(SIZES)(out)) == pytest.approx(0, abs=1e-6)
    redundant = replace(
        out, predictions=out.predictions[..., [0, 0, 0, 0]], targets=out.targets[..., [0] * 4]
    )
    assert float(BarlowTwins(SIZES)(redundant)) == pytest.approx(0.005 * D * (D - 1), rel=1e-3)
    opposite = replace(out, predictions=-out.predictions)
    assert float(BarlowTwins(SIZES)(opposite)) == pytest.approx(4 * D, rel=1e-3)


def test_barlow_twins_of_collapsed_features_is_finite_and_worst():
    out = outputs()
    flat = replace(out, predictions=torch.ones_like(out.predictions), targets=torch.ones_like(out.targets))
    assert float(BarlowTwins(SIZES)(flat)) == pytest.approx(D, rel=1e-6)


def test_cosine_prediction_is_scipys_cosine_distance():
    expected = np.mean([2 * cosine(p, s) for p, s in zip(*rows(outputs()), strict=True)])
    assert float(CosinePrediction(SIZES)(outputs())) == pytest.approx(expected, rel=1e-9)
    out = outputs()
    scaled = replace(out, predictions=7 * out.predictions, targets=0.1 * out.targets)
    assert float(CosinePrediction(SIZES)(scaled)) == pytest.approx(expected, rel=1e-9)


def test_cosine_prediction_is_that_of_normalised_squares():
    p, s = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows(outputs()))  # BYOL, equation 2
    assert float(CosinePrediction(SIZES)(outputs())) == pytest.approx(
        ((p - s) ** 2).sum(axis=1).mean(), rel=1e-9
    )


def numpy_sinkhorn(scores, epsilon, num_iters):
    """Caron et al. 2020, listing in the appendix: in probabilities, prototypes as rows."""
    codes = np.exp(scores / epsilon).T
    num_prototypes, num_samples = codes.shape
    codes /= codes.sum()
    for _ in range(num_iters):
        codes /= codes.sum(axis=1, keepdims=True) * num_prototypes
        codes /= codes.sum(axis=0, keepdims=True) * num_samples
    return (codes * num_samples).T


@pytest.mark.parametrize("num_iters", [1, 3, 50])
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
def test_sinkhorn_is_the_listing_of_its_paper(epsilon, num_iters):
    scores = np.random.default_rng(1).uniform(-1, 1, size=(12, 5))
    expected = numpy_sinkhorn(scores, epsilon, num_iters)
    np.testing.assert_allclose(sinkhorn(torch.from_numpy(scores), epsilon, num_iters), expected, rtol=1e-8)


def test_sinkhorn_codes_are_balanced_after_many_iterations():
    scores = 2 * torch.rand(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    few, many = sinkhorn(scores, 0.2, 1), sinkhorn(scores, 0.2, 300)
    for codes in (few, many):
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(many.sum(dim=0), torch.full((5,), 12 / 5, dtype=torch.float64))
    assert float((few.sum(dim=0) - 12 / 5).abs().max()) > 0.01


def test_sinkhorn_splits_samples_that_all_prefer_one_prototype():
    scores = torch.zeros(12, 3)
    scores[:, 0] = 0.9
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), torch.full((12, 3), 1 / 3))


def test_sinkhorn_and_swav_stay_finite_where_exponentials_overflow():
    scores = 2 * torch.rand(12, 5, generator=torch.Generator().manual_seed(0)) - 1
    codes = sinkhorn(scores, 1e-3, 3)
    assert bool(codes.isfinite().all())
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12))
    term = build(SwAV, epsilon=1e-3, temperature=1e-2).float()
    out = outputs()
    predictions = out.predictions.float().requires_grad_()
    value = term(replace(out, predictions=predictions, targets=out.targets.float()))
    (grad,) = torch.autograd.grad(value, predictions)
    assert bool(value.isfinite() & grad.isfinite().all())


def swav_by_numpy(out, term):
    weight = term.prototypes.weight.detach().numpy()
    prototypes = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    scores = [(x / np.linalg.norm(x, axis=1, keepdims=True)) @ prototypes.T for x in rows(out)]
    codes = [numpy_sinkhorn(x, term.epsilon, term.num_iters) for x in scores]

    def cross_entropy(q, x):
        logits = x / term.temperature
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -(q * log_probabilities).sum(axis=1).mean()

    return (cross_entropy(codes[1], scores[0]) + cross_entropy(codes[0], scores[1])) / 2


@pytest.mark.parametrize(
    "changes", [{}, {"num_prototypes": 3}, {"temperature": 0.5}, {"epsilon": 0.5}, {"num_iters": 10}]
)
def test_swav_is_the_swapped_cross_entropy_of_numpy(changes):
    term = build(SwAV, **{"num_prototypes": 6, **changes})
    with torch.no_grad():
        assert float(term(outputs())) == pytest.approx(swav_by_numpy(outputs(), term), rel=1e-9)


def test_swav_does_not_depend_on_the_length_of_anything():
    out, term = outputs(), build(SwAV, num_prototypes=6)
    with torch.no_grad():
        value = float(term(out))
        term.prototypes.weight.mul_(3)
        scaled = replace(out, predictions=5 * out.predictions, targets=0.2 * out.targets)
        assert float(term(scaled)) == pytest.approx(value, rel=1e-9)


def test_a_collapsed_embedding_has_the_swav_of_a_guess():
    out, term = outputs(), build(SwAV, num_prototypes=6, temperature=1.0)
    flat = replace(out, predictions=torch.ones_like(out.predictions), targets=torch.ones_like(out.targets))
    with torch.no_grad():
        assert float(term(flat)) >= math.log(6)
        assert float(term(replace(out, predictions=rows_as_predictions(out)))) < float(term(flat))


def rows_as_predictions(out):
    return torch.from_numpy(rows(out)[1]).view(out.predictions.shape)


def test_the_codes_of_swav_carry_no_gradient():
    out, term = outputs(), build(SwAV, num_prototypes=6)
    leaves = [out.predictions.clone().requires_grad_(), out.targets.clone().requires_grad_()]
    value = term(replace(out, predictions=leaves[0], targets=leaves[1]))
    grads = torch.autograd.grad(value, leaves)
    prototypes = torch.nn.functional.normalize(term.prototypes.weight, dim=-1).detach()
    samples = [
        torch.nn.functional.normalize(x, dim=-1)
        for x in matched_samples(replace(out, predictions=leaves[0], targets=leaves[1]))
    ]
    scores = [x @ prototypes.T for x in samples]
    fixed = [
        torch.from_numpy(numpy_sinkhorn(x.detach().numpy(), term.epsilon, term.num_iters)) for x in scores
    ]
    crossed = [
        -(fixed[1 - k] * (scores[k] / term.temperature).log_softmax(dim=-1)).sum(dim=-1).mean()
        for k in range(2)
    ]
    for got, expected in zip(grads, torch.autograd.grad(sum(crossed) / 2, leaves), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_a_map_are_samples(kind):
    out = outputs((D, 2, 3))
    as_vectors = replace(
        out,
        embeddings=out.embeddings.movedim(2, -1).flatten(2, 3).movedim(1, 2).flatten(0, 1),
        targets=out.targets.movedim(2, -1).flatten(2, 3).movedim(1, 2).flatten(0, 1),
        predictions=out.predictions.movedim(3, -1).flatten(3, 4).movedim(3, 1).flatten(0, 1),
    )
    assert as_vectors.targets.shape == (B * 6, T, D)
    with torch.no_grad():
        on_map = build(kind, TermSizes((D, 2, 3), A))(out)
        torch.testing.assert_close(on_map, build(kind)(as_vectors))


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_step_on_the_predictions_lowers_a_term_and_is_that_of_finite_differences(kind):
    out, term = outputs(), build(kind)
    predictions = out.predictions.clone().requires_grad_()
    value = term(replace(out, predictions=predictions))
    (grad,) = torch.autograd.grad(value, predictions)
    with torch.no_grad():
        assert float(term(replace(out, predictions=out.predictions - 1e-2 * grad))) < float(value)
    if kind is SwAV:  # its codes are held fixed; see test_the_codes_of_swav_carry_no_gradient
        return
    direction = torch.randn(predictions.shape, generator=torch.Generator().manual_seed(0)).double()
    up, down = (
        float(term(replace(out, predictions=out.predictions + sign * 1e-5 * direction))) for sign in (1, -1)
    )
    assert float((grad * direction).sum()) == pytest.approx((up - down) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("name", ["barlow_twins", "cosine_prediction", "swav"])
@pytest.mark.parametrize("target", ["ema", "stop_gradient", "shared"])
def test_a_gradient_reaches_the_target_branch_only_if_it_is_shared(name, target):
    model = make(target=target)
    objective = JEPAObjective(model, {name: 1.0}, rollout_steps=2)
    out = objective.outputs(make_batch(model))
    weights = list(model.encoder.parameters())
    term = objective.terms[name]
    through = torch.autograd.grad(term(out), weights, retain_graph=True)
    constant = torch.autograd.grad(term(replace(out, targets=out.targets.detach())), weights)
    same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(through, constant, strict=True))
    assert same == (target != "shared")
    assert any(float(grad.abs().max()) > 0 for grad in constant)
    assert out.targets.requires_grad == (target == "shared")
    if target == "ema":
        objective(make_batch(model))[name].backward()
        assert all(weight.grad is None for weight in model.target_encoder.parameters())
