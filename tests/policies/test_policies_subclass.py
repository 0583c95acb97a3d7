"""A policy as a researcher would write it: 20 lines, and everything else comes along."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from e0_lightning import ActionExpert, ActionSpace, Batch, Policy, PrefixEncoder
from e0_lightning.networks.port import ActionPort
from e0_lightning.networks.prefix import Prefix
from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.types import Actor

from .conftest import CONTRACT, Episodes, Windows, make_batch, tiny_settings, trainer


class Gaussian(Policy):
    """Every action is normal, with a learnt mean and deviation."""

    def __init__(self, encoder: PrefixEncoder, expert: ActionExpert, actions: ActionSpace) -> None:
        super().__init__(encoder, actions)
        self.expert = expert
        self.port = ActionPort(nn.Identity(), actions.horizon, expert.width, 2 * actions.width)

    def predict(self, prefix: Prefix) -> torch.distributions.Normal:
        empty = torch.zeros(prefix.batch_size, 1, 1)
        tau = torch.zeros(prefix.batch_size)
        tokens = self.port.enter(empty.expand(-1, self.actions.horizon, self.expert.width))
        mean, deviation = self.port.leave(self.expert(tokens, tau, prefix)).chunk(2, dim=-1)
        return torch.distributions.Normal(mean, deviation.exp())

    def losses(self, batch: Batch, prefix: Prefix) -> dict[str, Tensor]:
        likelihood = self.predict(prefix).log_prob(batch["actions"])
        return {"surprise": -likelihood[self.actions.counted(batch["valid"])].mean()}

    def sample(self, prefix: Prefix) -> Tensor:
        return self.predict(prefix).sample()


def gaussian():
    settings = tiny_settings(f"{__name__}.Gaussian")
    del settings["init_args"]["optimization"]
    return build_policy(settings)


def test_it_trains_evaluates_and_acts(tmp_path):
    policy = gaussian()
    runner = trainer(tmp_path, max_steps=4)
    runner.fit(policy, datamodule=Windows())
    assert runner.callback_metrics["val/surprise"].isfinite()
    assert runner.callback_metrics["val/action_error"].isfinite()
    (logged,) = trainer(tmp_path).test(policy, DataLoader([Episodes([1, 2])], batch_size=None))
    assert "test/success" in logged
    assert isinstance(policy, Actor)
    assert policy.act(make_batch()).shape == (4, CONTRACT.horizon, CONTRACT.action_dim)
    assert policy.plan(make_batch()).uncertainty is None


def test_its_checkpoint_is_enough(tmp_path):
    policy = gaussian()
    runner = trainer(tmp_path, max_steps=2)
    runner.fit(policy, datamodule=Windows())
    runner.save_checkpoint(tmp_path / "last.ckpt")
    loaded = load_policy(tmp_path / "last.ckpt")
    assert isinstance(loaded, Gaussian)
    assert loaded.contract == CONTRACT
