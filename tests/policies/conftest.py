"""A tiny policy and batch, small enough to overfit in seconds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy
from e0_lightning.types import Actor, Batch, EpisodeResult, PolicySpec

HORIZON, DIM, STATE = 4, 3, 5

SPEC = PolicySpec(
    views={"base": 32},
    state={"qpos": STATE},
    action_dim=DIM,
    control_mode="pd_joint_pos",
    horizon=HORIZON,
)

LANGUAGE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def tiny_settings(class_path: str = "E0", **changes: Any) -> dict[str, Any]:
    """A constructor tree of plain values, as a YAML file holds it."""
    if class_path == "E0":
        changes = {"process": {"num_bins": 32, "alpha": 0.1}} | changes
    args = {
        "encoder": {
            "vision": {"name": "test_vit", "side": 32},
            "language": {"config": dict(LANGUAGE)},
            "state_dim": STATE,
        },
        "expert": {
            "width": 32,
            "depth": 2,
            "heads": 2,
            "kv_heads": 2,
            "head_dim": 16,
            "mlp": 64,
        },
        "actions": {
            "horizon": HORIZON,
            "normalizer": {"class_path": "QuantileNormalizer", "init_args": {"dim": DIM}},
        },
        "optimizer": {"lr": 3e-3, "min_lr": 3e-4, "warmup_steps": 5},
    }
    return {"class_path": class_path, "init_args": args | changes}


def make_batch(size: int = 4, seed: int = 0) -> Batch:
    """Random observations, each with actions of its own."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        images={
            "base": torch.randint(0, 256, (size, 3, 32, 32), generator=generator).to(torch.uint8)
        },
        instruction=["push the cube", "stop", "pick it up", "go"][:size],
        state=torch.randn(size, STATE, generator=generator),
        actions=torch.rand(size, HORIZON, DIM, generator=generator) * 2 - 1,
        valid=torch.ones(size, HORIZON, dtype=torch.bool),
    )


class ChunkDataset(pl.LightningDataModule):
    """Four windows in memory, with the spec and the streams that RobotDemos has."""

    def __init__(self, spec: PolicySpec = SPEC) -> None:
        super().__init__()
        self.spec = spec

    def action_windows(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        batch = make_batch()
        yield batch["actions"], batch["state"], batch["valid"]

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([make_batch(seed=seed) for seed in range(4)], batch_size=None)

    val_dataloader = predict_dataloader = train_dataloader


class Episodes(list[int]):
    """A batch of episodes that succeed where the actor's chunks have the right shape and size."""

    def run(self, actor: Actor) -> list[EpisodeResult]:
        actions = actor.act(make_batch())
        ok = actions.shape == (4, HORIZON, DIM) and bool(actions.abs().max() < 100)
        return [EpisodeResult("reach", seed, ok, 1) for seed in self]


def trainer(tmp_path: Path, **options: Any) -> pl.Trainer:
    """A trainer that says nothing."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(**({"default_root_dir": tmp_path, "accelerator": "cpu"} | quiet | options))


def ready_policy(settings: dict[str, Any]) -> Policy:
    """An untrained policy that has seen the spec and the statistics of the batch."""
    torch.manual_seed(0)
    policy = build_policy(settings)
    policy.fit_normalizers(ChunkDataset())
    return policy.eval()


@pytest.fixture
def batch() -> Batch:
    return make_batch()
