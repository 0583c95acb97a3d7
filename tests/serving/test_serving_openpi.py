"""openpi's client against the server: protocol, batching, health checks, keys."""

import threading
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import torch
from scripted_server import SPEC, ScriptedActor, observe, running

from e0_lightning.serving import BatchingConfig

openpi = pytest.importorskip(
    "openpi_client.websocket_client_policy", reason="openpi-client is not installed"
)


def connect(server, **settings):
    return openpi.WebsocketClientPolicy("127.0.0.1", server.port, **settings)


def close(client):
    client._ws.close()


def test_metadata_has_the_expected_keys_and_shapes(server):
    client = connect(server)
    metadata = client.get_server_metadata()["e0"]
    assert metadata["images"] == {"images/front": [16, 16, 3], "images/wrist": [8, 8, 3]}
    assert metadata["state"] == {"state/joints": 2, "state/gripper": 1}
    assert metadata["actions"] == [4, 3]
    close(client)


def test_a_response_has_a_whole_chunk_and_its_timing(server):
    client = connect(server)
    first, second = client.infer(observe(0.5, 7)), client.infer(observe(-1.5, 9))
    expected = [[0.5, 7, step] for step in range(4)]
    np.testing.assert_array_equal(first["actions"], np.float32(expected))
    np.testing.assert_array_equal(second["actions"][:, 0], np.float32([-1.5] * 4))
    assert first["policy_timing"]["infer_ms"] <= first["server_timing"]["infer_ms"]
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"]
    close(client)


def test_openpis_chunk_broker_returns_one_action_at_a_time(server):
    from openpi_client.action_chunk_broker import ActionChunkBroker

    client = connect(server)
    broker = ActionChunkBroker(client, action_horizon=3)
    steps = [broker.infer(observe(float(n)))["actions"] for n in range(4)]
    assert [step[2] for step in steps] == [0, 1, 2, 0]
    assert [step[0] for step in steps] == [0, 0, 0, 3]
    close(client)


@pytest.mark.parametrize(
    "prompt", ["push", np.array("push"), np.array(b"push"), b"push", np.str_("push")]
)
def test_an_instruction_may_be_text_bytes_or_an_array_of_one(server, prompt):
    client = connect(server)
    client.infer(observe(prompt=prompt))
    assert server.actor.instructions == ["push"]
    close(client)


def test_images_may_be_channels_first_floats_and_of_another_size(server):
    client = connect(server)
    image = np.zeros((3, 16, 32), np.float32)
    image[:, :, :] = 200 / 255
    message = observe()
    message["images"]["front"] = image
    client.infer(message)
    frame = server.actor.views["front"][0]
    assert frame.shape == (3, 16, 16)
    assert (frame[:, 4:12] == 200).all()
    assert (frame[:, :4] == 0).all()
    assert (frame[:, 12:] == 0).all()
    close(client)


def test_an_error_closes_its_connection_only(server):
    from websockets.exceptions import ConnectionClosedError

    bystander, client = connect(server), connect(server)
    message = observe()
    del message["state"]["joints"]
    with pytest.raises(RuntimeError, match=r"expected .*'state/joints'.*got"):
        client.infer(message)
    with pytest.raises(ConnectionClosedError) as end:
        client.infer(observe())
    assert end.value.rcvd.code == 1011
    assert bystander.infer(observe(3.0))["actions"][0, 0] == 3
    close(bystander)


def test_requests_are_batched_and_responses_are_not_mixed_up():
    actor = ScriptedActor(seconds=0.02)
    wrong, connected = [], threading.Barrier(8)
    with running(actor, batching=BatchingConfig(max_batch=8, max_wait=0.5)) as server:

        def run_client(number):
            client = connect(server)
            connected.wait(30)  # handshakes have turns
            for step in range(6):
                tag, shade = float(number * 100 + step), number * 6 + step
                actions = client.infer(observe(tag, shade))["actions"]
                if not (actions[0, 0] == tag and actions[0, 1] == shade):
                    wrong.append((number, step))
            close(client)

        threads = [threading.Thread(target=run_client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not wrong
    assert sum(actor.batches) == 48
    assert max(actor.batches) == 8
    assert len(actor.batches) <= 24


def test_a_single_client_does_not_wait_for_a_batch():
    with running(batching=BatchingConfig(max_wait=5.0)) as server:
        client = connect(server)
        start = time.perf_counter()
        client.infer(observe())
        assert time.perf_counter() - start < 2.5
        close(client)


def test_a_failing_request_does_not_affect_its_batch():
    actor = ScriptedActor()
    results = {}
    with running(actor, batching=BatchingConfig(max_batch=4, max_wait=1.0)) as server:
        clients = {prompt: connect(server) for prompt in ("push", "fail", "nan")}

        def request(prompt, client):
            try:
                results[prompt] = client.infer(observe(2.0, prompt=prompt))["actions"][0, 0]
            except RuntimeError as error:
                results[prompt] = str(error)

        threads = [threading.Thread(target=request, args=pair) for pair in clients.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for client in clients.values():
            close(client)
    assert results["push"] == 2
    assert "scripted to fail" in results["fail"]
    assert "expected finite actions" in results["nan"]
    assert 3 in actor.batches


def test_pings_get_pongs_during_a_slow_forward_pass():
    actor = ScriptedActor()
    with running(actor) as server:
        actor.seconds = 1.0
        client, other = connect(server), connect(server)
        requesting = threading.Thread(target=client.infer, args=(observe(),))
        requesting.start()
        time.sleep(0.3)
        start = time.perf_counter()
        assert other._ws.ping().wait(5)
        assert time.perf_counter() - start < 0.5
        assert requesting.is_alive()
        requesting.join(10)
        close(client)
        close(other)


def test_requests_beyond_max_queue_get_a_busy_error():
    actor = ScriptedActor(seconds=0.5)
    results = []
    with running(actor, batching=BatchingConfig(max_batch=1, max_queue=1)) as server:
        clients = [connect(server) for _ in range(5)]

        def request(client):
            try:
                results.append(client.infer(observe(4.0))["actions"][0, 0])
            except RuntimeError as error:
                results.append(str(error))

        threads = [threading.Thread(target=request, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for client in clients:
            close(client)
    refused = [text for text in results if isinstance(text, str)]
    assert len(refused) >= 2
    assert all("busy" in text for text in refused)
    assert results.count(4.0) == 5 - len(refused)


def test_an_empty_api_key_is_refused():
    with (
        pytest.raises(ValueError, match="api_key: expected a key, got an empty one"),
        running(api_key=" "),
    ):
        pass


def test_clients_without_the_api_key_are_refused():
    from websockets.exceptions import InvalidStatus

    with running(api_key="secret") as server:
        client = connect(server, api_key="secret")
        assert client.infer(observe(1.0))["actions"][0, 0] == 1
        close(client)
        for key in (None, "wrong", "sécret"):
            with pytest.raises(InvalidStatus) as refusal:
                connect(server, api_key=key and key.encode().decode("latin-1"))
            assert refusal.value.response.status_code == 401
        http = server.url.replace("ws", "http")
        assert urllib.request.urlopen(f"{http}/healthz").read() == b"OK\n"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{http}/metrics")


def test_health_and_metrics_respond_to_plain_http(server):
    client = connect(server)
    client.infer(observe())
    http = server.url.replace("ws", "http")
    assert urllib.request.urlopen(f"{http}/healthz").read() == b"OK\n"
    assert urllib.request.urlopen(f"{http}/health").read() == b'{"status": "ok"}\n'
    text = urllib.request.urlopen(f"{http}/metrics").read().decode()
    assert 'e0_requests_total{outcome="ok",protocol="openpi"} 1.0' in text
    assert 'e0_recent_request_seconds{quantile="0.95"}' in text
    assert "e0_batch_size_bucket" in text
    assert "e0_clients 1.0" in text
    close(client)


def test_the_port_opens_after_the_warm_up():
    actor = ScriptedActor()
    sizes = []
    act = actor.act
    actor.act = lambda observation: sizes.append(len(observation["state"])) or act(observation)
    with running(actor, batching=BatchingConfig(max_batch=4)):
        assert sizes == [1, 4]


def test_a_policy_with_actions_of_another_shape_is_not_served():
    actor = ScriptedActor()
    actor.act = lambda observation: torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"\(1, 4, 3\).*got \(1, 2, 3\)"):
        running(actor).__enter__()


def test_a_max_batch_that_does_not_fit_the_memory_is_refused():
    actor = ScriptedActor()
    act = actor.act

    def act_on_two(observation):
        if len(observation["state"]) > 2:
            raise MemoryError("too much")
        return act(observation)

    actor.act = act_on_two
    with pytest.raises(ValueError, match=r"batch of 16 .*too much.*batching.max_batch"):
        running(actor).__enter__()


class Network(torch.nn.Module):
    """A policy whose actions do not depend on its weight, as those of argmax decoding."""

    spec = SPEC

    def __init__(self, weight=0.0, output=0.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([weight]))
        self.output = output

    def act(self, observation):
        return torch.full((len(observation["state"]), 4, 3), self.output)


@pytest.mark.parametrize(
    ("network", "error"),
    [
        (Network(weight=float("nan")), "expected finite weights, got NaN or infinity in weight"),
        (Network(output=float("nan")), "cannot act on random images: expected finite actions"),
        (Network(output=float("inf")), "cannot act on random images: expected finite actions"),
    ],
)
def test_a_policy_with_nan_weights_or_actions_is_not_served(network, error):
    with pytest.raises(ValueError, match=error):
        running(network).__enter__()


class StateActor(ScriptedActor):
    """Returns the first joint."""

    def act(self, observation):
        assert observation["images"] == {}
        return observation["state"][:, :1, None].expand(-1, 4, 3)


def test_a_policy_of_the_state_alone_is_served():
    with running(StateActor(spec=replace(SPEC, views={}))) as server:
        client = connect(server)
        assert client.get_server_metadata()["e0"]["images"] == {}
        observation = observe(2.5)
        del observation["images"]
        assert client.infer(observation)["actions"][0, 0] == 2.5
        close(client)
