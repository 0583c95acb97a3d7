import pytest
import torch

from e0_lightning.random import (
    GivenSamples,
    derive_seed,
    sample_normal,
    sample_tokens,
    sample_uniform,
    seed_global_generator,
    seeded_generator,
)


def test_equal_keys_give_equal_seeds_and_others_differ(monkeypatch):
    seeds = [derive_seed(*key) for key in (("train", 1, 0), ("train", 0, 1), ("eval", 1, 0))]
    assert len(set(seeds)) == 3
    assert seeds[0] == derive_seed("train", 1, 0)
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert derive_seed("train", 1, 0) != seeds[0]


@pytest.mark.parametrize("sample", [sample_normal, sample_uniform])
def test_a_row_depends_on_its_own_generator_only(sample):
    def rows(*positions):
        return sample((len(positions), 5), [seeded_generator("x", n) for n in positions])

    assert rows(1, 2, 3)[1:].equal(rows(2, 3))


def test_one_generator_per_row_is_expected():
    with pytest.raises(ValueError, match="one generator for each of 3 rows, got 2"):
        sample_normal((3, 5), [torch.Generator(), torch.Generator()])


def test_tokens_follow_the_probabilities_at_a_temperature():
    logits = torch.tensor([0.1, 0.3, 0.6]).log().expand(50_000, 3)
    counts = sample_tokens(logits, 0.5, seeded_generator("tokens")).bincount() / 50_000
    expected = torch.tensor([0.01, 0.09, 0.36]) / 0.46
    torch.testing.assert_close(counts, expected, atol=0.01, rtol=0)


def test_temperature_0_takes_the_most_likely_tokens():
    logits = torch.randn(4, 3, 8)
    assert sample_tokens(logits, temperature=0).equal(logits.argmax(dim=-1))


def test_code_without_a_generator_is_seeded_by_position_and_leaves_the_global_state():
    def sample(*key):
        with seed_global_generator(torch.device("cpu"), *key):
            return torch.rand(3)

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = sample("augmentation", 3)
    assert torch.rand(3).equal(expected)
    assert first.equal(sample("augmentation", 3))
    assert not first.equal(sample("augmentation", 4))


def test_given_samples_replace_a_generator_and_stay_unchanged():
    given, asked = torch.zeros(2, 3), []
    samples = GivenSamples(lambda *request: asked.append(request) or given)
    sample_normal((2, 3), samples).add_(1)
    assert torch.equal(sample_uniform((2, 3), samples), torch.zeros(2, 3))
    assert asked == [("normal", (2, 3)), ("uniform", (2, 3))]
