"""Mixtures in which some files lack a camera."""

import h5py
import numpy as np
import pytest
import torch
from test_data_datamodule import demos

from e0_lightning.augment.viewpoint import ViewpointPerturbation
from e0_lightning.types import ViewSize

WITHOUT = r"few\.h5 has no view 'wrist' \(1 of 2 files have none\)"


@pytest.fixture
def mixture(record):
    """A file with the camera `cam`, and one with a camera `wrist` of 6 x 10 pixels beside it."""
    few, both = record("few.h5", steps=(7,)), record("both.h5", steps=(12, 5), first=1)
    with h5py.File(both, "a") as file:
        for demo in file.values():
            steps = len(demo["obs/sensor_data/cam/rgb"])
            pixels = np.full((steps, 6, 10, 3), 200, np.uint8)
            demo["obs/sensor_data/wrist/rgb"] = pixels
            matrix = np.tile([[9.0, 0, 5], [0, 9, 3], [0, 0, 1]], (steps, 1, 1))
            demo["obs/sensor_param/wrist/intrinsic_cv"] = matrix
    return few, both


def read(mixture, **options):
    """All samples, in order."""
    module = demos(*mixture, **{"views": ["wrist", "cam"], "val_fraction": 0, **options})
    with pytest.warns(UserWarning, match=WITHOUT):
        dataset = module.datasets[0]
    return module, dataset.__getitems__(range(len(dataset)))


def test_images_of_a_camera_that_a_file_lacks_are_black_and_masked(mixture):
    module, batch = read(mixture)
    assert list(module.spec.views) == ["wrist", "cam"]
    assert module.spec.views["wrist"] == ViewSize(6, 10)
    assert batch["images"]["wrist"].shape == (24, 3, 6, 10)
    assert batch["images"]["wrist"][:, 0, 0, 0].tolist() == [0] * 7 + [200] * 17
    assert batch["image_mask"]["wrist"].tolist() == [False] * 7 + [True] * 17
    assert batch["image_mask"]["cam"].all()
    module.spec.check_observation(batch)


def test_the_order_of_the_files_does_not_matter(mixture):
    module, _ = read(mixture)
    other, batch = read(mixture[::-1])
    assert other.spec == module.spec
    assert batch["image_mask"]["wrist"].tolist() == [True] * 17 + [False] * 7


def test_other_files_keep_their_camera_matrix(mixture):
    _, batch = read(mixture)
    assert batch["intrinsics"]["wrist"][7:, 0].unique(dim=0).tolist() == [[9, 0, 5]]
    # A matrix of black images, which a warp may turn.
    assert batch["intrinsics"]["wrist"][0, :, 2].tolist() == [5, 3, 1]
    warped = ViewpointPerturbation(views=["wrist"]).warp.warp(
        batch["images"]["wrist"], torch.ones(24), torch.ones(24), batch["intrinsics"]["wrist"]
    )[0]
    assert warped[:7].eq(0).all()


def test_actions_and_states_of_all_files_are_used(mixture):
    module, _ = read(mixture)
    whole = demos(*mixture, val_fraction=0)
    for found, expected in zip(module.action_chunks(), whole.action_chunks(), strict=True):
        assert all(map(torch.equal, found, expected))


def test_the_history_of_a_missing_camera_is_black(mixture):
    module, batch = read(mixture, n_obs_steps=3)
    module.spec.check_observation(batch)
    assert batch["history"]["images"]["wrist"][:7].eq(0).all()
    assert batch["history"]["images"]["wrist"][7:].eq(200).all()


def test_a_size_of_the_images_holds_for_files_without_the_camera(mixture):
    _, batch = read(mixture, views={"wrist": ViewSize(4, 4), "cam": None})
    assert batch["images"]["wrist"].shape == (24, 3, 4, 4)


def test_without_a_missing_camera_there_is_no_mask(mixture):
    module = demos(*mixture, val_fraction=0)
    assert "image_mask" not in module.datasets[0][0]


def test_a_camera_that_no_file_has_is_refused(mixture):
    with pytest.raises(ValueError, match=r"some of the 2 files have, got 'wrst'; .*few.h5 has cam"):
        _ = demos(*mixture, views=["cam", "wrst"]).spec


def test_a_camera_that_the_only_file_lacks_is_refused(mixture):
    with pytest.raises(ValueError, match="wrist"):
        _ = demos(mixture[0], views=["cam", "wrist"]).spec


def test_a_camera_of_another_size_is_refused(record):
    files = record("a.h5", side=8), record("b.h5", side=6, first=3)
    with pytest.raises(ValueError, match=r"views: .*a\.h5 has .*8 x 8 px.*b\.h5 has .*6 x 6 px"):
        _ = demos(*files).spec


def test_a_damaged_file_is_not_taken_for_one_without_the_camera(mixture):
    with h5py.File(mixture[1], "a") as file:
        del file["traj_1/actions"]
    with pytest.raises(ValueError, match=r"both\.h5.*actions"):
        _ = demos(*mixture).spec
