"""Metrics of validation and of evaluation episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from torch import Tensor


class EvaluationMetrics(pl.Callback):
    """Updates and logs the metrics of a policy.

    After a batch of demonstrations, each of ``policy.metrics`` is updated with the predicted
    actions that ``validation_step`` returns, the actions and ``valid``, and logged as
    ``val/<name>``. Results of episodes update ``policy.success_rate``, logged as
    ``val/success_rate`` and ``test/success_rate``.
    """

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics of a batch, or of its episodes."""
        policy: Any = pl_module
        if isinstance(outputs, Tensor):
            for metric in policy.metrics.values():
                metric.update(outputs, batch["actions"], batch["valid"])
        elif outputs is not None:
            policy.success_rate.update(outputs)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the success rate."""
        self.on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log all metrics."""
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the success rate over all episodes."""
        self._log(pl_module, "test")

    @staticmethod
    def _log(policy: Any, stage: str) -> None:
        for name, metric in policy.metrics.items():
            if metric.update_called:
                policy.log_dict(flatten_metric(f"{stage}/{name}", metric.compute()))
                metric.reset()
        if policy.success_rate.update_called:
            policy.log(f"{stage}/success_rate", policy.success_rate.compute().rate)
            policy.success_rate.reset()


def flatten_metric(name: str, value: Any) -> dict[str, Any]:
    """Scalars of a metric: a vector as its mean and its entries ``dim_<i>``, a dict by key."""
    if isinstance(value, Mapping):
        items = [flatten_metric(f"{name}/{key}", inner) for key, inner in value.items()]
        return {key: scalar for each in items for key, scalar in each.items()}
    if isinstance(value, Tensor) and value.ndim:
        entries = {f"{name}/dim_{index}": entry for index, entry in enumerate(value.flatten())}
        return {name: value.nanmean(), **entries}
    return {name: value}
