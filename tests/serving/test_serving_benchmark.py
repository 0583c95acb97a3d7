"""The load benchmark: many clients, every answer checked, batching worth its while."""

import pytest

from e0_lightning.benchmarks.serving import Echo, benchmark

pytest.importorskip("openpi_client", reason="no openpi-client")


def test_batching_answers_more_and_swaps_nothing(capsys):
    batched, single = benchmark(Echo(seconds=0.03), clients=6, seconds=1.5, max_batch=6)
    assert batched.errors == single.errors == ()
    assert batched.wrong == single.wrong == 0
    assert batched.answers > 1.5 * single.answers
    assert batched.p50 <= batched.p95
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_swapped_answer_would_be_seen():
    echo = Echo(seconds=0.0)
    act = echo.act
    echo.act = lambda observation: act(observation).roll(1, 0)
    batched, single = benchmark(echo, clients=4, seconds=0.5, max_batch=4)
    assert batched.wrong > 0
    assert single.wrong == 0
