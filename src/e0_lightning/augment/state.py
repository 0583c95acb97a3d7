"""Perturbation of the robot's state in training batches, on the device the batch is on."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from e0_lightning.augment.draws import generator
from e0_lightning.types import Batch


class StatePerturbation(Callback):
    """Adds to chosen dimensions of each training state what is drawn evenly from ±limit.

    Demonstrations hold few values of some readings, and a network learns them to the digit: in
    those of a planner a closed gripper is as wide as the cube, so one that holds it askew has a
    width that was only ever seen while closing, and the policy goes on closing for ever. Blurred
    readings still tell open from closed. States at validation and in acting stay as they are.

    An action relative to a perturbed dimension is relative to the perturbed value, as it is to
    the shown one in acting.

    Args:
        limits: State dimension, counted from 0 through the parts side by side, to the largest
            displacement, in the dimension's own unit.

    Raises:
        ValueError: If there are no limits, a dimension is negative, or a limit is not positive.
    """

    def __init__(self, limits: dict[int, float]) -> None:
        if not limits or min(limits) < 0 or min(limits.values()) <= 0:
            raise ValueError(
                f"limits is {limits}; it maps state dimensions, from 0 on, to the largest "
                "displacement of each, above 0. Leave the callback out to perturb none."
            )
        self.limits = dict(limits)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Displace the states of the batch.

        Raises:
            ValueError: If the batch has no states, or a dimension is not among theirs.
        """
        state = batch.get("state") if isinstance(batch, dict) else None
        if state is None or max(self.limits) >= state.shape[-1]:
            found = "no 'state'" if state is None else f"a 'state' of {state.shape[-1]} dimensions"
            raise ValueError(
                f"StatePerturbation.limits names dimension {max(self.limits)}, the batch has "
                f"{found}. Name dimensions that the data's state has, counted from 0."
            )
        drawn = torch.rand(state.shape, generator=generator(trainer, batch_idx, "state"))
        limits = torch.zeros(state.shape[-1])
        limits[list(self.limits)] = torch.tensor(list(self.limits.values()))
        # A new tensor: whoever else holds the batch's own still finds it as it was.
        batch["state"] = state + ((2 * drawn - 1) * limits).to(state)
