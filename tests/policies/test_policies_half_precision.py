import torch

from e0_lightning.policies.half_precision import HalfPrecision
from e0_lightning.training.seeding import seed

from .conftest import ChunkDataset, ready_policy, tiny_settings, trainer


def test_half_precision_acts_as_the_trainer_does(tmp_path, batch):
    policy = ready_policy(tiny_settings())
    (trained_as, *_) = trainer(tmp_path, precision="bf16-mixed").predict(policy, ChunkDataset())
    policy.eval()
    seed(0, 0)
    acted = HalfPrecision(policy).act(batch)
    seed(0, 0)
    in_full = policy.act(batch)
    assert torch.equal(acted, trained_as)
    assert not torch.equal(acted, in_full)
    torch.testing.assert_close(acted, in_full, rtol=0.0, atol=0.1)


def test_half_precision_keeps_the_uncertainty(batch):
    policy = ready_policy(tiny_settings())
    uncertainty = HalfPrecision(policy).sample_actions(batch).uncertainty
    torch.testing.assert_close(
        uncertainty, policy.sample_actions(batch).uncertainty, rtol=0.0, atol=0.01
    )
