"""What a robot needs that does not wait: chunks that go on from action_prefix actions, and doubts."""

import threading

import numpy as np
import pytest
import torch
from serving_world import SPEC, Teller, observe, running

from e0_lightning.serving import BatchingConfig
from e0_lightning.serving.key_map import load_key_map
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.types import ActionSample

openpi = pytest.importorskip("openpi_client.websocket_client_policy", reason="no openpi-client")


class Continuer(Teller):
    """A teller that begins with what is action_prefix, and is less sure with every step."""

    def sample_actions(self, observation):
        chunk = self.act(observation)
        for row, tail in zip(chunk, observation.get("action_prefix", []), strict=False):
            row[: len(tail)] = tail
        return ActionSample(chunk, (torch.arange(4) / 4).expand(len(chunk), 4))


def connect(server):
    return openpi.WebsocketClientPolicy("127.0.0.1", server.port)


def close(*clients):
    for client in clients:
        client._ws.close()


def test_a_client_is_told_what_it_may_commit_to():
    with running(Continuer()) as server:
        client = connect(server)
        assert client.get_server_metadata()["e0"]["action_prefix"] == [3, 3]
        close(client)


def test_a_reply_carries_uncertainty_for_every_step_and_the_broker_hands_it_out():
    from openpi_client.action_chunk_broker import ActionChunkBroker

    with running(Continuer()) as server:
        client = connect(server)
        np.testing.assert_array_equal(client.infer(observe())["uncertainty"], [0, 0.25, 0.5, 0.75])
        broker = ActionChunkBroker(client, action_horizon=3)
        assert [broker.infer(observe())["uncertainty"] for _ in range(4)] == [0, 0.25, 0.5, 0]
        close(client)


def test_an_actor_without_doubts_is_served_as_ever(server):
    client = connect(server)
    assert set(client.infer(observe())) == {"actions", "policy_timing", "server_timing"}
    close(client)


def test_tails_of_any_length_and_none_share_a_forward_pass():
    actor, answers = Continuer(), {}
    with running(actor, limits=BatchingConfig(max_batch=4, max_wait=2.0)) as server:
        clients = {size: connect(server) for size in (None, 0, 1, 3)}

        def ask(size, client):
            tail = {} if size is None else {"action_prefix": np.full((size, 3), 9.0)}
            answers[size] = client.infer(observe(2.0, **tail))["actions"]

        threads = [threading.Thread(target=ask, args=pair) for pair in clients.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        close(*clients.values())
    assert actor.batches == [4]
    for size, actions in answers.items():
        assert (actions[: size or 0] == 9).all()
        assert (actions[size or 0 :, 0] == 2).all()


def test_an_actor_that_ignores_what_is_committed_is_found_out(server):
    client = connect(server)
    with pytest.raises(
        RuntimeError, match=r"action_prefix: found 2 decided actions.*cannot continue"
    ):
        client.infer(observe(action_prefix=np.ones((2, 3))))


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        (np.zeros((4, 3)), r"shape \(4, 3\)"),
        (np.zeros((1, 2)), r"shape \(1, 2\)"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.full((1, 3), np.nan), "nan"),
        ("soon", "no numbers"),
    ],
    ids=["too long", "dimensions", "a vector", "NaN", "text"],
)
def test_a_tail_that_does_not_fit_is_named(tail, found):
    reader = ObservationParser(load_key_map("plain"), SPEC)
    with pytest.raises(
        ValueError, match=rf"action_prefix: found.*{found}.*wanted \(n, 3\).*0 to 3"
    ):
        reader.read(observe(action_prefix=tail))


def test_the_harness_of_vla_eval_is_told_the_doubt_of_each_step():
    pytest.importorskip("vla_eval", reason="no vla-eval")
    from websockets.sync.client import connect as dial

    from e0_lightning.serving.codec import decode, encode

    with running(Continuer()) as server, dial(server.url + "/vla-eval") as raw:
        told = []
        for seq in range(3):
            message = {"type": "observation", "payload": observe(), "seq": seq, "timestamp": 0.0}
            raw.send(encode(message, str))
            told.append(decode(raw.recv())["payload"]["uncertainty"])
    assert told == [0, 0.25, 0.5]
