import pytest
import torch

from e0_lightning.training.optimizer import CosineAdamW


def test_the_learning_rate_rises_linearly_and_falls_by_a_cosine():
    optimizer = CosineAdamW(lr=1.0, min_lr=0.1, warmup_steps=10)
    assert optimizer.lr_at(0, 100) == pytest.approx(0.1)
    assert optimizer.lr_at(9, 100) == optimizer.lr_at(10, 100) == pytest.approx(1.0)
    assert optimizer.lr_at(55, 100) == pytest.approx(0.55)
    assert optimizer.lr_at(100, 100) == pytest.approx(0.1)


def test_weight_decay_is_for_matrices_and_frozen_weights_have_no_state():
    layer = torch.nn.Linear(2, 2)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    parameters = [*layer.parameters(), *frozen.parameters()]
    groups = CosineAdamW(weight_decay=0.5).configure(parameters, 10)["optimizer"].param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.5), (1, 0.0)]


def test_a_policy_without_trainable_weights_is_refused():
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="expected parameters to train, got none"):
        CosineAdamW().configure(frozen.parameters(), 10)


@pytest.mark.parametrize("change", [{"lr": 0.0}, {"min_lr": -1.0}, {"warmup_steps": -1}], ids=str)
def test_rates_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="expected lr > 0"):
        CosineAdamW(**change)
