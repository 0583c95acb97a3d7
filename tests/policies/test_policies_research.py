"""A policy from outside of the package: trained by class path, evaluated, loaded and served."""

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

import e0_lightning
from e0_lightning import Policy, load_policy
from e0_lightning.cli import run
from e0_lightning.serving.server import Server
from e0_lightning.types import Actor
from tiny_policy import (
    DIM,
    HORIZON,
    SPEC,
    Episodes,
    InMemoryDemos,
    act_seeded,
    make_batch,
    new_policy,
    quiet_trainer,
    ready_policy,
    tiny_settings,
)

IMPORTS = """
from typing import Any
from torch import nn
from e0_lightning import ActionSpace, Policy, PrefixEncoder
from e0_lightning.types import ActionSample
"""

COPY = """
class Copy(Policy):
    '''Predict the chunk from the prefix's last value vector.'''

    def __init__(self, encoder: PrefixEncoder, actions: ActionSpace, **common: Any) -> None:
        super().__init__(encoder, actions, **common)
        language = encoder.language
        size = language.kv_heads * language.head_dim
        self.head = nn.Linear(size, actions.horizon * actions.width)

    def losses(self, batch, prefix):
        error = (self.sample(prefix).actions - batch["actions"]).abs().mean(-1)
        return {"l1": error[batch["valid"]].mean()}

    def sample(self, prefix, action_prefix=None):
        self.refuse_action_prefix(action_prefix)
        chunk = self.head(prefix.values[-1][:, :, -1].flatten(1))
        return ActionSample(chunk.view(-1, self.actions.horizon, self.actions.width))
"""


def readme_policy():
    """Code of the README's own policy; None in a README without one."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    section = readme.partition("## Your own policy")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return next((block for block in blocks if "class Copy" in block), None)


@pytest.fixture(params=["test", "README"])
def my_research(request, tmp_path, monkeypatch):
    """A researcher's module, which can be imported."""
    code = COPY if request.param == "test" else readme_policy()
    if code is None:
        pytest.skip("the README shows no policy")
    assert len((IMPORTS + code).strip().splitlines()) <= 25
    (tmp_path / "my_research.py").write_text(IMPORTS + code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_research", raising=False)
    import my_research

    yield my_research
    sys.modules.pop("my_research", None)


def settings():
    tree = tiny_settings("my_research.Copy")
    del tree["init_args"]["expert"]
    return tree


@pytest.fixture
def checkpoint(my_research, tmp_path):
    """Checkpoint of a run of the `lightning` command that names the policy by class path."""
    config = {
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(tmp_path),
        },
        "data": {"class_path": "tiny_policy.InMemoryDemos"},
        "model": settings(),
    }
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(config))
    finished = run(["fit", "--config", str(tmp_path / "copy.yaml")])
    assert type(finished.model) is my_research.Copy
    assert finished.trainer.callback_metrics["train/loss"].isfinite()
    assert "train/l1" not in finished.trainer.callback_metrics
    path = tmp_path / "last.ckpt"
    finished.trainer.save_checkpoint(path)
    return path


def infer(policy, request):
    """Actions that an openpi client gets from a server of the policy."""
    openpi = pytest.importorskip("openpi_client.websocket_client_policy", reason="no openpi-client")
    replies = []

    async def serve():
        server, loop = Server(policy), asyncio.get_running_loop()

        def send(port):
            try:
                replies.append(openpi.WebsocketClientPolicy("127.0.0.1", port).infer(request))
            finally:
                loop.call_soon_threadsafe(server.stop)

        await server.run("127.0.0.1", 0, lambda port: loop.run_in_executor(None, send, port))

    asyncio.run(serve())
    return replies[0]["actions"]


def test_it_trains_by_class_path_and_its_checkpoint_is_served(checkpoint):
    with pytest.raises(ValueError, match=r"my_research\.Copy, which is not imported"):
        load_policy(checkpoint)
    policy = load_policy(checkpoint, trust=["my_research"])
    assert policy.spec == SPEC
    assert isinstance(policy, Actor)
    request = {
        "images": {v: np.zeros((s.height, s.width, 3), np.uint8) for v, s in SPEC.views.items()},
        "state": {part: np.zeros(size, np.float32) for part, size in SPEC.state.items()},
        "prompt": "push the cube",
    }
    actions = infer(policy, request)
    assert actions.shape == (HORIZON, DIM)
    assert np.isfinite(actions).all()


def test_it_learns_and_is_evaluated(my_research, tmp_path):
    policy = ready_policy(settings())
    assert isinstance(policy, Policy)
    batch = make_batch()
    before = (policy.act(batch) - batch["actions"]).abs().mean()
    trainer = quiet_trainer(tmp_path, max_steps=60, max_epochs=60, limit_val_batches=0)
    trainer.fit(policy, datamodule=InMemoryDemos())
    after = (policy.eval().act(batch) - batch["actions"]).abs().mean()
    assert after < 0.8 * before
    loader = DataLoader([Episodes([1, 2])], batch_size=None)
    (logged,) = quiet_trainer(tmp_path).test(policy, loader, verbose=False)
    assert logged["test/success_rate"] == 1.0


class Still:
    """A mixin that samples the middle of the action range."""

    def sample(self, prefix, action_prefix=None):
        sample = super().sample(prefix, action_prefix)
        return sample._replace(actions=sample.actions * 0)


@pytest.mark.parametrize(
    "parent", ["E0", "E0Hybrid", "FlowMatching", "MaskedDiffusion", "Autoregressive", "Regression"]
)
def test_a_subclass_or_mixin_that_overrides_sample_acts_by_it(parent, batch):
    policy = ready_policy(tiny_settings(parent))
    base = type(policy)
    expected = policy.actions.undo(torch.zeros(4, HORIZON, DIM), batch["state"])
    policy.__class__ = type("Mixed", (Still, base), {})
    torch.testing.assert_close(act_seeded(policy, batch), expected)


def test_every_policy_of_the_package_has_one_sampling_hook():
    for name in ("E0", "E0Hybrid", "FlowMatching", "MaskedDiffusion", "Autoregressive"):
        assert not hasattr(getattr(e0_lightning, name), "draw")
    assert "__init_subclass__" not in vars(Policy)
    assert new_policy(tiny_settings("Regression")).generator is None
