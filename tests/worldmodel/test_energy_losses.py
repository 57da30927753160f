"""Losses on energies against their formulas, gradients by finite differences, and the margins of LeCun et al. 2006."""

import math

import numpy as np
import pytest
import torch
from scipy import special
from torch.nn import functional as F

from worldmodel.objectives import ENERGY_LOSSES
from worldmodel.objectives.energy import decoupled, hinge, lvq2, mee, nll, square_exp, square_square

RNG = np.random.default_rng(0)
POSITIVE = RNG.uniform(0, 3, size=5)
NEGATIVES = RNG.uniform(0, 3, size=(5, 4))
MARGIN, CEILING = 1.0, 1.0  # defaults of the table


def boltzmann(positive, negatives, beta=1.0):
    """Probability of the compatible answer among all."""
    weight = math.exp(-beta * positive)
    return weight / (weight + sum(math.exp(-beta * f) for f in negatives))


# One row: a number F+ and a list of F-, written with the tutorial's words rather than with tensors.
FORMULAS = {
    "energy": lambda p, n: p,
    "perceptron": lambda p, n: p - min(p, *n),
    "hinge": lambda p, n: max(0, MARGIN + p - min(n)),
    "log": lambda p, n: math.log(1 + math.exp(p - min(n))),
    "lvq2": lambda p, n: min(CEILING, max(0, p - min(n))),
    "mce": lambda p, n: 1 / (1 + math.exp(-(p - min(n)))),
    "square_square": lambda p, n: p**2 + max(0, MARGIN - min(n)) ** 2,
    "square_exp": lambda p, n: p**2 + math.exp(-min(n)),
    "nll": lambda p, n: -math.log(boltzmann(p, n)),
    "mee": lambda p, n: 1 - boltzmann(p, n),
    "decoupled": lambda p, n: p + math.log(sum(math.exp(-f) for f in n)),
}
ALL_NEGATIVES = ("nll", "mee", "decoupled")
# Where a loss must push, as a condition on F+ and the smallest F-; everywhere else its gradient is zero.
PUSHES_DOWN = {
    "perceptron": lambda p, n: p > n,
    "hinge": lambda p, n: p + MARGIN > n,
    "lvq2": lambda p, n: (p > n) & (p - n < CEILING),
}
PUSHES_UP = {
    **PUSHES_DOWN,
    "energy": lambda p, n: np.zeros_like(p, dtype=bool),
    "square_square": lambda p, n: n < MARGIN,
}


def call(name, positive, negatives):
    return ENERGY_LOSSES[name].function(torch.as_tensor(positive), torch.as_tensor(negatives)).numpy()


def gradients(name, positive, negatives):
    p = torch.as_tensor(positive).clone().requires_grad_()
    n = torch.as_tensor(negatives).clone().requires_grad_()
    down, up = torch.autograd.grad(
        ENERGY_LOSSES[name].function(p, n).sum(), (p, n), allow_unused=True, materialize_grads=True
    )
    return down.numpy(), up.numpy()


def test_the_table_of_formulas_has_every_loss():
    assert set(FORMULAS) == set(ENERGY_LOSSES)


@pytest.mark.parametrize("name", ENERGY_LOSSES)
def test_a_loss_is_its_formula(name):
    expected = [FORMULAS[name](p, n) for p, n in zip(POSITIVE, NEGATIVES.tolist(), strict=True)]
    np.testing.assert_allclose(call(name, POSITIVE, NEGATIVES), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ENERGY_LOSSES)
def test_leading_axes_are_batch(name):
    positive, negatives = RNG.uniform(0, 3, size=(2, 3, 5)), RNG.uniform(0, 3, size=(2, 3, 5, 4))
    joint = call(name, positive, negatives)
    assert joint.shape == (2, 3, 5)
    single = call(name, positive[1, 2, 3], negatives[1, 2, 3])
    np.testing.assert_allclose(joint[1, 2, 3], single, rtol=1e-12)


def test_the_constants_of_a_loss_are_those_of_its_formula():
    p, n = torch.from_numpy(POSITIVE), torch.from_numpy(NEGATIVES)
    least = NEGATIVES.min(axis=1)
    np.testing.assert_allclose(hinge(p, n, margin=2.5), np.maximum(0, 2.5 + POSITIVE - least))
    np.testing.assert_allclose(lvq2(p, n, ceiling=0.3), np.clip(POSITIVE - least, 0, 0.3))
    np.testing.assert_allclose(square_square(p, n, margin=2.5), POSITIVE**2 + np.maximum(0, 2.5 - least) ** 2)
    np.testing.assert_allclose(square_exp(p, n, beta=3.0), POSITIVE**2 + 3 * np.exp(-least))
    np.testing.assert_allclose(
        mee(p, n, beta=4.0),
        [1 - boltzmann(a, b, 4.0) for a, b in zip(POSITIVE, NEGATIVES, strict=True)],
        rtol=1e-10,
    )
    np.testing.assert_allclose(
        decoupled(p, n, beta=4.0), POSITIVE + special.logsumexp(-4 * NEGATIVES, axis=1) / 4
    )


@pytest.mark.parametrize("beta", [0.5, 1.0, 20.0])
def test_beta_times_nll_is_the_cross_entropy_of_a_softmax_over_energies(beta):
    p, n = torch.from_numpy(POSITIVE), torch.from_numpy(NEGATIVES)
    logits = -beta * torch.cat([p[:, None], n], dim=1)
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="none")
    torch.testing.assert_close(beta * nll(p, n, beta), expected)


@pytest.mark.parametrize("name", ["log", "mce", "nll", "mee", "decoupled"])
def test_a_loss_of_huge_energies_stays_finite(name):
    down, up = gradients(name, np.array([1e4, 0.0]), np.array([[0.0, 1e4], [1e4, 1e4]]))
    assert np.isfinite(call(name, np.array([1e4, 0.0]), np.array([[0.0, 1e4], [1e4, 1e4]]))).all()
    assert np.isfinite(down).all()
    assert np.isfinite(up).all()


@pytest.mark.parametrize("name", ENERGY_LOSSES)
def test_the_gradient_is_that_of_finite_differences(name):
    down, up = gradients(name, POSITIVE, NEGATIVES)
    step = 1e-6
    numeric = (call(name, POSITIVE + step, NEGATIVES) - call(name, POSITIVE - step, NEGATIVES)) / (2 * step)
    np.testing.assert_allclose(down, numeric, atol=1e-6)
    for j in range(NEGATIVES.shape[1]):
        shift = step * np.eye(NEGATIVES.shape[1])[j]
        change = call(name, POSITIVE, NEGATIVES + shift) - call(name, POSITIVE, NEGATIVES - shift)
        np.testing.assert_allclose(up[:, j], change / (2 * step), atol=1e-6)


@pytest.mark.parametrize("name", ENERGY_LOSSES)
def test_a_loss_pushes_the_compatible_answer_down_and_the_others_up_where_it_should(name):
    positive, negatives = RNG.uniform(0.01, 4, size=300), RNG.uniform(0.01, 4, size=(300, 3))
    least = negatives.min(axis=1)
    down, up = gradients(name, positive, negatives)
    assert (down >= 0).all()
    assert (up <= 0).all()
    pushes_down = PUSHES_DOWN.get(name, lambda p, n: np.ones_like(p, dtype=bool))(positive, least)
    pushes_up = PUSHES_UP.get(name, lambda p, n: np.ones_like(p, dtype=bool))(positive, least)
    np.testing.assert_array_equal(down > 0, pushes_down)
    if name in ALL_NEGATIVES:
        assert (up < 0).all()
    else:
        offending = np.arange(3) == negatives.argmin(axis=1)[:, None]
        np.testing.assert_array_equal(up < 0, pushes_up[:, None] & offending)


@pytest.mark.parametrize("name", ENERGY_LOSSES)
def test_only_nll_mee_and_decoupled_look_beyond_the_most_offending_answer(name):
    raised = NEGATIVES.copy()
    rows, largest = np.arange(5), NEGATIVES.argmax(axis=1)
    raised[rows, largest] += 0.5
    change = call(name, POSITIVE, raised) - call(name, POSITIVE, NEGATIVES)
    if name in ALL_NEGATIVES:
        assert (change < -1e-4).all()
    else:
        np.testing.assert_array_equal(change, 0)
    shuffled = call(name, POSITIVE, NEGATIVES[:, [2, 0, 3, 1]])
    np.testing.assert_allclose(shuffled, call(name, POSITIVE, NEGATIVES), rtol=1e-12)


@pytest.mark.parametrize("name", ENERGY_LOSSES)
def test_the_margin_table_of_the_energy_based_learning_tutorial_holds(name):
    """Condition 3 of section 5: some point of ``F+ + m < F-`` beats every point of ``F+ + m > F-``."""
    margin, eps = 0.5, 1e-9
    steps = np.arange(61) * 0.05
    positive, negative = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    loss = call(name, positive, negative[:, None])
    safe = positive + margin < negative - eps
    unsafe = positive + margin > negative + eps
    assert (loss[safe].min() < loss[unsafe].min() - eps) == ENERGY_LOSSES[name].has_margin


def test_the_losses_with_a_margin_are_those_of_the_table():
    without = {name for name, loss in ENERGY_LOSSES.items() if not loss.has_margin}
    assert without == {"energy", "perceptron", "lvq2"}


@pytest.mark.parametrize("name", ENERGY_LOSSES)
def test_a_flat_energy_minimises_a_loss_exactly_when_it_has_no_margin(name):
    steps = np.arange(61) * 0.05
    positive, negative = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    least = call(name, positive, negative[:, None]).min()
    flat = call(name, steps, steps[:, None]).min()  # every answer has the same energy
    assert (flat <= least + 1e-9) == (not ENERGY_LOSSES[name].has_margin)


def test_descent_on_the_energy_loss_collapses_and_on_a_loss_with_a_margin_does_not():
    answers = torch.tensor([0.3, -1.2, 0.7, 2.0], dtype=torch.float64)

    def gap_after_descent(name):
        weights = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
        for _ in range(400):
            energies = (weights[0] * answers[:1]).square() + (weights[1] * answers).square()
            loss = ENERGY_LOSSES[name].function(energies[0], energies[1:])
            (grad,) = torch.autograd.grad(loss, weights)
            weights = (weights - 0.05 * grad).detach().requires_grad_()
        energies = (weights[0] * answers[:1]).square() + (weights[1] * answers).square()
        return float((energies[1:].min() - energies[0]).detach()), float(energies.max().detach())

    gap, largest = gap_after_descent("energy")
    assert abs(gap) < 1e-3
    assert largest < 0.1 * 4 * 1.0**2
    assert gap_after_descent("hinge")[0] == pytest.approx(MARGIN, abs=0.1)
    assert gap_after_descent("nll")[0] > 0.5
