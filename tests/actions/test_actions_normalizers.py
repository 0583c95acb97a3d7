import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e0_lightning.actions.normalizers import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.quantiles import RunningQuantiles

BOTH = pytest.mark.parametrize("kind", [QuantileNormalizer, MeanStdNormalizer])


def test_quantiles_follow_the_equation():
    actions = torch.randn(5000, 3) * torch.tensor([0.1, 1.0, 30.0]) + 2
    normalizer = QuantileNormalizer(3).fit(actions)
    low, high = actions.quantile(0.01, dim=0), actions.quantile(0.99, dim=0)
    expected = 2 * (actions - low) / (high - low + 1e-6) - 1
    assert torch.allclose(normalizer(actions), expected, atol=1e-5)


def test_mean_and_standard_deviation_follow_the_equation():
    actions = torch.randn(5000, 3) * torch.tensor([0.1, 1.0, 30.0]) + 2
    normalizer = MeanStdNormalizer(3).fit(actions)
    expected = (actions - actions.mean(dim=0)) / (actions.std(dim=0, correction=0) + 1e-6)
    assert torch.allclose(normalizer(actions), expected, atol=1e-4)


@BOTH
@settings(max_examples=50)
@given(
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-10, 10),
    seed=st.integers(0, 1000),
)
def test_undo_is_the_inverse(kind, scale, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randn(2, 50, 4, generator=generator) * scale + shift
    normalizer = kind(4).fit(actions.flatten(0, 1))
    tolerance = 1e-6 * (scale * 10 + abs(shift) + 1)
    assert torch.allclose(normalizer.undo(normalizer(actions)), actions, rtol=0, atol=tolerance)


@BOTH
@given(value=st.floats(-100, 100, width=32))
def test_a_constant_dimension_maps_to_zero_and_back_exactly(kind, value):
    actions = torch.randn(64, 2)
    actions[:, 1] = value
    normalizer = kind(2).fit(actions)
    assert (normalizer(actions)[:, 1] == 0).all()
    assert (normalizer.undo(normalizer(actions))[:, 1] == actions[:, 1]).all()


@BOTH
def test_rounding_noise_is_constant(kind):
    actions = 0.3 + 1e-7 * torch.randn(1000, 1)
    normalizer = kind(1).fit(actions)
    assert (normalizer(actions) == 0).all()
    assert torch.allclose(normalizer.undo(normalizer(actions)), actions, atol=1e-6)


@settings(max_examples=30)
@given(
    outlier=st.floats(1.0, 1e30).flatmap(lambda x: st.sampled_from([x, -x])),
    count=st.sampled_from([200, 2_000, 100_000]),
    seed=st.integers(0, 100),
)
def test_an_outlier_of_any_size_leaves_the_range_of_the_others_alone(outlier, count, seed):
    values = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) / 2 - 0.25
    expected = QuantileNormalizer(1).fit(values)
    values[count // 3] = outlier
    normalizer = QuantileNormalizer(1).fit(values)
    width = expected.high - expected.low
    assert (normalizer.low - expected.low).abs() < 0.05 * width
    assert (normalizer.high - expected.high).abs() < 0.05 * width


@pytest.mark.parametrize("jitter", [0.0, 1e-6])
@pytest.mark.parametrize("outlier", [None, 600.0, -600.0])
@pytest.mark.parametrize("count", [1_000, 100_000])
def test_a_gripper_that_rarely_closes_keeps_both_values_apart(jitter, outlier, count):
    gripper = torch.full((count, 1), 0.04)
    gripper[: count // 200] = 0.0
    gripper += jitter * torch.randn(count, 1)
    if outlier is not None:
        gripper[-1] = outlier
    normalizer = QuantileNormalizer(1).fit(gripper)
    ends = torch.tensor([[0.0], [0.04]])
    torch.testing.assert_close(normalizer(ends), torch.tensor([[-1.0], [1.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalizer.undo(normalizer(ends)), ends)


def test_a_glitch_repeated_in_overlapping_chunks_is_ignored():
    actions = torch.rand(2400, 2) / 2 - 0.25
    actions[:, 1] = 0.04
    actions[100] = 600.0
    chunks = actions.unfold(0, 12, 1).transpose(1, 2).flatten(0, 1)
    normalizer = QuantileNormalizer(2).fit(chunks)
    assert normalizer.high[0] < 0.26
    assert (normalizer.undo(torch.rand(5, 2))[:, 1] == 0.04).all()


@BOTH
@pytest.mark.parametrize("jitter", [1e-7, 1e-6, 1e-5])
def test_a_dimension_that_hardly_moves_is_constant(kind, jitter):
    values = 0.3 + jitter * torch.randn(10_000, 1)
    normalizer = kind(1).fit(values)
    assert normalizer(torch.tensor([[0.301]])) == 0
    assert normalizer.undo(torch.tensor([[1.0]])).item() == pytest.approx(0.3, abs=5 * jitter)


def test_small_movements_are_not_constant():
    displacements = 0.0005 * torch.randn(10_000, 1)
    normalizer = QuantileNormalizer(1).fit(displacements)
    assert normalizer(displacements).std() > 0.3


@BOTH
def test_streamed_statistics_equal_those_in_memory(kind):
    actions = torch.randn(1000, 3)
    statistics = RunningQuantiles(3)
    for chunk in actions.split(64):
        statistics.update(chunk)
    streamed, direct = kind(3).fit_statistics(statistics), kind(3).fit(actions)
    assert torch.allclose(streamed(actions), direct(actions), atol=1e-5)


@BOTH
def test_the_fit_is_saved_in_the_state_dict(kind):
    actions = torch.randn(100, 3)
    fitted, loaded = kind(3).fit(actions), kind(3)
    loaded.load_state_dict(fitted.state_dict())
    assert loaded(actions).equal(fitted(actions))


@BOTH
def test_statistics_stay_in_float32_in_a_half_precision_module(kind):
    actions = torch.randn(100, 3)
    fitted = kind(3).fit(actions)
    expected = fitted(actions)
    assert fitted.to(torch.bfloat16)(actions).equal(expected)


@BOTH
def test_use_before_fit_is_refused(kind):
    with pytest.raises(ValueError, match=r"not fitted yet\. Call fit, or load"):
        kind(3)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"not fitted yet\. Call fit, or load"):
        kind(3).undo(torch.zeros(1, 3))


@BOTH
def test_bad_actions_are_refused(kind):
    with pytest.raises(ValueError, match="finite"):
        kind(3).fit(torch.full((4, 3), torch.nan))
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        kind(3).fit(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="some values, got none"):
        kind(3).fit(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="statistics of 3 dimensions, got 2"):
        kind(3).fit_statistics(RunningQuantiles(2))
    with pytest.raises(ValueError, match=r"expected 3 dimensions, got a tensor of shape \(1, 7\)"):
        kind(3).fit(torch.randn(4, 3))(torch.zeros(1, 7))


def test_fractions_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="low < high"):
        QuantileNormalizer(3, low=0.99, high=0.01)


@BOTH
def test_a_missing_number_of_dimensions_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"{kind.__name__}.dim: expected .*, got None"):
        kind()
