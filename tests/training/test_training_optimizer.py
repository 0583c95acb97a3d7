import pytest
import torch

from e0_lightning.training.optimizer import CosineAdamW


def test_rate_rises_to_the_peak_and_falls_to_the_final():
    recipe = CosineAdamW(lr=1.0, min_lr=0.1, warmup_steps=10)
    assert recipe.rate(0, 100) == pytest.approx(0.1)
    assert recipe.rate(9, 100) == recipe.rate(10, 100) == pytest.approx(1.0)
    assert recipe.rate(55, 100) == pytest.approx(0.55)
    assert recipe.rate(100, 100) == pytest.approx(0.1)


def test_only_matrices_decay_and_frozen_weights_stay_out():
    layer = torch.nn.Linear(2, 2)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    made = CosineAdamW(weight_decay=0.5).configure([*layer.parameters(), *frozen.parameters()], 10)
    groups = made["optimizer"].param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.5), (1, 0.0)]
