"""What experiment files describe, built without a run."""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from e0_lightning.cli.training import run
from e0_lightning.policies.base import Policy


def build(experiments: list[str]) -> LightningCLI:
    """Trainer, policy and data module of experiment files, without a run.

    Raises:
        ValueError: If the files describe no policy.
    """
    built = run([f"--config={path}" for path in experiments], start=False)
    if not isinstance(built.model, Policy):
        raise ValueError(
            f"{experiments} describe a {type(built.model).__name__}; a policy is needed, such as "
            "experiments/maniskill.yaml with experiments/backbone/paligemma.yaml has."
        )
    return built
