"""Properties of every policy."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from e0_lightning.networks.prefix_encoder import Prefix
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.types import Actor, Batch
from tiny_policy import (
    ACTIONS,
    DIM,
    HORIZON,
    SPEC,
    Episodes,
    act_seeded,
    make_batch,
    quiet_trainer,
    ready_policy,
    seeded_step,
    tiny_settings,
)

pytestmark = pytest.mark.slow

WIDER = ACTIONS | {"model_dim": 5}

POLICIES = {
    "E0": tiny_settings(),
    "E0, token per step": tiny_settings(token_per="step"),
    "E0, argmax": tiny_settings(sampler={"class_path": "ArgmaxSampler"}),
    "E0, projected noise": tiny_settings(
        process={"num_bins": 32, "projected": True}, token_per="step"
    ),
    "E0, wide codes": tiny_settings(
        process={"num_bins": 32, "code_sigma": 5.0, "matched_filter": True}, token_per="step"
    ),
    "E0, self-conditioned": tiny_settings(self_conditioning=True, token_per="step"),
    "E0, padded": tiny_settings(actions=WIDER),
    "E0Hybrid": tiny_settings("E0Hybrid", process={"num_bins": 32}),
    "FlowMatching": tiny_settings("FlowMatching"),
    "FlowMatching, padded": tiny_settings("FlowMatching", actions=WIDER),
    "MaskedDiffusion": tiny_settings("MaskedDiffusion", process={"num_bins": 32}),
    "Autoregressive": tiny_settings("Autoregressive", num_bins=32),
    "Autoregressive, padded": tiny_settings("Autoregressive", num_bins=32, actions=WIDER),
    "Regression": tiny_settings("Regression"),
}


@pytest.fixture(params=POLICIES)
def policy(request):
    return ready_policy(POLICIES[request.param])


def repeated(tensor, times=8):
    return tensor.repeat(times, *[1] * (tensor.ndim - 1))


def fit(policy, batch, steps):
    """Train all but the encoder on a fixed prefix, with eight noise samples per chunk."""
    with torch.no_grad():
        once = policy.encode(batch)
    keys, values = (tuple(map(repeated, part)) for part in (once.keys, once.values))
    prefix = Prefix(keys, values, repeated(once.mask))
    actions = policy.actions.normalize(batch["actions"], batch["state"])
    targets = {"actions": repeated(actions), "valid": repeated(batch["valid"])}
    trained = [p for name, p in policy.named_parameters() if not name.startswith("encoder.")]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        optimizer.zero_grad()
        with seeded_step(policy, step):
            sum(policy.losses(targets, prefix).values()).backward()
        optimizer.step()
        schedule.step()


def test_four_chunks_are_overfitted(policy, batch):
    fit(policy, batch, 300)
    error = (act_seeded(policy, batch) - batch["actions"]).abs().mean()
    assert error < 0.05  # a bin of 32 over [-1, 1] is 0.0625 wide


def test_gradients_reach_images_instruction_and_state(policy, batch):
    sum(policy.compute_losses(batch).values()).backward()
    encoder = policy.encoder
    sources = (encoder.projector.weight, encoder.state.weight)
    sources += (encoder.language.model.get_input_embeddings().weight,)
    assert all(weight.grad.abs().sum() > 0 for weight in sources)


def test_equal_seeds_give_equal_actions(policy, batch):
    first, second = (act_seeded(policy, batch, seed=7) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (4, HORIZON, DIM)


def test_steps_past_the_end_do_not_change_the_loss(policy, batch):
    valid = batch["valid"].clone()
    valid[:, 2:] = False

    def loss(actions):
        with seeded_step(policy, 3):
            changed = Batch({**batch, "actions": actions, "valid": valid})
            return sum(policy.compute_losses(changed).values())

    changed = batch["actions"].clone()
    changed[:, 2:] = 0.3
    torch.testing.assert_close(loss(batch["actions"]), loss(changed), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_losses_and_sampling_leave_the_prefix_unchanged(policy, batch):
    prefix = policy.encode(batch)
    before = copy.deepcopy(prefix)
    for seed in (1, 2):
        actions = policy.actions.normalize(make_batch(seed=seed)["actions"], batch["state"])
        policy.losses({"actions": actions, "valid": batch["valid"]}, prefix)
        policy.sample(prefix)
    for now, then in ((prefix.keys, before.keys), (prefix.values, before.values)):
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True))
    assert torch.equal(prefix.mask, before.mask)


def test_a_checkpoint_alone_rebuilds_the_policy(policy, batch, tmp_path):
    path = tmp_path / "policy.ckpt"
    checkpoint = {"state_dict": policy.state_dict(), "hyper_parameters": dict(policy.hparams)}
    policy.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    loaded = load_policy(path)
    assert torch.equal(act_seeded(loaded, batch), act_seeded(policy, batch))
    assert loaded.spec == SPEC


def test_a_trainer_evaluates_it(policy, tmp_path):
    assert isinstance(policy, Actor)
    loader = DataLoader([Episodes([1, 2]), Episodes([3])], batch_size=None)
    (logged,) = quiet_trainer(tmp_path).test(policy, loader, verbose=False)
    assert logged["test/success_rate"] == 1.0
