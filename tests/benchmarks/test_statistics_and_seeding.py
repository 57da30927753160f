import pytest
import torch
from scipy import stats

from benchmarks.seeding import derive_seed, make_generator
from benchmarks.statistics import wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 200), (1, 7), (97, 100), (200, 200)])
def test_the_interval_is_scipys_wilson_interval(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(successes, trials)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(ValueError, match="successes must be in"):
        wilson_interval(successes, trials)


def test_parts_of_a_run_have_their_own_streams():
    seeds = {derive_seed(seed, part, k) for seed in range(3) for part in ("a", "b") for k in range(3)}
    assert len(seeds) == 18
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    a, b = make_generator(1, "a"), make_generator(1, "b")
    assert not torch.equal(torch.rand(4, generator=a), torch.rand(4, generator=b))
