import math
from dataclasses import replace

import pytest
import torch

from e0_lightning.metrics import ActionL1, SuccessRate, TokenAccuracy, paired_difference
from e0_lightning.types import EpisodeResult


def test_accuracy_is_counted_by_noise_level():
    metric = TokenAccuracy(edges=(0.0, 0.5, 0.9, 1.0))
    tokens = torch.tensor([[0, 1], [2, 3], [0, 0]])
    guesses = torch.tensor([[0, 1], [2, 0], [1, 1]])
    logits = torch.nn.functional.one_hot(guesses, 4).float()
    valid = torch.tensor([[True, True], [True, True], [True, False]])
    metric.update(logits, tokens, valid, torch.tensor([0.5, 0.6, 0.0]))
    result = metric.compute()
    assert result["overall"].item() == pytest.approx(3 / 5)
    assert torch.allclose(result["by_tau"], torch.tensor([0.0, 0.75, torch.nan]), equal_nan=True)


def test_accuracy_adds_up_over_batches():
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


def test_action_error_is_the_mean_over_valid_steps():
    metric = ActionL1(2)
    predicted, actions = torch.zeros(1, 3, 2), torch.tensor([[[1.0, -2.0], [3.0, 0.0], [0.0, 0.0]]])
    predicted[0, 2] = torch.nan
    metric.update(predicted, actions, torch.tensor([[True, True, False]]))
    assert metric.compute().tolist() == [2.0, 1.0]


def test_action_error_of_no_valid_step_is_not_a_number():
    metric = ActionL1(2)
    metric.update(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool))
    assert metric.compute().isnan().all()


def played(successes, first_seed=0):
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
    metric.update(played(seed < successes for seed in range(n)))
    found = metric.compute()
    assert found.rate == pytest.approx(successes / n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
    assert found.n == n


def test_an_episode_that_is_played_twice_counts_once():
    metric = SuccessRate()
    metric.update(played([True, False]))
    metric.update(played([True, False]))
    moved = [replace(each, camera=(15.0, 0.0, 0.0)) for each in played([True])]
    metric.update([*moved, EpisodeResult("pick", 0, False, 1)])
    assert (metric.compute().rate, metric.compute().n) == (0.5, 4)


def test_success_rate_adds_up_over_batches():
    metric = SuccessRate()
    metric.update(played([True, False]))
    metric.update(played([True], first_seed=2))
    assert (metric.compute().rate, metric.compute().n) == (pytest.approx(2 / 3), 3)


def test_success_rate_without_an_episode_says_nothing():
    metric = SuccessRate()
    metric.update([])
    rate, low, high, n = metric.compute()
    assert math.isnan(rate)
    assert (low, high, n) == (0.0, 1.0, 0)


def pairs(both, first, second, neither):
    """Two lists of successes with so many in common."""
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
    found = paired_difference(one, other)
    assert found.difference == pytest.approx((table[1] - table[2]) / sum(table))
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4)
    turned = paired_difference(other, one)
    assert turned[:3] == pytest.approx((-found.difference, -found.high, -found.low))


def test_pairs_that_agree_tell_more_than_pairs_that_do_not():
    alike, unlike = paired_difference(*pairs(20, 5, 0, 25)), paired_difference(*pairs(0, 25, 20, 5))
    assert alike.difference == unlike.difference == pytest.approx(0.1)
    assert alike.high - alike.low < 0.5 * (unlike.high - unlike.low)


def test_a_difference_of_nothing_says_nothing():
    found = paired_difference([], [])
    assert math.isnan(found.difference)
    assert found[1:] == (-1.0, 1.0, 0)


def test_unequal_lists_make_no_pairs():
    with pytest.raises(ValueError, match="2 and 1 episodes"):
        paired_difference([True, True], [True])
