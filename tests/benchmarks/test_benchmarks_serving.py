"""The load benchmark and the hostile clients of its other mode."""

import pytest

from e0_lightning.benchmarks.serving import Echo, benchmark, benchmark_hostile

pytest.importorskip("openpi_client", reason="openpi-client is not installed")


def test_batching_raises_throughput_without_mixing_up_responses(capsys):
    batched, single = benchmark(Echo(seconds=0.03), clients=6, seconds=1.5, max_batch=6)
    assert batched.errors == single.errors == ()
    assert batched.wrong == single.wrong == 0
    assert batched.responses > 1.5 * single.responses
    assert batched.p50 <= batched.p95
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_responses_to_other_requests_are_counted_as_wrong():
    echo = Echo(seconds=0.0)
    act = echo.act
    echo.act = lambda observation: act(observation).roll(1, 0)
    batched, single = benchmark(echo, clients=4, seconds=0.5, max_batch=4)
    assert batched.wrong > 0
    assert single.wrong == 0


def test_clients_beside_hostile_ones_get_all_their_responses(capsys):
    quiet, hostile = benchmark_hostile(clients=4, seconds=3.0)
    assert quiet.errors == hostile.errors == ()
    assert quiet.wrong == hostile.wrong == 0
    assert hostile.responses > 4
    assert min(hostile.attacks.values()) >= 1
    assert "p95 hostile / quiet" in capsys.readouterr().out
