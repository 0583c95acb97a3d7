"""A reader of one's own, from outside of the package."""

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.base import DemoReader
from e0_lightning.data.sources import DemoSource
from e0_lightning.types import ViewSize


class NumpyReader(DemoReader):
    """Demonstrations in an ``.npz`` file."""

    control_mode = "joint_position"

    def lengths(self):
        return {"first": 5, "second": 7}

    def read_actions(self, demo, start, stop):
        return np.load(self.path)["actions"][start:stop]

    def read_states(self, demo, start, stop):
        joints = np.arange(start, stop)[:, None] * np.ones(2)
        return {"unused": joints, "joints": joints, "gripper": joints[:, 0]}

    def read_images(self, demo, start, stop):
        return {"top": np.full((stop - start, 8, 8, 3), 7, np.uint8)}

    def read_instruction(self, demo):
        return f"do the {demo} task"


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "demos.npz", actions=np.arange(14.0).reshape(7, 2))
    return str(tmp_path / "demos.npz")


def test_a_reader_needs_four_methods(path):
    demos = RobotDemos(
        [DemoSource(path, reader=NumpyReader)], ["top"], ["gripper", "joints"], 3, num_workers=0
    )
    demos.setup("fit")
    assert demos.spec.state == {"gripper": 1, "joints": 2}
    assert (demos.spec.views, demos.spec.action_dim) == ({"top": ViewSize(8, 8)}, 2)
    assert demos.spec.control_mode == "joint_position"
    assert demos.instructions == ["do the first task", "do the second task"]
    batch = next(iter(demos.predict_dataloader()))
    assert batch["images"]["top"].shape[1:] == (3, 8, 8)
    assert torch.equal(batch["state"], batch["step"][:, None].float().expand(-1, 3))


def test_a_reader_is_named_by_class_path_in_yaml(path):
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    reader = f"{NumpyReader.__module__}.NumpyReader"
    config = parser.parse_string(f"""
data:
  class_path: e0_lightning.data.datamodule.RobotDemos
  init_args:
    demos: [{{path: {path}, reader: {reader}}}]
    views: [top]
    state: [joints]
    horizon: 3
    num_workers: 0
""")
    module = parser.instantiate_classes(config).data
    module.setup("fit")
    assert {demo.reader.format for demo in module.datasets[0].demos} == {"custom"}
    assert reader in parser.dump(config)


@pytest.mark.parametrize(
    ("views", "state", "message"),
    [(["side"], ["joints"], "expected a view 'side', got top"), (["top"], ["pose"], "part 'pose'")],
)
def test_views_and_state_parts_that_a_reader_does_not_return_are_named(path, views, state, message):
    with pytest.raises(ValueError, match=message):
        _ = NumpyReader(path, views, state).spec


def test_wrong_images_of_a_reader_are_refused(path, monkeypatch):
    reader = NumpyReader(path, ["top"], [])
    assert reader.spec.views == {"top": ViewSize(8, 8)}
    monkeypatch.setattr(
        NumpyReader, "read_images", lambda *_: {"top": np.zeros((1, 8, 8, 3), np.float32)}
    )
    with pytest.raises(ValueError, match=r"view 'top': expected .* of uint8, got .* of float32"):
        reader.images("first", 0, 1)
