import pytest
import torch

from e0_lightning.benchmarks.latency import benchmark_policy
from e0_lightning.benchmarks.memory import (
    count_parameters,
    describe,
    estimate,
    kept_activations,
    random_batch,
)
from e0_lightning.policies.checkpoint import build_policy
from tiny_policy import tiny_settings


def tiny(**changes):
    policy = build_policy(tiny_settings("E0", **changes))
    policy.configure_model()
    return policy


def kept(policy):
    return kept_activations(policy, random_batch(policy, ["base"], 2))


def test_parts_add_up_and_frozen_weights_are_not_trained():
    policy = tiny(fine_tuning={"lr_multipliers": {"vision": 0}})
    counts = count_parameters(policy)
    assert sum(total for total, _ in counts.values()) == sum(p.numel() for p in policy.parameters())
    assert counts["vision"][1] == 0 < counts["vision"][0]
    assert counts["expert"][0] == counts["expert"][1]


def test_activations_are_counted_without_computing_any():
    with torch.device("meta"):
        imagined = tiny()
    # Devices choose different kernels for attention, which keep more or less.
    assert kept(imagined) == pytest.approx(kept(tiny()), rel=0.2)


def test_moments_and_gradients_are_of_trained_weights_alone():
    policy = tiny(fine_tuning={"lora": {"vision": 2, "language": 2, "expert": 2}})
    sizes = estimate(policy, random_batch(policy, ["base"], 1), averaged=True, halved=False)
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert sizes["gradients"] == 4 * trained
    assert sizes["optimizer"] == 8 * trained
    assert sizes["weights"] == sizes["averages"] == 4 * sum(p.numel() for p in policy.parameters())
    assert "run this where there is a GPU" in describe(policy, sizes, None)


def test_a_step_and_a_decision_are_timed_by_part():
    table = benchmark_policy(tiny(), ["base"], 2)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    names = ("vision", "language", "all passes", "the whole decision", "training step")
    assert len(rows) == len(names)
    for (name, taken, floor, flops), start in zip(rows, names, strict=True):
        assert name.startswith(start)
        assert float(taken) > 0
        assert 0 <= float(floor) < float(taken)
        assert float(flops) >= 0
