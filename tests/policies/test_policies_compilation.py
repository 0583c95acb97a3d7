"""Compiled policies act as eager ones."""

import shutil

import pytest
import torch

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.policies.compilation import compile_networks
from tiny_policy import act_seeded, make_batch, ready_policy, tiny_settings

POLICIES = {
    "E0": tiny_settings(token_per="step"),
    "E0Hybrid": tiny_settings("E0Hybrid", process={"num_bins": 32}),
    "Regression": tiny_settings("Regression"),
}


@pytest.fixture(autouse=True)
def _new_graphs():
    torch._dynamo.reset()


def checkpoint(policy, path):
    saved = {"state_dict": policy.state_dict(), "hyper_parameters": dict(policy.hparams)}
    policy.on_save_checkpoint(saved)
    torch.save(saved, path)


@pytest.mark.parametrize("name", POLICIES)
def test_traced_actions_equal_eager_ones(name):
    policy, batch = ready_policy(POLICIES[name]), make_batch()
    expected = act_seeded(policy, batch)
    # The whole of each network is traced; the backend calls the same kernels.
    compile_networks(policy, backend="eager")
    torch.testing.assert_close(act_seeded(policy, batch), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled_actions_equal_eager_ones(tmp_path):
    policy, batch = ready_policy(POLICIES["E0"]), make_batch(1)
    checkpoint(policy, tmp_path / "last.ckpt")
    compiled = load_policy(tmp_path / "last.ckpt", compile=True)
    # Fused kernels round differently, and the sampler feeds its result back ten times.
    for seed in (7, 8):
        actions = act_seeded(compiled, batch, seed)
        torch.testing.assert_close(actions, act_seeded(policy, batch, seed), rtol=0, atol=1e-4)
