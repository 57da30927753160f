import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate

from tests.worldmodel.factories import make, make_batch
from worldmodel.objectives import (
    TERMS,
    ActionContrast,
    Covariance,
    InfoNCE,
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


def make_stirred(name="patch-mlp", **changes):
    """Build a model whose predictor heeds the action: an AdaLN-zero transformer ignores it as it is drawn."""
    model = make(name, **changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.predictor.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


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
    term = TERMS[name](TermSizes((D,), A, observation={"proprio": (3,)}, label_dims={"proprio": 3}))
    label = torch.randn(B, T, 3)

    def value_at(embeddings, predictions, shuffled, divergence):
        asked = {"observations": {"proprio": label}, "labels": {"proprio": label}, "latent_kl": divergence}
        return term(replace(outputs(embeddings, predictions), shuffled=shuffled, **asked))

    leaves = [
        (0.3 * torch.randn(B, T, D)).requires_grad_(),
        torch.randn(B, 2, 3, D, requires_grad=True),
        torch.randn(B, 2, 8, 3, D, requires_grad=True),
        torch.rand(B, 2, 3, requires_grad=True),
    ]
    value = value_at(*leaves)
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    stepped = [leaf if grad is None else leaf - 1e-3 * grad for leaf, grad in zip(leaves, grads, strict=True)]
    assert float(value_at(*stepped).detach()) < float(value.detach())


def test_a_prediction_with_stop_gradient_has_the_value_but_not_the_pull_on_its_targets():
    out = outputs()
    leaves = [out.targets.clone().requires_grad_(), out.predictions.clone().requires_grad_()]
    leading = replace(out, targets=leaves[0], predictions=leaves[1])
    both, one = (Prediction(SIZES, stop_gradient=stop)(leading) for stop in (False, True))
    assert float(both.detach()) == float(one.detach())
    grads = torch.autograd.grad(both, leaves)
    stopped = torch.autograd.grad(one, leaves, allow_unused=True)
    assert float(grads[0].abs().max()) > 0
    assert stopped[0] is None
    torch.testing.assert_close(stopped[1], grads[1])


@pytest.mark.parametrize("starts", ["first", "every"])
@pytest.mark.parametrize("name", ["patch-mlp", "impala-transformer", "map-conv"])
def test_the_objective_rolls_out_from_the_frames_it_says(name, starts):
    model = make_stirred(name).eval()
    batch = make_batch(model)
    objective = JEPAObjective(model, {"prediction": 1.0}, rollout_steps=3, starts=starts).eval()
    out = objective.outputs(batch)
    assert out.predictions.shape[:3] == (4, 1 if starts == "first" else 3, 3)
    memory = model.empty_memory(4)
    for i in range(out.predictions.shape[1]):
        expected = model.rollout(out.embeddings[:, i], batch["action"][:, i : i + 3], memory=memory)
        torch.testing.assert_close(out.predictions[:, i], expected, rtol=1e-4, atol=1e-5)
        memory = model.remember(memory, out.embeddings[:, i], batch["action"][:, i])


def value_of(term, out):
    return float(term(out).detach())


def test_a_label_gives_an_objective_several_terms_of_a_kind():
    model = make()
    weights = {"infonce": 1.0, "infonce:within": 0.5, "variance:small": 2.0}
    term_args = {"infonce:within": {"negatives": "within"}, "variance:small": {"margin": 0.1}}
    objective = JEPAObjective(model, weights, rollout_steps=2, term_args=term_args)
    batch = make_batch(model)
    got, out = objective(batch), objective.outputs(batch)
    sizes = TermSizes((8,), A)
    assert list(got) == list(weights)
    expected = {
        "infonce": InfoNCE(sizes),
        "infonce:within": InfoNCE(sizes, negatives="within"),
        "variance:small": Variance(sizes, margin=0.1),
    }
    for name, term in expected.items():
        assert float(got[name].detach()) == pytest.approx(value_of(term, out), rel=1e-5), name
    with pytest.raises(ValueError, match="did you mean 'infonce'"):
        JEPAObjective(model, {"infonc:within": 1.0}, rollout_steps=2)


SLICED = {
    "prediction": {},
    "variance": {"margin": 2.0},
    "covariance": {},
    "temporal_std": {},
    "sigreg": {},
    "inverse_dynamics": {},
    "infonce": {"negatives": "both"},
    "action_contrast": {"num_shuffled": 2, "temperature": 0.05},
    "barlow_twins": {},
    "swav": {"num_prototypes": 5},
    "reconstruction": {},
    "supervised": {"key": "position"},
}


@pytest.mark.parametrize("name", SLICED)
def test_features_restrict_a_term_to_a_slice_of_the_embedding(name):
    model = make_stirred()
    changes = {"rollout_steps": 2, "starts": "every", "label_dims": {"position": 2}}
    objective = JEPAObjective(
        model, {name: 1.0}, term_args={name: {**SLICED[name], "features": [0.25, 0.625]}}, **changes
    )
    batch = {**make_batch(model), "position": torch.randn(4, 6, 2)}
    out = objective.outputs(batch)
    part = replace(
        out,
        embeddings=out.embeddings[..., 2:5],
        targets=out.targets[..., 2:5],
        predictions=out.predictions[..., 2:5],
        shuffled=None if out.shuffled is None else out.shuffled[..., 2:5],
    )
    term = TERMS[name](TermSizes((3,), A, model.config.observation, {"position": 2}), **SLICED[name])
    term.load_state_dict(objective.terms[name].state_dict())
    value, expected = objective(batch)[name], term(part)
    torch.testing.assert_close(value, expected)
    weights = [*model.encoder.parameters(), *model.predictor.parameters()]
    for got, reference in zip(
        *(
            torch.autograd.grad(x, weights, allow_unused=True, materialize_grads=True)
            for x in (value, expected)
        ),
        strict=True,
    ):
        torch.testing.assert_close(got, reference, rtol=1e-3, atol=1e-6)
    other = JEPAObjective(
        model, {name: 1.0}, term_args={name: {**SLICED[name], "features": [0, 1]}}, **changes
    )
    assert float(value.detach()) != pytest.approx(float(other(batch)[name].detach()), rel=1e-3)


@pytest.mark.parametrize("features", [[0, 1.1], [-0.1, 0.5], [0.5, 0.5], [0.75, 0.25], [0.5], [0, 0.5, 1]])
def test_features_outside_the_embedding_are_one_sentence(features):
    arguments = {"variance": {"features": features}}
    sentence = "features of objective term variance must be two ascending shares in .0, 1.,"
    with pytest.raises(ValueError, match=sentence):
        JEPAObjective(make(), {"variance": 1.0}, rollout_steps=2, term_args=arguments)


def test_features_of_a_map_are_one_sentence():
    arguments = {"variance": {"features": [0, 0.5]}}
    with pytest.raises(ValueError, match=r"variance with features must have a vector embedding, got \(8, "):
        JEPAObjective(make("map-conv"), {"variance": 1.0}, rollout_steps=2, term_args=arguments)


@pytest.mark.parametrize("starts", ["first", "every"])
@pytest.mark.parametrize("name", ["patch-mlp", "impala-transformer", "map-conv"])
def test_shuffled_rollouts_take_the_actions_of_other_windows_from_the_same_frame(name, starts):
    model = make_stirred(name).eval()
    batch = make_batch(model, batch=6)
    weights = {"action_contrast": 1.0}
    arguments = {"action_contrast": {"num_shuffled": 3}}
    objective = JEPAObjective(model, weights, rollout_steps=3, starts=starts, term_args=arguments).eval()
    with torch.no_grad():
        out = objective.outputs(batch, seed=4)
        plain = JEPAObjective(model, {"prediction": 1.0}, rollout_steps=3, starts=starts).outputs(batch)
        num_starts = 1 if starts == "first" else 3
        assert out.shuffled.shape[:4] == (6, num_starts, 3, 3)
        torch.testing.assert_close(out.predictions, plain.predictions)
        assert plain.shuffled is None
        memory = model.empty_memory(6)
        sources = []
        for i in range(num_starts):
            candidates = torch.stack(
                [
                    model.rollout(
                        out.embeddings[:, i],
                        batch["action"][other, i : i + 3].expand(6, -1, -1),
                        memory=memory,
                    )
                    for other in range(6)
                ],
                dim=1,
            )  # (B, windows, H, *D)
            distance = (out.shuffled[:, i, :, None] - candidates[:, None]).abs().flatten(3).amax(dim=-1)
            assert float(distance.amin(dim=-1).max()) < 1e-5
            assert float(distance.kthvalue(2, dim=-1).values.min()) > 1e-4
            sources.append(distance.argmin(dim=-1))  # (B, N)
            memory = model.remember(memory, out.embeddings[:, i], batch["action"][:, i])
        for b, row in enumerate(sources[0].tolist()):
            assert len({*row, b}) == 4
        assert all(torch.equal(source, sources[0]) for source in sources)


def test_the_shuffle_is_drawn_from_the_seed_of_the_step():
    model = make()
    objective = JEPAObjective(
        model, {"action_contrast": 1.0}, rollout_steps=2, term_args={"action_contrast": {"num_shuffled": 3}}
    )
    batch = make_batch(model, batch=12)
    with torch.no_grad():
        first = objective.outputs(batch, seed=1).shuffled
        assert torch.equal(objective.outputs(batch, seed=1).shuffled, first)
        assert not torch.allclose(objective.outputs(batch, seed=2).shuffled, first)


def test_an_objective_rolls_out_as_often_as_its_most_demanding_term():
    weights = {"action_contrast": 1.0, "action_contrast:one": 1.0}
    arguments = {"action_contrast": {"num_shuffled": 3}, "action_contrast:one": {"num_shuffled": 1}}
    objective = JEPAObjective(make(), weights, rollout_steps=2, term_args=arguments)
    batch = make_batch(make())
    out, got = objective.outputs(batch), objective(batch)
    assert out.shuffled.shape[2] == 3
    for name, num in (("action_contrast", 3), ("action_contrast:one", 1)):
        expected = value_of(ActionContrast(SIZES, num_shuffled=num), out)
        assert float(got[name].detach()) == pytest.approx(expected, rel=1e-5)


def test_a_batch_too_small_to_shuffle_is_one_sentence():
    arguments = {"action_contrast": {"num_shuffled": 4}}
    objective = JEPAObjective(make(), {"action_contrast": 1.0}, rollout_steps=2, term_args=arguments)
    assert objective(make_batch(make(), batch=5))["action_contrast"].isfinite()
    with pytest.raises(ValueError, match="num_shuffled must be < the windows of a batch, 4, got 4"):
        objective(make_batch(make(), batch=4))


def encoder_gradients(objective, name, batch):
    objective.zero_grad()
    objective(batch)[name].backward()
    return [weight.grad for weight in objective.model.encoder.parameters()]


@pytest.mark.parametrize("target", ["shared", "ema"])
def test_an_encoder_that_is_not_trained_gets_no_gradient_while_the_rest_does(target):
    model = make(target=target)
    weights = {"prediction": 1.0, "inverse_dynamics": 1.0}
    objective = JEPAObjective(model, weights, rollout_steps=3, train_encoder=False)
    for name in weights:
        assert all(grad is None for grad in encoder_gradients(objective, name, make_batch(model)))
        part = {"prediction": model.predictor, "inverse_dynamics": objective.terms["inverse_dynamics"]}[name]
        assert all(float(weight.grad.abs().sum()) > 0 for weight in part.parameters())


def test_detached_predictions_train_the_predictor_and_leave_the_encoder_to_the_other_terms():
    weights = {"prediction": 1.0, "infonce": 1.0, "cosine_prediction": 1.0, "inverse_dynamics": 1.0}
    batch = make_batch(make())
    attached, detached = (
        JEPAObjective(make(), weights, rollout_steps=3, starts="every", detach_predictions=detach)
        for detach in (False, True)
    )
    for name in weights:
        expected = float(attached(batch)[name].detach())
        assert float(detached(batch)[name].detach()) == pytest.approx(expected, rel=1e-6)
    for name in ("prediction", "infonce", "cosine_prediction"):
        assert any(float(grad.abs().max()) > 0 for grad in encoder_gradients(attached, name, batch))
        assert all(grad is None for grad in encoder_gradients(detached, name, batch))
        assert all(float(w.grad.abs().sum()) > 0 for w in detached.model.predictor.parameters())
    expected = encoder_gradients(attached, "inverse_dynamics", batch)
    for got, reference in zip(encoder_gradients(detached, "inverse_dynamics", batch), expected, strict=True):
        torch.testing.assert_close(got, reference)
        assert float(reference.abs().max()) > 0


def test_a_latent_variable_and_its_divergence_come_together():
    with pytest.raises(
        ValueError, match="with a latent variable must have the term latent_kl, got prediction"
    ):
        JEPAObjective(make(latent_dim=3), {"prediction": 1.0}, rollout_steps=2)
    with pytest.raises(ValueError, match="latent_kl must be given a model with latent_dim >= 1, got 0"):
        JEPAObjective(make(), {"latent_kl": 1.0}, rollout_steps=2)
    with pytest.raises(ValueError, match="latent_dim of latent_kl must be the model's 3, got 4"):
        JEPAObjective(
            make(latent_dim=3),
            {"latent_kl": 1.0},
            rollout_steps=2,
            term_args={"latent_kl": {"latent_dim": 4}},
        )


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


def test_objectives_that_cannot_be_built_are_one_sentence():
    model, stochastic = make(), make(latent_dim=2)
    with pytest.raises(ValueError, match="action_contrast must have a model with latent_dim 0"):
        JEPAObjective(stochastic, {"action_contrast": 1.0, "latent_kl": 1.0}, rollout_steps=2)
    with pytest.raises(ValueError, match="must hold a feature, got \\[0, 0.05\\]"):
        JEPAObjective(
            model, {"variance": 1.0}, rollout_steps=2, term_args={"variance": {"features": [0, 0.05]}}
        )
    with pytest.raises(ValueError, match="must not have a dot, got 'infonce:t0.1'"):
        JEPAObjective(model, {"infonce:t0.1": 1.0}, rollout_steps=2)
    with pytest.raises(ValueError, match="latent_kl must be one term over all features, got 'latent_kl:two'"):
        JEPAObjective(stochastic, {"latent_kl": 1.0, "latent_kl:two": 1.0}, rollout_steps=2)
    with pytest.raises(ValueError, match="SwAV must have .* epsilon > 0"):
        TERMS["swav"](SIZES, epsilon=0)
    with pytest.raises(ValueError, match="reconstruction must have an observation"):
        TERMS["reconstruction"](SIZES)
    with pytest.raises(ValueError, match="batch of at least 2 windows, got 1"):
        TERMS["infonce"](SIZES)(outputs(torch.randn(1, T, D), torch.randn(1, 2, 3, D)))
    supervised = JEPAObjective(model, {"supervised": 1.0}, rollout_steps=2, label_dims={"proprio": 3})
    with pytest.raises(
        ValueError, match="a batch must hold the label 'proprio' of its terms, got pixels, action"
    ):
        supervised(make_batch(model))


def test_a_label_and_an_observation_of_one_name_do_not_get_in_each_others_way():
    model = make("state-mlp")
    model.normalizer.set("proprio", torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 2.0]))
    weights = {"reconstruction": 1.0, "supervised": 1.0}
    objective = JEPAObjective(model, weights, rollout_steps=2, label_dims={"proprio": 3})
    objective.set_label_statistics("proprio", torch.tensor([5.0, 5.0, 5.0]), torch.tensor([0.5, 0.5, 0.0]))
    batch = make_batch(model)
    out = objective.outputs(batch)
    torch.testing.assert_close(
        out.observations["proprio"], (batch["proprio"] - torch.tensor([1.0, 2.0, 3.0])) / 2
    )
    expected = (batch["proprio"] - 5) / torch.tensor([0.5, 0.5, 1.0])
    torch.testing.assert_close(out.labels["proprio"], expected)
