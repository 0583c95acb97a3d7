"""vla-eval's client, codec and harness: against the server and in one process."""

import asyncio
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scripted_server import SPEC, ScriptedActor, observe, running

from e0_lightning.serving import BatchingConfig, model_server

pytest.importorskip("vla_eval", reason="vla-eval is not installed")

from vla_eval.connection import Connection
from vla_eval.protocol.image_codec import encode_image
from vla_eval.protocol.messages import Message, MessageType, pack_message, unpack_message


def run_script(server, script, path="/vla-eval"):
    async def run():
        async with Connection(server.url + path, timeout=10, max_retries=1) as connection:
            return await script(connection)

    return asyncio.run(run())


def test_hello_has_action_and_observation_specs(server):
    async def script(connection):
        return connection.server_info

    info = run_script(server, script)
    assert info["protocol_version"] == 1
    assert info["action_spec"] == {"actions": {"name": "actions", "dims": 3, "format": "scripted"}}
    assert set(info["observation_spec"]) == {"front", "wrist", "state", "language"}
    assert info["observation_spec"]["state"]["dims"] == 3


def test_each_observation_gets_one_action_and_a_new_episode_starts_a_new_chunk(server):
    async def script(connection):
        actions = []
        for episode in range(2):
            await connection.start_episode({"task": {"name": "push"}})
            for step in range(3):
                reply = await connection.act(observe(10.0 * episode + step, 50))
                actions.append(reply["actions"].tolist())
            await connection.end_episode({"metrics": {"success": True}})
        return actions

    actions = run_script(server, script)
    assert actions == [[tag, 50, step] for tag in (0, 10) for step in range(3)]
    assert server.actor.batches == [1, 1]


def test_a_new_chunk_is_sampled_when_the_last_one_is_used_up(server):
    async def script(connection):
        return [(await connection.act(observe(float(n))))["actions"][0] for n in range(6)]

    assert run_script(server, script) == [0, 0, 0, 0, 4, 4]


def test_a_new_chunk_is_sampled_after_n_action_steps():
    async def script(connection):
        return [(await connection.act(observe(float(n))))["actions"][0] for n in range(6)]

    with running(n_action_steps=2) as server:
        assert run_script(server, script) == [0, 0, 2, 2, 4, 4]
    assert model_server(ScriptedActor(), n_action_steps=2).chunk_size == 2


class Memory(ScriptedActor):
    """Returns the first joint of each observed step."""

    def act(self, observation):
        past = observation["history"]["state"][:, :, 0]
        steps = torch.cat([past, observation["state"][:, :1]], dim=1)
        return steps[:, None].expand(-1, self.spec.horizon, -1)


def test_the_steps_of_an_episode_are_the_history_of_its_next_chunk():
    async def script(connection):
        actions = []
        for episode in range(2):
            await connection.start_episode({"task": {"name": "push"}})
            for step in range(5):
                reply = await connection.act(observe(10.0 * episode + step))
                actions.append(reply["actions"].tolist())
            await connection.end_episode({"metrics": {"success": True}})
        return actions[0:5:2] + actions[5:10:2]

    actor = Memory(spec=replace(SPEC, n_obs_steps=3))
    with running(actor, n_action_steps=2) as server:
        chunks = run_script(server, script)
    assert chunks[:3] == [[0, 0, 0], [0, 1, 2], [2, 3, 4]]
    assert chunks[3:] == [[10, 10, 10], [10, 11, 12], [12, 13, 14]]


def test_a_model_server_in_one_process_refuses_a_policy_of_several_steps():
    with pytest.raises(ValueError, match=r"n_obs_steps: expected 1 .* got 3"):
        model_server(ScriptedActor(spec=replace(SPEC, n_obs_steps=3)))


def test_an_error_names_the_key_and_leaves_the_connection_open(server):
    async def script(connection):
        message = observe()
        del message["images"]["wrist"]
        with pytest.raises(
            RuntimeError, match=r"observation_failed.*expected.*'images/wrist'.*got"
        ):
            await connection.act(message)
        return (await connection.act(observe(2.0)))["actions"][0]

    assert run_script(server, script, "/v1/vla-eval") == 2


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_images_in_every_encoding_are_decoded(server, encoding):
    async def script(connection):
        message = observe()
        message["images"]["front"] = encode_image(np.full((16, 16, 3), 90, np.uint8), encoding)
        return (await connection.act(message))["actions"][1]

    assert run_script(server, script) == pytest.approx(90, abs=1)


def test_replies_have_the_sequence_number_of_their_request(server):
    from websockets.sync.client import connect

    with connect(server.url + "/vla-eval") as raw:
        for seq in (41, 7):
            raw.send(pack_message(Message(MessageType.OBSERVATION, observe(), seq)))
            assert unpack_message(raw.recv()).seq == seq
        raw.send(b"\xc1 garbage")
        assert unpack_message(raw.recv()).type == MessageType.ERROR
        raw.send(pack_message(Message(MessageType.HELLO, {"protocol_version": 99}, 3)))
        error = unpack_message(raw.recv())
        assert error.type == MessageType.ERROR
        assert "99" in error.payload["error"]


def test_the_api_key_is_accepted_in_the_address():
    with running(api_key="secret") as server:

        async def act(url):
            async with Connection(url, timeout=5, max_retries=1) as connection:
                return (await connection.act(observe(5.0)))["actions"][0]

        address = f"127.0.0.1:{server.port}/vla-eval"
        assert asyncio.run(act(f"ws://any:secret@{address}")) == 5
        for url in (f"ws://{address}", f"ws://any:wrong@{address}"):
            with pytest.raises(ConnectionError):
                asyncio.run(act(url))


RUN = {
    "benchmarks": [
        {
            "benchmark": "vla_eval_reach:Reach",
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


def test_the_harness_evaluates_against_the_server(harness):
    with running(batching=BatchingConfig(max_batch=2)) as server:
        assert successes(harness(server_url=server.url + "/vla-eval")) == [True] * 4
        assert len(server.actor.batches) == 4


def test_the_harness_evaluates_in_one_process(tmp_path):
    from vla_eval.api import evaluate

    actor = ScriptedActor()
    results = evaluate(
        model_server(actor, max_batch=2), RUN, docker=False, no_save=True, output_dir=tmp_path
    )
    assert successes(results) == [True] * 4
    assert len(actor.batches) == 4
