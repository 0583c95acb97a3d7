import math

import pytest
import torch

from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_hot_logits(tokens, num_bins, strength=10.0):
    return strength * torch.nn.functional.one_hot(tokens, num_bins).float()


class TwoModes:
    """The exact posterior over chunks that are all 2, with a given probability, or all 5."""

    def __init__(self, share):
        self.prior = torch.tensor([share, 1 - share])

    def __call__(self, tokens):
        seen = torch.stack([(tokens == 2).sum(dim=1), (tokens == 5).sum(dim=1)], dim=1)
        chunk = (self.prior.log() + 30.0 * seen).log_softmax(dim=-1)
        logits = torch.full((*tokens.shape, 8), -torch.inf)
        logits[..., [2, 5]] = chunk[:, None].expand(*tokens.shape, 2)
        return logits


def test_masks_are_as_frequent_as_the_cosine_says():
    process, tokens = TokenMasking(8), torch.randint(0, 8, (20_000, 4))
    corrupted = process.corrupt(tokens, torch.ones_like(tokens, dtype=torch.bool), seeded())
    hidden = corrupted == process.mask
    # The mean of cos(π u / 2) over u in [0, 1] is 2 / π.
    assert hidden.float().mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    assert torch.equal(corrupted[~hidden], tokens[~hidden])


def test_what_is_not_valid_is_always_hidden_and_never_counts():
    process, tokens = TokenMasking(8), torch.randint(0, 8, (50, 6))
    valid = torch.rand(50, 6) < 0.5
    corrupted = process.corrupt(tokens, valid, seeded())
    assert (corrupted[~valid] == process.mask).all()
    logits = torch.randn(50, 6, 8)
    others = torch.where(valid[..., None], logits, torch.randn(50, 6, 8))
    loss, changed = (process.loss(x, tokens, corrupted, valid) for x in (logits, others))
    assert loss == changed


def test_only_hidden_tokens_are_learnt():
    process, tokens = TokenMasking(8), torch.tensor([[1, 2]])
    corrupted = torch.tensor([[1, process.mask]])
    logits = one_hot_logits(torch.tensor([[7, 2]]), 8, 20.0)
    loss = process.loss(logits, tokens, corrupted, torch.ones(1, 2, dtype=torch.bool))
    assert loss < 1e-6


def test_masks_left_after_each_round_follow_the_cosine():
    masks, target = [], torch.randint(0, 8, (3, 20))

    def predict(tokens):
        masks.append((tokens == 8).sum(dim=1).tolist())
        return one_hot_logits(target, 8) * torch.rand(20)[:, None]

    drawn = ConfidenceSampler(num_steps=5)(predict, TokenMasking(8), (3, 20), seeded())
    assert masks == [[round(20 * math.cos(math.pi * n / 10))] * 3 for n in range(5)]
    assert drawn.max() < 8


def test_tokens_that_mean_nothing_are_no_part_of_the_schedule():
    masks, counted = [], torch.arange(20) % 2 == 0

    def predict(tokens):
        masks.append((tokens[:, counted] == 8).sum(dim=1).tolist())
        assert (tokens[:, ~counted] == 8).all()
        return one_hot_logits(torch.ones_like(tokens), 8) * torch.rand(20)[:, None]

    ConfidenceSampler(num_steps=5)(predict, TokenMasking(8), (3, 20), seeded(), counted=counted)
    assert masks == [[round(10 * math.cos(math.pi * n / 10))] * 3 for n in range(5)]


def test_the_most_confident_tokens_come_first():
    seen, target = [], torch.arange(4)[None]
    strength = torch.tensor([1.0, 4.0, 2.0, 3.0])[:, None]

    def predict(tokens):
        seen.append(tokens[0])
        return one_hot_logits(target, 8, 1.0) * strength

    sampler = ConfidenceSampler(num_steps=4, temperature=0.0, floor=0.0, drop=1.0)
    drawn = sampler(predict, TokenMasking(8), (1, 4))
    order = [(tokens != 8).nonzero().flatten().tolist() for tokens in seen]
    assert order[0] == []
    assert order[2][:1] == [1]
    assert set(order[1]) <= set(order[2]) <= set(order[3])
    assert torch.equal(drawn, target)


@pytest.mark.parametrize(("floor", "drop"), [(0.0, 0.3), (1.0, 1.0)])
def test_a_token_that_is_doubted_is_hidden_and_chosen_again(floor, drop):
    """At first all looks like 1; what is known makes everything look like 3."""

    def predict(tokens):
        guess = torch.full_like(tokens, 1).where(tokens == 8, 1)
        known = (tokens != 8).any(dim=1, keepdim=True)
        return one_hot_logits(guess.where(~known, 3), 8)

    sampler = ConfidenceSampler(num_steps=6, temperature=0.0, floor=floor, drop=drop)
    assert torch.equal(sampler(predict, TokenMasking(8), (1, 12)), torch.full((1, 12), 3))
    trusting = ConfidenceSampler(num_steps=6, temperature=0.0, floor=0.0, drop=1.0)
    assert (trusting(predict, TokenMasking(8), (1, 12)) == 1).any()


def test_one_token_a_round_keeps_chunks_whole():
    drawn = ConfidenceSampler(num_steps=12)(TwoModes(0.5), TokenMasking(8), (500, 6), seeded())
    assert set(drawn.unique().tolist()) == {2, 5}
    assert (drawn == drawn[:, :1]).all()


def test_confidence_drifts_to_the_likelier_mode():
    drawn = ConfidenceSampler(num_steps=12)(TwoModes(0.7), TokenMasking(8), (500, 6), seeded())
    # A chunk is all 5 only where every one of its first draws is: 0.3^6 of them.
    assert (drawn == 2).float().mean() > 0.98


def test_a_generator_decides_every_draw():
    process, sampler = TokenMasking(8), ConfidenceSampler(num_steps=4)

    def draw(seed):
        return sampler(lambda tokens: torch.zeros(*tokens.shape, 8), process, (5, 6), seeded(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("name", ["floor", "drop"])
def test_impossible_probabilities_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 1.5"):
        ConfidenceSampler(**{name: 1.5})
