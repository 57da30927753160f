import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from tests.worldmodel.factories import MODELS, make, make_batch
from worldmodel import diagnostics
from worldmodel.action_readout import action_r2, static_ratio
from worldmodel.alarm import SlowFeatureAlarm
from worldmodel.diagnostics import (
    NonFiniteEmbeddingError,
    action_sensitivity,
    between_trajectory_share,
    cca,
    diagnose,
    distance_correlation,
    identity_ratio,
    linear_cka,
    mean_slowness,
    rankme,
    relative_variance,
    slowness,
    spearman,
    spectrum,
    time_retrieval,
    trajectory_retrieval,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def walk(num=256, frames=9, seed=0):
    """A dot's positions (B, T, 2) in a box and the actions (B, T, 2) that move it [px]."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(num, frames, 2, generator=generator)
    heading = 2 * math.pi * torch.rand(num, 1, generator=generator)
    angle = heading + math.pi * (1.8 * uniform[..., 0] - 0.9)
    actions = 4 * uniform[..., 1:] * torch.stack([angle.cos(), angle.sin()], -1)
    position = 2.6 + 21.8 * torch.rand(num, 2, generator=generator)
    positions = [position]
    for t in range(frames - 1):
        positions.append((positions[-1] + actions[:, t]).clamp(2.6, 24.4))
    return torch.stack(positions, 1), actions


def straight(positions, dim=32):
    return (positions - 13.5) / 6.3 @ normal(2, dim, seed=1)


def curved(positions, dim=32, frequency=2.0):
    """Random Fourier features behind a LayerNorm: where one step leads depends on where one is."""
    phase = (positions - 13.5) / 6.3 @ (frequency * normal(2, dim, seed=2)) + 10 * normal(dim, seed=3)
    return torch.nn.functional.layer_norm(phase.cos(), (dim,))


def rolling(num=256, frames=9, dim=32):
    """Every feature a wave with the same speed in all trajectories, and its own amplitude and phase in each."""
    speed = 2 * math.pi / 28 * (1 + torch.arange(dim) % 5)
    phase = 2 * math.pi * torch.rand(num, 1, dim, generator=torch.Generator().manual_seed(4))
    return normal(num, 1, dim, seed=5) * (speed * torch.arange(frames)[:, None] + phase).cos()


# ---- statistics against numpy, scipy and closed forms


def test_rankme_is_the_entropy_of_the_uncentred_singular_values():
    x = normal(50, 7).double() + 2.0
    p = np.linalg.svd(x.numpy(), compute_uv=False)
    p = p / p.sum() + 1e-7
    assert rankme(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
    assert rankme(torch.eye(6)) == pytest.approx(6, rel=1e-4)
    assert rankme(torch.ones(40, 6)) == pytest.approx(1, abs=1e-3)


def test_the_spectrum_is_that_of_the_covariance():
    x = normal(60, 5).double() @ torch.diag(torch.tensor([3.0, 1, 1, 0.5, 0])).double() + 7.0
    values = np.sort(np.linalg.eigvalsh(np.cov(x.numpy().T)))[::-1]
    np.testing.assert_allclose(spectrum(x).numpy(), values / values.sum(), atol=1e-12)


def test_the_between_trajectory_share_is_one_for_constants_and_one_over_t_for_noise():
    assert between_trajectory_share(normal(40, 1, 6).expand(40, 8, 6)) == pytest.approx(1)
    assert between_trajectory_share(normal(4000, 8, 6)) == pytest.approx(1 / 8, rel=0.02)
    assert between_trajectory_share(torch.ones(4, 3, 2)) == 1.0


def test_slowness_is_one_for_white_noise_and_one_minus_rho_for_an_ar_process():
    assert slowness(normal(2000, 9, 3)).tolist() == pytest.approx([1, 1, 1], rel=0.03)
    rho = 0.8
    noise = normal(3000, 9, 2, seed=1)
    steps = [noise[:, 0]]
    for t in range(1, 9):
        steps.append(rho * steps[-1] + math.sqrt(1 - rho**2) * noise[:, t])
    process = torch.stack(steps, 1)
    assert slowness(process).tolist() == pytest.approx([1 - rho] * 2, rel=0.05)
    assert mean_slowness(process) == pytest.approx(1 - rho, rel=0.05)


def test_slowness_comes_by_descending_variance():
    fast_and_large, slow_and_small = 5 * normal(500, 9, 1), normal(500, 1, 1, seed=1).expand(500, 9, 1)
    found = slowness(torch.cat([slow_and_small, fast_and_large], -1))
    assert found[0] == pytest.approx(1, rel=0.05)
    assert found[1] < 0.01


def test_relative_variance_tells_a_point_from_a_cloud():
    assert relative_variance(normal(100, 5, 8)) == pytest.approx(1, rel=0.02)
    assert relative_variance(100 + normal(100, 5, 8)) == pytest.approx(1e-4, rel=0.05)


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_scipys(ties):
    x, y = normal(200), normal(200, seed=1)
    y = x + y
    if ties:
        x, y = (2 * x).round(), (2 * y).round()
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(torch.ones(5), torch.arange(5)) == 0.0


def test_distance_correlation_is_that_of_all_pairs_in_each_trajectory():
    s, a, p = normal(3, 5, 4), normal(3, 5, 2, seed=1), normal(3, 4, 4, seed=2)
    rows = []
    for b in range(3):
        imagined = torch.cat([s[b, :1], p[b]])
        rows += [
            [
                float((s[b, t] - s[b, u]).norm()),
                u - t,
                float(a[b, t:u].sum(0).norm()),
                float((imagined[t] - imagined[u]).norm()),
            ]
            for t in range(5)
            for u in range(t + 1, 5)
        ]
    columns = np.array(rows).T
    found = dataclasses.astuple(distance_correlation(s, a, p))
    expected = [scipy.stats.spearmanr(columns[0], columns[k]).statistic for k in (1, 2, 3)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_cca_is_the_cosine_of_principal_angles():
    x, y = normal(300, 6).double(), normal(300, 3, seed=1).double()
    y = y + x[:, :3]
    angles = [np.linalg.qr((z - z.mean(0)).numpy())[0] for z in (x, y)]
    expected = scipy.linalg.svdvals(angles[0].T @ angles[1]).mean()
    assert cca(x, y, ridge=0.0) == pytest.approx(expected, rel=1e-9)
    assert cca(x, x @ normal(6, 6, seed=2).double(), ridge=0.0) == pytest.approx(1)
    assert cca(x, y) < expected
    assert cca(x, torch.ones(300, 2)) == 0.0


def test_linear_cka_is_invariant_to_rotation_and_scale_and_zero_for_nothing_shared():
    x, y = normal(400, 5).double(), normal(400, 3, seed=1).double()
    gram = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y)]
    expected = (gram[0] * gram[1]).sum() / (gram[0].norm() * gram[1].norm())
    assert linear_cka(x, y) == pytest.approx(float(expected), rel=1e-9)
    rotation = torch.linalg.qr(normal(5, 5, seed=2).double())[0]
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1)


def test_the_identity_ratio_is_one_for_a_predictor_that_stands_still():
    s = normal(20, 6, 4).cumsum(1)
    assert identity_ratio(s[:, :1].expand(20, 5, 4), s) == pytest.approx(1)
    assert identity_ratio(s[:, 1:], s) == 0
    assert identity_ratio(s[:, :1] + 2 * (s[:, 1:] - s[:, :1]), s) == pytest.approx(1)
    assert identity_ratio(torch.zeros(20, 5, 4), torch.zeros(20, 6, 4)) == 1.0


def test_retrieval_counts_the_right_frames_and_trajectories():
    s = normal(10, 6, 4)
    assert time_retrieval(s[:, 1:], s) == trajectory_retrieval(s[:, 1:], s) == 1.0
    assert time_retrieval(s[:, :-1], s) == 0.0  # each names the frame before
    assert trajectory_retrieval(s[:, 1:].roll(1, dims=0), s) == 0.0
    constant = s[:, :1].expand(10, 6, 4)
    assert time_retrieval(constant[:, 1:], constant) == 0.0
    assert trajectory_retrieval(constant[:, 1:], constant) == 1.0


def test_action_sensitivity_is_measured_in_standard_deviations():
    s, p = 3 * normal(500, 9, 4), normal(500, 8, 4, seed=1)
    assert action_sensitivity(p, p, s) == 0
    assert action_sensitivity(p, p + torch.tensor([3.0, 0, 0, 0]), s) == pytest.approx(0.5, rel=0.02)


# ---- the readout of actions


@pytest.mark.parametrize(
    ("embed", "least"),
    [
        (straight, 0.8),
        (lambda x: straight(x) + 5 * normal(len(x), 1, 32, seed=7), 0.8),  # a large fixed background
        (lambda x: straight(x) + normal(*x.shape[:2], 32, seed=7), 0.6),
        (curved, 0.7),
        (lambda x: curved(x) + normal(len(x), 1, 32, seed=7), 0.5),
    ],
)
def test_actions_are_read_off_a_moving_dot(embed, least):
    positions, actions = walk()
    assert action_r2(embed(positions), actions) > least


def test_the_readout_of_a_linear_embedding_is_that_of_numpy():
    positions = normal(64, 2).double()[:, None] + normal(64, 6, 2, seed=1).double().cumsum(1)
    actions = torch.cat([positions.diff(dim=1) + 0.7 * normal(64, 5, 2, seed=2), torch.zeros(64, 1, 2)], 1)
    gap = 3
    x = (positions[:, gap:] - positions[:, :-gap]).numpy()
    path = np.pad(actions[:, :5].numpy().cumsum(1), ((0, 0), (1, 0), (0, 0)))
    y = path[:, gap:] - path[:, :-gap]
    fit, test = ((z[::2].reshape(-1, 2), z[1::2].reshape(-1, 2)) for z in (x, y))
    design = np.column_stack([fit[0], np.ones(len(fit[0]))])
    weight = np.linalg.lstsq(design, np.asarray(test[0]), rcond=None)[0]
    predicted = np.column_stack([fit[1], np.ones(len(fit[1]))]) @ weight
    expected = 1 - ((test[1] - predicted) ** 2).sum() / ((test[1] - test[1].mean(0)) ** 2).sum()
    assert 0.3 < expected < 0.9
    assert action_r2(positions, actions, gap=gap) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    "embedding",
    [
        normal(256, 1, 32).expand(256, 9, 32),
        normal(256, 1, 32) + 0.01 * normal(256, 9, 32, seed=1),
        normal(256, 9, 32),
        rolling(),
        curved(walk(seed=9)[0]),  # another dot, which the actions do not move
    ],
    ids=["constant", "constant-noise", "noise", "rolling", "other-dot"],
)
def test_actions_are_not_read_off_what_they_do_not_move(embedding):
    assert abs(action_r2(embedding, walk()[1])) < 0.08


def test_windows_of_one_trajectory_never_fit_and_evaluate():
    positions, actions = walk(20)
    memorised = torch.cat([normal(20, 9, 400), 0.1 * straight(positions)], -1)
    repeated, taken = (x.repeat_interleave(10, 0) for x in (memorised, actions))
    ids = torch.arange(20).repeat_interleave(10)
    assert action_r2(repeated, taken) > 0.5  # the same windows on both sides
    assert action_r2(repeated, taken, trajectories=ids) < 0.3
    with pytest.raises(ValueError, match="at least 10 trajectories, got 2"):
        action_r2(repeated, taken, trajectories=ids % 2)
    with pytest.raises(ValueError, match="gap must be >= 1, got 0"):
        action_r2(repeated, taken, gap=0)


def test_the_gap_moves_the_readout_and_is_shortened_to_the_window():
    positions, actions = walk()
    s = straight(positions) + 3 * normal(256, 9, 32)
    assert action_r2(s, actions, gap=1) + 0.05 < action_r2(s, actions, gap=4)
    assert action_r2(s, actions, gap=50) == action_r2(s, actions, gap=8)


# ---- the alarm


def statistics(embedding, actions, **changes):
    return {
        "action_r2": action_r2(embedding, actions),
        "between_trajectory_share": between_trajectory_share(embedding),
        "rankme": rankme(embedding.flatten(0, 1)),
        "relative_variance": relative_variance(embedding),
        "num_trajectories": 256.0,
        **changes,
    }


def test_the_alarm_speaks_of_a_background_and_is_silent_on_a_moving_dot():
    positions, actions = walk()
    alarm = SlowFeatureAlarm()
    constant = normal(256, 1, 32) + 0.02 * normal(256, 9, 32, seed=1)
    found = alarm.check(statistics(constant, actions))
    assert found.kind == "constant"
    assert found.message == (
        "the embedding is constant within trajectories; "
        "the prediction loss is low because it predicts the background"
    )
    assert "worldmodel train RECIPE --objective" in found.advice
    assert alarm.check(statistics(rolling(), actions)).kind == "uncontrolled"
    collapsed = torch.ones(256, 9, 32) + 1e-4 * straight(positions)
    assert alarm.check(statistics(collapsed, actions)).kind == "collapsed"
    assert alarm.check(statistics(straight(positions), actions)) is None
    assert alarm.check(statistics(curved(positions), actions)) is None


def test_the_static_ratio_of_a_position_is_that_of_its_variances():
    positions, actions = walk(num=512)
    between = positions.double().mean(1).var(0, correction=0).sum()
    within = positions.double().var(1, correction=0).mean(0).sum()
    embedding = straight(positions)
    assert static_ratio(embedding, actions, embedding) == pytest.approx(float(between / within), rel=0.02)
    assert static_ratio(3 * embedding + 1, actions, 3 * embedding + 1) == pytest.approx(
        static_ratio(embedding, actions, embedding), rel=1e-3
    )


def test_a_background_over_a_readable_state_buries_it():
    positions, actions = walk(num=512, frames=33)  # long enough to get around
    alarm = SlowFeatureAlarm()
    ratios = []
    for strength in (0.0, 4.0, 16.0):
        embedding = straight(positions) + strength * normal(512, 1, 32, seed=9)
        assert action_r2(embedding, actions) > 0.8  # the background cancels in the motion
        ratios.append(static_ratio(embedding, actions, embedding))
    assert ratios[0] < ratios[1] < ratios[2]
    buried = statistics(embedding, actions, static_ratio=ratios[2])
    assert alarm.check(buried).kind == "buried"
    assert alarm.check({**buried, "static_ratio": ratios[0]}) is None
    constant = torch.ones(512, 33, 32)
    assert static_ratio(constant, actions, constant) == 1


@pytest.mark.parametrize(
    ("name", "strict"),
    [("min_action_r2", 0.999), ("min_rankme", 40.0), ("min_relative_variance", 2.0)],
)
def test_each_threshold_of_the_alarm_raises_it(name, strict):
    positions, actions = walk()
    healthy = statistics(curved(positions), actions)
    assert SlowFeatureAlarm(**{name: strict}).check(healthy) is not None
    assert SlowFeatureAlarm(**{name: strict}, min_trajectories=257).check(healthy) is None


def test_the_share_chooses_the_words_only():
    scalars = {"action_r2": 0.0, "rankme": 9.0, "relative_variance": 1.0, "num_trajectories": 256.0}
    kinds = [
        SlowFeatureAlarm(max_share=share).check({**scalars, "between_trajectory_share": 0.9}).kind
        for share in (0.8, 0.95)
    ]
    assert kinds == ["constant", "uncontrolled"]


def test_in_training_the_alarm_waits_for_the_warm_up_and_a_second_check():
    bad = statistics(normal(256, 1, 32).expand(256, 9, 32), walk()[1])
    good = {**bad, "action_r2": 0.9}

    def first_step(*checks, **changes):
        history = [{**check, "step": 10 * (i + 1)} for i, check in enumerate(checks)]
        spoken = SlowFeatureAlarm(**changes).check_training(history, 100)
        return spoken and spoken[0]

    assert first_step(bad) is None
    assert first_step(bad, bad) is None  # step 10 lies within the warm-up
    assert first_step(bad, bad, bad) == 30
    assert first_step(bad, bad, good, bad) is None
    assert first_step(good, good, bad, bad) == 40
    assert first_step(bad, bad, warm_up=0.0) == 20
    assert first_step(bad, bad, patience=1) == 20


# ---- the diagnosis of a model


def make_windows(model, num=12, seed=0):
    return make_batch(model, num, 6, seed)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_diagnosed_without_a_trace(name):
    model = make(name).train()
    batch = make_windows(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = diagnose(model, batch)
    assert model.training
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(math.isfinite(value) for value in found.scalars.values())
    assert sum(found.spectrum) == pytest.approx(1)
    assert len(found.slowness) == len(found.spectrum)
    assert found == diagnose(model.eval(), batch)
    assert not model.training


def test_the_diagnosis_is_that_of_its_functions_on_the_models_outputs():
    model = make().eval()
    batch = make_windows(model, 16)
    with torch.no_grad():
        s = model.encode(batch)
        p = model.rollout(s[:, 0], batch["action"][:, :-1])
    found = diagnose(model, {**batch, "trajectory": torch.arange(16)}).scalars
    for name, expected in {
        "rankme": rankme(s.flatten(0, 1)),
        "identity_ratio": identity_ratio(p, s),
        "time_retrieval": time_retrieval(p, s),
        "distance_path": distance_correlation(s, batch["action"], p).path,
        "action_cka": linear_cka(s.diff(dim=1).flatten(0, 1), batch["action"][:, :-1].flatten(0, 1)),
        "action_r2": action_r2(s, batch["action"]),
        "num_trajectories": 16,
    }.items():
        assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-6), name
    assert found["action_sensitivity"] > 0


def test_chunks_do_not_change_the_diagnosis(monkeypatch):
    model = make()
    batch = make_windows(model, 14)
    whole = diagnose(model, batch)
    monkeypatch.setattr(diagnostics, "ENCODE_FRAMES", 13)
    for name, value in diagnose(model, batch).scalars.items():
        assert value == pytest.approx(whole.scalars[name], rel=1e-3, abs=1e-5), name


def test_wide_embeddings_are_projected(monkeypatch):
    model = make("map-conv")
    monkeypatch.setattr(diagnostics, "MAX_DIM", 16)
    assert len(diagnose(model, make_windows(model)).spectrum) == 16


def test_embeddings_that_are_not_numbers_are_named_and_the_mode_is_restored():
    model = make().train()
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteEmbeddingError, match="embeddings and rollouts must be finite"):
        diagnose(model, make_windows(model))
    assert model.training
