"""A step of validation encodes its batch once, and gives the results of encoding it twice."""

import lightning.pytorch as pl
import pytest
import torch

from e0_lightning.policies.e0 import E0
from tiny_policy import InMemoryDemos, make_batch, quiet_trainer, ready_policy, tiny_settings

POLICIES = {
    "E0": tiny_settings(),
    "E0, bf16 outside of a trainer": tiny_settings(),
    "FlowMatching": tiny_settings("FlowMatching"),
    "Autoregressive": tiny_settings("Autoregressive", num_bins=32),
    "Regression": tiny_settings("Regression"),
}


class Outputs(pl.Callback):
    """The actions of the first batch of a validation, and its encoder calls."""

    def on_validation_start(self, trainer, pl_module):
        self.calls = 0
        pl_module.encoder.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.actions = outputs


def validate(policy, tmp_path):
    """Predicted actions, encoder calls and logged values of one batch."""
    outputs = Outputs()
    trainer = quiet_trainer(tmp_path, callbacks=[outputs], limit_val_batches=1)
    (logged,) = trainer.validate(policy, datamodule=InMemoryDemos(), verbose=False)
    return outputs.actions, outputs.calls, logged


@pytest.mark.parametrize("name", POLICIES)
@torch.inference_mode()
def test_a_batch_is_encoded_once_with_equal_results(name, tmp_path):
    policy = ready_policy(POLICIES[name])
    policy.precision = "bf16-mixed" if "bf16" in name else "32-true"
    actions, calls, logged = validate(policy, tmp_path)
    # An encoding in another precision is another one.
    assert calls == (2 if "bf16" in name else 1)
    with policy._seeded("validation", 0, 0):
        losses = policy.compute_losses(make_batch())
        expected = policy.act(make_batch())
    assert actions.equal(expected)
    assert logged["val/loss"] == sum(losses.values())


class BlindE0(E0):
    """Acts on black images, though it is trained on what it observes."""

    def sample_actions(self, observation):
        images = {view: frames * 0 for view, frames in observation["images"].items()}
        return super().sample_actions({**observation, "images": images})


@torch.inference_mode()
def test_an_override_that_changes_the_observation_acts_on_the_changed_one(tmp_path):
    policy = ready_policy(tiny_settings())
    policy.__class__ = BlindE0
    actions, calls, _ = validate(policy, tmp_path)
    assert calls == 2
    with policy._seeded("validation", 0, 0):
        policy.compute_losses(make_batch())
        assert actions.equal(policy.act(make_batch()))
