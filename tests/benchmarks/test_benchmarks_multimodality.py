import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from e0_lightning.benchmarks.multimodality import (
    Settings,
    accuracy_by_snr,
    sample,
    sampling_variants,
    train,
    write_results,
)
from e0_lightning.benchmarks.two_way_reach import evaluate_chunks, sample_chunks, sample_obstacles
from e0_lightning.cli.multimodality import (
    EXPERIMENTS,
    benchmark_multimodality,
    build_tiny_policy,
)

pytestmark = pytest.mark.slow


def trained(name, steps=2):
    return train(lambda seed: build_tiny_policy(EXPERIMENTS[name], seed), steps, share=0.5)


def test_regression_is_off_manifold():
    policy, obstacle = trained("Regression", 200), sample_obstacles(200)
    evaluation = evaluate_chunks(sample(policy, obstacle), obstacle)
    # The absolute error is constant between two equally likely ways.
    assert evaluation.off_manifold.float().mean() > 0.7


def test_e0_represents_both_ways_and_reads_the_noisy_tokens():
    policy, obstacle = trained("E0", 250), sample_obstacles(200)
    evaluation = evaluate_chunks(sample(policy, obstacle), obstacle)
    assert 0.35 < evaluation.over.float().mean() < 0.65
    assert evaluation.consistent.float().mean() > 0.9
    accuracy = accuracy_by_snr(policy, sample_chunks(obstacle, 0.5), obstacle)
    # At τ = 0 a token of y is as often on the other way; x is the same on both.
    assert accuracy[0] < 0.85
    assert accuracy[-1] > 0.95


def test_benchmark_writes_table_numbers_and_plot(tmp_path, capsys):
    only = ["Autoregressive", "FlowMatching"]
    benchmark_multimodality(tmp_path, steps=2, num_chunks=50, seeds=[0, 1], only=only)
    rows = json.loads((tmp_path / "multimodality.json").read_text())["rows"]
    assert {name: len(trainings) for name, trainings in rows.items()} == {
        "demonstrations": 1,
        "FlowMatching": 2,
        "Autoregressive": 2,
    }
    assert rows["demonstrations"][0]["consistent"] == 1.0
    assert rows["FlowMatching"][0]["off_manifold"] > 0.9  # after two training steps
    plot = np.asarray(Image.open(tmp_path / "multimodality.png").convert("L"))
    # Each panel shows the gray obstacle.
    assert all((panel == 0xBB).sum() > 100 for panel in np.array_split(plot, 3, axis=1))
    columns = "| policy | share | 95 % interval | mode_consistency | off_manifold |"
    assert columns in capsys.readouterr().out


def test_an_experiment_keeps_its_process_and_gets_rows_by_denoising_steps(tmp_path, capsys):
    experiment = ["--config=maniskill.yaml", "--model.process.num_bins=100"]
    policy = build_tiny_policy(experiment)
    assert policy.process.num_bins == 100
    rows = ["x, N = 1", "x, N = 2", "x, N = 4", "x, N = 10"]
    rules = ["x, argmax, N = 10", "x, categorical, N = 10"]
    assert list(sampling_variants("x", policy)) == rows + rules
    benchmark_multimodality(tmp_path, experiment, steps=2, num_chunks=20)
    assert "| the experiment, N = 10 |" in capsys.readouterr().out


def test_the_interval_of_several_trainings_is_students(tmp_path):
    names = ("over", "consistent", "off_manifold")
    trainings = [dict.fromkeys(names, share) for share in (0.6, 0.7, 0.8)]
    write_results(tmp_path, {"a": trainings}, {}, Settings(1, 0.7, 1000, (0, 1, 2)))
    # 0.1 · 4.303 / √3
    assert "| a | 70.0% | 45.2% – 94.8% |" in (tmp_path / "multimodality.md").read_text()


def test_seeds_differ_in_weights_and_noise():
    build = functools.partial(build_tiny_policy, EXPERIMENTS["FlowMatching"])
    first, again, other = (train(build, steps=1, share=0.5, seed=seed) for seed in (0, 0, 1))
    obstacle = sample_obstacles(3)
    assert torch.equal(sample(again, obstacle), sample(first, obstacle))
    assert not torch.isclose(sample(other, obstacle), sample(first, obstacle)).any()


def test_samples_do_not_depend_on_the_global_generator():
    policy, obstacle = trained("FlowMatching"), sample_obstacles(3)
    first = sample(policy, obstacle)
    torch.rand(7)
    assert torch.equal(sample(policy, obstacle), first)


def test_unknown_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got \['E1'\]"):
        benchmark_multimodality(tmp_path, only=["E1"])
