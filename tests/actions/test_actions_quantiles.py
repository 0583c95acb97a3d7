import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e0_lightning.actions.quantiles import RunningQuantiles

FRACTIONS = [0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 1.0]


def feed(values, sizes, capacity):
    statistics = RunningQuantiles(values.shape[1], capacity)
    for chunk in values.split(sizes):
        statistics.update(chunk)
    return statistics


def worst_rank_error(statistics, values):
    """Largest rank error of the estimated quantiles, as a fraction of the stream."""
    worst = 0.0
    for fraction in FRACTIONS:
        estimate = statistics.quantile(fraction)
        below = (values < estimate).double().mean(dim=0)
        up_to = (values <= estimate).double().mean(dim=0)
        worst = max(worst, (below - fraction).max().item(), (fraction - up_to).max().item())
    return worst


@given(st.integers(1, 200), st.integers(1, 50), st.sampled_from(FRACTIONS))
def test_quantiles_are_exact_up_to_the_capacity(count, size, fraction):
    values = torch.randn(count, 3, generator=torch.Generator().manual_seed(count))
    statistics = feed(values, size, capacity=200)
    assert statistics.rank_error == 0
    assert torch.allclose(
        statistics.quantile(fraction), values.quantile(fraction, dim=0), atol=1e-6
    )


@settings(max_examples=15)
@given(
    st.integers(1, 20_000),
    st.integers(1, 3000),
    st.sampled_from([64, 256]),
    st.sampled_from(["random", "rising", "falling", "alternating"]),
)
def test_rank_error_stays_below_its_bound_in_any_order(count, size, capacity, order):
    values = torch.randn(count, 2, generator=torch.Generator().manual_seed(count))
    if order != "random":
        values = values.sort(dim=0, descending=order == "falling").values
    if order == "alternating":
        values[1::2] = values[1::2].flip(0)
    statistics = feed(values, size, capacity)
    doublings = math.floor(math.log2(max(count / capacity, 1)))
    assert statistics.rank_error <= (doublings + 3) / (2 * capacity)
    # Interpolation between two neighbors adds less than one rank.
    assert worst_rank_error(statistics, values) <= statistics.rank_error + 1 / count


def test_rank_error_of_a_million_values_is_below_0_0005():
    values = torch.randn(1_000_000, 1, generator=torch.Generator().manual_seed(0)).exp()
    statistics = feed(values, 50_000, capacity=16384)
    assert 0 < statistics.rank_error < 0.0005
    assert worst_rank_error(statistics, values) < 0.0005


def test_memory_is_bounded():
    statistics = feed(torch.randn(300_000, 2), 1000, capacity=256)
    size = sum(part.untyped_storage().nbytes() for level in statistics._levels for part in level)
    assert size <= 256 * 12 * 2 * 4


def test_moments_and_extremes_are_those_of_all_values():
    values = torch.randn(10_000, 3) * torch.tensor([1e-3, 1.0, 50.0]) + 1000
    statistics = feed(values, 77, capacity=64)
    assert statistics.count == 10_000
    assert torch.allclose(statistics.mean, values.double().mean(dim=0))
    assert torch.allclose(statistics.std, values.double().std(dim=0, correction=0))
    assert statistics.min.equal(values.amin(dim=0))
    assert statistics.max.equal(values.amax(dim=0))


def test_input_tensors_are_copied():
    values = torch.ones(4, 1)
    statistics = RunningQuantiles(1).update(values)
    values.zero_()
    assert statistics.quantile(0.5) == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused_with_their_index(bad):
    values = torch.zeros(5, 3)
    values[2, 1] = bad
    with pytest.raises(ValueError, match=r"got (nan|inf) in row 2, dimension 1"):
        RunningQuantiles(3).update(values)


def test_quantiles_without_values_are_refused():
    with pytest.raises(ValueError, match="expected some values, got none"):
        RunningQuantiles(3).quantile(0.5)


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(N, 3\), got \(5, 2\)"):
        RunningQuantiles(3).update(torch.zeros(5, 2))


def test_interpolation_takes_the_lower_or_higher_neighbor():
    statistics = RunningQuantiles(1).update(torch.tensor([[0.0], [1.0], [3.0], [7.0]]))
    assert statistics.quantile(0.5).item() == 2.0
    assert statistics.quantile(0.5, "lower").item() == 1.0
    assert statistics.quantile(0.5, "higher").item() == 3.0
