import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from e0_lightning.metrics import (
    ActionL1,
    SuccessRate,
    TokenAccuracy,
    crossed_mean,
    mean_score,
    paired_difference,
)
from e0_lightning.types import EpisodeResult


def test_token_accuracy_is_reported_by_noise_level():
    metric = TokenAccuracy(edges=(0.0, 0.5, 0.9, 1.0))
    tokens = torch.tensor([[0, 1], [2, 3], [0, 0]])
    predicted = torch.tensor([[0, 1], [2, 0], [1, 1]])
    logits = torch.nn.functional.one_hot(predicted, 4).float()
    valid = torch.tensor([[True, True], [True, True], [True, False]])
    metric.update(logits, tokens, valid, torch.tensor([0.5, 0.6, 0.0]))
    result = metric.compute()
    assert result["overall"].item() == pytest.approx(3 / 5)
    assert torch.allclose(result["by_tau"], torch.tensor([0.0, 0.75, torch.nan]), equal_nan=True)


def test_token_accuracy_accumulates_over_batches():
    torch.manual_seed(0)
    whole, parts = TokenAccuracy(), TokenAccuracy()
    logits, tokens = torch.randn(40, 3, 5), torch.randint(0, 5, (40, 3))
    valid, tau = torch.rand(40, 3) > 0.2, torch.rand(40)
    whole.update(logits, tokens, valid, tau)
    for chunk in torch.arange(40).split(7):
        parts.update(logits[chunk], tokens[chunk], valid[chunk], tau[chunk])
    assert whole.compute()["by_tau"].equal(parts.compute()["by_tau"])
    expected = (logits.argmax(dim=-1) == tokens)[valid].float().mean()
    assert torch.allclose(whole.compute()["overall"], expected)


def test_edges_that_do_not_increase_are_refused():
    with pytest.raises(ValueError, match="increasing"):
        TokenAccuracy(edges=(0.0, 0.5, 0.5))


def test_action_l1_is_the_mean_over_valid_steps():
    metric = ActionL1(2)
    predicted, actions = torch.zeros(1, 3, 2), torch.tensor([[[1.0, -2.0], [3.0, 0.0], [0.0, 0.0]]])
    predicted[0, 2] = torch.nan
    metric.update(predicted, actions, torch.tensor([[True, True, False]]))
    assert metric.compute().tolist() == [2.0, 1.0]


def test_action_l1_without_a_valid_step_is_nan():
    metric = ActionL1(2)
    metric.update(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))
    assert metric.compute().isnan().all()


def episodes(successes, first_seed=0):
    return [EpisodeResult("push", first_seed + i, ok, 1) for i, ok in enumerate(successes)]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (45, 50, 0.78640, 0.95653),
        (1, 3, 0.06149, 0.79234),
    ],
)
def test_success_rate_has_wilsons_interval(successes, n, low, high):
    metric = SuccessRate()
    metric.update(episodes(seed < successes for seed in range(n)))
    rate = metric.compute()
    assert rate.rate == pytest.approx(successes / n)
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=1e-5)
    assert rate.n == n


def test_an_episode_that_runs_twice_counts_once():
    metric = SuccessRate()
    metric.update(episodes([True, False]))
    metric.update(episodes([True, False]))
    moved = [replace(result, camera=(15.0, 0.0, 0.0)) for result in episodes([True])]
    metric.update([*moved, EpisodeResult("pick", 0, False, 1)])
    assert (metric.compute().rate, metric.compute().n) == (0.5, 4)


def test_success_rate_accumulates_over_batches():
    metric = SuccessRate()
    metric.update(episodes([True, False]))
    metric.update(episodes([True], first_seed=2))
    assert (metric.compute().rate, metric.compute().n) == (pytest.approx(2 / 3), 3)


def test_success_rate_without_episodes_is_nan_with_the_widest_interval():
    metric = SuccessRate()
    metric.update([])
    rate, low, high, n = metric.compute()
    assert math.isnan(rate)
    assert (low, high, n) == (0.0, 1.0, 0)


def pairs(both, first, second, neither):
    """Successes of two policies with these counts in their 2×2 table."""
    one = [True] * (both + first) + [False] * (second + neither)
    other = [True] * both + [False] * first + [True] * second + [False] * neither
    return one, other


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [  # Altman et al. 2000, table 6.2; Newcombe 1998, tables II (a) and (b)
        ((14, 5, 0, 22), 0.011, 0.226),
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((36, 14, 0, 0), 0.1528, 0.4167),
    ],
)
def test_paired_difference_has_newcombes_interval(table, low, high):
    one, other = pairs(*table)
    paired = paired_difference(one, other)
    assert paired.difference == pytest.approx((table[1] - table[2]) / sum(table))
    assert (paired.low, paired.high) == pytest.approx((low, high), abs=5e-4)
    swapped = paired_difference(other, one)
    assert swapped[:3] == pytest.approx((-paired.difference, -paired.high, -paired.low))


def test_correlated_pairs_have_a_narrower_interval():
    alike, unlike = paired_difference(*pairs(20, 5, 0, 25)), paired_difference(*pairs(0, 25, 20, 5))
    assert alike.difference == unlike.difference == pytest.approx(0.1)
    assert alike.high - alike.low < 0.5 * (unlike.high - unlike.low)


def test_a_difference_without_episodes_is_nan_with_the_widest_interval():
    paired = paired_difference([], [])
    assert math.isnan(paired.difference)
    assert paired[1:] == (-1.0, 1.0, 0)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="expected the same episodes twice, got 2 and 1"):
        paired_difference([True, True], [True])


def test_the_interval_of_a_mean_score_is_students():
    scores = [0.2, 0.9, 0.4, 0.55, 0.8, 0.3]
    summary = mean_score(scores)
    standard_error = np.std(scores, ddof=1) / np.sqrt(6)
    expected = stats.t.interval(0.95, 5, loc=np.mean(scores), scale=standard_error)
    assert summary.mean == pytest.approx(np.mean(scores))
    assert (summary.low, summary.high) == pytest.approx(expected)


def test_the_interval_of_a_mean_score_stays_within_0_and_1():
    assert mean_score([1.0, 0.8])[1:3] == (0.0, 1.0)
    assert mean_score([0.4]) == (0.4, 0.0, 1.0, 1)


@pytest.mark.parametrize("transpose", [False, True], ids=["trainings alike", "episodes alike"])
def test_crossed_interval_is_students_where_one_factor_varies(transpose):
    scores = [0.1, 0.4, 0.4, 0.7, 0.9]
    table = np.repeat([scores], 3, axis=0)
    crossed = crossed_mean(table.T.tolist() if transpose else table.tolist())
    assert crossed[:3] == pytest.approx(mean_score(scores)[:3])
    assert crossed.n == 15


def test_crossed_interval_covers_the_mean_of_other_trainings_and_episodes():
    random, covered = np.random.default_rng(0), 0
    for _ in range(500):
        training, episode = random.normal(size=(3, 1)), random.normal(size=(1, 20))
        table = 0.2 * training + episode + random.normal(size=(3, 20))
        crossed = crossed_mean(table.tolist())
        covered += crossed.low < 0 < crossed.high
    assert 0.94 <= covered / 500 <= 0.99


def test_crossed_interval_needs_the_same_episodes():
    with pytest.raises(ValueError, match=r"the same 2 or more episodes, got rows of \[2, 3\]"):
        crossed_mean([[0, 1], [0, 1, 1]])
