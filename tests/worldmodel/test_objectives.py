import math

import numpy as np
import pytest
import torch
from scipy import integrate

from tests.worldmodel.factories import make, make_batch
from worldmodel.objectives import (
    TERMS,
    Covariance,
    InverseDynamics,
    JEPAObjective,
    JEPAOutputs,
    Prediction,
    SIGReg,
    TemporalSimilarity,
    TemporalStd,
    TermSizes,
    Variance,
)
from worldmodel.objectives.terms import epps_pulley

B, T, D, A = 5, 6, 4, 2
SIZES = TermSizes((D,), A)


def outputs(embeddings=None, predictions=None, seed=0, shape=(D,)) -> JEPAOutputs:
    generator = torch.Generator().manual_seed(3)
    if embeddings is None:
        embeddings = torch.randn(B, T, *shape, generator=generator)
    if predictions is None:
        predictions = torch.randn(B, 2, 3, *shape, generator=generator)
    actions = torch.randn(B, T - 1, A, generator=generator)
    return JEPAOutputs(embeddings, embeddings, predictions, actions, seed)


def test_prediction_pairs_step_k_from_start_i_with_frame_i_plus_k_plus_1():
    out = outputs()
    s, p = out.embeddings.numpy(), out.predictions.numpy()
    expected = np.mean([(p[:, i, k] - s[:, i + k + 1]) ** 2 for i in range(2) for k in range(3)])
    assert float(Prediction(SIZES)(out)) == pytest.approx(expected, rel=1e-5)


def test_prediction_of_maps_pairs_alike():
    out = outputs(shape=(D, 2, 3))
    s, p = out.embeddings.numpy(), out.predictions.numpy()
    expected = np.mean([(p[:, i, k] - s[:, i + k + 1]) ** 2 for i in range(2) for k in range(3)])
    assert float(Prediction(TermSizes((D, 2, 3), A))(out)) == pytest.approx(expected, rel=1e-5)


def test_variance_is_the_hinge_on_pooled_standard_deviations():
    out = outputs(torch.randn(B, T, D) * torch.tensor([0.2, 0.9, 1.5, 0.0]))
    std = np.sqrt(out.embeddings.numpy().reshape(-1, D).var(axis=0, ddof=1) + 1e-4)
    assert float(Variance(SIZES)(out)) == pytest.approx(np.maximum(0, 1 - std).mean(), rel=1e-4)
    assert float(Variance(SIZES, margin=2.0)(out)) == pytest.approx(np.maximum(0, 2 - std).mean(), rel=1e-4)


def test_covariance_is_the_mean_squared_off_diagonal():
    out = outputs()
    covariance = np.cov(out.embeddings.numpy().reshape(-1, D).T)
    expected = (covariance[~np.eye(D, dtype=bool)] ** 2).mean()
    assert float(Covariance(SIZES)(out)) == pytest.approx(expected, rel=1e-4)


def test_statistics_of_maps_treat_positions_as_samples():
    embeddings = torch.randn(B, T, D, 2, 3)
    as_vectors = embeddings.movedim(2, -1).reshape(B, -1, D)
    for term in (Variance, Covariance, SIGReg):
        on_map = term(TermSizes((D, 2, 3), A))(outputs(embeddings))
        on_vectors = term(SIZES)(outputs(as_vectors))
        torch.testing.assert_close(on_map, on_vectors)


def test_temporal_terms_against_numpy():
    out = outputs()
    s = out.embeddings.numpy()
    similarity = ((s[:, 1:] - s[:, :-1]) ** 2).mean()
    assert float(TemporalSimilarity(SIZES)(out)) == pytest.approx(similarity, rel=1e-5)
    std = np.sqrt(s.var(axis=1, ddof=1) + 1e-4)
    assert float(TemporalStd(SIZES)(out)) == pytest.approx(np.maximum(0, 1 - std).mean(), rel=1e-4)


def test_temporal_std_sees_a_constant_background_that_variance_does_not():
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]])
    background = 3 * torch.cat([corners, corners.flip(0)], dim=1)[:, None].expand(B, T, D)
    assert float(TemporalStd(SIZES)(outputs(background))) > 0.98
    assert float(Variance(SIZES)(outputs(background))) < 0.02


def test_linear_inverse_dynamics_recovers_an_action_that_is_there():
    out = outputs()
    term = InverseDynamics(SIZES, hidden_dims=())
    with torch.no_grad():
        term.layers[0].weight.zero_()
        term.layers[0].bias.zero_()
        term.layers[0].weight[:, :A] = -torch.eye(A)
        term.layers[0].weight[:, D : D + A] = torch.eye(A)
    moved = torch.cat([torch.zeros(B, 1, A), out.actions.cumsum(dim=1)], dim=1)
    embeddings = torch.cat([moved, torch.randn(B, T, D - A)], dim=-1)
    exact = JEPAOutputs(embeddings, embeddings, out.predictions, out.actions)
    with torch.no_grad():
        assert float(term(exact)) == pytest.approx(0, abs=1e-10)
        assert float(term(out)) > 0.1


def test_epps_pulley_is_the_integral_of_its_definition():
    samples = np.random.default_rng(0).normal(size=40) * 1.3 + 0.2

    def integrand(t):
        ecf = np.exp(1j * t * samples).mean()
        return abs(ecf - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2)

    expected = 40 * integrate.quad(integrand, -3, 3)[0]
    nodes = torch.linspace(0, 3, 17)
    got = float(epps_pulley(torch.from_numpy(samples)[:, None].float(), nodes))
    assert got == pytest.approx(expected, rel=2e-3)


def test_sigreg_prefers_a_standard_gaussian_to_other_scales_and_to_collapse():
    term = SIGReg(SIZES)
    normal = torch.randn(64, 8, D)
    value = float(term(outputs(normal)))
    for worse in (0.3 * normal, 2 * normal, torch.zeros_like(normal), normal[..., :1].expand(-1, -1, D)):
        assert float(term(outputs(worse))) > 3 * value


def test_sigreg_sees_every_position_and_frame_of_a_large_batch():
    embeddings = torch.zeros(64, 13, D, 8, 8, requires_grad=True)
    term = SIGReg(TermSizes((D, 8, 8), A), max_samples=512)
    touched = torch.zeros(13, 8, 8)
    for seed in range(20):
        (grad,) = torch.autograd.grad(
            term(outputs(embeddings + torch.randn_like(embeddings), seed=seed)), embeddings
        )
        touched += (grad.abs().sum(dim=2) > 0).sum(dim=0)
    assert (touched > 0).all()


def test_sigreg_draws_directions_from_the_seed_of_the_step():
    term = SIGReg(SIZES, num_directions=3)
    skewed = torch.randn(16, 8, D).exp()
    assert float(term(outputs(skewed, seed=1))) == float(term(outputs(skewed, seed=1)))
    assert float(term(outputs(skewed, seed=1))) != float(term(outputs(skewed, seed=2)))


@pytest.mark.parametrize("name", TERMS)
def test_a_gradient_step_on_a_term_lowers_it(name):
    term = TERMS[name](SIZES)
    embeddings = (0.3 * torch.randn(B, T, D)).requires_grad_()
    predictions = torch.randn(B, 2, 3, D, requires_grad=True)
    value = term(outputs(embeddings, predictions))
    leaves = [leaf for leaf in (embeddings, predictions) if leaf.requires_grad]
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    stepped = [leaf if grad is None else leaf - 1e-3 * grad for leaf, grad in zip(leaves, grads, strict=True)]
    assert float(term(outputs(*stepped)).detach()) < float(value.detach())


@pytest.mark.parametrize("starts", ["first", "every"])
@pytest.mark.parametrize("name", ["patch-mlp", "impala-transformer", "map-conv"])
def test_the_objective_rolls_out_from_the_frames_it_says(name, starts):
    model = make(name).eval()
    batch = make_batch(model)
    objective = JEPAObjective(model, {"prediction": 1.0}, rollout_steps=3, starts=starts).eval()
    out = objective.outputs(batch)
    assert out.predictions.shape[:3] == (4, 1 if starts == "first" else 3, 3)
    memory = model.empty_memory(4)
    for i in range(out.predictions.shape[1]):
        expected = model.rollout(out.embeddings[:, i], batch["action"][:, i : i + 3], memory=memory)
        torch.testing.assert_close(out.predictions[:, i], expected, rtol=1e-4, atol=1e-5)
        memory = model.remember(memory, out.embeddings[:, i], batch["action"][:, i])


def test_bad_objectives_are_one_sentence():
    model = make()
    with pytest.raises(ValueError, match="objective term must be one of .*did you mean 'variance'"):
        JEPAObjective(model, {"varance": 1.0}, rollout_steps=2)
    with pytest.raises(ValueError, match="rollout_steps must be >= 1, got 0"):
        JEPAObjective(model, {"prediction": 1.0}, rollout_steps=0)
    with pytest.raises(ValueError, match="starts must be one of"):
        JEPAObjective(model, {"prediction": 1.0}, rollout_steps=1, starts="last")
    with pytest.raises(ValueError, match="did you mean 'num_directions'"):
        JEPAObjective(model, {"sigreg": 1.0}, rollout_steps=1, term_args={"sigreg": {"num_direction": 3}})
    with pytest.raises(ValueError, match="objective term with arguments must be one of prediction"):
        JEPAObjective(model, {"prediction": 1.0}, rollout_steps=1, term_args={"sigreg": {}})
    objective = JEPAObjective(model, {"prediction": 1.0}, rollout_steps=9)
    with pytest.raises(ValueError, match="at least rollout_steps \\+ 1 = 10 frames, got 6"):
        objective(make_batch(model))
