import pytest
import torch

from e0_lightning.diffusion.one_hot import OneHotDiffusion
from e0_lightning.diffusion.projected_noise import corrupt_projected
from e0_lightning.networks.action_projection import ActionProjection, NoisyTokenEmbedding

BINS, WIDTH, STEPS, DIM = 16, 8, 5, 3


@pytest.fixture(params=[1, DIM], ids=["token per dimension", "token per step"])
def embedding(request):
    torch.manual_seed(0)
    return NoisyTokenEmbedding(
        BINS, WIDTH, request.param, self_conditioning=True, action_prefix=True
    )


def length(embedding):
    return STEPS * DIM // embedding.joined


def test_embedding_is_linear_in_the_one_hots_of_an_expert_token(embedding):
    x_tau = torch.randn(2, STEPS * DIM, BINS)
    joined = x_tau.view(2, length(embedding), -1)
    expected = joined @ embedding.weight.T + embedding.bias
    torch.testing.assert_close(embedding(x_tau), expected)


def test_projected_noise_is_embedded_as_the_plain_form(embedding):
    process, tau = OneHotDiffusion(BINS), torch.ones(2)
    tokens = torch.randint(0, BINS, (2, STEPS * DIM))
    joined = tokens.view(2, length(embedding), -1)
    projected = corrupt_projected(process, embedding.weight, joined, tau)
    plain = embedding(process.corrupt(tokens, tau))
    torch.testing.assert_close(embedding.embed_projected(projected), plain)


def test_an_estimate_changes_nothing_at_initialization(embedding):
    embedded, logits = torch.randn(2, length(embedding), WIDTH), torch.randn(2, STEPS * DIM, BINS)
    assert embedding.add_estimate(embedded, logits).equal(embedded)
    assert embedding.add_estimate(embedded).equal(embedded)


def test_an_estimate_is_embedded_by_the_weights_of_the_noise(embedding):
    torch.nn.init.eye_(embedding.estimate.weight)
    zeros = torch.zeros(2, length(embedding), WIDTH)
    logits = torch.randn(2, STEPS * DIM, BINS)
    expected = embedding(BINS**0.5 * logits.softmax(dim=-1)) - embedding.bias
    torch.testing.assert_close(embedding.add_estimate(zeros, logits), expected)
    kept = embedding.add_estimate(zeros, logits, keep=torch.tensor([True, False]))
    torch.testing.assert_close(kept[0], expected[0])
    assert kept[1].equal(zeros[1])


def test_an_action_prefix_changes_only_the_expert_tokens_of_its_steps(embedding):
    embedded, values = torch.randn(2, length(embedding), WIDTH), torch.rand(2, STEPS * DIM)
    mask = torch.arange(STEPS * DIM).expand(2, -1) < 2 * DIM
    changed = embedding.add_prefix(embedded, values, mask) != embedded
    steps = changed.any(dim=-1).view(2, STEPS, -1).any(dim=-1)
    assert steps.tolist() == [[True, True, False, False, False]] * 2
    garbage = values.where(mask, torch.nan)
    assert embedding.add_prefix(embedded, garbage, mask).equal(
        embedding.add_prefix(embedded, values, mask)
    )


def test_inputs_that_are_not_built_are_ignored():
    embedding, embedded = NoisyTokenEmbedding(BINS, WIDTH), torch.randn(1, 4, WIDTH)
    assert embedding.add_estimate(embedded, torch.randn(1, 4, BINS)) is embedded
    assert embedding.add_prefix(embedded, torch.rand(1, 4), torch.ones(1, 4).bool()) is embedded
    assert [name for name, _ in embedding.named_parameters()] == ["weight", "bias"]


def test_positions_count_from_start():
    projection = ActionProjection(torch.nn.Identity(), 6, WIDTH, 2)
    zeros = torch.zeros(1, 2, WIDTH)
    assert projection.embed(zeros, start=3)[0].equal(projection.positions[3:5])
    assert projection.project_out(zeros).shape == (1, 2, 2)
