import pytest
import torch

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import MeanStdNormalizer, QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions


def windows(count=40, horizon=5):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(count, 6, generator=generator)
    actions = torch.randn(count, horizon, 4, generator=generator)
    actions[..., :3] += state[:, None, :3]
    valid = torch.rand(count, horizon, generator=generator) > 0.3
    return actions, state, valid


def space(**arguments):
    return ActionSpace(5, QuantileNormalizer(4), **arguments)


@pytest.mark.parametrize("normalizer", [QuantileNormalizer, MeanStdNormalizer])
@pytest.mark.parametrize("relative", [None, RelativeActions([0, 1, 2], [0, 1, 2])])
@pytest.mark.parametrize("model_dim", [None, 4, 8])
def test_undo_returns_to_robot_units(normalizer, relative, model_dim):
    actions, state, valid = windows()
    fitted = ActionSpace(5, normalizer(4), relative, model_dim).fit([(actions, state, valid)])
    normalized = fitted.normalize(actions, state)
    assert normalized.shape == (40, 5, fitted.width)
    assert torch.allclose(fitted.undo(normalized, state), actions, atol=1e-5)


def test_padding_dimensions_are_zeros_and_marked():
    actions, state, valid = windows()
    padded = space(model_dim=7).fit([(actions, state, valid)])
    assert padded.padding.tolist() == [False] * 4 + [True] * 3
    assert (padded.normalize(actions, state)[..., padded.padding] == 0).all()
    assert not space().padding.any()


def test_what_stands_in_padding_dimensions_changes_nothing():
    actions, state, valid = windows()
    padded = space(model_dim=7).fit([(actions, state, valid)])
    normalized = padded.normalize(actions, state)
    changed = normalized.where(~padded.padding, 5.0)
    assert padded.undo(changed, state).equal(padded.undo(normalized, state))


def test_only_valid_steps_of_relative_actions_count():
    actions, state, valid = windows()
    relative = RelativeActions([0, 1, 2], [0, 1, 2])
    expected = QuantileNormalizer(4).fit(relative(actions, state)[valid])
    actions[~valid] = torch.nan
    batches = zip(actions.split(7), state.split(7), valid.split(7), strict=True)
    fitted = space(relative=relative).fit(batches)
    assert torch.allclose(fitted.normalizer.low, expected.low)
    assert torch.allclose(fitted.normalizer.high, expected.high)


def test_a_checkpoint_carries_the_fit():
    actions, state, valid = windows()
    fitted, loaded = space(model_dim=6).fit([(actions, state, valid)]), space(model_dim=6)
    loaded.load_state_dict(fitted.state_dict())
    assert loaded.normalize(actions, state).equal(fitted.normalize(actions, state))


def test_nan_in_a_valid_step_is_refused():
    actions, state, valid = windows()
    actions[valid] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        space().fit([(actions, state, valid)])


def test_no_valid_step_is_refused():
    actions, state, valid = windows()
    with pytest.raises(ValueError, match="no actions"):
        space().fit([(actions, state, torch.zeros_like(valid))])


def test_other_shapes_are_refused():
    actions, state, valid = windows()
    fitted = space().fit([(actions, state, valid)])
    with pytest.raises(ValueError, match="horizon of 5 steps and 4 dimensions"):
        fitted.normalize(actions[:, :3], state)
    with pytest.raises(ValueError, match="horizon of 5 steps and 4 dimensions"):
        fitted.undo(actions[..., :2], state)


@pytest.mark.parametrize(("horizon", "model_dim"), [(0, None), (5, 3)])
def test_impossible_sizes_are_refused(horizon, model_dim):
    with pytest.raises(ValueError, match=r"horizon is 0|model_dim is 3"):
        ActionSpace(horizon, QuantileNormalizer(4), model_dim=model_dim)
