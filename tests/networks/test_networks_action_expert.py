from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.attention import rotary, rotate
from e0_lightning.networks.expert_layer import AdaptiveRMSNorm
from e0_lightning.networks.positions import sine_cosine
from e0_lightning.networks.prefix_encoder import Prefix


def make_prefix(batch=2, length=5, layers=4, kv_heads=2, head_dim=8):
    shape = (batch, kv_heads, length, head_dim)
    mask = torch.ones(batch, length, dtype=torch.bool)
    return Prefix(
        tuple(torch.randn(shape) for _ in range(layers)),
        tuple(torch.randn(shape) for _ in range(layers)),
        mask,
    )


def language(kv_heads=2, head_dim=8, depth=4, rope_theta=10_000.0):
    """The sizes that an expert takes from a language model."""
    return SimpleNamespace(kv_heads=kv_heads, head_dim=head_dim, depth=depth, rope_theta=rope_theta)


@pytest.fixture
def expert():
    torch.manual_seed(0)
    expert = ActionExpert(width=16, depth=2, heads=4, mlp=32).connect(language())
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return expert


def test_sizes_left_out_are_those_of_the_language_model():
    expert = ActionExpert(width=16, depth=2, heads=4, mlp=32).connect(language(rope_theta=1e6))
    assert (expert.kv_heads, expert.head_dim, expert.rope_theta) == (2, 8, 1e6)
    given = ActionExpert(16, 2, 4, 32, kv_heads=2, head_dim=8, rope_theta=1e6)
    assert given.connect(language(rope_theta=1e6)).layers[0].attention.kv_heads == 2


def test_language_models_with_several_rotary_bases_leave_the_default():
    expert = ActionExpert(width=16, depth=2, heads=4, mlp=32).connect(language(rope_theta=None))
    assert expert.rope_theta == 10_000.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kv_heads": 1}, "expert.kv_heads: expected 2 as in the language model, got 1"),
        ({"head_dim": 16}, "expert.head_dim: expected 8 as in the language model, got 16"),
        ({"rope_theta": 1e6}, r"expert.rope_theta: expected 10000 .*, got 1e\+06"),
        ({"depth": 5}, "expert.depth: expected at most the 4 layers .*, got 5"),
        ({"heads": 3}, "expert.heads: expected a multiple of the .* 2 kv_heads, got 3"),
    ],
)
def test_sizes_that_do_not_fit_the_language_model_are_refused(arguments, message):
    sizes = {"width": 16, "depth": 2, "heads": 4, "mlp": 32} | arguments
    with pytest.raises(ValueError, match=message):
        ActionExpert(**sizes).connect(language())


def test_connecting_again_keeps_the_weights(expert):
    before = [parameter.clone() for parameter in expert.parameters()]
    expert.connect(language())
    assert all(a.equal(b) for a, b in zip(before, expert.parameters(), strict=True))


def test_use_before_connecting_is_refused():
    with pytest.raises(ValueError, match=r"not connected yet. Call expert.connect"):
        ActionExpert(width=16, depth=2, heads=4, mlp=32)(torch.randn(2, 6, 16), make_prefix())


def test_without_diffusion_time_every_weight_is_trained():
    expert = ActionExpert(width=16, depth=2, heads=4, mlp=32)
    expert.connect(language(depth=2), diffusion_time=False)
    expert(torch.randn(2, 6, 16), make_prefix(layers=2)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in expert.parameters())
    with pytest.raises(ValueError, match="tau: expected None"):
        expert(torch.randn(2, 6, 16), make_prefix(layers=2), torch.rand(2))


def test_weights_without_diffusion_time_are_a_part_of_those_with_it(expert):
    plain = ActionExpert(width=16, depth=2, heads=4, mlp=32)
    plain.connect(language(), diffusion_time=False)
    weights = expert.state_dict()
    assert {name: value.shape for name, value in plain.state_dict().items()} == {
        name: weights[name].shape for name in plain.state_dict()
    }
    plain.load_state_dict(weights, strict=False)
    tokens, prefix = torch.randn(2, 6, 16), make_prefix()
    torch.testing.assert_close(plain(tokens, prefix), expert(tokens, prefix))


def test_shape_is_kept(expert):
    assert expert(torch.randn(2, 6, 16), make_prefix(), torch.rand(2)).shape == (2, 6, 16)


def test_padded_prefix_tokens_are_ignored(expert):
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
    torch.testing.assert_close(expert(tokens, padded, tau), expert(tokens, short, tau))


def test_action_tokens_attend_to_each_other(expert):
    tokens, tau, prefix = torch.randn(1, 6, 16), torch.rand(1), make_prefix(batch=1)
    changed = tokens.clone()
    changed[:, -1] += 1
    difference = expert(changed, prefix, tau)[:, 0] - expert(tokens, prefix, tau)[:, 0]
    assert difference.abs().max() > 1e-4


def test_tau_and_prefix_change_the_result(expert):
    tokens, prefix = torch.randn(2, 6, 16), make_prefix()
    start, end = (expert(tokens, prefix, torch.full((2,), tau)) for tau in (0.0, 0.9))
    assert (start - end).abs().max() > 1e-3
    assert (start - expert(tokens, make_prefix(), torch.zeros(2))).abs().max() > 1e-3
    assert (start - expert(tokens, prefix)).abs().max() > 1e-3


def test_fewer_layers_attend_to_evenly_spaced_ones_and_the_last_to_the_last():
    expert = ActionExpert(width=8, depth=3, heads=1, mlp=8)
    assert expert._sources(6) == [1, 3, 5]
    assert expert._sources(3) == [0, 1, 2]


def test_a_prefix_of_another_head_size_is_refused(expert):
    with pytest.raises(ValueError, match=r"head_dim 8, got 4 layers .* head_dim 4"):
        expert(torch.randn(2, 6, 16), make_prefix(head_dim=4))


def test_a_prefix_of_another_rotary_base_is_refused(expert):
    tokens = torch.randn(2, 6, 16)
    expert(tokens, replace(make_prefix(), rope_theta=10_000.0))
    with pytest.raises(ValueError, match=r"expected keys of rotary base 10000, got 1e\+06"):
        expert(tokens, replace(make_prefix(), rope_theta=1e6))


def test_rotary_attention_scores_depend_on_distance_only():
    query, key = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(i, j):
        rotated = [
            rotate(x, *rotary(torch.tensor([[p]]), 8, 100.0)) for x, p in ((query, i), (key, j))
        ]
        return (rotated[0] * rotated[1]).sum()

    torch.testing.assert_close(score(7, 4), score(13, 10))
    assert not torch.isclose(score(7, 4), score(7, 5))


def test_adaptive_norm_is_plain_rms_norm_at_initialization():
    norm, x = AdaptiveRMSNorm(16), torch.randn(2, 3, 16)
    out, gate = norm(x, norm.modulate(torch.randn(2, 16)))
    reference = torch.nn.functional.rms_norm(x, (16,), eps=1e-6)
    torch.testing.assert_close(out, reference)
    assert torch.equal(gate, torch.ones(2, 1, 16))
    torch.testing.assert_close(norm(x, norm.modulate(None))[0], reference)


def test_token_by_token_decoding_equals_one_causal_pass(expert):
    tokens, tau, prefix = torch.randn(2, 4, 16), torch.rand(2), make_prefix()
    prefix.mask[1, 3:] = False
    at_once = expert(tokens, prefix, tau, causal=True)
    one_by_one = []
    for index in range(4):
        refined, prefix = expert.extend(tokens[:, index : index + 1], prefix, tau)
        one_by_one.append(refined)
    torch.testing.assert_close(torch.cat(one_by_one, dim=1), at_once)


def test_a_later_block_attends_to_the_one_before(expert):
    first, second, tau = torch.randn(2, 3, 16), torch.randn(2, 4, 16), torch.rand(2)
    prefix = make_prefix()
    refined, longer = expert.extend(first, prefix, tau)
    assert longer.lengths.tolist() == [8, 8]
    assert torch.equal(refined, expert(first, prefix, tau))
    later = expert(second, longer, tau)
    changed = expert(second, expert.extend(first + 1, prefix, tau)[1], tau)
    assert (later - changed).abs().max() > 1e-4


def pi0_expert():
    torch.manual_seed(0)
    expert = ActionExpert(width=16, depth=2, heads=4, mlp=32, time_conditioning="concat_mlp")
    expert.connect(language(), state_dim=3)
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return expert


def with_state(prefix):
    return replace(prefix, state=torch.randn(2, 3))


def test_pi0_conditions_action_tokens_by_an_mlp_of_token_and_time():
    expert, prefix = pi0_expert(), make_prefix()
    tokens, tau = torch.randn(2, 6, 16), torch.tensor([0.2, 0.7])
    time = sine_cosine(tau, 16)[:, None].expand(-1, 6, -1)
    merged = expert.action_time(torch.cat([tokens, time], dim=-1))
    torch.testing.assert_close(expert(tokens, prefix, tau), expert(merged, prefix))


def test_a_state_token_precedes_the_action_tokens_and_does_not_attend_to_them():
    expert, prefix = pi0_expert(), with_state(make_prefix())
    prefix.mask[1, 3:] = False
    tokens, tau = torch.randn(2, 6, 16), torch.rand(2)
    refined, extended = expert.extend(tokens, prefix, tau)
    state = expert.state(prefix.state).unsqueeze(1)
    _, longer = expert.extend(state, replace(prefix, state=None))
    torch.testing.assert_close(refined, expert(tokens, longer, tau))
    assert extended.lengths.tolist() == [12, 10]
    assert extended.state is None


@pytest.mark.parametrize("causal", [False, True])
def test_action_tokens_attend_to_the_state_token(causal):
    expert, prefix = pi0_expert(), make_prefix()
    tokens, tau = torch.randn(2, 6, 16), torch.rand(2)
    one, other = (expert(tokens, with_state(prefix), tau, causal) for _ in range(2))
    assert ((one - other).abs().amax(dim=-1) > 1e-4).all()


def test_every_weight_of_pi0s_expert_is_trained():
    expert, prefix = pi0_expert(), with_state(make_prefix())
    expert(torch.randn(2, 6, 16), prefix, torch.rand(2)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in expert.parameters())


def test_a_state_that_the_expert_cannot_embed_is_refused(expert):
    with pytest.raises(ValueError, match=r"prefix.state: expected None, got a state"):
        expert(torch.randn(2, 6, 16), with_state(make_prefix()), torch.rand(2))
