"""vla-eval's own client, codec and harness, against our server and within one process."""

import asyncio
from functools import partial

import numpy as np
import pytest
from serving_world import Teller, observe, running

from e0_lightning.serving import BatchingConfig, model_server

pytest.importorskip("vla_eval", reason="no vla-eval")

from vla_eval.connection import Connection
from vla_eval.protocol.image_codec import encode_image
from vla_eval.protocol.messages import Message, MessageType, pack_message, unpack_message


def handle_connection(server, script, path="/vla-eval"):
    async def talk():
        async with Connection(server.url + path, timeout=10, max_retries=1) as connection:
            return await script(connection)

    return asyncio.run(talk())


def payload(tag=0.0, shade=0, **others):
    return observe(tag, shade, **others)


def test_hello_says_what_the_policy_does_and_wants(server):
    async def script(connection):
        return connection.server_info

    info = handle_connection(server, script)
    assert info["protocol_version"] == 1
    assert info["action_spec"] == {"actions": {"name": "actions", "dims": 3, "format": "scripted"}}
    assert set(info["observation_spec"]) == {"front", "wrist", "state", "language"}
    assert info["observation_spec"]["state"]["dims"] == 3


def test_each_observation_gets_one_action_and_a_new_episode_a_new_chunk(server):
    async def script(connection):
        taken = []
        for episode in range(2):
            await connection.start_episode({"task": {"name": "push"}})
            for step in range(3):
                answer = await connection.act(payload(10.0 * episode + step, 50))
                taken.append(answer["actions"].tolist())
            await connection.end_episode({"metrics": {"success": True}})
        return taken

    taken = handle_connection(server, script)
    assert taken == [[tag, 50, step] for tag in (0, 10) for step in range(3)]
    assert server.actor.batches == [1, 1]


def test_a_chunk_runs_out_and_is_planned_again(server):
    async def script(connection):
        return [(await connection.act(payload(float(n))))["actions"][0] for n in range(6)]

    assert handle_connection(server, script) == [0, 0, 0, 0, 4, 4]


def test_a_chunk_is_planned_again_before_it_runs_out_where_that_is_asked_for():
    async def script(connection):
        return [(await connection.act(payload(float(n))))["actions"][0] for n in range(6)]

    with running(n_action_steps=2) as server:
        assert handle_connection(server, script) == [0, 0, 2, 2, 4, 4]
    assert model_server(Teller(), n_action_steps=2).chunk_size == 2


def test_an_error_names_the_key_and_leaves_the_connection_open(server):
    async def script(connection):
        message = payload()
        del message["images"]["wrist"]
        with pytest.raises(RuntimeError, match=r"observation_failed.*'images/wrist'.*wanted"):
            await connection.act(message)
        return (await connection.act(payload(2.0)))["actions"][0]

    assert handle_connection(server, script, "/v1/vla-eval") == 2


@pytest.mark.parametrize("form", ["raw", "png", "jpeg"])
def test_images_arrive_in_every_encoding(server, form):
    async def script(connection):
        message = payload()
        message["images"]["front"] = encode_image(np.full((16, 16, 3), 90, np.uint8), form)
        return (await connection.act(message))["actions"][1]

    assert handle_connection(server, script) == pytest.approx(90, abs=1)


def test_answers_echo_the_number_of_their_request(server):
    from websockets.sync.client import connect

    with connect(server.url + "/vla-eval") as raw:
        for seq in (41, 7):
            raw.send(pack_message(Message(MessageType.OBSERVATION, payload(), seq)))
            assert unpack_message(raw.recv()).seq == seq
        raw.send(b"\xc1 garbage")
        assert unpack_message(raw.recv()).type == MessageType.ERROR
        raw.send(pack_message(Message(MessageType.HELLO, {"protocol_version": 99}, 3)))
        refusal = unpack_message(raw.recv())
        assert refusal.type == MessageType.ERROR
        assert "99" in refusal.payload["error"]


def test_a_key_may_be_part_of_the_address():
    with running(api_key="secret") as server:

        async def talk(url):
            async with Connection(url, timeout=5, max_retries=1) as connection:
                return (await connection.act(payload(5.0)))["actions"][0]

        address = f"127.0.0.1:{server.port}/vla-eval"
        assert asyncio.run(talk(f"ws://any:secret@{address}")) == 5
        for url in (f"ws://{address}", f"ws://any:wrong@{address}"):
            with pytest.raises(ConnectionError):
                asyncio.run(talk(url))


RUN = {
    "benchmarks": [
        {
            "benchmark": "serving_benchmark:Reach",
            "episodes_per_task": 2,
            "max_steps": 12,
            "mode": "sync",
        }
    ]
}


def successes(results):
    return [e["metrics"]["success"] for r in results for t in r["tasks"] for e in t["episodes"]]


@pytest.fixture
def harness(tmp_path):
    from vla_eval.api import run

    return partial(run, RUN, docker=False, no_save=True, output_dir=tmp_path)


def test_the_harness_plays_its_episodes_against_the_server(harness):
    with running(limits=BatchingConfig(max_batch=2)) as server:
        assert successes(harness(server_url=server.url + "/vla-eval")) == [True] * 4
        assert len(server.actor.batches) == 4


def test_the_harness_plays_the_same_episodes_within_one_process(tmp_path):
    from vla_eval.api import evaluate

    actor = Teller()
    results = evaluate(
        model_server(actor, max_batch=2), RUN, docker=False, no_save=True, output_dir=tmp_path
    )
    assert successes(results) == [True] * 4
    assert len(actor.batches) == 4
