from benchmarks_tiny_policy import tiny_policy

from e0_lightning.benchmarks.latency import latency_table


def test_training_step_and_parts_of_inference_are_timed():
    table = latency_table(tiny_policy(), ["base"], 2)
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    names = ("vision", "language", "action expert", "inference", "training step")
    assert len(rows) == len(names)
    for (part, milliseconds, bound, flops), name in zip(rows, names, strict=True):
        assert part.startswith(name)
        assert float(milliseconds) > 0
        assert 0 <= float(bound) < float(milliseconds)
        assert float(flops) >= 0
