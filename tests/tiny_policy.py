"""Tiny policies and batches, small enough to overfit in seconds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from e0_lightning.policies.base import Policy
from e0_lightning.policies.checkpoint import build_policy
from e0_lightning.random import seeded_generator
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

ACTIONS = {
    "horizon": HORIZON,
    "normalizer": {"class_path": "QuantileNormalizer", "init_args": {"dim": DIM}},
}


def tiny_settings(class_path: str = "E0", **changes: Any) -> dict[str, Any]:
    """Constructor tree of plain values, as in a YAML file."""
    if class_path == "E0":
        changes = {"process": {"num_bins": 32, "alpha": 0.1}} | changes
    args = {
        "encoder": {
            "vision": {"name": "test_vit", "size": 32},
            "language": {"config": dict(LANGUAGE)},
            "state_dim": STATE,
        },
        "expert": {"width": 32, "depth": 2, "heads": 2, "mlp": 64},
        "actions": dict(ACTIONS),
        "optimizer": {"lr": 3e-3, "min_lr": 3e-4, "warmup_steps": 5},
    }
    return {"class_path": class_path, "init_args": args | changes}


def make_batch(size: int = 4, seed: int = 0) -> Batch:
    """Random observations, each with its own actions."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        images={
            "base": torch.randint(0, 256, (size, 3, 32, 32), generator=generator).to(torch.uint8)
        },
        instruction=(["push the cube", "stop", "pick it up", "go"] * 2)[:size],
        state=torch.randn(size, STATE, generator=generator),
        actions=torch.rand(size, HORIZON, DIM, generator=generator) * 2 - 1,
        valid=torch.ones(size, HORIZON, dtype=torch.bool),
    )


class InMemoryDemos(pl.LightningDataModule):
    """Four batches in memory, with the interface of RobotDemos."""

    def __init__(self, spec: PolicySpec = SPEC) -> None:
        super().__init__()
        self.spec = spec

    def action_chunks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        batch = make_batch()
        yield batch["actions"], batch["state"], batch["valid"]

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([make_batch(seed=seed) for seed in range(4)], batch_size=None)

    val_dataloader = predict_dataloader = train_dataloader


class Episodes(list[int]):
    """Evaluation episodes that succeed if the actor's chunks have the right shape and range."""

    def run(self, actor: Actor) -> list[EpisodeResult]:
        actions = actor.act(make_batch())
        ok = actions.shape == (4, HORIZON, DIM) and bool(actions.abs().max() < 100)
        return [EpisodeResult("reach", seed, ok, 1) for seed in self]


def quiet_trainer(tmp_path: Path, **options: Any) -> pl.Trainer:
    """A trainer on the CPU without output or logger."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(**({"default_root_dir": tmp_path, "accelerator": "cpu"} | quiet | options))


def new_policy(settings: dict[str, Any]) -> Policy:
    """A policy with the same initial weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_policy(settings)


def ready_policy(settings: dict[str, Any]) -> Policy:
    """An untrained policy with spec and statistics."""
    policy = new_policy(settings)
    policy.fit_normalizers(InMemoryDemos())
    return policy.eval()


def act_seeded(policy: Policy, observation: Any, seed: int = 7) -> Tensor:
    """Actions with one seed per row, equal at every call."""
    seeds = [seed + row for row in range(len(observation["state"]))]
    return policy.act({**observation, "noise_seed": seeds})


class seeded_step:
    """Context in which a policy samples from one generator, as in a step of a trainer."""

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self.scope = policy._using(seeded_generator("test", seed))

    def __enter__(self) -> None:
        self.scope.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.scope.__exit__(*error)
