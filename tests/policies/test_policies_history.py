"""Policies that observe several steps."""

import pytest
import torch
from torch.utils.data import DataLoader

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.types import History, PolicySpec
from tiny_policy import (
    SPEC,
    InMemoryDemos,
    act_seeded,
    make_batch,
    new_policy,
    quiet_trainer,
    tiny_settings,
)


def with_history(batch, seed=0):
    """The batch with two random observations before each of its own."""
    past = [make_batch(len(batch["state"]), seed=100 * seed + step) for step in (1, 2)]
    history = History(
        images={"base": torch.stack([each["images"]["base"] for each in past], dim=1)},
        state=torch.stack([each["state"] for each in past], dim=1),
    )
    return {**batch, "history": history}


class DemosWithHistory(InMemoryDemos):
    def __init__(self):
        super().__init__(PolicySpec(**(SPEC.as_dict() | {"n_obs_steps": 3})))

    def train_dataloader(self):
        return DataLoader([with_history(make_batch(seed=s), s) for s in range(4)], batch_size=None)

    val_dataloader = predict_dataloader = train_dataloader


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Trained for two steps, then loaded from its checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    trainer = quiet_trainer(folder, max_steps=2)
    trainer.fit(new_policy(tiny_settings()), datamodule=DemosWithHistory())
    trainer.save_checkpoint(folder / "last.ckpt")
    return load_policy(folder / "last.ckpt")


def test_the_number_of_steps_is_part_of_the_spec_in_the_checkpoint(policy):
    assert policy.spec.n_obs_steps == 3
    with pytest.raises(ValueError, match=r"n_obs_steps: the policy of .* has 3, the data has 1"):
        policy.fit_normalizers(InMemoryDemos())


def test_actions_depend_on_the_history_and_not_on_the_batch(policy):
    given = with_history(make_batch())
    actions = act_seeded(policy, given)
    assert not actions.equal(act_seeded(policy, with_history(make_batch(), seed=1)))
    history = {"images": {"base": given["history"]["images"]["base"][:1]}}
    history["state"] = given["history"]["state"][:1]
    first = {"images": {"base": given["images"]["base"][:1]}, "instruction": ["push the cube"]}
    alone = act_seeded(policy, {**first, "state": given["state"][:1], "history": history})
    assert alone.equal(actions[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"history: expected {'base': \(2, 3, 32, 32\), 'state': \(2, 5\)}, got none"),
        ({"images": {"base": torch.zeros(4, 1, 3, 32, 32)}}, r"got {'base': \(1, 3, 32, 32\)"),
        ({"state": torch.full((4, 2, 5), torch.nan)}, r"history.state: .* shape \(B, m, Q\)"),
        ({"state": torch.zeros(3, 2, 5)}, "expected one batch size B"),
        ({"images": {"base": torch.full((4, 2, 3, 32, 32), 7.0)}}, r"images\['history.base'\]"),
    ],
)
def test_another_history_is_refused(policy, change, message):
    given = with_history(make_batch())
    if change is None:
        del given["history"]
    else:
        given["history"] = given["history"] | change
    with pytest.raises(ValueError, match=message):
        policy.act(given)


def test_a_history_is_refused_by_a_policy_of_one_step():
    with pytest.raises(ValueError, match="history: expected none, got"):
        SPEC.check_observation(with_history(make_batch()))
