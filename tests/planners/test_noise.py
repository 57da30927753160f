import pytest
import torch

from planners.noise import colour_filter, noise_source
from tests.planners.problems import seeded


@pytest.mark.parametrize("horizon", [1, 2, 7, 16])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_coloured_noise_has_unit_variance_and_a_power_law_spectrum(horizon, beta):
    matrix = colour_filter(horizon, beta)
    covariance = matrix @ matrix.T
    torch.testing.assert_close(covariance.diagonal(), torch.ones(horizon, dtype=torch.float64))
    power = torch.fft.rfft(covariance[0]).real  # of a circulant covariance: its eigenvalues
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64)
    frequency[0] = 1 / horizon
    torch.testing.assert_close(power / power[-1], (frequency / frequency[-1]) ** -beta)


def test_drawn_noise_follows_the_spectrum():
    horizon, beta = 32, 2.0
    noise = noise_source(torch.zeros(1, horizon, 3), seeded(0), beta=beta)(4000)
    assert noise.shape == (4000, horizon, 3)
    assert noise.var() == pytest.approx(1.0, rel=0.03)
    power = torch.fft.rfft(noise, dim=1).abs().square().mean(dim=(0, 2))
    frequency = torch.fft.rfftfreq(horizon)
    expected = (frequency[1:] / frequency[1]) ** -beta
    torch.testing.assert_close(power[1:] / power[1], expected, rtol=0.08, atol=0.0)


def test_white_noise_is_uncorrelated_over_time():
    noise = noise_source(torch.zeros(1, 6, 2), seeded(0))(20000)
    covariance = torch.einsum("nha,nka->hk", noise, noise) / 40000
    torch.testing.assert_close(covariance, torch.eye(6), rtol=0, atol=0.03)


def test_the_spread_runs_geometrically_from_one():
    plain = noise_source(torch.zeros(1, 6, 2), seeded(0))(5)
    spread = noise_source(torch.zeros(1, 6, 2), seeded(0), spread=0.01)(5)
    torch.testing.assert_close((spread / plain)[:, 0, 0], torch.logspace(0, -2, 5))
