import torch
import torch.nn.functional as F
from benchmarks_tiny_policy import tiny_policy

from e0_lightning.benchmarks.kernels import record_kernels
from e0_lightning.benchmarks.latency import latency_table, measure_latency

INFERENCE = ("vision", "language", "action expert", "inference")


def test_parts_of_inference_a_training_step_and_the_warp_are_timed():
    table = latency_table(measure_latency(tiny_policy(), ["base"], 2))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    names = (*INFERENCE, "training step", "viewpoint warp")
    assert len(rows) == len(names)
    for (part, milliseconds, floor, ratio, bound, flops, kernel), name in zip(
        rows, names, strict=True
    ):
        assert part.startswith(name)
        assert float(milliseconds) > 0
        assert 0 <= float(bound) < float(milliseconds)
        assert float(flops) >= 0
        if name != "training step":
            assert float(floor) > 0
            assert float(ratio) > 0
        if name in INFERENCE:
            assert kernel == "flash (cpu)"


def test_products_are_recorded_with_their_operands_and_the_kernel_of_attention():
    weight, query = torch.randn(4, 3), torch.randn(1, 2, 5, 8)
    with torch.inference_mode():
        fused = record_kernels(
            lambda: (
                F.linear(torch.ones(2, 3), weight),
                F.scaled_dot_product_attention(query, query, query),
            )
        )
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            plain = record_kernels(lambda: F.scaled_dot_product_attention(query, query, query))
    torch.testing.assert_close(fused.calls[0](), weight.sum(dim=1).expand(2, 4))
    assert (len(fused.calls), fused.attention) == (2, ["flash (cpu)"])
    assert (len(plain.calls), plain.attention) == (2, [])
