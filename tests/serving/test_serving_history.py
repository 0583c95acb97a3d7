"""A policy that observes several steps gets them from the client."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scripted_server import SPEC, ScriptedActor, observe, running

from e0_lightning.key_map import load_key_map
from e0_lightning.serving.parser import ObservationParser, stack

LONG = replace(SPEC, n_obs_steps=3)


def parser(spec=LONG):
    return ObservationParser(load_key_map("plain"), spec)


def at(step):
    """The observation of a step, without an instruction."""
    observation = observe(tag=step, shade=step)
    del observation["prompt"]
    return observation


@pytest.mark.parametrize(
    ("sent", "expected"), [([], [7, 7]), ([6], [6, 6]), ([5, 6], [5, 6])], ids=str
)
def test_the_history_is_sent_oldest_first_and_its_first_step_repeated(sent, expected):
    message = observe(tag=7, shade=7, history=[at(step) for step in sent])
    observation = parser().parse(message)
    LONG.check_observation(observation)
    assert observation["history"]["images"]["front"][0, :, 0, 0, 0].tolist() == expected
    assert observation["history"]["state"][0, :, 0].tolist() == expected
    assert observation["state"][0, 0] == 7


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, "expected a list of at most 2 maps, .* got a dict"),
        ([at(0)] * 3, "expected a list of at most 2 maps, .* got 3 maps"),
        ([at(0), 3], "got a list"),
        ([{"state": at(0)["state"]}], "the image of view 'front'"),
    ],
)
def test_another_history_is_refused(history, message):
    with pytest.raises(ValueError, match=message):
        parser().parse(observe(history=history))


def test_a_client_without_a_history_is_refused_unless_one_step_is_observed():
    with pytest.raises(ValueError, match=r"history: .*at the start of an episode\), got a NoneTyp"):
        parser().parse(observe())
    assert "history" not in parser(SPEC).parse(observe(history=[at(0)]))
    assert parser().describe()["history"] == 2
    assert "history" not in parser(SPEC).describe()


def test_histories_are_batched():
    messages = [observe(tag=t, history=[at(t - 2), at(t - 1)]) for t in (5, 9)]
    batch = stack([parser().parse(message) for message in messages])
    LONG.check_observation(batch)
    assert batch["history"]["state"][..., 0].tolist() == [[3, 4], [7, 8]]
    assert batch["history"]["images"]["wrist"].shape == (2, 2, 3, 8, 8)


def test_pixels_of_the_history_are_counted():
    alone = parser(SPEC).count_pixels(observe())
    assert parser().count_pixels(observe(history=[at(0), at(1), at(2)])) == 3 * alone
    assert parser().count_pixels(observe(history=[3, {}])) == alone


class LastTwo(ScriptedActor):
    """Moves by the difference of the last two states."""

    def act(self, observation):
        chunk = torch.zeros(len(observation["state"]), 4, 3)
        past = observation["history"]["state"][:, -1]
        chunk[..., 0] = (observation["state"] - past)[:, :1]
        return chunk


def test_openpis_client_sends_a_history():
    openpi = pytest.importorskip(
        "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
    )
    with running(LastTwo(spec=LONG)) as server:
        client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
        assert client.get_server_metadata()["e0"]["history"] == 2
        assert client.infer(observe(tag=4, history=[]))["actions"][0, 0] == 0
        result = client.infer(observe(tag=9, history=[at(4), at(7)]))
        np.testing.assert_array_equal(result["actions"][:, 0], [2, 2, 2, 2])
