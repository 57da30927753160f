"""Standard normal action noise, white or coloured, one draw for all problems.

The same ``(N, H, A)`` noise serves every problem of a batch. It is B times cheaper to draw, and it makes the
plan of a problem independent of which other problems are planned beside it. Randomness over problems is
therefore common, over iterations and calls it is fresh.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def colour_filter(horizon: int, beta: float) -> Tensor:
    """Return the ``(H, H)`` matrix that gives white noise along H the power spectrum ``1 / f^beta``.

    The method of Timmer and Koenig (1995) as iCEM uses it, written as a circulant matrix: scale each
    frequency by ``max(f, 1/H)^(-beta/2)``. Rows have norm one, so that each entry of the result has unit
    variance at any beta. Like every filter on a finite spectrum it is periodic: the last step correlates with
    the first.
    """
    frequency = torch.fft.rfftfreq(horizon, dtype=torch.float64).clamp_min(1.0 / horizon)
    amplitude = frequency ** (-beta / 2)
    spectrum = torch.fft.rfft(torch.eye(horizon, dtype=torch.float64), dim=0)
    matrix = torch.fft.irfft(amplitude[:, None] * spectrum, n=horizon, dim=0)
    return matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True)


def noise_source(
    mean: Tensor, generator: torch.Generator | None, *, beta: float = 0.0, spread: float = 1.0
) -> Callable[[int], Tensor]:
    """Return a function that draws noise for ``num_samples`` candidates, ``(N, H, A)``.

    Args:
        mean: ``(B, H, A)``, gives the horizon, action size, device and dtype of the noise.
        generator: source of randomness; it may live on the CPU while ``mean`` does not.
        beta: exponent of the power spectrum along H: 0 white, 1 pink, 2 Brownian.
        spread: noise scale of the last candidate; those between 1 and it follow a geometric sequence, so that
            one
            population searches coarsely and finely at once.
    """
    _, horizon, action_dim = mean.shape
    source = mean.device if generator is None else generator.device
    colour = None if beta == 0 else colour_filter(horizon, beta).to(mean)

    def draw(num_samples: int) -> Tensor:
        shape = (num_samples, horizon, action_dim)
        noise = torch.randn(shape, generator=generator, device=source, dtype=mean.dtype).to(mean.device)
        if colour is not None:
            noise = torch.tensordot(noise, colour, dims=([1], [1])).transpose(1, 2)
        if spread != 1:
            exponent = torch.linspace(0.0, 1.0, num_samples, device=mean.device, dtype=mean.dtype)
            noise = noise * (spread**exponent)[:, None, None]
        return noise

    return draw
