"""AdamW with linear warm-up and cosine decay, and optimizer states by parameter name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


class CosineAdamW:
    """AdamW whose learning rate rises linearly, then falls by a cosine (E0, section 4).

    The paper warms up for 10 000 of 30 000 steps and keeps ``lr = min_lr = 5e-5``.

    Args:
        lr: Peak learning rate, positive.
        min_lr: Learning rate at the last step.
        warmup_steps: Steps from 0 to the peak.
        weight_decay: Decoupled weight decay of matrices; biases and norms have none.
        betas: AdamW's averaging coefficients.

    Raises:
        ValueError: If a rate or a number of steps is out of range.
    """

    def __init__(
        self,
        lr: float = 5e-5,
        min_lr: float = 5e-5,
        warmup_steps: int = 10_000,
        weight_decay: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        if lr <= 0 or min_lr < 0 or warmup_steps < 0:
            raise ValueError(
                "optimizer: expected lr > 0, min_lr ≥ 0 and warmup_steps ≥ 0, "
                f"got {lr}, {min_lr} and {warmup_steps}."
            )
        self.lr, self.min_lr, self.warmup_steps = lr, min_lr, warmup_steps
        self.weight_decay, self.betas = weight_decay, betas

    def lr_at(self, step: int, num_steps: float) -> float:
        """Learning rate at a step of ``num_steps``; ``inf`` keeps the peak after warm-up."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if not math.isfinite(num_steps):
            return self.lr
        decay_steps = max(num_steps - self.warmup_steps, 1)
        progress = min((step - self.warmup_steps) / decay_steps, 1.0)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2

    def configure(
        self,
        parameters: Iterable[nn.Parameter],
        num_steps: float,
        lr_multipliers: Mapping[nn.Parameter, float] | None = None,
    ) -> dict[str, Any]:
        """Build the optimizer and its schedule, as ``configure_optimizers`` returns them.

        Args:
            parameters: All parameters; those that need no gradient are left out.
            num_steps: Optimizer steps of the run.
            lr_multipliers: Parameter to factor on its learning rate, where it is not 1.
        """
        multipliers = lr_multipliers or {}
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        groups = []
        for factor in dict.fromkeys([1.0, *multipliers.values()]):
            members = [p for p in trained if multipliers.get(p, 1.0) == factor]
            groups += [
                {
                    "params": [p for p in members if (p.ndim > 1) == is_matrix],
                    "weight_decay": self.weight_decay if is_matrix else 0.0,
                    "lr": self.lr * factor,
                }
                for is_matrix in (True, False)
            ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise ValueError(
                "fine_tuning: expected parameters to train, got none: every part is frozen. "
                "Give a part a multiplier above 0."
            )
        optimizer = AdamW(groups, lr=self.lr, betas=self.betas, fused=True)
        # A fused step could unscale the gradients of 16-mixed itself, but Lightning clips them
        # before, and refuses an optimizer that unscales.
        cast(Any, optimizer)._step_supports_amp_scaling = False
        schedule = LambdaLR(optimizer, lambda step: self.lr_at(step, num_steps) / self.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
        }


def name_optimizer_state(state: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Replace the parameter indices in an optimizer's state by names.

    Strategies number parameters in different orders; a name means the same under each.

    Args:
        state: ``state_dict`` of an optimizer, empty on processes that do not save.
        names: Name of each index.
    """
    if not all(isinstance(index, int) for index in state.get("state", {})):
        return state
    groups = [
        group | {"params": [names[index] for index in group["params"]]}
        for group in state.get("param_groups", [])
    ]
    values = {names[index]: value for index, value in state.get("state", {}).items()}
    return state | {"state": values, "param_groups": groups}


def parameter_names(module: nn.Module, optimizer: Optimizer, sharded: bool) -> list[str]:
    """Names of a module's parameters in the order in which its strategy numbers them.

    Args:
        module: Trained module.
        optimizer: Optimizer of its parameters.
        sharded: Whether parameters are sharded; then the order is the module's own.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    if sharded:
        return list(names.values())
    return [names[weight] for group in optimizer.param_groups for weight in group["params"]]
