"""What the expert computes once equals what it would compute in every pass."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from e0_lightning.networks.action_expert import ActionExpert
from e0_lightning.networks.prefix_encoder import Prefix

TAUS = torch.arange(5) / 5


@pytest.fixture
def expert():
    language = SimpleNamespace(kv_heads=2, head_dim=8, depth=4, rope_theta=10_000.0)
    expert = ActionExpert(width=16, depth=2, heads=4, mlp=32).connect(language)
    for parameter in expert.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return expert.eval()


@pytest.fixture
def prefix():
    """Two observations, the second with padding."""
    keys, values = (tuple(torch.randn(2, 2, 5, 8) for _ in range(4)) for _ in range(2))
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    return Prefix(keys, values, mask)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@torch.no_grad()
def test_every_pass_equals_one_without_a_cache(expert, prefix, precision):
    is_half = precision == "bf16-mixed"
    with torch.autocast("cpu", torch.bfloat16) if is_half else nullcontext():
        (cache,) = expert.prepare(prefix, [6], TAUS)
        for tau in (TAUS[:2], TAUS[3:], TAUS[:1].expand(2)):
            tokens = torch.randn(2, 6, 16)
            expected = expert(tokens, prefix, tau)
            # Matrix products of other sizes round differently.
            tolerance = 0.05 if is_half else 1e-6 * float(expected.abs().max())
            refined = expert(tokens, cache, tau)
            assert refined.dtype == expected.dtype
            torch.testing.assert_close(refined, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_without_diffusion_time_passes_are_bit_equal(expert, prefix):
    (cache,) = expert.prepare(prefix, [6])
    for _ in range(2):
        tokens = torch.randn(2, 6, 16)
        assert torch.equal(expert(tokens, cache), expert(tokens, prefix))


@torch.no_grad()
def test_a_block_attends_to_the_last_pass_of_the_block_before(expert, prefix):
    first, second = expert.prepare(prefix, [3, 4], TAUS)
    for tau in TAUS[:2, None].expand(2, 2):
        flow, tokens = torch.randn(2, 3, 16), torch.randn(2, 4, 16)
        refined, extended = expert.extend(flow, prefix, tau)
        torch.testing.assert_close(expert(flow, first, tau), refined)
        torch.testing.assert_close(expert(tokens, second, tau), expert(tokens, extended, tau))


@torch.no_grad()
def test_conditioning_and_prefix_are_computed_once(expert, prefix):
    calls = []
    for name, module in expert.named_modules():
        if name.endswith("modulation") or name == "time":
            module.register_forward_hook(lambda _, args, out: calls.append(args[0].shape[0]))
    (cache,) = expert.prepare(prefix, [6], TAUS)
    memory = [each.data_ptr() for each in cache.keys]
    for tau in TAUS:
        _, extended = expert.extend(torch.randn(2, 6, 16), cache, tau.expand(2))
        assert [each.data_ptr() for each in extended.keys] == memory
    # The embedding of τ, two norms in each of two layers, and the last one.
    assert calls == [len(TAUS)] * 6


def test_a_level_that_was_not_prepared_is_refused(expert, prefix):
    (cache,) = expert.prepare(prefix, [6], TAUS)
    with pytest.raises(RuntimeError, match="expected noise levels that the expert was prepared"):
        expert(torch.randn(2, 6, 16), cache, torch.tensor([0.2, 0.3]))
    with pytest.raises(ValueError, match="expected noise levels, got None"):
        expert(torch.randn(2, 6, 16), cache)
    (timeless,) = expert.prepare(prefix, [6])
    with pytest.raises(ValueError, match="expected None, got noise levels"):
        expert(torch.randn(2, 6, 16), timeless, TAUS[:2])
