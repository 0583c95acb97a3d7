"""Real-time chunking over the socket: action prefixes in requests, uncertainty in responses."""

import threading

import numpy as np
import pytest
import torch
from scripted_server import SPEC, ScriptedActor, observe, running

from e0_lightning.key_map import load_key_map
from e0_lightning.serving import BatchingConfig
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.types import ActionSample

openpi = pytest.importorskip(
    "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
)


class PrefixActor(ScriptedActor):
    """A scripted actor whose chunks start with the prefix; its uncertainty rises by step."""

    def sample_actions(self, observation):
        chunk = self.act(observation)
        for row, prefix in zip(chunk, observation.get("action_prefix", []), strict=False):
            row[: len(prefix)] = prefix
        return ActionSample(chunk, (torch.arange(4) / 4).expand(len(chunk), 4))


def connect(server):
    return openpi.WebsocketClientPolicy("127.0.0.1", server.port)


def close(*clients):
    for client in clients:
        client._ws.close()


def test_metadata_has_the_shape_of_the_longest_action_prefix():
    with running(PrefixActor()) as server:
        client = connect(server)
        assert client.get_server_metadata()["e0"]["action_prefix"] == [3, 3]
        close(client)


def test_a_response_has_the_uncertainty_of_each_step_also_through_the_chunk_broker():
    from openpi_client.action_chunk_broker import ActionChunkBroker

    with running(PrefixActor()) as server:
        client = connect(server)
        np.testing.assert_array_equal(client.infer(observe())["uncertainty"], [0, 0.25, 0.5, 0.75])
        broker = ActionChunkBroker(client, action_horizon=3)
        assert [broker.infer(observe())["uncertainty"] for _ in range(4)] == [0, 0.25, 0.5, 0]
        close(client)


def test_responses_of_an_actor_without_uncertainty_leave_the_key_out(server):
    client = connect(server)
    assert set(client.infer(observe())) == {"actions", "policy_timing", "server_timing"}
    close(client)


def test_requests_with_and_without_action_prefix_share_a_forward_pass():
    actor, chunks = PrefixActor(), {}
    with running(actor, batching=BatchingConfig(max_batch=4, max_wait=2.0)) as server:
        clients = {size: connect(server) for size in (None, 0, 1, 3)}

        def request(size, client):
            prefix = {} if size is None else {"action_prefix": np.full((size, 3), 9.0)}
            chunks[size] = client.infer(observe(2.0, **prefix))["actions"]

        threads = [threading.Thread(target=request, args=pair) for pair in clients.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        close(*clients.values())
    assert actor.batches == [4]
    for size, actions in chunks.items():
        assert (actions[: size or 0] == 9).all()
        assert (actions[size or 0 :, 0] == 2).all()


def test_an_action_prefix_that_the_policy_cannot_continue_is_refused(server):
    client = connect(server)
    with pytest.raises(
        RuntimeError, match=r"action_prefix: expected none, got 2 actions.*cannot continue"
    ):
        client.infer(observe(action_prefix=np.ones((2, 3))))


@pytest.mark.parametrize(
    ("prefix", "got"),
    [
        (np.zeros((4, 3)), r"shape \(4, 3\)"),
        (np.zeros((1, 2)), r"shape \(1, 2\)"),
        (np.zeros(3), r"shape \(3,\)"),
        (np.full((1, 3), np.nan), "nan"),
        ("soon", "no numbers"),
    ],
    ids=["too long", "dimensions", "a vector", "NaN", "text"],
)
def test_an_invalid_action_prefix_is_refused(prefix, got):
    parser = ObservationParser(load_key_map("plain"), SPEC)
    with pytest.raises(
        ValueError, match=rf"action_prefix: expected .*\(n, 3\).*0 to 3, .*got .*{got}"
    ):
        parser.parse(observe(action_prefix=prefix))


def test_actions_of_vla_eval_have_their_uncertainty():
    pytest.importorskip("vla_eval", reason="no vla-eval")
    from websockets.sync.client import connect as dial

    from e0_lightning.serving.codec import decode, encode

    with running(PrefixActor()) as server, dial(server.url + "/vla-eval") as raw:
        uncertainty = []
        for seq in range(3):
            message = {"type": "observation", "payload": observe(), "seq": seq, "timestamp": 0.0}
            raw.send(encode(message, str))
            uncertainty.append(decode(raw.recv())["payload"]["uncertainty"])
    assert uncertainty == [0, 0.25, 0.5]
