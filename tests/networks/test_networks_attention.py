import pytest
import torch
import torch.nn.functional as F

from e0_lightning.networks.attention import attend


def operands(dtype=torch.float32, heads=4, kv_heads=2):
    generator = torch.Generator().manual_seed(0)
    shapes = (heads, 3), (kv_heads, 7), (kv_heads, 7)
    return [
        torch.randn(2, count, length, 8, generator=generator).to(dtype) for count, length in shapes
    ]


MASK = torch.ones(2, 1, 3, 7, dtype=torch.bool).tril(3)


@pytest.mark.parametrize("mask", [MASK, torch.zeros(MASK.shape).masked_fill(~MASK, -1e9)])
def test_attention_is_the_softmax_of_scaled_products(mask):
    query, keys, values = (
        each.double().repeat_interleave(4 // each.shape[1], dim=1) for each in operands()
    )
    scores = (query @ keys.mT / 8**0.5).masked_fill(~MASK, -torch.inf)
    expected = scores.softmax(dim=-1) @ values
    torch.testing.assert_close(attend(*operands(), mask).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "mask", [MASK, torch.zeros(MASK.shape).masked_fill(~MASK, -1e9).bfloat16()]
)
def test_half_precision_on_a_cpu_is_rounded_once_also_under_autocast(mask):
    halves = operands(torch.bfloat16)
    wide = mask if mask.dtype == torch.bool else mask.float()
    exact = F.scaled_dot_product_attention(
        *(each.float() for each in halves), attn_mask=wide, enable_gqa=True
    )
    with torch.autocast("cpu", torch.bfloat16):
        attended = attend(*halves, mask)
    assert torch.equal(attended, exact.bfloat16())
