import pytest
import torch
from benchmarks_tiny_policy import tiny_policy

from e0_lightning.benchmarks.memory import (
    count_parameters,
    estimate_memory,
    memory_table,
    random_batch,
    stored_activations,
)

pytestmark = pytest.mark.slow


def test_parts_add_up_and_frozen_parts_are_not_trained():
    policy = tiny_policy(fine_tuning={"lr_multipliers": {"vision": 0}})
    counts = count_parameters(policy)
    assert sum(total for total, _ in counts.values()) == sum(p.numel() for p in policy.parameters())
    assert counts["vision"][1] == 0 < counts["vision"][0]
    assert counts["expert"][0] == counts["expert"][1]


def test_activations_on_the_meta_device_equal_those_on_the_cpu():
    with torch.device("meta"):
        on_meta = tiny_policy()
    on_cpu = tiny_policy()
    estimated, stored = (
        stored_activations(policy, random_batch(policy, ["base"], 2))
        for policy in (on_meta, on_cpu)
    )
    # Attention kernels differ by device, and store more or less.
    assert estimated == pytest.approx(stored, rel=0.2)


def test_gradients_and_moments_are_those_of_trained_parameters():
    policy = tiny_policy(fine_tuning={"lora": {"vision": 2, "language": 2, "expert": 2}})
    batch = random_batch(policy, ["base"], 1)
    sizes = estimate_memory(policy, batch, weight_averaging=True, half_precision=False)
    total = sum(p.numel() for p in policy.parameters())
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert sizes["gradients"] == 4 * trained
    assert sizes["optimizer"] == 8 * trained
    assert sizes["weights"] == sizes["averaged weights"] == 4 * total
    assert "| measured peak | needs a GPU |" in memory_table(policy, sizes, None)
