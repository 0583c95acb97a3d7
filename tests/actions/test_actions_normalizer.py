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


def test_mean_and_deviation_follow_the_equation():
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
def test_rounding_noise_is_not_blown_up(kind):
    actions = 0.3 + 1e-7 * torch.randn(1000, 1)
    normalizer = kind(1).fit(actions)
    assert (normalizer(actions) == 0).all()
    assert torch.allclose(normalizer.undo(normalizer(actions)), actions, atol=1e-6)


def test_a_gripper_that_is_seldom_closed_keeps_both_its_values():
    gripper = torch.ones(1000, 1)
    gripper[:5] = -1
    normalizer = QuantileNormalizer(1).fit(gripper)
    assert normalizer(gripper).abs().max() <= 1
    assert torch.allclose(normalizer.undo(normalizer(gripper).clamp(-1, 1)), gripper)


@BOTH
def test_statistics_in_one_pass_fit_as_memory_does(kind):
    actions = torch.randn(1000, 3)
    statistics = RunningQuantiles(3)
    for chunk in actions.split(64):
        statistics.update(chunk)
    streamed, direct = kind(3).fit_statistics(statistics), kind(3).fit(actions)
    assert torch.allclose(streamed(actions), direct(actions), atol=1e-5)


@BOTH
def test_a_checkpoint_carries_the_fit(kind):
    actions = torch.randn(100, 3)
    fitted, loaded = kind(3).fit(actions), kind(3)
    loaded.load_state_dict(fitted.state_dict())
    assert loaded(actions).equal(fitted(actions))


@BOTH
def test_a_module_in_half_precision_keeps_its_statistics(kind):
    actions = torch.randn(100, 3)
    fitted = kind(3).fit(actions)
    expected = fitted(actions)
    assert fitted.to(torch.bfloat16)(actions).equal(expected)


@BOTH
def test_use_before_fit_is_refused(kind):
    with pytest.raises(ValueError, match="call fit, or load a checkpoint"):
        kind(3)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="call fit, or load a checkpoint"):
        kind(3).undo(torch.zeros(1, 3))


@BOTH
def test_bad_actions_are_refused(kind):
    with pytest.raises(ValueError, match="finite"):
        kind(3).fit(torch.full((4, 3), torch.nan))
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        kind(3).fit(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="no actions"):
        kind(3).fit(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="2 dimensions; this normalizer has 3"):
        kind(3).fit_statistics(RunningQuantiles(2))
    with pytest.raises(ValueError, match="3 dimensions"):
        kind(3).fit(torch.randn(4, 3))(torch.zeros(1, 7))


def test_shares_out_of_order_are_refused():
    with pytest.raises(ValueError, match="low < high"):
        QuantileNormalizer(3, low=0.99, high=0.01)
