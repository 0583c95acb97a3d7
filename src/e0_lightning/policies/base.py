"""What every policy has: steps, logs, optimizer, normalisation, `act`, a full checkpoint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor

from e0_lightning.actions.action_prefix import ActionPrefix, read_action_prefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import QuantileNormalizer
from e0_lightning.metrics import ActionL1, SuccessRate
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.demonstrations import fit_statistics, require_sizes
from e0_lightning.training.callbacks.throughput import Throughput
from e0_lightning.training.finetuning import FineTuning, start_from
from e0_lightning.training.hyperparameters import keep_tree, self_contained
from e0_lightning.training.optimizer import CosineAdamW, name_states, numbered
from e0_lightning.training.precision import check_precision
from e0_lightning.training.seeding import seed
from e0_lightning.training.sharding import shard
from e0_lightning.types import (
    ActionSample,
    Batch,
    EpisodeBatch,
    EpisodeResult,
    Observation,
    PolicySpec,
)


class Policy(pl.LightningModule):
    """A way to choose action chunks, written by a subclass as two methods.

    A subclass computes :meth:`losses` and draws with :meth:`sample`, both in normalized actions;
    training, validation, rollouts, logs and checkpoints come along. Outside, all is in robot units.

    A policy learns its spec (views, state parts, control mode) and its normalisation from the
    data module it is first fitted on, keeps them in its checkpoint, and refuses any other.

    Args:
        encoder: Observations to prefix.
        actions: Robot units to normalized chunks.
        optimizer: Optimizer and its schedule.
        fine_tuning: Parts frozen, adapted, or run with less memory; None trains all as it is.
        weights: Checkpoint whose weights, and nothing else of it, ``fit`` starts from.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        actions: ActionSpace,
        optimizer: CosineAdamW | None = None,
        fine_tuning: FineTuning | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        keep_tree(self)
        self.encoder = encoder
        self.actions = actions
        self.state_normalizer = QuantileNormalizer(encoder.state_dim)
        self.optimizer = optimizer or CosineAdamW()
        self.fine_tuning = fine_tuning or FineTuning()
        self.weights = weights
        self.throughput = Throughput()
        self.action_error = ActionL1(actions.dim)
        self.success = SuccessRate()
        self._spec: PolicySpec | None = None
        self._origin = "nobody"
        self._is_prepared = self._is_set_up = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let ``sample`` and ``draw`` agree in a subclass that overrides one of them."""
        super().__init_subclass__(**kwargs)
        own: Any = cls
        line = [vars(each) for each in cls.__mro__]
        samples, draws = (
            [place for place, names in enumerate(line) if name in names]
            for name in ("sample", "draw")
        )
        if samples[0] < draws[0]:
            own.draw = Policy.draw
        # One that refines the draw of a policy that samples leaves the sampling to it.
        elif draws[0] < samples[0] and line[draws[1]]["draw"] is not Policy.draw:
            own.sample = lambda self, prefix: cls.draw(self, prefix).actions

    @abstractmethod
    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        """Named losses of a batch, whose sum is minimised.

        Args:
            batch: Actions ``(B, H, width)`` normalized, ``valid`` ``(B, H)``.
            prefix: The encoded observations.
        """

    @abstractmethod
    def sample(self, prefix: Prefix) -> Tensor:
        """Draw normalized chunks ``(B, H, width)`` for encoded observations.

        Where a subclass overrides this alone, its ``draw`` becomes this.
        """

    def draw(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Draw as :meth:`sample` does, with uncertainty, and chunks that begin as is decided.

        A subclass that can do either overrides it; this one has no uncertainty.

        Raises:
            ValueError: If steps are decided, which this policy cannot continue.
        """
        if action_prefix is not None:
            raise ValueError(
                f"action_prefix: found {int(action_prefix.mask.sum(dim=1).max())} decided actions, wanted "
                f"none: {type(self).__name__} cannot continue a chunk that is being carried out. "
                "Leave the key out, or use a policy that can, such as E0 or FlowMatching."
            )
        return ActionSample(self.sample(prefix))

    @property
    def spec(self) -> PolicySpec:
        """What the policy must be shown and what its actions mean.

        Raises:
            ValueError: If the policy has not been fitted or loaded yet.
        """
        if self._spec is None:
            raise ValueError(
                "This policy has no spec yet: fit it on a data module that has one, "
                "or load a checkpoint with load_policy."
            )
        return self._spec

    def act(self, observation: Observation) -> Tensor:
        """Choose the next H actions for each of B observations.

        Args:
            observation: Robot units and uint8 frames, on any device.

        Returns:
            ``(B, H, D)`` in robot units, on the policy's device.

        Raises:
            ValueError: If views, their sizes or the state are not those of the spec, or
                action_prefix actions do not fit, or the policy cannot continue them.
        """
        return self.sample_actions(observation).actions

    @torch.inference_mode()
    def sample_actions(self, observation: Observation) -> ActionSample:
        """Choose what :meth:`act` does, with its uncertainty; arguments and errors are the same."""
        moved: Observation = self.transfer_batch_to_device(observation, self.device, 0)
        action_prefix = read_action_prefix(moved, self.actions)
        drawn = self.draw(self.prefix(moved), action_prefix)
        actions = self.actions.undo(drawn.actions, moved["state"])
        if action_prefix is not None:
            # Tokens would round them, and saturate outliers.
            actions = torch.where(action_prefix.mask[..., None], action_prefix.actions, actions)
        return ActionSample(actions, drawn.uncertainty)

    def prefix(self, observation: Observation) -> Prefix:
        """Encode observations in robot units, their views in the spec's order."""
        if self._spec is not None:
            observation = self._spec.check_observation(observation)
        normalized = self.state_normalizer(observation["state"])
        return self.encoder(Observation({**observation, "state": normalized}))  # type: ignore[typeddict-item, no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Sum of the losses of a batch."""
        losses = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._log_losses("train", losses, total, len(batch["state"]))
        return total

    def validation_step(  # type: ignore[override]
        self, batch: Batch | EpisodeBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> list[EpisodeResult] | None:
        """Losses and action error on held-out windows; success where episodes are played."""
        if isinstance(batch, EpisodeBatch):
            return self._play(batch, batch_idx)
        seed(batch_idx, self.global_rank)
        losses = self._losses(batch)
        self._log_losses(
            "val", losses, torch.stack(list(losses.values())).sum(), len(batch["state"])
        )
        self.action_error.update(self.act(batch), batch["actions"], batch["valid"])
        return None

    def test_step(  # type: ignore[override]
        self, batch: EpisodeBatch, batch_idx: int
    ) -> list[EpisodeResult]:
        """Play a batch of episodes to their ends."""
        return self._play(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Chunks ``(B, H, D)`` for a batch of recorded observations, robot units."""
        seed(batch_idx, self.global_rank)
        return self.act(batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and schedule over the trainer's whole run."""
        total = self.trainer.estimated_stepping_batches
        factors = self.fine_tuning.factors(self)
        return self.optimizer.configure(self.parameters(), total, factors)  # type: ignore[return-value]

    def setup(self, stage: str) -> None:
        """Note that callbacks have been set up."""
        self._is_set_up = True

    def configure_model(self) -> None:
        """Take weights, adapters, spec and statistics, and spread over processes."""
        running = None if self._trainer is None else self.trainer.state.fn
        if running is not None:
            check_precision(self.trainer)
        if not self._is_prepared:
            self._is_prepared = True
            if self.weights is not None and running == "fit":
                start_from(self, self.weights)
            self.fine_tuning.apply(self)
        datamodule: Any = None if running is None else getattr(self.trainer, "datamodule", None)
        if running == "fit" and hasattr(datamodule, "spec"):
            # Before weight averaging copies the policy, statistics and all.
            self.fit_normalizers(datamodule)
        elif running != "test" and hasattr(datamodule, "spec"):
            self._agree(datamodule.spec, _origin(datamodule))
        # Weight averaging asks for the model before anyone else, and copies it: whole.
        if self.device_mesh is not None and self._is_set_up:
            shard(self, self.device_mesh["data_parallel"])

    def fit_normalizers(self, datamodule: Any) -> None:
        """Learn spec and statistics from demonstrations, or refuse them if it has others.

        Args:
            datamodule: With a ``spec`` and ``action_windows()``, as ``RobotDemos`` has; where
                it has an ``origin``, errors name it.
        """
        is_new = self._spec is None
        self._agree(datamodule.spec, _origin(datamodule))
        if is_new:
            fit_statistics(datamodule, self.actions, self.state_normalizer)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make every draw a function of seed and position, so that a resumed run repeats it."""
        # Batches whose gradients are accumulated share a step, but no draws.
        seed(self.trainer.global_step, batch_idx, self.global_rank)
        self.throughput.start_step()

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Log speed and the share of time spent waiting for data."""
        for name, value in self.throughput.end_step(len(batch["state"])).items():
            self.log(f"throughput/{name}", value)

    def on_validation_epoch_end(self) -> None:
        """Log action error in robot units, and success where episodes were played."""
        if self.action_error.update_called:
            self.log("val/action_error", self.action_error.compute().nanmean())
            self.action_error.reset()
        if self.success.update_called:
            self.log("val/success", self.success.compute().rate)
            self.success.reset()

    def on_validation_end(self) -> None:
        """Count the time of a validation as no wait for data."""
        self.throughput.interrupt()

    def on_test_epoch_end(self) -> None:
        """Log the success over all episodes."""
        if self.success.update_called:
            self.log("test/success", self.success.compute().rate)
            self.success.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the spec and free the tree of other files, so that the checkpoint is enough."""
        if "hyper_parameters" in checkpoint:
            tree = checkpoint["hyper_parameters"]
            checkpoint["hyper_parameters"] = self_contained(dict(tree), self.encoder.language)
        if checkpoint.get("optimizer_states"):
            names = numbered(self, self.trainer.optimizers[0], self.device_mesh is not None)
            named = [name_states(state, names) for state in checkpoint["optimizer_states"] if state]
            checkpoint["optimizer_states"] = named
        if self._spec is not None:
            checkpoint["spec"] = self._spec.as_dict()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the checkpoint's spec, or refuse it next to data of another."""
        if "spec" in checkpoint:
            path = None if self._trainer is None else self.trainer.ckpt_path
            source = f"the checkpoint {path}" if path else "the checkpoint"
            self._agree(PolicySpec(**checkpoint["spec"]), source)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        normalized = self.actions.normalize(batch["actions"], batch["state"])
        inner = Batch({**batch, "actions": normalized})  # type: ignore[typeddict-item]
        return self.losses(inner, self.prefix(batch))

    def _log_losses(
        self, stage: str, losses: dict[str, Tensor], total: Tensor, batch_size: int
    ) -> None:
        values = {f"{stage}/{name}": value for name, value in losses.items()}
        self.log_dict(
            {**values, f"{stage}/loss": total},
            batch_size=batch_size,
            add_dataloader_idx=False,
            sync_dist=stage == "val",
        )

    def _play(self, batch: EpisodeBatch, batch_idx: int) -> list[EpisodeResult]:
        seed(batch_idx, self.global_rank)
        results = batch.run(self)
        self.success.update(results)
        return results

    def _agree(self, found: PolicySpec, source: str) -> None:
        if self._spec is not None:
            self._spec.check_compatible(found, f"the policy of {self._origin}", source)
            return
        require_sizes(found, self.actions, self.encoder.state_dim, source)
        self._spec, self._origin = found, source


def _origin(datamodule: Any) -> str:
    return getattr(datamodule, "origin", "the data")
