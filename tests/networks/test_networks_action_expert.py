from dataclasses import replace

import pytest
import torch

from e0_lightning.networks.action_expert import ActionExpert, AdaptiveRMSNorm, sine_cosine
from e0_lightning.networks.attention import rotary, rotate
from e0_lightning.networks.prefix_encoder import Prefix


def make_prefix(batch=2, length=5, layers=4, kv_heads=2, head_dim=8):
    shape = (batch, kv_heads, length, head_dim)
    mask = torch.ones(batch, length, dtype=torch.bool)
    return Prefix(
        tuple(torch.randn(shape) for _ in range(layers)),
        tuple(torch.randn(shape) for _ in range(layers)),
        mask,
    )


@pytest.fixture
def expert():
    torch.manual_seed(0)
    expert = ActionExpert(width=16, depth=2, heads=4, kv_heads=2, head_dim=8, mlp=32)
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return expert


def test_shape_is_kept(expert):
    assert expert(torch.randn(2, 6, 16), torch.rand(2), make_prefix()).shape == (2, 6, 16)


def test_padded_prefix_tokens_are_not_read(expert):
    prefix = make_prefix()
    mask = prefix.mask.clone()
    mask[:, 3:] = False
    short = Prefix(
        tuple(k[:, :, :3] for k in prefix.keys),
        tuple(v[:, :, :3] for v in prefix.values),
        mask[:, :3],
    )
    tokens, tau = torch.randn(2, 6, 16), torch.rand(2)
    padded = Prefix(prefix.keys, prefix.values, mask)
    torch.testing.assert_close(expert(tokens, tau, padded), expert(tokens, tau, short))


def test_action_tokens_see_each_other(expert):
    tokens, tau, prefix = torch.randn(1, 6, 16), torch.rand(1), make_prefix(batch=1)
    changed = tokens.clone()
    changed[:, -1] += 1
    difference = expert(changed, tau, prefix)[:, 0] - expert(tokens, tau, prefix)[:, 0]
    assert difference.abs().max() > 1e-4


def test_tau_and_prefix_matter(expert):
    tokens, prefix = torch.randn(2, 6, 16), make_prefix()
    at = [expert(tokens, torch.full((2,), tau), prefix) for tau in (0.0, 0.9)]
    assert (at[0] - at[1]).abs().max() > 1e-3
    assert (at[0] - expert(tokens, torch.zeros(2), make_prefix())).abs().max() > 1e-3


def test_fewer_layers_read_evenly_spaced_ones_and_the_last_one_last():
    expert = ActionExpert(width=8, depth=3, heads=1, kv_heads=1, head_dim=8, mlp=8)
    assert expert._sources(6) == [1, 3, 5]
    assert expert._sources(3) == [0, 1, 2]


def test_foreign_prefix_is_refused_with_both_sides(expert):
    with pytest.raises(ValueError, match=r"'head_dim': 4.*head_dim 8"):
        expert(torch.randn(2, 6, 16), torch.rand(2), make_prefix(head_dim=4))


def test_keys_turned_by_another_rotary_base_are_refused(expert):
    tokens, tau = torch.randn(2, 6, 16), torch.rand(2)
    expert(tokens, tau, replace(make_prefix(), rope_theta=10_000.0))
    with pytest.raises(ValueError, match=r"base of 1e\+06, the expert its queries with 10000"):
        expert(tokens, tau, replace(make_prefix(), rope_theta=1e6))


def test_rotary_scores_depend_on_distance_only():
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(i, j):
        turned = [
            rotate(x, *rotary(torch.tensor([[p]]), 8, 100.0)) for x, p in ((query, i), (key, j))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(7, 4), score(13, 10))
    assert not torch.isclose(score(7, 4), score(7, 5))


def test_adaptive_norm_is_plain_rms_norm_at_the_start():
    norm, x = AdaptiveRMSNorm(16), torch.randn(2, 3, 16)
    out, gate = norm(x, torch.randn(2, 16))
    reference = torch.nn.functional.rms_norm(x, (16,), eps=1e-6)
    torch.testing.assert_close(out, reference)
    assert torch.equal(gate, torch.ones(2, 1, 16))


def test_tau_embedding_tells_near_levels_apart():
    near = sine_cosine(torch.tensor([0.975, 0.98]), 64)
    assert (near[0] - near[1]).norm() > 0.1


def test_tokens_one_after_another_are_those_of_one_causal_pass(expert):
    tokens, tau, prefix = torch.randn(2, 4, 16), torch.rand(2), make_prefix()
    prefix.mask[1, 3:] = False
    at_once = expert(tokens, tau, prefix, causal=True)
    one_by_one = []
    for index in range(4):
        refined, prefix = expert.extend(tokens[:, index : index + 1], tau, prefix)
        one_by_one.append(refined)
    torch.testing.assert_close(torch.cat(one_by_one, dim=1), at_once)


def test_a_block_that_follows_sees_the_one_before(expert):
    first, second, tau = torch.randn(2, 3, 16), torch.randn(2, 4, 16), torch.rand(2)
    prefix = make_prefix()
    refined, longer = expert.extend(first, tau, prefix)
    assert longer.lengths.tolist() == [8, 8]
    assert torch.equal(refined, expert(first, tau, prefix))
    following = expert(second, tau, longer)
    changed = expert(second, tau, expert.extend(first + 1, tau, prefix)[1])
    assert (following - changed).abs().max() > 1e-4
