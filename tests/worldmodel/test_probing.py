import json

import numpy as np
import pytest
import torch

from worldmodel.probing import (
    LinearProbe,
    ProbeConfig,
    fit_linear_probe,
    fit_probe,
    probe_rollouts,
    r_squared,
)

NUM, FRAMES, DIM = 60, 7, 5  # trajectories, T, D
TRAIN = torch.arange(NUM) % 3 > 0
EXACT = ProbeConfig(ridge=1e-9)
QUICK = {"num_steps": 300, "hidden_dims": (32,)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(num=400, dim=DIM, outputs=2, noise=0.1, seed=0):
    """Correlated embeddings of unequal scale, and targets that are linear in them up to noise."""
    g = generator(seed)
    x = (torch.randn(num, dim, generator=g) @ torch.randn(dim, dim, generator=g)) * torch.logspace(-1, 1, dim)
    y = x @ torch.randn(dim, outputs, generator=g) + 3 + noise * torch.randn(num, outputs, generator=g)
    return x, y


def linear_system(num=NUM, frames=FRAMES, seed=0):
    """Encodings from which the target is read exactly, and predictions that lie on another, mirrored scale."""
    g = generator(seed)
    targets = torch.randn(num, frames, 2, generator=g).cumsum(dim=1)
    lift = torch.randn(2, DIM, generator=g)
    encoded = targets @ lift + 1
    return encoded, -2 * encoded[:, 1:] + 4, targets


def measure(report, line, name="rmse"):
    return {key: value for key, value in report[line][name].items() if key != "all"}


def test_the_closed_form_is_the_ridge_regression_that_numpy_solves():
    x, y = rows()
    ridge = 0.3
    z = (x.double() - x.double().mean(0)) / x.double().std(0)
    penalty = np.sqrt(ridge * len(x)) * np.eye(DIM)
    stacked = (
        np.vstack([z.numpy(), penalty]),
        np.vstack([(y - y.mean(0)).double().numpy(), np.zeros((DIM, 2))]),
    )
    weight = np.linalg.lstsq(*stacked, rcond=None)[0]
    expected = z.numpy() @ weight + y.double().mean(0).numpy()
    np.testing.assert_allclose(fit_linear_probe(x, y, ridge)(x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(fit_probe(x, y, ProbeConfig(ridge=ridge))(x), expected, rtol=1e-4, atol=1e-4)


def test_without_a_penalty_the_closed_form_is_least_squares():
    x, y = rows()
    with_one = np.hstack([x.numpy(), np.ones((len(x), 1))])
    expected = np.linalg.lstsq(with_one, y.numpy(), rcond=None)[0]
    probe = fit_linear_probe(x, y, 0.0)
    np.testing.assert_allclose(np.vstack([probe.weight, probe.bias[None]]), expected, rtol=2e-3, atol=2e-3)


def test_the_minibatch_probe_converges_to_the_closed_form():
    x, y = rows()
    config = ProbeConfig("sgd", num_steps=3000, lr=0.02)
    probe, exact = fit_probe(x, y, config, generator()), fit_linear_probe(x, y, 0.0)
    assert isinstance(probe, LinearProbe)
    spread = float((y - y.mean(0)).square().sum(-1).mean().sqrt())
    assert float((probe(x) - exact(x)).square().sum(-1).mean().sqrt()) < 0.01 * spread


def test_an_mlp_reads_what_a_linear_probe_cannot():
    x = torch.randn(2000, 2, generator=generator())
    y = torch.stack([x[:, 0] * x[:, 1], x.square().sum(dim=1)], dim=1)
    held_out = slice(1500, None)
    found = {
        kind: r_squared(
            fit_probe(x[:1500], y[:1500], ProbeConfig(kind, num_steps=1000), generator())(x[held_out]),
            y[held_out],
        )
        for kind in ("linear", "sgd", "mlp")
    }
    assert found["mlp"] > 0.9
    assert max(found["linear"], found["sgd"]) < 0.1


@pytest.mark.parametrize("kind", ["linear", "sgd", "mlp"])
def test_probes_ignore_scale_and_offset_of_embeddings_and_targets(kind):
    x, y = rows(noise=0.0)
    config = ProbeConfig(kind, ridge=1e-6, **{**QUICK, "lr": 0.03})
    scaled = fit_probe(100 * x - 40, 1000 * y + 5, config, generator())(100 * x - 40)
    assert r_squared(scaled, 1000 * y + 5) > 0.98


@pytest.mark.parametrize("kind", ["linear", "sgd", "mlp"])
def test_classes_are_told_apart(kind):
    centres = torch.tensor([[0.0, 4.0], [4.0, 0.0], [-4.0, -4.0]])
    classes = torch.randint(3, (300,), generator=generator())
    x = centres[classes] + torch.randn(300, 2, generator=generator(1))
    probe = fit_probe(x, classes, ProbeConfig(kind, **QUICK), generator())
    assert float((probe(x).argmax(-1) == classes).float().mean()) > 0.95


@pytest.mark.parametrize("kind", ["sgd", "mlp"])
def test_a_seed_fixes_the_bits_and_leaves_the_global_generator_alone(kind):
    x, y = rows()
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    one, same, other = (fit_probe(x, y, ProbeConfig(kind, num_steps=20), generator(s))(x) for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("linear", {"ridge": 1.0}),
        *(
            (kind, change)
            for kind in ("sgd", "mlp")
            for change in ({"num_steps": 25}, {"batch_size": 16}, {"lr": 0.1}, {"weight_decay": 1.0})
        ),
        ("mlp", {"hidden_dims": (4,)}),
    ],
)
def test_every_hyperparameter_moves_the_probe(kind, change):
    x, y = rows()
    common = {} if kind == "linear" else {"num_steps": 20}
    before, after = (
        fit_probe(x, y, ProbeConfig(kind, **{**common, **more}), generator())(x) for more in ({}, change)
    )
    assert not torch.allclose(before, after)


def test_r_squared_is_one_for_the_truth_and_zero_for_the_mean():
    y = torch.randn(50, 3, generator=generator())
    assert r_squared(y, y) == 1.0
    assert r_squared(y.mean(0).expand_as(y), y) == pytest.approx(0.0, abs=1e-6)
    guess = y + torch.randn(50, 3, generator=generator(1))
    residual, spread = ((y - guess) ** 2).sum(), ((y - y.mean(0)) ** 2).sum()
    assert r_squared(guess, y) == pytest.approx(float(1 - residual / spread), abs=1e-6)
    assert np.isnan(r_squared(guess, torch.ones(50, 3)))


def test_encodings_and_rollouts_of_a_linear_system_are_read_exactly():
    encoded, rollout, targets = linear_system()
    report = probe_rollouts(encoded, rollout, targets, TRAIN, EXACT, horizons=(1, 3, 6))
    assert report["horizons"] == [1, 3, 6]
    assert (report["num_train"], report["num_test"]) == (40, 20)
    for line in ("encoding", "rollout"):
        assert max(measure(report, line).values()) < 1e-3
        assert min(measure(report, line, "r2").values()) > 0.9999
    assert json.loads(json.dumps(report)) == report


def test_the_transfer_reads_predictions_with_the_probe_of_the_encodings():
    encoded, rollout, targets = linear_system()
    report = probe_rollouts(encoded, rollout, targets, TRAIN, EXACT, horizons=(2, 5))
    probe = fit_linear_probe(encoded[TRAIN].flatten(0, 1), targets[TRAIN].flatten(0, 1), EXACT.ridge)
    for h in (2, 5):
        expected = (probe(-2 * encoded[~TRAIN, h] + 4) - targets[~TRAIN, h]).square().sum(-1).mean().sqrt()
        assert report["transfer"]["rmse"][str(h)] == pytest.approx(float(expected), rel=1e-5)
        assert report["transfer"]["rmse"][str(h)] > 1.0
    on_scale = probe_rollouts(encoded, encoded[:, 1:], targets, TRAIN, EXACT, horizons=(2, 5))
    assert max(measure(on_scale, "transfer").values()) < 1e-3


def test_a_horizon_is_the_frame_after_as_many_predicted_steps():
    encoded, rollout, targets = linear_system()
    damaged = rollout.clone()
    damaged[:, 2] = torch.randn(NUM, DIM, generator=generator(5))  # the prediction of frame 3
    report = probe_rollouts(encoded, damaged, targets, TRAIN, horizons=(1, 2, 3, 4, 5, 6))
    errors = measure(report, "rollout")
    assert max(errors, key=errors.get) == "3"
    assert max(measure(report, "encoding").values()) < 0.01


def test_chance_is_the_spread_about_the_mean_of_the_training_frames():
    encoded, rollout, targets = linear_system()
    report = probe_rollouts(encoded, rollout, targets, TRAIN, horizons=(1, 6))
    mean = targets[TRAIN].numpy().mean(axis=(0, 1))
    for h in (1, 6):
        y = targets[~TRAIN, h].numpy()
        expected = np.sqrt(y.var(axis=0).sum() + ((y.mean(axis=0) - mean) ** 2).sum())
        assert report["chance"]["rmse"][str(h)] == pytest.approx(expected, rel=1e-5)
        assert report["chance"]["r2"][str(h)] <= 0


def test_one_probe_is_shared_over_the_steps_of_a_rollout():
    """Predictions whose sign flips at every step are read perfectly by one probe per step, and not by a shared one."""
    encoded, _, targets = linear_system()
    sign = (-1.0) ** torch.arange(FRAMES - 1)
    report = probe_rollouts(encoded, encoded[:, 1:] * sign[:, None], targets, TRAIN, horizons=(1, 2))
    assert min(measure(report, "rollout").values()) > 0.5


@pytest.mark.parametrize("kind", ["linear", "sgd", "mlp"])
def test_held_out_trajectories_never_enter_the_fit(kind):
    encoded, rollout, targets = linear_system()
    config = ProbeConfig(kind, num_steps=20)

    def of(encoded, rollout, targets, is_train=TRAIN):
        return probe_rollouts(
            encoded, rollout, targets, is_train, config, horizons=(1, 6), generator=generator()
        )

    # One held-out trajectory keeps its values, the others are replaced: nothing about it may change.
    kept = int((~TRAIN).nonzero()[0])
    only = TRAIN.clone()
    only[kept] = False
    rest = TRAIN | (torch.arange(NUM) == kept)
    expected = of(encoded[rest], rollout[rest], targets[rest], TRAIN[rest])
    poisoned = [value.clone() for value in (encoded, rollout, targets)]
    for value in poisoned:
        value[~rest] = 1e3
    poisoned[2][~rest] = float("nan")  # not judged either
    assert {**of(*poisoned), "num_test": 1} == expected
    changed = targets.clone()
    changed[TRAIN] *= 2
    assert of(encoded, rollout, changed)["rollout"] != of(encoded, rollout, targets)["rollout"]


def test_horizons_beyond_the_rollout_or_without_a_known_target_are_left_out():
    encoded, rollout, targets = linear_system()
    targets[:, 4] = float("nan")
    report = probe_rollouts(encoded, rollout[:, :5], targets, TRAIN, horizons=(1, 4, 5, 6, 60))
    assert report["horizons"] == [1, 5]
    assert list(report["chance"]["rmse"]) == ["1", "5", "all"]
    assert all(value < 0.01 for value in report["rollout"]["rmse"].values())


def test_classes_are_judged_by_accuracy_beside_the_most_frequent_one():
    g = generator()
    classes = torch.randint(3, (NUM, 1), generator=g).expand(NUM, FRAMES).contiguous()
    classes[:12] = 1
    encoded = torch.nn.functional.one_hot(classes, DIM) + 0.05 * torch.randn(NUM, FRAMES, DIM, generator=g)
    noise = torch.randn(NUM, FRAMES - 1, DIM, generator=g)
    unknown = classes.clone()
    unknown[:, 0] = -1
    unknown[~TRAIN, 2] = -1
    for labels in (classes, unknown):
        report = probe_rollouts(encoded, noise, labels, TRAIN, horizons=(2, 3))
        assert report["task"] == "classification"
        assert report["horizons"] == ([2, 3] if labels is classes else [3])
        assert report["encoding"]["accuracy"]["3"] == 1.0
        majority = np.bincount(classes[TRAIN, 0]).argmax()
        expected = float((classes[~TRAIN, 0] == majority).float().mean())
        assert report["chance"]["accuracy"]["3"] == pytest.approx(expected)
        assert report["rollout"]["accuracy"]["3"] < 0.8


def test_a_class_that_training_never_had_is_a_miss():
    classes = torch.zeros(NUM, FRAMES, dtype=torch.int64)
    classes[TRAIN] = torch.arange(int(TRAIN.sum()))[:, None] % 2
    classes[~TRAIN] = 9
    encoded = torch.randn(NUM, FRAMES, DIM, generator=generator())
    report = probe_rollouts(encoded, encoded[:, 1:], classes, TRAIN, horizons=(1,))
    assert {report[line]["accuracy"]["1"] for line in ("encoding", "rollout", "transfer", "chance")} == {0.0}


def test_what_does_not_vary_has_no_r_squared():
    encoded, rollout, targets = linear_system()
    report = probe_rollouts(encoded, rollout, torch.ones_like(targets), TRAIN, horizons=(1,))
    assert report["encoding"]["r2"] == {"1": None, "all": None}
    assert report["encoding"]["rmse"]["1"] == pytest.approx(0.0, abs=1e-5)


def test_feature_maps_are_flattened_and_inputs_are_unchanged():
    encoded, rollout, targets = linear_system()
    maps = encoded[..., None, None].repeat(1, 1, 1, 2, 2), rollout[..., None, None].repeat(1, 1, 1, 2, 2)
    before = [value.clone() for value in (*maps, targets)]
    report = probe_rollouts(*maps, targets, TRAIN, horizons=(1,))
    assert report["encoding"]["rmse"]["1"] < 0.01
    assert all(torch.equal(a, b) for a, b in zip(before, (*maps, targets), strict=True))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rollout": torch.zeros(NUM, FRAMES, DIM)}, "rollout must be .* with 1 <= H < T"),
        ({"rollout": torch.zeros(NUM, 3, DIM + 1)}, r"rollout must be .*got \(60, 3, 6\)"),
        ({"targets": torch.zeros(NUM, FRAMES)}, r"targets must be floats \(E, T, K\) or classes \(E, T\)"),
        ({"targets": torch.zeros(NUM, FRAMES - 1, 2)}, r"got torch.float32 \(60, 6, 2\)"),
        ({"is_train": torch.ones(NUM, dtype=torch.bool)}, "leave one out, got 60 of 60"),
        ({"is_train": torch.zeros(NUM, dtype=torch.bool)}, "at least one trajectory .*got 0 of 60"),
        ({"is_train": torch.ones(NUM)}, r"is_train must be bool \(60,\), got torch.float32"),
        ({"horizons": (0, 4)}, r"horizons must be frames >= 1, at least one, got \[0, 4\]"),
        ({"encoded": torch.full((NUM, FRAMES, DIM), float("nan"))}, "embeddings must be finite"),
        ({"targets": torch.full((NUM, FRAMES, 2), float("nan"))}, "at least 2 rows, got 0"),
        ({"config": ProbeConfig("mlp")}, "generator must be given for a probe of kind 'mlp'"),
    ],
)
def test_wrong_calls_say_the_rule(change, sentence):
    encoded, rollout, targets = linear_system()
    call = {"encoded": encoded, "rollout": rollout, "targets": targets, "is_train": TRAIN}
    with pytest.raises(ValueError, match=sentence):
        probe_rollouts(**{**call, **change})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "linaer"}, "did you mean 'linear'"),
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"ridge": -1.0}, "ridge must be >= 0, got -1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
        ({"lr": 0.0}, "lr must be > 0, got 0.0"),
        ({"hidden_dims": ()}, "hidden_dims must be at least one width"),
    ],
)
def test_wrong_settings_say_the_rule(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ProbeConfig(**settings)


@pytest.mark.parametrize(
    ("embeddings", "targets", "sentence"),
    [
        (torch.zeros(4, 2), torch.zeros(5, 1), r"got \(4, 2\) and \(5, 1\)"),
        (torch.zeros(4, 2), torch.zeros(4), r"targets \(M, K\), got"),
        (torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.int64), r"classes \(M,\), got"),
        (torch.zeros(4, 2), torch.tensor([0, 1, -1, 2]), "classes must be >= 0, got -1"),
        (torch.zeros(4, 2), torch.full((4, 1), float("inf")), "targets must be finite"),
    ],
)
def test_rows_that_no_probe_fits_are_refused(embeddings, targets, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit_probe(embeddings, targets)
