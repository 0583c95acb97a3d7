"""Base class of policies: steps, metrics, normalization, `act`, complete checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, Self, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric

from e0_lightning.actions.action_prefix import ActionPrefix, read_action_prefix
from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import Normalizer, QuantileNormalizer
from e0_lightning.metrics import ActionL1, SuccessRate
from e0_lightning.networks.prefix_encoder import Prefix, PrefixEncoder
from e0_lightning.policies.fitting import Demonstrations, check_sizes, fit_statistics
from e0_lightning.policies.observation import check_values, is_same, sample_seeded
from e0_lightning.random import Generator, seed_global_generator, seeded_generator
from e0_lightning.training.callbacks.defaults import default_callbacks
from e0_lightning.training.checkpoint_file import complete_checkpoint, load_pretrained, stored_spec
from e0_lightning.training.constructor_tree import save_constructor_tree
from e0_lightning.training.finetuning import FineTuning
from e0_lightning.training.optimizer import CosineAdamW
from e0_lightning.training.sharding import shard
from e0_lightning.types import (
    ActionSample,
    Batch,
    EpisodeBatch,
    EpisodeResult,
    NormalizedBatch,
    Observation,
    PolicySpec,
)

Precision = Literal["32-true", "bf16-mixed"]
"""Precision of sampling outside of a trainer, named as the trainer's option."""


class Policy(pl.LightningModule):
    """A policy over action chunks; a subclass defines :meth:`losses` and :meth:`sample`.

    Both work on normalized actions; everything outside of them is in robot units. Training,
    validation, rollouts, logging and checkpoints are inherited.

    A policy takes its spec (views, state parts, control mode) and its normalization from the data
    module that it is first fitted on, keeps them in its checkpoint, and refuses any other.

    Args:
        encoder: Encoder of observations to a prefix.
        actions: Conversion of robot units to normalized chunks.
        optimizer: Optimizer and learning rate schedule.
        fine_tuning: Frozen and adapted parts, and memory savings; None trains all parts.
        weights: Checkpoint of pretrained weights that ``fit`` starts from.
        metrics: Validation metrics by name, besides ``action_l1``; each is updated with predicted
            actions ``(B, H, D)``, actions ``(B, H, D)``, in robot units, and valid ``(B, H)``.
        state_normalizer: Normalizer of the state; None is a :class:`QuantileNormalizer`.

    Raises:
        ValueError: If ``state_normalizer`` has other dimensions than the encoder's state.
    """

    def __init__(
        self,
        encoder: PrefixEncoder,
        actions: ActionSpace,
        optimizer: CosineAdamW | None = None,
        fine_tuning: FineTuning | None = None,
        weights: str | None = None,
        metrics: dict[str, Metric] | None = None,
        state_normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__()
        save_constructor_tree(self)
        self.encoder = encoder
        self.actions = actions
        self.state_normalizer = state_normalizer or QuantileNormalizer(encoder.state_dim)
        if self.state_normalizer.dim != encoder.state_dim:
            raise ValueError(
                f"state_normalizer.dim: expected {encoder.state_dim} as encoder.state_dim, got "
                f"{self.state_normalizer.dim}. Leave it out."
            )
        self.optimizer = optimizer or CosineAdamW()
        self.fine_tuning = fine_tuning or FineTuning()
        self.weights = weights
        action_l1 = ActionL1(actions.dim, actions.difference)
        self.metrics = nn.ModuleDict({"action_l1": action_l1, **(metrics or {})})
        self.success_rate = SuccessRate()
        self.precision: Precision = "32-true"
        self._generator: Generator = None
        self._encoded: list[tuple[Observation, bool, Prefix]] | None = None
        self._spec: PolicySpec | None = None
        self._spec_source = ""

    @abstractmethod
    def losses(self, batch: NormalizedBatch, prefix: Prefix) -> dict[str, Tensor]:
        """Named losses, whose sum is minimized, of actions ``(B, H, width)`` that are ``valid``."""

    @abstractmethod
    def sample(self, prefix: Prefix, action_prefix: ActionPrefix | None = None) -> ActionSample:
        """Sample normalized chunks ``(B, H, width)`` for encoded observations.

        Args:
            prefix: Encoded observations.
            action_prefix: First actions of the chunks, which the robot executes meanwhile.

        Raises:
            ValueError: If there is an action prefix, which the policy cannot continue.
        """

    @property
    def generator(self) -> Generator:
        """Random generator of the current step; pass it wherever random numbers are sampled.

        None, outside of steps and without ``noise_seed``, is torch's global generator.
        """
        return self._generator

    @property
    def is_guided(self) -> bool:
        """Whether :meth:`sample` expects pairs: each observation also without its instruction."""
        return False

    @property
    def spec(self) -> PolicySpec:
        """Observation and action spec.

        Raises:
            ValueError: If the policy has not been fitted or loaded yet.
        """
        if self._spec is None:
            raise ValueError(
                "spec: expected a fitted policy, got a new one. Fit it on a data module, or load a "
                "checkpoint with load_policy."
            )
        return self._spec

    def act(self, observation: Observation) -> Tensor:
        """Choose the next H actions for each of B observations.

        Args:
            observation: Robot units, and images in uint8 or float in [0, 1], on any device.

        Returns:
            ``(B, H, D)`` in robot units, on the policy's device.

        Raises:
            ValueError: If the observation does not match the spec, holds invalid values, or has an
                action prefix that the policy cannot continue.
        """
        return self.sample_actions(observation).actions

    @torch.inference_mode()
    def sample_actions(self, observation: Observation) -> ActionSample:
        """Choose actions as :meth:`act` does, with their uncertainty.

        With ``noise_seed``, an observation on the CPU gives bit-identical actions in any batch.
        """
        checked = check_values(observation)
        moved: Observation = self.transfer_batch_to_device(checked, self.device, 0)
        if "noise_seed" not in moved:
            return self.sample_with(moved, self._generator)
        return sample_seeded(self.sample_with, moved, by_row=self.device.type == "cpu")

    def encode(self, observation: Observation, paired: bool = False) -> Prefix:
        """Encode observations in robot units; those of a validation step once.

        Args:
            observation: The observations.
            paired: Encode them also without instruction; see :meth:`PrefixEncoder.forward`.
        """
        is_half = torch.is_autocast_enabled(self.device.type)
        for encoded, was_half, prefix in self._encoded or []:
            if is_same(encoded, observation) and (was_half, prefix.paired) == (is_half, paired):
                return prefix
        prefix = self._encode(observation, paired)
        if self._encoded is not None:
            self._encoded[:] = [(observation, is_half, prefix)]
        return prefix

    def _encode(self, observation: Observation, paired: bool) -> Prefix:
        if self._spec is not None:
            observation = self._spec.check_observation(observation)
        normalized: Any = {**observation, "state": self.state_normalizer(observation["state"])}
        if "history" in observation:
            history = observation["history"]
            state = self.state_normalizer(history["state"])
            normalized["history"] = {**history, "state": state}
        prefix: Prefix = self.encoder(normalized, paired)
        return prefix

    def compute_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Named losses of a batch in robot units."""
        actions = self.actions.normalize(batch["actions"], batch["state"])
        targets = NormalizedBatch(actions=actions, valid=batch["valid"])
        return self.losses(targets, self.encode(batch))

    def refuse_action_prefix(self, action_prefix: ActionPrefix | None) -> None:
        """Raise a ValueError on an action prefix; for policies that cannot continue one."""
        if action_prefix is not None:
            raise ValueError(
                f"action_prefix: expected none, got one: {type(self).__name__} cannot continue a "
                "chunk. Leave it out, or use a policy that can, such as E0."
            )

    def training_step(self, batch: Batch, batch_idx: int) -> STEP_OUTPUT:
        """Sum of the losses of a batch."""
        # Batches of one optimizer step, under gradient accumulation, get different noise.
        key = ("train", self.trainer.global_step, batch_idx, self.global_rank)
        # Dropout and stochastic depth, in modules of timm and transformers, accept no generator.
        with self._seeded(*key), seed_global_generator(self.device, "dropout", *key):
            return self._loss(batch, "train")

    def validation_step(  # type: ignore[override]
        self, batch: Batch | EpisodeBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor | list[EpisodeResult]:
        """Losses and predicted actions for held-out chunks, or results of evaluation episodes."""
        with self._seeded("validation", batch_idx, self.global_rank):
            if isinstance(batch, EpisodeBatch):
                return batch.run(self)
            # Losses and actions need the same prefix, whose networks are the largest.
            self._encoded = []
            try:
                self._loss(batch, "val")
                return self.act(batch)
            finally:
                self._encoded = None

    def test_step(  # type: ignore[override]
        self, batch: EpisodeBatch, batch_idx: int
    ) -> list[EpisodeResult]:
        """Results of a batch of evaluation episodes."""
        with self._seeded("test", batch_idx, self.global_rank):
            return batch.run(self)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Action chunks ``(B, H, D)`` for recorded observations, robot units."""
        with self._seeded("predict", batch_idx, self.global_rank):
            return self.act(batch)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        self.fine_tuning.keep_frozen_in_eval(self)
        return self

    def configure_callbacks(self) -> list[pl.Callback]:
        """Default callbacks, except those of a type that the trainer already has."""
        return default_callbacks(self.trainer)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and schedule over the trainer's whole run."""
        num_steps = self.trainer.estimated_stepping_batches
        multipliers = self.fine_tuning.multipliers(self)
        return self.optimizer.configure(self.parameters(), num_steps, multipliers)  # type: ignore[return-value]

    def configure_model(self) -> None:
        """Load pretrained weights, apply fine-tuning, take the spec of the data, and shard."""
        verb = None if self._trainer is None else self.trainer.state.fn
        if self.weights is not None and verb == "fit" and not self.fine_tuning.is_applied:
            load_pretrained(self, self.weights)
        self.fine_tuning.apply(self)
        datamodule: Any = None if verb is None else cast(Any, self.trainer).datamodule
        if verb != "test" and hasattr(datamodule, "spec"):
            self.fit_normalizers(datamodule) if verb == "fit" else self._bind_data(datamodule)
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"])

    def fit_normalizers(self, datamodule: Demonstrations) -> None:
        """Take spec and statistics of demonstrations, or raise a ValueError on another spec."""
        is_new = self._spec is None
        self._bind_data(datamodule)
        # A sentence that is too long must not end the run at the step that samples it.
        self.encoder.check_lengths(getattr(datamodule, "instructions", []))
        if is_new:
            fit_statistics(datamodule, self.actions, self.state_normalizer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the policy; raise a ValueError if a weight is not finite."""
        complete_checkpoint(self, checkpoint, self._spec)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the spec of the checkpoint, or check it against that of the data."""
        path = None if self._trainer is None else self.trainer.ckpt_path
        source = f"the checkpoint {path}" if path else "the checkpoint"
        if "spec" in checkpoint:
            self._bind(stored_spec(checkpoint, source), source)

    def sample_with(self, observation: Observation, generator: Generator) -> ActionSample:
        """Choose actions for a valid observation on the policy's device."""
        is_half = self.precision == "bf16-mixed"
        autocast = torch.autocast(self.device.type, torch.bfloat16) if is_half else nullcontext()
        with self._using(generator), autocast:
            prefix = self.encode(observation, paired=self.is_guided)
            action_prefix = read_action_prefix(observation, self.actions)
            sample = self.sample(prefix, action_prefix)
            actions = self.actions.undo(sample.actions, observation["state"])
        if action_prefix is not None:
            # Tokens would round the prefix, and saturate outliers.
            actions = torch.where(action_prefix.mask[..., None], action_prefix.actions, actions)
        return ActionSample(actions, sample.uncertainty)

    def _loss(self, batch: Batch, stage: str) -> Tensor:
        losses = self.compute_losses(batch)
        total = torch.stack(list(losses.values())).sum()
        values = {f"{stage}/{name}": value for name, value in losses.items()}
        self.log_dict(
            ({} if len(losses) == 1 else values) | {f"{stage}/loss": total},
            batch_size=len(batch["state"]),
            add_dataloader_idx=False,
            prog_bar=True,
            sync_dist=stage == "val",
        )
        return total

    def _bind_data(self, datamodule: Demonstrations) -> None:
        self._bind(datamodule.spec, getattr(datamodule, "source", "the data"))

    def _bind(self, spec: PolicySpec, source: str) -> None:
        """Take a spec, or check it against the policy's own."""
        if self._spec is not None:
            self._spec.check_compatible(spec, f"the policy of {self._spec_source}", source)
            return
        check_sizes(spec, self.actions, self.encoder.state_dim, source)
        self.actions.resolve_state(spec)
        self.encoder.resolve_state(spec)
        self._spec, self._spec_source = spec, source

    @contextmanager
    def _using(self, generator: Generator) -> Iterator[None]:
        previous, self._generator = self._generator, generator
        try:
            yield
        finally:
            self._generator = previous

    def _seeded(self, *key: int | str) -> Any:
        return self._using(seeded_generator(*key, device=self.device))
