import json

import numpy as np
import pytest
import torch
from PIL import Image

from e0_lightning.benchmarks.multimodality import benchmark, inference_variants, sample, train
from e0_lightning.benchmarks.two_way_reach import evaluate_chunks, sample_obstacles

pytestmark = pytest.mark.slow


def evaluate_trained(name, variant):
    """Classify chunks of a briefly trained policy."""
    policy, obstacle = train(name, 200, share=0.5), sample_obstacles(200)
    next(each for each in inference_variants(name, policy) if each == variant)
    return evaluate_chunks(sample(policy, obstacle), obstacle)


def test_regression_is_off_manifold():
    evaluation = evaluate_trained("Regression", "Regression")
    # The absolute error is constant between two equally likely ways.
    assert evaluation.off_manifold.float().mean() > 0.7


@pytest.mark.parametrize(
    ("name", "variant"),
    [("E0", "E0, identifiability steps"), ("E0, self-conditioned", "E0, self-conditioned")],
)
def test_e0_represents_both_ways(name, variant):
    evaluation = evaluate_trained(name, variant)
    assert 0.25 < evaluation.over.float().mean() < 0.75
    assert evaluation.consistent.float().mean() > 0.6
    assert evaluation.off_manifold.float().mean() < 0.5


def test_benchmark_writes_table_numbers_and_plot(tmp_path, capsys):
    benchmark(tmp_path, steps=2, num_chunks=50, only=["Autoregressive", "FlowMatching"])
    rows = json.loads((tmp_path / "multimodality.json").read_text())["rows"]
    policies = ["Autoregressive, greedy", "Autoregressive, sampled", "FlowMatching"]
    assert list(rows) == ["demonstrations", *policies]
    assert rows["demonstrations"]["mode_consistency"] == 1.0
    assert rows["FlowMatching"]["off_manifold"] > 0.9  # after two training steps
    plot = np.asarray(Image.open(tmp_path / "multimodality.png").convert("L"))
    # Each panel shows the gray obstacle.
    assert all((panel == 0xBB).sum() > 100 for panel in np.array_split(plot, 4, axis=1))
    columns = "| policy | share | 95 % interval | mode_consistency | off_manifold |"
    assert columns in capsys.readouterr().out


def test_samples_do_not_depend_on_the_global_generator():
    policy, obstacle = train("FlowMatching", 2, share=0.5), sample_obstacles(3)
    first = sample(policy, obstacle)
    torch.rand(7)
    assert torch.equal(sample(policy, obstacle), first)


def test_unknown_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got \['E1'\]"):
        benchmark(tmp_path, only=["E1"])
