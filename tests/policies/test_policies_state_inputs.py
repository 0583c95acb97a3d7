"""Every policy with the state in the suffix (π0), or in the prompt (π0.5)."""

import pytest
import torch

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.training.checkpoint_file import load_pretrained
from tiny_policy import (
    ACTIONS,
    STATE,
    InMemoryDemos,
    act_seeded,
    make_batch,
    new_policy,
    quiet_trainer,
    ready_policy,
    tiny_settings,
)

INPUTS = {
    "suffix": {"state_token": "suffix", "prompt": {"template": "{instruction}\n"}},
    "prompt": {"state_token": None, "prompt": {"template": "{instruction}: {state}"}},
}
POLICIES = {
    "E0": {},
    "E0Hybrid": {"process": {"num_bins": 32}},
    "FlowMatching": {},
    "MaskedDiffusion": {"process": {"num_bins": 32}},
    "Autoregressive": {"num_bins": 32},
    "Regression": {},
}


def settings(name, inputs):
    tree = tiny_settings(name, **POLICIES[name])
    tree["init_args"]["encoder"] |= INPUTS[inputs]
    tree["init_args"]["expert"] = tree["init_args"]["expert"] | {"time_conditioning": "concat_mlp"}
    tree["init_args"]["actions"] = ACTIONS | {"model_dim": 5, "predict_padding": True}
    normalizer = {"class_path": "MeanStdNormalizer", "init_args": {"dim": STATE}}
    tree["init_args"]["state_normalizer"] = normalizer
    return tree


@pytest.fixture(params=[(name, inputs) for name in POLICIES for inputs in INPUTS], ids="-".join)
def tree(request):
    return settings(*request.param)


def test_samples_depend_on_the_state(tree, batch):
    policy, samples = ready_policy(tree), []
    for state in (batch["state"], batch["state"] + 1):
        observation = {**batch, "state": state, "noise_seed": [0, 1, 2, 3]}
        actions, uncertainty = policy.sample_actions(observation)
        # Untrained tokens may stay the same where their probabilities change.
        samples.append(actions if uncertainty is None else uncertainty)
    assert not torch.equal(*samples)


def test_every_trained_weight_has_a_gradient(tree, batch):
    policy = ready_policy(tree)
    sum(policy.compute_losses(batch).values()).backward()
    trained = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    assert [name for name in trained if policy.get_parameter(name).grad is None] == []


@pytest.mark.parametrize("inputs", INPUTS)
def test_a_trained_checkpoint_acts_alike(inputs, tmp_path):
    policy = new_policy(settings("FlowMatching", inputs))
    trainer = quiet_trainer(tmp_path, max_steps=2)
    trainer.fit(policy, datamodule=InMemoryDemos())
    trainer.save_checkpoint(tmp_path / "policy.ckpt")
    loaded, batch = load_policy(tmp_path / "policy.ckpt"), make_batch()
    assert torch.equal(act_seeded(loaded, batch), act_seeded(policy.eval(), batch))


def test_a_state_normalizer_of_another_size_is_refused():
    tree = settings("FlowMatching", "suffix")
    tree["init_args"]["state_normalizer"]["init_args"]["dim"] = 2
    with pytest.raises(ValueError, match=r"state_normalizer.dim: expected 5 .*, got 2"):
        new_policy(tree)


def test_pretrained_weights_for_another_state_leave_its_projection_new(tmp_path):
    stored = new_policy(settings("FlowMatching", "suffix"))
    torch.save({"state_dict": stored.state_dict()}, tmp_path / "stored.ckpt")
    tree = settings("FlowMatching", "suffix")
    tree["init_args"]["encoder"]["state_dim"] = 2
    tree["init_args"]["state_normalizer"] = None
    policy = new_policy(tree)
    torch.nn.init.zeros_(policy.expert.action_time[0].weight)
    load_pretrained(policy, tmp_path / "stored.ckpt")
    assert torch.equal(policy.expert.action_time[0].weight, stored.expert.action_time[0].weight)
    assert policy.expert.state.weight.shape == (32, 2)
