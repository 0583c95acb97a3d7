import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e0_lightning.actions.quantiles import RunningQuantiles

SHARES = [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0]


def feed(values, sizes, capacity):
    statistics = RunningQuantiles(values.shape[1], capacity)
    for chunk in values.split(sizes):
        statistics.update(chunk)
    return statistics


def worst_rank_error(statistics, values):
    """By how much of the stream the estimated quantiles miss their rank."""
    worst = 0.0
    for share in SHARES:
        estimate = statistics.quantile(share)
        below = (values < estimate).double().mean(dim=0)
        up_to = (values <= estimate).double().mean(dim=0)
        worst = max(worst, (below - share).max().item(), (share - up_to).max().item())
    return worst


@given(st.integers(1, 200), st.integers(1, 50), st.sampled_from(SHARES))
def test_exact_while_the_stream_fits(count, size, share):
    values = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    statistics = feed(values, size, capacity=200)
    assert statistics.rank_error == 0
    assert torch.allclose(statistics.quantile(share), values.quantile(share, dim=0), atol=1e-6)


@settings(max_examples=15)
@given(
    st.integers(1, 20_000),
    st.integers(1, 3000),
    st.sampled_from([64, 256]),
    st.sampled_from(["random", "rising", "falling", "alternating"]),
)
def test_rank_error_keeps_its_bound_in_any_order(count, size, capacity, order):
    values = torch.randn(count, 2, generator=torch.Generator().manual_seed(count))
    if order != "random":
        values = values.sort(dim=0, descending=order == "falling").values
    if order == "alternating":
        values[1::2] = values[1::2].flip(0)
    statistics = feed(values, size, capacity)
    doublings = math.floor(math.log2(max(count / capacity, 1)))
    assert statistics.rank_error <= (doublings + 3) / (2 * capacity)
    # Interpolation between two neighbours adds less than one rank.
    assert worst_rank_error(statistics, values) <= statistics.rank_error + 1 / count


def test_rank_error_of_a_long_stream_is_below_its_number():
    values = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(0)).exp()
    statistics = feed(values, 50_000, capacity=16384)
    assert 0 < statistics.rank_error < 0.0005
    assert worst_rank_error(statistics, values) < 0.0005


def test_memory_is_bounded():
    statistics = feed(torch.randn(300_000, 2), 1000, capacity=256)
    held = sum(part.untyped_storage().nbytes() for level in statistics._levels for part in level)
    assert held <= 256 * 12 * 2 * 4


def test_moments_and_extremes_are_those_of_the_whole():
    values = torch.randn(10_000, 3) * torch.tensor([1e-3, 1.0, 50.0]) + 1000
    statistics = feed(values, 77, capacity=64)
    assert statistics.count == 10_000
    assert torch.allclose(statistics.mean, values.double().mean(dim=0))
    assert torch.allclose(statistics.std, values.double().std(dim=0, correction=0))
    assert statistics.min.equal(values.amin(dim=0))
    assert statistics.max.equal(values.amax(dim=0))


def test_what_was_fed_may_change_afterwards():
    values = torch.ones(4, 1)
    statistics = RunningQuantiles(1).update(values)
    values.zero_()
    assert statistics.quantile(0.5) == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_named(bad):
    values = torch.zeros(5, 3)
    values[2, 1] = bad
    with pytest.raises(ValueError, match=r"row 2, dimension 1"):
        RunningQuantiles(3).update(values)


def test_quantile_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values seen"):
        RunningQuantiles(3).quantile(0.5)


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 2\); expected \(N, 3\)"):
        RunningQuantiles(3).update(torch.zeros(5, 2))
