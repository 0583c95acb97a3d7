"""Options of ``e0 serve``."""

import pytest
from scripted_server import ScriptedActor

from e0_lightning.cli import e0, serving


@pytest.fixture
def started(monkeypatch):
    """Servers that were started and arguments of the checkpoints that were loaded."""
    servers, loads = [], []
    monkeypatch.setattr(serving, "run_server", lambda server, *_: servers.append(server))
    actor = ScriptedActor()
    monkeypatch.setattr(serving, "load_policy", lambda *args: loads.append(args) or actor)
    return servers, loads


def test_options_reach_the_server_and_the_checkpoint(started):
    servers, loads = started
    options = ["--instruction=push", "--n-action-steps=2", "--batching.max_batch=3"]
    more = ["--limits.max_pixels=100", "--precision=bf16-mixed", "--trust=[my_research]"]
    e0(["serve", "--checkpoint=last.ckpt", "--key-map=plain", *options, *more])
    (server,), ((path, _, precision, trust, _),) = servers, loads
    assert (path, precision, list(trust)) == ("last.ckpt", "bf16-mixed", ["my_research"])
    parser = server.service.parser
    assert (parser.instruction, parser.n_action_steps, parser.max_pixels) == ("push", 2, 100)
    assert server.service.batcher.config.max_batch == 3


def test_only_the_packages_classes_are_trusted_by_default(started):
    e0(["serve", "--checkpoint=last.ckpt"])
    assert [list(trust) for *_, trust, _ in started[1]] == [[]]


def test_one_module_may_be_trusted_without_brackets(started):
    e0(["serve", "--checkpoint=last.ckpt", "--trust", "my_research"])
    assert [list(trust) for *_, trust, _ in started[1]] == [["my_research"]]


def test_networks_are_compiled_if_asked_for(monkeypatch):
    loads = []
    monkeypatch.setattr(serving, "run_server", lambda *_: None)
    monkeypatch.setattr(serving, "load_policy", lambda *args: loads.append(args) or ScriptedActor())
    for option, expected in (([], False), (["--compile=true"], True)):
        e0(["serve", "--checkpoint=last.ckpt", *option])
        assert loads[-1][-1] is expected


def test_another_precision_is_refused(started):
    with pytest.raises(SystemExit):
        e0(["serve", "--checkpoint=last.ckpt", "--precision=16"])
    assert started[0] == []
