"""The policy of one's own that the README shows: it trains, is evaluated and serves, as it says."""

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import e0_lightning
from e0_lightning import Policy, load_policy
from e0_lightning.actions.action_prefix import Draw
from e0_lightning.cli import run
from e0_lightning.serving import Server
from e0_lightning.types import Actor

from .conftest import HORIZON, ChunkDataset, Episodes, ready_policy, tiny_settings, trainer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def my_research(tmp_path, monkeypatch):
    """The README's code as the module that its command names."""
    section = README.partition("## A policy of your own")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (tmp_path / "my_research.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_research", raising=False)
    import my_research

    yield my_research
    del sys.modules["my_research"]


@pytest.fixture
def checkpoint(my_research, demos, tmp_path):
    """What the README's command leaves, of a run of two steps on real demonstrations."""
    (command,) = re.findall(r"`lightning (fit --config .*?--model my_research\.Copy) …`", README)
    ended = run(
        [
            *command.replace("experiments/", f"{ROOT}/experiments/").split(),
            "--trainer.max_steps=2",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
            f"--trainer.default_root_dir={tmp_path}",
            f"--data.demos=[{demos}]",
            "--data.batch_size=2",
            "--data.num_workers=0",
            "--data.episodes=null",
        ]
    )
    assert type(ended.model) is my_research.Copy
    assert ended.trainer.callback_metrics["train/l1"].isfinite()
    path = tmp_path / "last.ckpt"
    ended.trainer.save_checkpoint(path)
    return path


def ask(policy, message):
    """One request of an openpi client to a server around a policy."""
    openpi = pytest.importorskip("openpi_client.websocket_client_policy", reason="no openpi-client")
    answers = []

    async def serve():
        server, loop = Server(policy), asyncio.get_running_loop()

        def request(port):
            try:
                answers.append(openpi.WebsocketClientPolicy("127.0.0.1", port).infer(message))
            finally:
                loop.call_soon_threadsafe(server.stop)

        await server.run("127.0.0.1", 0, lambda port: loop.run_in_executor(None, request, port))

    asyncio.run(serve())
    return answers[0]["actions"]


def test_it_trains_and_its_checkpoint_serves(checkpoint):
    policy = load_policy(checkpoint)
    spec = policy.spec
    assert isinstance(policy, Actor)
    message = {
        "images": {view: np.zeros((s, s, 3), np.uint8) for view, s in spec.views.items()},
        "state": {part: np.zeros(size, np.float32) for part, size in spec.state.items()},
        "prompt": "push the cube",
    }
    actions = ask(policy, message)
    assert actions.shape == (spec.horizon, spec.action_dim)
    assert np.isfinite(actions).all()


@pytest.mark.parametrize("parent", ["E0", "E0Hybrid", "FlowMatching", "MaskedDiffusion"])
@pytest.mark.parametrize("method", ["sample", "draw"])
def test_a_child_of_a_policy_acts_by_what_it_overrides(parent, method, batch):
    class Sampling(getattr(e0_lightning, parent)):
        def sample(self, prefix):
            return super().sample(prefix) * 0

    class Drawing(getattr(e0_lightning, parent)):
        def draw(self, prefix, action_prefix=None):
            return Draw(super().draw(prefix, action_prefix).chunk * 0)

    policy = ready_policy(tiny_settings(parent))
    policy.__class__ = {"sample": Sampling, "draw": Drawing}[method]
    zero = torch.zeros(len(batch["state"]), HORIZON, policy.actions.dim)
    torch.testing.assert_close(policy.sample(policy.prefix(batch)), zero)
    undone = policy.actions.undo(zero, batch["state"])
    torch.testing.assert_close(policy.act(batch), undone)


def test_a_draw_over_a_policy_that_samples_leaves_the_sampling_to_it(batch):
    class Doubting(e0_lightning.Regression):
        def draw(self, prefix, action_prefix=None):
            chunk = super().draw(prefix, action_prefix).chunk
            return Draw(chunk, torch.ones(chunk.shape[:2]))

    policy = ready_policy(tiny_settings("Regression"))
    wanted = policy.act(batch)
    policy.__class__ = Doubting
    torch.testing.assert_close(policy.act(batch), wanted)
    assert policy.sample(policy.prefix(batch)).isfinite().all()


def test_a_draw_that_is_mixed_in_is_what_samples_too(batch):
    class Still:
        def draw(self, prefix, action_prefix=None):
            return Draw(super().draw(prefix, action_prefix).chunk * 0)

    class Mixed(Still, e0_lightning.E0):
        pass

    policy = ready_policy(tiny_settings("E0"))
    policy.__class__ = Mixed
    zero = torch.zeros(len(batch["state"]), HORIZON, policy.actions.dim)
    torch.testing.assert_close(policy.sample(policy.prefix(batch)), zero)
    torch.testing.assert_close(policy.act(batch), policy.actions.undo(zero, batch["state"]))


def settings():
    tree = tiny_settings("my_research.Copy")
    del tree["init_args"]["expert"]
    return tree


def test_it_learns_and_is_evaluated(my_research, tmp_path):
    policy = ready_policy(settings())
    assert isinstance(policy, Policy)
    batch = next(iter(ChunkDataset().train_dataloader()))
    before = (policy.act(batch) - batch["actions"]).abs().mean()
    runner = trainer(tmp_path, max_steps=60, max_epochs=60, limit_val_batches=0)
    runner.fit(policy, datamodule=ChunkDataset())
    after = (policy.eval().act(batch) - batch["actions"]).abs().mean()
    assert after < 0.8 * before
    loader = DataLoader([Episodes([1, 2])], batch_size=None)
    (logged,) = trainer(tmp_path).test(policy, loader, verbose=False)
    assert logged["test/success"] == 1.0
