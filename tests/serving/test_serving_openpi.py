"""The client that openpi users have, against our server."""

import threading
import time
import urllib.request

import numpy as np
import pytest
import torch
from serving_world import Teller, observe, running

from e0_lightning.serving import BatchingConfig

openpi = pytest.importorskip("openpi_client.websocket_client_policy", reason="no openpi-client")


def connect(server, **settings):
    return openpi.WebsocketClientPolicy("127.0.0.1", server.port, **settings)


def close(client):
    client._ws.close()


def test_metadata_says_what_the_server_wants(server):
    client = connect(server)
    wanted = client.get_server_metadata()["e0"]
    assert wanted["images"] == {"images/front": [16, 16, 3], "images/wrist": [8, 8, 3]}
    assert wanted["state"] == {"state/joints": 2, "state/gripper": 1}
    assert wanted["actions"] == [4, 3]
    close(client)


def test_a_request_brings_a_whole_chunk_and_its_timing(server):
    client = connect(server)
    first, second = client.infer(observe(0.5, 7)), client.infer(observe(-1.5, 9))
    expected = [[0.5, 7, step] for step in range(4)]
    np.testing.assert_array_equal(first["actions"], np.float32(expected))
    np.testing.assert_array_equal(second["actions"][:, 0], np.float32([-1.5] * 4))
    assert first["policy_timing"]["infer_ms"] <= first["server_timing"]["infer_ms"]
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] >= first["server_timing"]["infer_ms"]
    close(client)


def test_the_chunk_broker_hands_out_one_action_at_a_time(server):
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


def test_images_may_come_channels_first_as_floats_and_in_another_shape(server):
    client = connect(server)
    image = np.zeros((3, 16, 32), np.float32)
    image[:, :, :] = 200 / 255
    message = observe()
    message["images"]["front"] = image
    client.infer(message)
    seen = server.actor.views["front"][0]
    assert seen.shape == (3, 16, 16)
    assert (seen[:, 4:12] == 200).all()
    assert (seen[:, :4] == 0).all()
    assert (seen[:, 12:] == 0).all()
    close(client)


def test_an_error_is_a_text_frame_and_the_end_and_others_go_on(server):
    from websockets.exceptions import ConnectionClosedError

    bystander, client = connect(server), connect(server)
    message = observe()
    del message["state"]["joints"]
    with pytest.raises(RuntimeError, match=r"'state/joints'.*found.*wanted"):
        client.infer(message)
    with pytest.raises(ConnectionClosedError) as end:
        client.infer(observe())
    assert end.value.rcvd.code == 1011
    assert bystander.infer(observe(3.0))["actions"][0, 0] == 3
    close(bystander)


def test_clients_are_gathered_and_get_their_own_answers():
    actor = Teller(seconds=0.02)
    wrong = []
    with running(actor, limits=BatchingConfig(max_batch=8, max_wait=0.05)) as server:

        def play(number):
            client = connect(server)
            for step in range(6):
                tag, shade = float(number * 100 + step), number * 6 + step
                actions = client.infer(observe(tag, shade))["actions"]
                if not (actions[0, 0] == tag and actions[0, 1] == shade):
                    wrong.append((number, step))
            close(client)

        threads = [threading.Thread(target=play, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not wrong
    assert sum(actor.batches) == 48
    assert max(actor.batches) == 8
    assert len(actor.batches) <= 24


def test_a_lone_client_waits_for_nobody():
    with running(limits=BatchingConfig(max_wait=5.0)) as server:
        client = connect(server)
        start = time.perf_counter()
        client.infer(observe())
        assert time.perf_counter() - start < 2.5
        close(client)


def test_a_failing_request_spoils_no_other_in_its_batch():
    actor = Teller()
    answers = {}
    with running(actor, limits=BatchingConfig(max_batch=4, max_wait=1.0)) as server:
        clients = {prompt: connect(server) for prompt in ("push", "fail", "nan")}

        def ask(prompt, client):
            try:
                answers[prompt] = client.infer(observe(2.0, prompt=prompt))["actions"][0, 0]
            except RuntimeError as error:
                answers[prompt] = str(error)

        threads = [threading.Thread(target=ask, args=pair) for pair in clients.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for client in clients.values():
            close(client)
    assert answers["push"] == 2
    assert "told to fail" in answers["fail"]
    assert "not finite" in answers["nan"]
    assert 3 in actor.batches


def test_pings_are_answered_during_a_slow_forward_pass():
    actor = Teller()
    with running(actor) as server:
        actor.seconds = 1.0
        client, other = connect(server), connect(server)
        asking = threading.Thread(target=client.infer, args=(observe(),))
        asking.start()
        time.sleep(0.3)
        start = time.perf_counter()
        assert other._ws.ping().wait(5)
        assert time.perf_counter() - start < 0.5
        assert asking.is_alive()
        asking.join(10)
        close(client)
        close(other)


def test_a_full_queue_says_busy():
    actor = Teller(seconds=0.5)
    heard = []
    with running(actor, limits=BatchingConfig(max_batch=1, max_queue=1)) as server:
        clients = [connect(server) for _ in range(5)]

        def ask(client):
            try:
                heard.append(client.infer(observe(4.0))["actions"][0, 0])
            except RuntimeError as error:
                heard.append(str(error))

        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        for client in clients:
            close(client)
    refused = [text for text in heard if isinstance(text, str)]
    assert len(refused) >= 2
    assert all("busy" in text for text in refused)
    assert heard.count(4.0) == 5 - len(refused)


def test_an_empty_key_is_refused():
    with pytest.raises(ValueError, match="api_key: found an empty one"), running(api_key=" "):
        pass


def test_only_the_right_key_enters():
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


def test_health_and_metrics_answer_plain_http(server):
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


def test_the_port_opens_on_a_warm_policy():
    actor = Teller()
    seen = []
    act = actor.act
    actor.act = lambda observation: seen.append(len(observation["state"])) or act(observation)
    with running(actor, limits=BatchingConfig(max_batch=4)):
        assert seen == [1, 4]


def test_a_policy_that_breaks_its_contract_opens_no_port():
    actor = Teller()
    actor.act = lambda observation: torch.zeros(1, 2, 3)
    with pytest.raises(ValueError, match=r"\(1, 2, 3\).*\(1, 4, 3\)"):
        running(actor).__enter__()


def test_a_batch_that_the_policy_cannot_take_opens_no_port():
    actor = Teller()
    act = actor.act

    def narrow(observation):
        if len(observation["state"]) > 2:
            raise MemoryError("too much")
        return act(observation)

    actor.act = narrow
    with pytest.raises(ValueError, match=r"batch of 16 .*too much.*limits.max_batch"):
        running(actor).__enter__()
