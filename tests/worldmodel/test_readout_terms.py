"""Inverse dynamics, reconstruction, the latent variable's divergence and supervision against their formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tests.worldmodel.factories import make, make_batch
from worldmodel.objectives import (
    InverseDynamics,
    JEPAObjective,
    JEPAOutputs,
    LatentKL,
    Reconstruction,
    Supervised,
    TermSizes,
)
from worldmodel.objectives.readouts import PixelDecoder

B, T, D, A, S, H, Z = 4, 6, 5, 2, 2, 3, 3
SIZES = TermSizes((D,), A)


def outputs(dim=D, **asked) -> JEPAOutputs:
    generator = torch.Generator().manual_seed(5)
    embeddings = torch.randn(B, T, dim, generator=generator)
    predictions = torch.randn(B, S, H, dim, generator=generator)
    actions = torch.randn(B, T - 1, A, generator=generator)
    return JEPAOutputs(embeddings, embeddings, predictions, actions, **asked)


def set_linear(layer, weight, bias=None):
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)


def loop_of_both_errors(decode, out, values):
    """``mean |R(s_t) - y_t|^2 + mean |R(p_ik) - y_{i+k+1}|^2``, one embedding after the other."""
    encoded = [
        (decode(out.embeddings[b, t]).numpy() - values[b, t].numpy()) ** 2 for b, t in np.ndindex(B, T)
    ]
    predicted = [
        (decode(out.predictions[b, i, k]).numpy() - values[b, i + k + 1].numpy()) ** 2
        for b, i, k in np.ndindex(*out.predictions.shape[:3])
    ]
    return np.mean(encoded) + np.mean(predicted)


def test_inverse_dynamics_over_several_steps_asks_for_the_actions_between():
    gap, out = 3, outputs()
    term = InverseDynamics(SIZES, num_steps=gap)
    with torch.no_grad():
        errors = [
            term.layers(torch.cat([out.embeddings[b, t], out.embeddings[b, t + gap]])).numpy()
            - out.actions[b, t : t + gap].reshape(-1).numpy()
            for b in range(B)
            for t in range(T - gap)
        ]
        assert float(term(out)) == pytest.approx(np.mean(np.square(errors)), rel=1e-5)


@pytest.mark.parametrize("gap", [1, 2, 4])
def test_inverse_dynamics_is_zero_for_a_readout_that_is_exact(gap):
    # The embedding holds the actions that follow in one half and those that came before in the other.
    out = outputs()
    following = torch.zeros(B, T, gap, A)
    for t in range(T):
        part = out.actions[:, t : t + gap]
        following[:, t, : part.shape[1]] = part
    embeddings = torch.cat([following.flatten(2), torch.randn(B, T, 3)], dim=-1)
    dim = embeddings.shape[-1]
    term = InverseDynamics(TermSizes((dim,), A), hidden_dims=(), num_steps=gap)
    set_linear(term.layers[0], torch.eye(gap * A, 2 * dim))
    exact = replace(out, embeddings=embeddings)
    with torch.no_grad():
        assert float(term(exact)) == pytest.approx(0, abs=1e-12)
        backwards = replace(exact, actions=out.actions.flip(1))
        assert float(term(backwards)) > 0.1


def test_inverse_dynamics_reads_repeated_actions_off_the_difference_of_positions():
    out = outputs()
    moves = replace(out, actions=out.actions[:, :1].expand(-1, T - 1, -1))  # the same action all along
    position = torch.cat([torch.zeros(B, 1, A), moves.actions.cumsum(dim=1)], dim=1)
    term = InverseDynamics(TermSizes((A,), A), hidden_dims=(), num_steps=2)
    eye = torch.eye(A) / 2
    set_linear(term.layers[0], torch.cat([torch.cat([-eye, eye], 1)] * 2))
    with torch.no_grad():
        assert float(term(replace(moves, embeddings=position))) == pytest.approx(0, abs=1e-10)
        assert float(term(replace(out, embeddings=position))) > 0.1


def test_inverse_dynamics_gradient_lowers_it_and_reaches_the_embeddings():
    out = outputs()
    term = InverseDynamics(SIZES, num_steps=2)
    embeddings = out.embeddings.clone().requires_grad_()
    value = term(replace(out, embeddings=embeddings))
    leaves = [embeddings, *term.parameters()]
    grads = torch.autograd.grad(value, leaves)
    assert float(grads[0].abs().amax(dim=(0, 2)).min()) > 0  # every frame takes part in a pair
    with torch.no_grad():
        for parameter, grad in zip(term.parameters(), grads[1:], strict=True):
            parameter -= 1e-2 * grad
        assert float(term(replace(out, embeddings=out.embeddings - 1e-2 * grads[0]))) < float(value)


def test_inverse_dynamics_needs_a_window_longer_than_its_steps():
    with pytest.raises(ValueError, match="num_steps of inverse dynamics must be >= 1, got 0"):
        InverseDynamics(SIZES, num_steps=0)
    assert InverseDynamics(SIZES, num_steps=T - 1)(outputs()).isfinite()
    with pytest.raises(ValueError, match="more than num_steps = 6 frames for inverse dynamics, got 6"):
        InverseDynamics(SIZES, num_steps=T)(outputs())


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 28, 33), (2, 65, 65), (1, 5, 64)])
def test_a_decoder_draws_every_pixel_of_its_image_from_the_embedding(image_shape):
    torch.manual_seed(0)
    decoder = PixelDecoder(D, image_shape)
    embeddings = torch.randn(2, 7, D, requires_grad=True)
    images = decoder(embeddings)
    assert images.shape == (2, 7, *image_shape)
    assert float((images - images[0, 0])[1:].detach().abs().amax(dim=(0, 1, 2)).min()) > 0
    torch.testing.assert_close(decoder(embeddings[1, 3]), images[1, 3])
    (grad,) = torch.autograd.grad(images[1, 3].sum(), embeddings)
    assert float(grad[1, 3].abs().max()) > 0
    assert float(grad[0].abs().max()) == 0


@pytest.mark.parametrize(
    ("observation", "key"),
    [
        ({"pixels": (2, 9, 11)}, "pixels"),
        ({"proprio": (3,), "pixels": (1, 8, 8)}, "pixels"),
        ({"proprio": (3,)}, "proprio"),
        ({"joints": (2, 2)}, "joints"),
    ],
)
def test_reconstruction_is_the_error_of_its_decoder_on_frames_and_on_predicted_frames(observation, key):
    term = Reconstruction(TermSizes((D,), A, observation))
    assert term.observation_keys == (key,)
    frames = torch.randn(B, T, *observation[key])
    out = outputs(observations={key: frames})
    with torch.no_grad():
        expected = loop_of_both_errors(lambda s: term.decoder(s).view(observation[key]), out, frames)
        assert float(term(out)) == pytest.approx(expected, rel=1e-5)


def test_reconstruction_is_zero_for_an_exact_decoder():
    term = Reconstruction(TermSizes((3,), A, {"proprio": (3,)}), hidden_dim=6)
    eye = torch.eye(3)
    set_linear(term.decoder[0], torch.cat([eye, -eye]))  # x = relu(x) - relu(-x)
    set_linear(term.decoder[2], torch.cat([eye, -eye], dim=1))
    out = outputs(dim=3)
    exact = replace(
        out,
        predictions=torch.stack([out.embeddings[:, i + 1 : i + 1 + H] for i in range(S)], dim=1),
        observations={"proprio": out.embeddings},
    )
    with torch.no_grad():
        assert float(term(exact)) == pytest.approx(0, abs=1e-12)
        assert float(term(replace(exact, predictions=out.predictions))) > 0.1


@pytest.mark.parametrize(
    ("name", "key"), [("patch-mlp", "pixels"), ("fused", "pixels"), ("state-mlp", "proprio")]
)
def test_the_objective_reconstructs_normalised_observations(name, key):
    model = make(name)
    shape = model.config.observation[key]
    stats_shape = (shape[0], 1, 1) if len(shape) == 3 else shape
    mean, std = np.full(stats_shape, 3.0), np.full(stats_shape, 20.0)
    model.normalizer.set(key, torch.from_numpy(mean), torch.from_numpy(std))
    objective = JEPAObjective(model, {"reconstruction": 1.0}, rollout_steps=H, starts="every")
    batch = make_batch(model)
    with torch.no_grad():
        out = objective.outputs(batch)
        got = float(objective(batch)["reconstruction"])
        scaled = torch.from_numpy((batch[key].double().numpy() - mean) / std).float()
        expected = loop_of_both_errors(objective.terms["reconstruction"].decoder, out, scaled)
    np.testing.assert_allclose(out.observations[key], scaled, rtol=1e-4, atol=1e-5)
    assert got == pytest.approx(expected, rel=1e-4)


def draw(num, seed=0):
    return torch.randn(num, Z, generator=torch.Generator().manual_seed(seed))


def latent_case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    term = LatentKL(SIZES, latent_dim=Z)
    with torch.no_grad():
        term.latent.posterior[-1].weight.mul_(4)
    rows = [torch.randn(6, size, generator=generator) for size in (D, A, D)]
    mean, log_std = term.latent.posterior(torch.cat(rows, dim=-1)).detach().chunk(2, dim=-1)
    return term, rows, Normal(mean, log_std.clamp(-5, 2).exp())


def test_the_divergence_of_the_posterior_is_torchs():
    term, rows, posterior = latent_case()
    _, divergence = term.latent.infer(*rows, draw(6))
    prior = Normal(torch.zeros(6, Z), torch.ones(6, Z))
    torch.testing.assert_close(divergence.detach(), kl_divergence(posterior, prior).sum(dim=-1))
    assert float(divergence.detach().min()) > 0


def test_a_posterior_that_is_the_prior_has_no_divergence():
    term, rows, _ = latent_case()
    set_linear(term.latent.posterior[-1], torch.zeros_like(term.latent.posterior[-1].weight))
    latent, divergence = term.latent.infer(*rows, draw(6, seed=1))
    torch.testing.assert_close(divergence, torch.zeros(6))
    expected = torch.randn(6, Z, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(latent, expected)


def test_an_extreme_posterior_is_kept_finite():
    term, rows, _ = latent_case()
    for bias in (-1e4, 1e4):
        set_linear(
            term.latent.posterior[-1],
            torch.zeros_like(term.latent.posterior[-1].weight),
            torch.cat([torch.zeros(Z), torch.full((Z,), bias)]),
        )
        latent, divergence = term.latent.infer(*rows, draw(6))
        assert bool(latent.isfinite().all() & divergence.isfinite().all())


def test_latents_are_drawn_from_the_posterior():
    term, rows, posterior = latent_case()
    num = 20_000
    tiled = [row[:1].expand(num, -1) for row in rows]
    with torch.no_grad():
        latent, _ = term.latent.infer(*tiled, draw(num))
    mean, std = posterior.mean[0], posterior.stddev[0]
    assert bool(((latent.mean(dim=0) - mean).abs() < 5 * std / math.sqrt(num)).all())
    assert bool(((latent.std(dim=0) / std - 1).abs() < 5 / math.sqrt(2 * num)).all())
    assert abs(float(torch.corrcoef(latent.T)[0, 1])) < 5 / math.sqrt(num)


def test_the_gradient_of_a_draw_is_that_of_the_reparametrised_posterior():
    term, rows, _ = latent_case()
    latent, _ = term.latent.infer(*rows, draw(6, seed=2))
    noise = torch.randn(6, Z, generator=torch.Generator().manual_seed(2))
    mean, log_std = term.latent.posterior(torch.cat(rows, dim=-1)).chunk(2, dim=-1)
    weights = list(term.parameters())
    got = torch.autograd.grad(latent.square().sum(), weights)
    expected = torch.autograd.grad((mean + log_std.exp() * noise).square().sum(), weights)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_free_nats_cost_nothing_and_give_no_gradient():
    divergences = torch.tensor([[[0.2, 3.0]], [[1.5, 0.0]]], requires_grad=True)
    out = replace(outputs(), latent_kl=divergences)
    assert float(LatentKL(SIZES)(out).detach()) == pytest.approx((0.2 + 3.0 + 1.5 + 0.0) / 4)
    free = LatentKL(SIZES, free_nats=1.0)(out)
    assert float(free.detach()) == pytest.approx((1.0 + 3.0 + 1.5 + 1.0) / 4)
    (grad,) = torch.autograd.grad(free, divergences)
    torch.testing.assert_close(grad, torch.tensor([[[0.0, 0.25]], [[0.25, 0.0]]]))


def latent_objective(name="patch-mlp", starts="every", **args):
    model = make(name, latent_dim=Z)
    model.normalizer.set("pixels", [128.0, 128.0], [74.0, 74.0])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # an AdaLN-zero transformer ignores its latent as it is drawn
        for weight in model.predictor.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    weights = {"reconstruction": 1.0, "latent_kl": 1.0}
    return JEPAObjective(model, weights, rollout_steps=H, starts=starts, **args), make_batch(model)


@pytest.mark.parametrize("starts", ["first", "every"])
@pytest.mark.parametrize("name", ["patch-mlp", "impala-transformer", "map-conv"])
def test_the_objective_rolls_out_with_latents_inferred_from_the_frames_to_come(name, starts):
    objective, batch = latent_objective(name, starts)
    model, term = objective.model, objective.terms["latent_kl"]
    model.register_buffer("action_scale", torch.tensor([2.0, 0.5]))
    with torch.no_grad():
        out = objective.outputs(batch, seed=9)
    num_starts = out.predictions.shape[1]
    assert num_starts == (1 if starts == "first" else T - H)
    assert out.latent_kl.shape == (B, num_starts, H)
    # Step by step: the draws of all starts come from one generator, a step at a time.
    generator, state = torch.Generator().manual_seed(9), out.embeddings[:, :num_starts].flatten(0, 1)
    memory = [model.empty_memory(B)]
    for i in range(num_starts - 1):
        memory.append(model.remember(memory[-1], out.embeddings[:, i], batch["action"][:, i]))
    for k in range(H):
        action = torch.stack([batch["action"][:, i + k] for i in range(num_starts)], 1).flatten(0, 1)
        following = torch.stack([out.embeddings[:, i + k + 1] for i in range(num_starts)], 1).flatten(0, 1)
        scaled = action / torch.tensor([2.0, 0.5])
        with torch.no_grad():
            latent, divergence = term.latent.infer(
                state.flatten(1),
                scaled,
                following.flatten(1),
                torch.randn(len(state), Z, generator=generator),
            )
            rows = state.unflatten(0, (B, num_starts))
            steps = latent.unflatten(0, (B, num_starts)), action.unflatten(0, (B, num_starts))
            nxt = torch.stack(
                [
                    model.predict(rows[:, i], steps[1][:, i], steps[0][:, i], memory[i])
                    for i in range(num_starts)
                ],
                dim=1,
            )
            memory = [model.remember(memory[i], rows[:, i], steps[1][:, i]) for i in range(num_starts)]
        torch.testing.assert_close(out.predictions[:, :, k], nxt, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            out.latent_kl[:, :, k], divergence.unflatten(0, (B, num_starts)), rtol=1e-4, atol=1e-5
        )
        state = out.predictions[:, :, k].flatten(0, 1)


def test_predictions_follow_the_posterior_and_the_seed_of_the_step():
    objective, batch = latent_objective()
    with torch.no_grad():
        reference = objective.outputs(batch, seed=1).predictions
        assert torch.equal(objective.outputs(batch, seed=1).predictions, reference)
        assert not torch.allclose(objective.outputs(batch, seed=2).predictions, reference)
        objective.terms["latent_kl"].latent.posterior[-1].bias[:Z] += 1.0
        assert not torch.allclose(objective.outputs(batch, seed=1).predictions, reference)


def test_reconstruction_trains_the_posterior_through_the_predictor():
    objective, batch = latent_objective()
    weights = list(objective.terms["latent_kl"].parameters())
    out = objective.outputs(batch, seed=0)
    grads = torch.autograd.grad(objective.terms["reconstruction"](out), weights, retain_graph=True)
    assert all(float(grad.abs().max()) > 0 for grad in grads)
    value = objective(batch, step=0)["reconstruction"]
    length = torch.cat([grad.flatten() for grad in grads]).norm()
    with torch.no_grad():
        for weight, grad in zip(weights, grads, strict=True):
            weight -= 0.3 * grad / length
        assert float(objective(batch, step=0)["reconstruction"]) < float(value.detach())


def test_descent_on_the_divergence_moves_the_posterior_to_the_prior():
    objective, batch = latent_objective()
    weights = list(objective.terms["latent_kl"].parameters())
    before = float(objective(batch)["latent_kl"].detach())
    for _ in range(50):
        grads = torch.autograd.grad(objective(batch)["latent_kl"], weights)
        with torch.no_grad():
            for weight, grad in zip(weights, grads, strict=True):
                weight -= 0.1 * grad
    assert float(objective(batch)["latent_kl"].detach()) < 0.5 * before


def test_supervision_is_the_error_of_a_linear_readout():
    labels = torch.randn(B, T, 3)
    term = Supervised(TermSizes((D,), A, label_dims={"position": 3}), key="position")
    out = outputs(labels={"position": labels})
    weight, bias = term.readout.weight.detach(), term.readout.bias.detach()
    expected = loop_of_both_errors(lambda s: weight @ s + bias, out, labels)
    assert float(term(out).detach()) == pytest.approx(expected, rel=1e-5)
    assert term.label_keys == ("position",)


def test_supervision_is_least_at_the_regression_of_the_label():
    out = outputs(dim=3)
    truth = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]])
    labels = out.embeddings @ truth.T + 0.7
    consistent = torch.stack([out.embeddings[:, i + 1 : i + 1 + H] for i in range(S)], dim=1)
    exact = replace(out, predictions=consistent, labels={"position": labels})
    term = Supervised(TermSizes((3,), A, label_dims={"position": 2}), key="position")
    set_linear(term.readout, truth, torch.full((2,), 0.7))
    with torch.no_grad():
        assert float(term(exact)) == pytest.approx(0, abs=1e-10)
        assert float(term(replace(exact, predictions=out.predictions))) > 0.1


def test_the_objective_standardises_labels_by_the_statistics_it_is_given():
    model = make()
    objective = JEPAObjective(
        model,
        {"supervised": 1.0},
        rollout_steps=H,
        term_args={"supervised": {"key": "position"}},
        label_dims={"position": 3},
    )
    assert objective.label_keys == ("position",)
    mean, std = torch.tensor([5.0, -1.0, 2.0]), torch.tensor([2.0, 0.0, 0.5])  # a std of 0 counts as 1
    objective.set_label_statistics("position", mean, std)
    batch = {**make_batch(model), "position": 3 * torch.randn(B, T, 3, generator=torch.Generator()) + 1}
    labels = (batch["position"].numpy() - mean.numpy()) / np.array([2.0, 1.0, 0.5])
    with torch.no_grad():
        out = objective.outputs(batch)
        got = float(objective(batch)["supervised"])
    np.testing.assert_allclose(out.labels["position"], labels, rtol=1e-5, atol=1e-6)
    weight, bias = (x.detach().numpy() for x in objective.terms["supervised"].readout.parameters())
    encoded = out.embeddings.numpy() @ weight.T + bias - labels
    predicted = out.predictions.numpy()[:, 0] @ weight.T + bias - labels[:, 1 : 1 + H]
    assert got == pytest.approx((encoded**2).mean() + (predicted**2).mean(), rel=1e-4)
    assert {"position_mean", "position_std"} <= set(objective.state_dict())


def test_a_label_that_the_data_lacks_is_one_sentence():
    sizes = TermSizes((D,), A, label_dims={"position": 3, "velocity": 2})
    with pytest.raises(
        ValueError, match="label of the supervised term must be one of position, velocity, got 'proprio'"
    ):
        Supervised(sizes)
    with pytest.raises(ValueError, match="must be one of no columns, got 'position'"):
        Supervised(SIZES, key="position")
