"""Policies of the state alone, and policies of a mixture in which some samples lack a camera."""

import pytest
import torch
from torch.utils.data import DataLoader

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.types import PolicySpec
from tiny_policy import (
    SPEC,
    InMemoryDemos,
    act_seeded,
    make_batch,
    new_policy,
    quiet_trainer,
    tiny_settings,
)


def change(batch, views):
    """The batch with these views; half of the rows lack a wrist camera."""
    images = dict.fromkeys(views, batch["images"]["base"])
    if "wrist" not in views:
        return {**batch, "images": images}
    is_known = torch.tensor([False, True, False, True])
    images["wrist"] = images["wrist"] * is_known.view(4, 1, 1, 1)
    return {**batch, "images": images, "image_mask": {"wrist": is_known}}


class Demos(InMemoryDemos):
    def __init__(self, *views):
        super().__init__(PolicySpec(**(SPEC.as_dict() | {"views": dict.fromkeys(views, 32)})))

    def train_dataloader(self):
        batches = [change(make_batch(seed=seed), self.spec.views) for seed in range(4)]
        return DataLoader(batches, batch_size=None)

    val_dataloader = predict_dataloader = train_dataloader


def trained(folder, *views):
    """Trained for two steps, then loaded from its checkpoint."""
    settings = tiny_settings()
    if not views:
        settings["init_args"]["encoder"] = settings["init_args"]["encoder"] | {"vision": None}
    trainer = quiet_trainer(folder, max_steps=2)
    trainer.fit(new_policy(settings), datamodule=Demos(*views))
    trainer.save_checkpoint(folder / "last.ckpt")
    return load_policy(folder / "last.ckpt")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("mixed"), "base", "wrist")


def test_a_policy_of_the_state_alone_acts_from_its_checkpoint(tmp_path):
    policy, batch = trained(tmp_path), change(make_batch(), [])
    actions = act_seeded(policy, batch)
    assert actions.shape == batch["actions"].shape
    assert not actions.equal(act_seeded(policy, {**batch, "state": -batch["state"]}))
    assert not any("vision" in name for name, _ in policy.named_parameters())
    with pytest.raises(ValueError, match=r"images: expected {}, got {'base'"):
        policy.act(make_batch())


def test_images_of_a_missing_camera_do_not_matter(mixed):
    batch = change(make_batch(), ["base", "wrist"])
    expected = act_seeded(mixed, batch)
    other = {**batch, "images": {**batch["images"], "wrist": 255 - batch["images"]["wrist"]}}
    is_known = batch["image_mask"]["wrist"]
    assert act_seeded(mixed, other)[~is_known].equal(expected[~is_known])
    assert not act_seeded(mixed, other)[is_known].equal(expected[is_known])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"side": torch.ones(4, dtype=torch.bool)}, r"image_mask\['side'\]: .*\['base', 'wrist'\]"),
        ({"wrist": torch.ones(4)}, r"image_mask\['wrist'\]: expected bool .*got torch.float32"),
        ({"wrist": torch.ones(3, dtype=torch.bool)}, "expected one batch size B"),
    ],
)
def test_another_mask_is_refused(mixed, mask, message):
    batch = change(make_batch(), ["base", "wrist"])
    with pytest.raises(ValueError, match=message):
        mixed.act({**batch, "image_mask": mask})
