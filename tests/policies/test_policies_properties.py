"""Laws that every policy keeps."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from e0_lightning.envs.base import EnvObservation
from e0_lightning.evaluation.rollout import choose
from e0_lightning.networks.prefix_encoder import Prefix
from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.types import Actor, Batch

from .conftest import (
    DIM,
    HORIZON,
    SPEC,
    STATE,
    Episodes,
    make_batch,
    ready_policy,
    tiny_settings,
    trainer,
)

WIDER = tiny_settings()["init_args"]["actions"] | {"model_dim": 5}

POLICIES = {
    "E0": tiny_settings(),
    "E0, a token per step": tiny_settings(token_per="step"),
    "E0, argmax": tiny_settings(sampler={"class_path": "ArgmaxSampler"}),
    "E0, projected noise": tiny_settings(
        process={"num_bins": 32, "projected": True}, token_per="step"
    ),
    "E0, self-conditioned": tiny_settings(self_conditioning=True, token_per="step"),
    "E0, wider than the robot": tiny_settings(actions=WIDER),
    "E0Hybrid": tiny_settings("E0Hybrid", process={"num_bins": 32}),
    "FlowMatching": tiny_settings("FlowMatching"),
    "FlowMatching, wider than the robot": tiny_settings("FlowMatching", actions=WIDER),
    "MaskedDiffusion": tiny_settings("MaskedDiffusion", process={"num_bins": 32}),
    "Autoregressive": tiny_settings("Autoregressive", num_bins=32),
    "Autoregressive, wider than the robot": tiny_settings(
        "Autoregressive", num_bins=32, actions=WIDER
    ),
    "Regression": tiny_settings("Regression"),
}


@pytest.fixture(params=POLICIES)
def policy(request):
    return ready_policy(POLICIES[request.param])


def repeated(tensor, times=8):
    return tensor.repeat(times, *[1] * (tensor.ndim - 1))


def fit(policy, batch, steps):
    """Train all but the encoder, whose prefix is computed once, with many draws of noise a step."""
    with torch.no_grad():
        once = policy.prefix(batch)
    keys, values = (tuple(map(repeated, part)) for part in (once.keys, once.values))
    prefix = Prefix(keys, values, repeated(once.mask))
    actions = policy.actions.normalize(batch["actions"], batch["state"])
    inner = {"actions": repeated(actions), "valid": repeated(batch["valid"])}
    trained = [p for name, p in policy.named_parameters() if not name.startswith("encoder.")]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        sum(policy.losses(inner, prefix).values()).backward()
        optimizer.step()
        schedule.step()


def test_four_windows_are_learnt_by_heart(policy, batch):
    fit(policy, batch, 200)
    error = (policy.act(batch) - batch["actions"]).abs().mean()
    assert error < 0.05  # a bin of 32 over [-1, 1] is 0.0625 wide


def test_gradients_reach_images_instruction_and_state(policy, batch):
    sum(policy._losses(batch).values()).backward()
    encoder = policy.encoder
    sources = (encoder.projector.weight, encoder.state.weight)
    sources += (encoder.language.model.get_input_embeddings().weight,)
    assert all(weight.grad.abs().sum() > 0 for weight in sources)


def test_same_seed_same_actions(policy, batch):
    first, second = (torch.manual_seed(7) and policy.act(batch) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (4, HORIZON, DIM)


def test_masked_steps_change_nothing(policy, batch):
    def losses(actions):
        torch.manual_seed(3)
        return sum(policy._losses(Batch({**batch, "actions": actions, "valid": valid})).values())

    valid = batch["valid"].clone()
    valid[:, 2:] = False
    changed = batch["actions"].clone()
    changed[:, 2:] = 0.3
    torch.testing.assert_close(losses(batch["actions"]), losses(changed), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prefix_is_the_same_after_any_actions_and_noise_have_read_it(policy, batch):
    prefix = policy.prefix(batch)
    before = copy.deepcopy(prefix)
    for seed in (1, 2):
        torch.manual_seed(seed)
        actions = policy.actions.normalize(make_batch(seed=seed)["actions"], batch["state"])
        policy.losses(Batch({**batch, "actions": actions}), prefix)
        policy.sample(prefix)
    for now, then in ((prefix.keys, before.keys), (prefix.values, before.values)):
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True))
    assert torch.equal(prefix.mask, before.mask)


def test_a_batch_of_two_is_two_batches_of_one(policy, batch, monkeypatch):
    def part(start, stop):
        return {
            "images": {"base": batch["images"]["base"][start:stop]},
            "instruction": batch["instruction"][start:stop],
            "state": batch["state"][start:stop],
        }

    def same_for_all(draw):
        def drawn(shape, **options):
            torch.manual_seed(5)
            return draw(shape[1:], **options).expand(shape).clone()

        return drawn

    monkeypatch.setattr(torch, "randn", same_for_all(torch.randn))
    monkeypatch.setattr(torch, "rand", same_for_all(torch.rand))
    torch.testing.assert_close(policy.act(part(0, 2))[1:], policy.act(part(1, 2)))


def test_checkpoint_alone_rebuilds_the_policy(policy, batch, tmp_path):
    path = tmp_path / "policy.ckpt"
    checkpoint = {"state_dict": policy.state_dict(), "hyper_parameters": dict(policy.hparams)}
    policy.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    loaded = load_policy(path)
    torch.manual_seed(1)
    expected = policy.act(batch)
    torch.manual_seed(1)
    assert torch.equal(loaded.act(batch), expected)
    assert loaded.spec == SPEC


def test_a_test_of_the_trainer_plays_it(policy, tmp_path):
    loader = DataLoader([Episodes([1, 2]), Episodes([3])], batch_size=None)
    (logged,) = trainer(tmp_path).test(policy, loader, verbose=False)
    assert logged["test/success"] == 1.0


def test_rollouts_take_it_for_an_actor(policy):
    frame, state = np.zeros((32, 32, 3), np.uint8), np.zeros(STATE, np.float32)
    views = [
        EnvObservation({"base": frame}, state, "push", {"base": np.eye(3, dtype=np.float32)})
    ] * 2
    assert isinstance(policy, Actor)
    chunks = choose(policy, views, n_action_steps=HORIZON)
    assert chunks.shape == (2, HORIZON, DIM)
    # Trained on actions within [-1, 1], no policy leaves the robot's range by much.
    assert np.abs(chunks).max() < 10
