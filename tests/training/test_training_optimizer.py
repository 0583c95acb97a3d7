import pytest
import torch
from lightning.pytorch.plugins.precision.amp import _optimizer_handles_unscaling

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


def trained(steps, fused):
    """Weights after some steps of AdamW on the same gradients."""
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
    optimizer = CosineAdamW(weight_decay=0.1).configure([weight], steps)["optimizer"]
    optimizer.param_groups[0]["fused"] = fused
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        weight.grad = torch.randn(3, 4, generator=generator)
        optimizer.step()
    return weight.detach()


def test_the_fused_step_is_the_plain_one_up_to_rounding():
    torch.testing.assert_close(trained(20, fused=True), trained(20, fused=False))


def test_gradients_are_clipped_before_the_step_where_a_scaler_scales_them():
    """As Lightning does with 16-mixed."""
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for weight, scale in zip(weights, (scaler, None), strict=True):
        optimizer = CosineAdamW(warmup_steps=0).configure([weight], 10)["optimizer"]
        loss = (weight * torch.tensor([1.0, -2.0, 3.0])).sum()
        if scale is None:
            loss.backward()
        else:
            scale.scale(loss).backward()
            scale.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer.step() if scale is None else scale.step(optimizer)
    torch.testing.assert_close(*weights)


def test_lightning_accepts_the_optimizer_with_16_mixed_and_clipping():
    weight = torch.nn.Parameter(torch.ones(3))
    assert not _optimizer_handles_unscaling(CosineAdamW().configure([weight], 10)["optimizer"])
