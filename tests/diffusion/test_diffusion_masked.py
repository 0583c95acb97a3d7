import math

import pytest
import torch

from e0_lightning.diffusion.masked import ConfidenceSampler, TokenMasking


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def one_hot_logits(tokens, num_bins, strength=10.0):
    return strength * torch.nn.functional.one_hot(tokens, num_bins).float()


class TwoModes:
    """Exact posterior over chunks that are all 2, with a given probability, or all 5."""

    def __init__(self, probability):
        self.prior = torch.tensor([probability, 1 - probability])

    def __call__(self, tokens):
        counts = torch.stack([(tokens == 2).sum(dim=1), (tokens == 5).sum(dim=1)], dim=1)
        chunk = (self.prior.log() + 30.0 * counts).log_softmax(dim=-1)
        logits = torch.full((*tokens.shape, 8), -torch.inf)
        logits[..., [2, 5]] = chunk[:, None].expand(*tokens.shape, 2)
        return logits


def test_the_mean_mask_ratio_is_that_of_the_cosine():
    process, tokens = TokenMasking(8), torch.randint(0, 8, (20_000, 4))
    corrupted = process.corrupt(tokens, torch.ones_like(tokens, dtype=torch.bool), seeded())
    masked = corrupted == process.mask
    # The mean of cos(π u / 2) over u in [0, 1] is 2 / π.
    assert masked.float().mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    assert torch.equal(corrupted[~masked], tokens[~masked])


def test_invalid_tokens_are_masked_and_excluded_from_the_loss():
    process, tokens = TokenMasking(8), torch.randint(0, 8, (50, 6))
    valid = torch.rand(50, 6) < 0.5
    corrupted = process.corrupt(tokens, valid, seeded())
    assert (corrupted[~valid] == process.mask).all()
    logits = torch.randn(50, 6, 8)
    others = torch.where(valid[..., None], logits, torch.randn(50, 6, 8))
    loss, changed = (process.loss(x, tokens, corrupted, valid) for x in (logits, others))
    assert loss == changed


def test_loss_covers_masked_tokens_only():
    process, tokens = TokenMasking(8), torch.tensor([[1, 2]])
    corrupted = torch.tensor([[1, process.mask]])
    logits = one_hot_logits(torch.tensor([[7, 2]]), 8, 20.0)
    loss = process.loss(logits, tokens, corrupted, torch.ones(1, 2, dtype=torch.bool))
    assert loss < 1e-6


def test_the_number_of_masks_follows_the_cosine_schedule():
    masks, target = [], torch.randint(0, 8, (3, 20))

    def predict(tokens):
        masks.append((tokens == 8).sum(dim=1).tolist())
        return one_hot_logits(target, 8) * torch.rand(20)[:, None]

    sampled, logits = ConfidenceSampler(num_steps=5)(predict, TokenMasking(8), (3, 20), seeded())
    assert masks == [[round(20 * math.cos(math.pi * n / 10))] * 3 for n in range(5)]
    assert sampled.max() < 8
    assert sampled.equal(logits.argmax(dim=-1))


def test_padding_tokens_are_outside_of_the_schedule():
    masks, valid = [], torch.arange(20) % 2 == 0

    def predict(tokens):
        masks.append((tokens[:, valid] == 8).sum(dim=1).tolist())
        assert (tokens[:, ~valid] == 8).all()
        return one_hot_logits(torch.ones_like(tokens), 8) * torch.rand(20)[:, None]

    ConfidenceSampler(num_steps=5)(predict, TokenMasking(8), (3, 20), seeded(), valid=valid)
    assert masks == [[round(10 * math.cos(math.pi * n / 10))] * 3 for n in range(5)]


def test_the_most_confident_tokens_are_unmasked_first():
    inputs, target = [], torch.arange(4)[None]
    strength = torch.tensor([1.0, 4.0, 2.0, 3.0])[:, None]

    def predict(tokens):
        inputs.append(tokens[0])
        return one_hot_logits(target, 8, 1.0) * strength

    sampler = ConfidenceSampler(num_steps=4, temperature=0.0, min_probability=0.0, max_drop=1.0)
    sampled, _ = sampler(predict, TokenMasking(8), (1, 4))
    order = [(tokens != 8).nonzero().flatten().tolist() for tokens in inputs]
    assert order[0] == []
    assert order[2][:1] == [1]
    assert set(order[1]) <= set(order[2]) <= set(order[3])
    assert torch.equal(sampled, target)


@pytest.mark.parametrize(("min_probability", "max_drop"), [(0.0, 0.3), (1.0, 1.0)])
def test_an_improbable_token_is_remasked(min_probability, max_drop):
    """Given masks only, 1 is likely; given any token, 3 is."""

    def predict(tokens):
        guess = torch.full_like(tokens, 1).where(tokens == 8, 1)
        any_unmasked = (tokens != 8).any(dim=1, keepdim=True)
        return one_hot_logits(guess.where(~any_unmasked, 3), 8)

    def sample(min_probability, max_drop):
        sampler = ConfidenceSampler(6, 0.0, min_probability, max_drop)
        return sampler(predict, TokenMasking(8), (1, 12))[0]

    assert sample(min_probability, max_drop).eq(3).all()
    assert sample(0.0, 1.0).eq(1).any()


def test_one_token_per_round_keeps_chunks_consistent():
    sampled, _ = ConfidenceSampler(num_steps=12)(TwoModes(0.5), TokenMasking(8), (500, 6), seeded())
    assert set(sampled.unique().tolist()) == {2, 5}
    assert (sampled == sampled[:, :1]).all()


def test_confidence_drifts_to_the_likelier_mode():
    sampled, _ = ConfidenceSampler(num_steps=12)(TwoModes(0.7), TokenMasking(8), (500, 6), seeded())
    # A chunk is all 5 only if each of its first samples is: 0.3^6 of them.
    assert (sampled == 2).float().mean() > 0.98


def test_equal_seeds_give_equal_samples():
    process, sampler = TokenMasking(8), ConfidenceSampler(num_steps=4)

    def sample(seed):
        tokens, _ = sampler(
            lambda tokens: torch.zeros(*tokens.shape, 8), process, (5, 6), seeded(seed)
        )
        return tokens

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_rows_with_their_own_generators_do_not_depend_on_the_batch():
    def sample(*seeds):
        generators = [seeded(seed) for seed in seeds]
        tokens, _ = ConfidenceSampler(num_steps=4)(
            TwoModes(0.5), TokenMasking(8), (len(seeds), 6), generators
        )
        return tokens

    together = sample(*range(20))
    for seed in range(20):
        assert together[seed : seed + 1].equal(sample(seed))
    assert set(together.unique().tolist()) == {2, 5}


@pytest.mark.parametrize("name", ["min_probability", "max_drop"])
def test_probabilities_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: expected a number between 0 and 1, got 1.5"):
        ConfidenceSampler(**{name: 1.5})
