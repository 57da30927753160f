"""InfoNCE and action contrast against loops that spell out their definitions, and what each can and cannot learn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from tests.worldmodel.factories import make, make_batch
from worldmodel.objectives import (
    ENERGY_LOSSES,
    ActionContrast,
    InfoNCE,
    JEPAObjective,
    JEPAOutputs,
    TermSizes,
)
from worldmodel.objectives.contrastive import energies, pairwise_energies, without_diagonal

B, T, D, A, N = 4, 6, 5, 2, 3
SIZES = TermSizes((D,), A)


def outputs(starts=1, horizon=3, shape=(D,), num_shuffled=N) -> JEPAOutputs:
    generator = torch.Generator().manual_seed(7)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    return JEPAOutputs(
        embeddings=randn(B, T, *shape),
        targets=randn(B, T, *shape),
        predictions=randn(B, starts, horizon, *shape),
        actions=randn(B, T - 1, A),
        shuffled=randn(B, starts, num_shuffled, horizon, *shape),
    )


def distance(a, b, metric):
    a, b = a.ravel(), b.ravel()
    if metric == "l2":
        return float(((a - b) ** 2).sum() / a.size)
    return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def infonce_by_loops(out, metric, negatives, temperature, decoupled):
    p, s = out.predictions.numpy(), out.targets.numpy()
    values = []
    for b in range(p.shape[0]):
        for i in range(p.shape[1]):
            for k in range(p.shape[2]):
                frame = i + k + 1
                positive = distance(p[b, i, k], s[b, frame], metric)
                wrong = []
                if negatives in ("across", "both"):
                    wrong += [s[other, frame] for other in range(p.shape[0]) if other != b]
                if negatives in ("within", "both"):
                    wrong += [s[b, t] for t in range(s.shape[1]) if t != frame]
                others = [math.exp(-distance(p[b, i, k], y, metric) / temperature) for y in wrong]
                total = sum(others) + (0 if decoupled else math.exp(-positive / temperature))
                values.append(positive / temperature + math.log(total))
    return np.mean(values)


@pytest.mark.parametrize("starts", [1, 2])
@pytest.mark.parametrize("is_decoupled", [False, True])
@pytest.mark.parametrize("negatives", ["across", "within", "both"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_infonce_is_its_definition_written_as_loops(metric, negatives, is_decoupled, starts):
    out = outputs(starts)
    term = InfoNCE(SIZES, metric=metric, negatives=negatives, temperature=0.4, decoupled=is_decoupled)
    expected = infonce_by_loops(out, metric, negatives, 0.4, is_decoupled)
    assert float(term(out)) == pytest.approx(expected, rel=1e-9)


def test_infonce_has_the_temperature_it_is_given():
    for temperature in (0.1, 1.0, 10.0):
        term = InfoNCE(SIZES, metric="l2", temperature=temperature)
        expected = infonce_by_loops(outputs(), "l2", "across", temperature, False)
        assert float(term(outputs())) == pytest.approx(expected, rel=1e-9)
    hot = InfoNCE(SIZES, temperature=1e6)
    assert float(hot(outputs())) == pytest.approx(math.log(B), rel=1e-5)


def test_infonce_of_maps_is_that_of_flattened_vectors():
    out = outputs(2, shape=(D, 2, 3))
    for metric in ("l2", "cosine"):
        term = InfoNCE(TermSizes((D, 2, 3), A), metric=metric, negatives="both")
        assert float(term(out)) == pytest.approx(infonce_by_loops(out, metric, "both", 0.1, False), rel=1e-9)


def test_infonce_does_not_read_shuffled_rollouts_and_contrasts_with_the_target_branch():
    out = outputs()
    term = InfoNCE(SIZES)
    assert float(term(replace(out, shuffled=None, embeddings=torch.zeros(B, T, D)))) == float(term(out))
    assert float(term(replace(out, targets=out.embeddings))) != float(term(out))


def test_infonce_within_counts_the_frames_before_the_start_as_negatives():
    out = outputs(2)
    p, s = out.predictions.clone(), out.targets.clone()
    p[0, 1, 0] = s[0, 0]  # the second start predicts a frame that lies before it
    moved = s.clone()
    moved[0, 0] += 10
    term = InfoNCE(SIZES, metric="l2", negatives="within")
    near = float(term(replace(out, predictions=p, targets=s)))
    far = float(term(replace(out, predictions=p, targets=moved)))
    assert far < near - 0.01


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_pairwise_energies_are_scipys_distances(metric):
    queries, keys = torch.randn(2, 3, D, dtype=torch.float64), torch.randn(2, 4, D, dtype=torch.float64)
    got = pairwise_energies(queries, keys, metric)
    assert got.shape == (2, 3, 4)
    for row in range(2):
        reference = cdist(queries[row], keys[row], "sqeuclidean" if metric == "l2" else "cosine")
        np.testing.assert_allclose(got[row], reference / (D if metric == "l2" else 1), rtol=1e-9)
    matched = energies(queries, keys[:, :3], metric)
    torch.testing.assert_close(matched, got[:, :, :3].diagonal(dim1=1, dim2=2))


def test_pairwise_l2_energies_are_never_negative():
    points = 100 + torch.randn(50, D)
    assert float(pairwise_energies(points, points, "l2").min()) >= 0


@pytest.mark.parametrize("size", [2, 3, 6])
def test_without_diagonal_keeps_every_other_entry_in_its_row(size):
    matrix = np.arange(2 * size * size).reshape(2, size, size)
    expected = np.array([[np.delete(m[row], row) for row in range(size)] for m in matrix])
    np.testing.assert_array_equal(without_diagonal(torch.from_numpy(matrix)), expected)


def action_contrast_by_loops(out, metric, num_shuffled, temperature, loss):
    p, q, s = out.predictions.numpy(), out.shuffled.numpy(), out.targets.numpy()
    values = []
    for b in range(p.shape[0]):
        for i in range(p.shape[1]):
            for k in range(p.shape[2]):
                target = s[b, i + k + 1]
                positive = distance(p[b, i, k], target, metric) / temperature
                negatives = [
                    distance(q[b, i, n, k], target, metric) / temperature for n in range(num_shuffled)
                ]
                row = ENERGY_LOSSES[loss].function(torch.tensor(positive), torch.tensor(negatives))
                values.append(float(row))
    return np.mean(values)


@pytest.mark.parametrize("starts", [1, 2])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("loss", ENERGY_LOSSES)
def test_action_contrast_is_its_definition_written_as_loops(loss, metric, starts):
    out = outputs(starts)
    term = ActionContrast(SIZES, metric=metric, num_shuffled=N, temperature=0.7, loss=loss)
    expected = action_contrast_by_loops(out, metric, N, 0.7, loss)
    assert float(term(out)) == pytest.approx(expected, rel=1e-5)


def test_action_contrast_by_nll_is_a_softmax_over_the_action_sequences():
    out = outputs(2)
    p, q, s = out.predictions.numpy(), out.shuffled.numpy(), out.targets.numpy()
    values = []
    for b, i, k in np.ndindex(B, 2, 3):
        answers = [p[b, i, k], *q[b, i, :, k]]
        scores = [-((y - s[b, i + k + 1]) ** 2).mean() / 0.25 for y in answers]
        values.append(math.log(sum(math.exp(x) for x in scores)) - scores[0])
    term = ActionContrast(SIZES, num_shuffled=N, temperature=0.25)
    assert float(term(out)) == pytest.approx(np.mean(values), rel=1e-9)


def test_action_contrast_reads_as_many_shuffled_rollouts_as_it_asks_for():
    out = outputs()
    term = ActionContrast(SIZES, num_shuffled=2)
    expected = action_contrast_by_loops(out, "l2", 2, 0.5, "nll")
    assert float(term(out)) == pytest.approx(expected, rel=1e-5)
    ignored = torch.cat([out.shuffled[:, :, :2], torch.zeros_like(out.shuffled[:, :, 2:])], dim=2)
    assert float(term(replace(out, shuffled=ignored))) == float(term(out))
    assert term.num_shuffled == 2


def test_action_contrast_of_maps_is_that_of_flattened_vectors():
    out = outputs(2, shape=(D, 2, 3))
    term = ActionContrast(TermSizes((D, 2, 3), A), num_shuffled=N)
    assert float(term(out)) == pytest.approx(action_contrast_by_loops(out, "l2", N, 0.5, "nll"), rel=1e-5)


TERMS = [
    *(
        InfoNCE(SIZES, metric=metric, negatives=negatives, decoupled=is_decoupled, temperature=0.5)
        for metric in ("l2", "cosine")
        for negatives in ("across", "within", "both")
        for is_decoupled in (False, True)
    ),
    *(ActionContrast(SIZES, metric=metric, num_shuffled=N) for metric in ("l2", "cosine")),
]


@pytest.mark.parametrize("index", range(len(TERMS)))
def test_a_gradient_step_moves_predictions_to_their_targets_and_lowers_the_term(index):
    out = outputs(2)
    leaves = {name: getattr(out, name).clone().requires_grad_() for name in ("predictions", "targets")}
    value = TERMS[index](replace(out, **leaves))
    grads = torch.autograd.grad(value, list(leaves.values()))
    assert all(float(grad.norm()) > 1e-4 for grad in grads)
    stepped = {name: leaf - 1e-2 * grad for (name, leaf), grad in zip(leaves.items(), grads, strict=True)}
    assert float(TERMS[index](replace(out, **stepped)).detach()) < float(value.detach())


def test_the_gradient_of_infonce_is_that_of_finite_differences():
    out = outputs(2)
    for metric in ("l2", "cosine"):
        term = InfoNCE(SIZES, metric=metric, negatives="both", temperature=0.5)
        predictions = out.predictions.clone().requires_grad_()
        (grad,) = torch.autograd.grad(term(replace(out, predictions=predictions)), predictions)
        for index in [(0, 0, 0, 0), (3, 1, 2, 4), (1, 0, 1, 2)]:
            shift = torch.zeros_like(out.predictions)
            shift[index] = 1e-5
            up, down = (
                infonce_by_loops(
                    replace(out, predictions=out.predictions + sign * shift), metric, "both", 0.5, False
                )
                for sign in (1, -1)
            )
            assert float(grad[index]) == pytest.approx((up - down) / 2e-5, abs=1e-7)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_constant_background_satisfies_infonce_across_trajectories_and_not_within(metric):
    background = torch.randn(B, 1, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = background.expand(B, T, D)
    out = JEPAOutputs(s, s, s[:, None, 1:4], torch.zeros(B, T - 1, A))
    across = InfoNCE(SIZES, metric=metric, negatives="across", temperature=0.01)
    assert float(across(out)) == pytest.approx(0, abs=1e-6)
    within = InfoNCE(SIZES, metric=metric, negatives="within", temperature=0.01)
    assert float(within(out)) == pytest.approx(math.log(T), rel=1e-9)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_predictor_that_ignores_actions_has_the_action_contrast_of_a_guess(metric):
    out = outputs(2)
    blind = replace(out, shuffled=out.predictions[:, :, None].expand(-1, -1, N, -1, -1))
    term = ActionContrast(SIZES, metric=metric, num_shuffled=N)
    assert float(term(blind)) == pytest.approx(math.log(1 + N), rel=1e-12)


def test_a_perfect_predictor_under_controllable_actions_has_no_action_contrast():
    out = outputs()
    exact = replace(out, predictions=out.targets[:, None, 1:4])
    assert float(ActionContrast(SIZES, num_shuffled=N, temperature=0.01)(exact)) < 1e-3


@pytest.mark.parametrize("loss", ["nll", "hinge", "log", "mce", "mee"])
def test_what_actions_do_not_change_gets_no_gradient_from_action_contrast(loss):
    out = outputs(2)
    shuffled = out.shuffled.clone()
    shuffled[..., 3:] = out.predictions[:, :, None, :, 3:]  # the background: the same under all actions
    targets = out.targets.clone().requires_grad_()
    term = ActionContrast(SIZES, num_shuffled=N, loss=loss)
    (grad,) = torch.autograd.grad(term(replace(out, targets=targets, shuffled=shuffled)), targets)
    assert float(grad[..., 3:].abs().max()) < 1e-15
    assert float(grad[:, 1:5, :3].abs().min()) > 0


def test_infonce_within_and_action_contrast_run_through_the_objective():
    model = make()
    weights = {"infonce:within": 1.0, "action_contrast": 1.0}
    objective = JEPAObjective(
        model,
        weights,
        rollout_steps=2,
        starts="every",
        term_args={"infonce:within": {"negatives": "within"}, "action_contrast": {"num_shuffled": 3}},
    )
    batch = make_batch(model)
    with torch.no_grad():
        terms = objective(batch, step=3)
        out = objective.outputs(batch, seed=3)
    expected = infonce_by_loops(out, "cosine", "within", 0.1, False)
    assert float(terms["infonce:within"]) == pytest.approx(expected, rel=1e-4)
    expected = action_contrast_by_loops(out, "l2", 3, 0.5, "nll")
    assert float(terms["action_contrast"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (
            InfoNCE,
            {"metric": "cosin"},
            "metric must be one of cosine, l2, got 'cosin'; did you mean 'cosine'",
        ),
        (InfoNCE, {"negatives": "all"}, "negatives must be one of across, both, within, got 'all'"),
        (InfoNCE, {"temperature": 0}, "temperature must be > 0, got 0"),
        (ActionContrast, {"metric": "l1"}, "metric must be one of cosine, l2, got 'l1'"),
        (ActionContrast, {"num_shuffled": 0}, "num_shuffled must be >= 1 and temperature > 0, got 0 and 0.5"),
        (
            ActionContrast,
            {"temperature": 0.0},
            "num_shuffled must be >= 1 and temperature > 0, got 8 and 0.0",
        ),
        (ActionContrast, {"loss": "hing"}, "loss must be one of .*, got 'hing'; did you mean 'hinge'"),
    ],
)
def test_bad_arguments_are_one_sentence(kind, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        kind(SIZES, **changes)
