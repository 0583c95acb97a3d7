import pytest
import torch

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions
from e0_lightning.types import PolicySpec

RELATIVE = RelativeActions([0, 1, 2], {"qpos": [0, 1, 2]}).resolve_state(
    PolicySpec(state={"qpos": 6})
)


def chunks(count=40, horizon=5):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(count, 6, generator=generator)
    actions = torch.randn(count, horizon, 4, generator=generator)
    actions[..., :3] += state[:, None, :3]
    valid = torch.rand(count, horizon, generator=generator) > 0.3
    return actions, state, valid


def space(**arguments):
    return ActionSpace(5, QuantileNormalizer(4), **arguments)


@pytest.mark.parametrize("normalizer", [QuantileNormalizer, MeanStdNormalizer])
@pytest.mark.parametrize("relative", [None, RELATIVE])
@pytest.mark.parametrize("model_dim", [None, 4, 8])
def test_undo_returns_to_robot_units(normalizer, relative, model_dim):
    actions, state, valid = chunks()
    fitted = ActionSpace(5, normalizer(4), relative, model_dim).fit([(actions, state, valid)])
    normalized = fitted.normalize(actions, state)
    assert normalized.shape == (40, 5, fitted.width)
    assert torch.allclose(fitted.undo(normalized, state), actions, atol=1e-5)


def test_padding_dimensions_are_zero_and_marked():
    actions, state, valid = chunks()
    padded = space(model_dim=7).fit([(actions, state, valid)])
    assert padded.padding.tolist() == [False] * 4 + [True] * 3
    assert (padded.normalize(actions, state)[..., padded.padding] == 0).all()
    assert not space().padding.any()


def test_predicted_padding_is_an_action_of_zero():
    actions, state, valid = chunks()
    predicted = space(model_dim=7, predict_padding=True).fit([(actions, state, valid)])
    normalized = predicted.normalize(actions, state)
    assert (normalized[..., 4:] == 0).all()
    assert torch.equal(predicted.loss_mask(valid), valid[..., None].expand(-1, -1, 7))
    torch.testing.assert_close(predicted.undo(normalized, state), actions)


def test_values_in_padding_dimensions_are_ignored():
    actions, state, valid = chunks()
    padded = space(model_dim=7).fit([(actions, state, valid)])
    normalized = padded.normalize(actions, state)
    changed = normalized.where(~padded.padding, 5.0)
    assert padded.undo(changed, state).equal(padded.undo(normalized, state))


def test_statistics_use_valid_steps_of_relative_actions_only():
    actions, state, valid = chunks()
    expected = QuantileNormalizer(4).fit(RELATIVE(actions, state)[valid])
    actions[~valid] = torch.nan
    batches = zip(actions.split(7), state.split(7), valid.split(7), strict=True)
    fitted = space(relative=RELATIVE).fit(batches)
    assert torch.allclose(fitted.normalizer.low, expected.low)
    assert torch.allclose(fitted.normalizer.high, expected.high)


def test_the_fit_is_saved_in_the_state_dict():
    actions, state, valid = chunks()
    fitted, loaded = space(model_dim=6).fit([(actions, state, valid)]), space(model_dim=6)
    loaded.load_state_dict(fitted.state_dict())
    assert loaded.normalize(actions, state).equal(fitted.normalize(actions, state))


def test_nan_in_a_valid_step_is_refused():
    actions, state, valid = chunks()
    actions[valid] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        space().fit([(actions, state, valid)])


def test_chunks_without_a_valid_step_are_refused():
    actions, state, valid = chunks()
    with pytest.raises(ValueError, match="some values, got none"):
        space().fit([(actions, state, torch.zeros_like(valid))])


def test_other_shapes_are_refused():
    actions, state, valid = chunks()
    fitted = space().fit([(actions, state, valid)])
    with pytest.raises(ValueError, match=r"expected shape \(B, 5, 4\), .* got \(40, 3, 4\)"):
        fitted.normalize(actions[:, :3], state)
    with pytest.raises(ValueError, match=r"expected shape \(B, 5, 4\), .* got \(40, 5, 2\)"):
        fitted.undo(actions[..., :2], state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "actions.horizon: expected 1 step or more, got 0"),
        ({"horizon": None}, "actions.horizon: expected 1 step or more, got None"),
        ({"normalizer": None}, "actions.normalizer: expected a normalizer .*, got None"),
        ({"model_dim": 3}, "actions.model_dim: expected at least the 4 .*, got 3"),
    ],
)
def test_impossible_and_missing_sizes_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ActionSpace(**({"horizon": 5, "normalizer": QuantileNormalizer(4)} | arguments))


def test_normalized_entropy_is_0_for_certain_and_1_for_uniform_tokens():
    padded, logits = space(model_dim=6), torch.zeros(2, 30, 16)
    logits[0, :6, 3] = torch.inf
    logits = logits.nan_to_num(posinf=1e4)
    logits.view(2, 5, 6, 16)[1, :, 4:, 0] = 1e4
    entropy = padded.normalized_entropy(logits)
    assert entropy.shape == (2, 5)
    torch.testing.assert_close(entropy[0], torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(entropy[1], torch.ones(5))
