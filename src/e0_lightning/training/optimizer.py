"""How weights are moved: AdamW under a linear warm-up and a cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


class CosineAdamW:
    """AdamW; the rate rises linearly to its peak, then falls by a cosine (E0, section 4).

    The paper warms up for 10 000 of 30 000 steps and keeps ``peak = final = 5e-5``.

    Args:
        lr: Highest learning rate.
        min_lr: Learning rate at the last step.
        warmup_steps: Steps from 0 to the peak.
        weight_decay: Decoupled decay, for matrices only (not for biases and norms).
        betas: AdamW's averaging coefficients.
    """

    def __init__(
        self,
        lr: float = 5e-5,
        min_lr: float = 5e-5,
        warmup_steps: int = 10_000,
        weight_decay: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        self.lr, self.min_lr, self.warmup_steps = lr, min_lr, warmup_steps
        self.weight_decay, self.betas = weight_decay, betas

    def rate(self, step: int, total: float) -> float:
        """Learning rate at a step of ``total``."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if not math.isfinite(total):
            return self.lr
        progress = min((step - self.warmup_steps) / max(total - self.warmup_steps, 1), 1.0)
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2

    def configure(
        self,
        parameters: Iterable[nn.Parameter],
        total: float,
        factors: Mapping[nn.Parameter, float] | None = None,
    ) -> dict[str, Any]:
        """What ``configure_optimizers`` returns.

        Args:
            parameters: All weights; those that need no gradient are left out.
            total: Optimizer steps of the run.
            factors: Weight to factor on its learning rate, where it is not 1.
        """
        factors = factors or {}
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        groups = []
        for factor in dict.fromkeys([1.0, *factors.values()]):
            members = [p for p in trained if factors.get(p, 1.0) == factor]
            groups += [
                {
                    "params": [p for p in members if (p.ndim > 1) == is_matrix],
                    "weight_decay": self.weight_decay if is_matrix else 0.0,
                    "lr": self.lr * factor,
                }
                for is_matrix in (True, False)
            ]
        groups = [group for group in groups if group["params"]]
        optimizer = AdamW(groups, lr=self.lr, betas=self.betas)
        schedule = LambdaLR(optimizer, lambda step: self.rate(step, total) / self.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "learning_rate"},
        }


def name_states(state: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Put the names of weights in place of their numbers in the state of an optimizer.

    Strategies number weights in different orders; a name means the same under each.

    Args:
        state: ``state_dict`` of an optimizer, or nothing, as processes have that do not save.
        names: Name of each number.
    """
    if not all(isinstance(number, int) for number in state.get("state", {})):
        return state
    groups = [
        group | {"params": [names[number] for number in group["params"]]}
        for group in state.get("param_groups", [])
    ]
    values = {names[number]: value for number, value in state.get("state", {}).items()}
    return state | {"state": values, "param_groups": groups}


def numbered(module: nn.Module, optimizer: Optimizer, sharded: bool) -> list[str]:
    """Names of a module's weights in the order of the numbers that its strategy gives them.

    Args:
        module: What is trained.
        optimizer: Of its weights.
        sharded: Whether the weights are spread over processes, and numbered as the module has them.
    """
    names = {parameter: name for name, parameter in module.named_parameters()}
    if sharded:
        return list(names.values())
    return [names[weight] for group in optimizer.param_groups for weight in group["params"]]
