"""What an experiment describes, built without a run."""

from __future__ import annotations

from lightning.pytorch.cli import LightningCLI

from e0_lightning.cli.lightning_cli import run
from e0_lightning.policies.base import Policy


def build(experiment: list[str]) -> LightningCLI:
    """Trainer, policy and data module of an experiment, without a run.

    Args:
        experiment: Words after ``lightning fit``, such as ``--config FILE``.

    Raises:
        ValueError: If they describe no policy.
    """
    built = run(experiment, start=False)
    if not isinstance(built.model, Policy):
        raise ValueError(
            f"{experiment} describe a {type(built.model).__name__}; a policy is needed, such as "
            "experiments/maniskill.yaml with experiments/backbone/paligemma.yaml has."
        )
    return built
