"""Robots that go on while their actor thinks."""

import re

import numpy as np
import pytest
import torch
from corridor import SPEC, Corridor

from e0_lightning.benchmarks.chunk_boundary import Changes, RealTimeRollouts, benchmark
from e0_lightning.envs.base import EvalEpisode


class Jumper:
    """Strides 1, 2, … with its chunks, whose steps it tells in the second dimension."""

    def __init__(self):
        self.spec, self.told, self.asked = SPEC, [], 0

    def act(self, observation):
        self.asked += 1
        chunk = torch.full((1, 6, 2), float(self.asked))
        chunk[..., 1] = torch.arange(6)
        self.told += observation.get("action_prefix", [])
        for row, tail in zip(chunk, observation.get("action_prefix", []), strict=False):
            row[: len(tail)] = tail
            row[len(tail) :, 0] = tail[-1, 0] if len(tail) else 1
        return chunk


def play(actor, send_prefix, **changes):
    settings = {
        "make_environment": Corridor,
        "num_envs": 1,
        "n_action_steps": 4,
        "delay": 2,
    } | changes
    rollouts = RealTimeRollouts(send_prefix=send_prefix, **settings)
    carried, ask = [], rollouts._decide
    rollouts._decide = lambda *given: carried.extend(ask(*given)) or carried[-1:]
    try:
        rollouts.play(actor, [EvalEpisode("corridor", 1000, 12)])
    finally:
        rollouts.close()
    return np.concatenate(carried), rollouts.changes


def test_the_last_chunk_goes_on_until_the_next_arrives():
    carried, changes = play(Jumper(), send_prefix=False)
    assert carried[:, 0].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    assert carried[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 2, 3]
    seam, inner = changes.means()
    np.testing.assert_allclose(seam, [1, 3, 10**0.5])
    np.testing.assert_allclose(inner, [0, 1, 1])


def test_the_actor_is_told_what_is_carried_out_meanwhile_and_goes_on_from_it():
    actor = Jumper()
    carried, changes = play(actor, send_prefix=True)
    assert [tail.tolist() for tail in actor.told] == [[], [[1, 4], [1, 5]], [[1, 4], [1, 5]]]
    assert (carried[:, 0] == 1).all()
    assert changes.means()[0][0] == 0


@pytest.mark.parametrize("delay", [0, 4])
def test_a_chunk_must_arrive_before_the_next_is_asked_for(delay):
    with pytest.raises(ValueError, match=f"delay is {delay} and n_action_steps is 4"):
        play(Jumper(), send_prefix=True, delay=delay)


def test_a_seam_is_no_inner_step():
    changes = Changes()
    with pytest.raises(ValueError, match="no chunk followed another"):
        changes.means()
    changes.add(np.float32([[0], [1], [5], [6]]), 2)
    assert [each.tolist() for each in changes.means()] == [[4, 4], [1, 1]]


def test_the_benchmark_tells_the_jump_both_ways():
    class Repeater(Jumper):
        def act(self, observation):
            self.asked %= 3  # the same chunks in both runs
            return super().act(observation)

    table = benchmark(
        Repeater(),
        [EvalEpisode("corridor", 1000, 12)],
        make_environment=Corridor,
        num_envs=1,
        n_action_steps=4,
        delay=2,
    )
    numbers = re.findall(r"\| 0 \| (.*) \|", table)[0].split(" | ")
    assert [float(number) for number in numbers] == [0, 1, 1, 0, 0, 0]
    assert "real-time: success 0 of 1, 2 seams" in table
