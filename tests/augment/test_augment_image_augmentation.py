import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from e0_lightning.augment.image_augmentation import ImageAugmentation
from e0_lightning.augment.viewpoint import ViewpointPerturbation
from e0_lightning.geometry import camera_matrix
from e0_lightning.types import PolicySpec

SIZES = {"top": (36, 48), "wrist": (32, 20)}
JITTER = v2.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)
SHIFT = v2.RandomAffine(0, translate=(0.2, 0.2))


def batch(size: int = 6) -> dict[str, Any]:
    """The same image repeated, by view."""
    generator = torch.Generator().manual_seed(0)
    images = {
        view: torch.randint(256, (3, *shape), generator=generator, dtype=torch.uint8)
        for view, shape in SIZES.items()
    }
    return {"images": {view: image.repeat(size, 1, 1, 1) for view, image in images.items()}}


def augmented(
    callback: ImageAugmentation, given: dict[str, Any], step: int = 0, index: int = 0, rank: int = 0
) -> dict[str, Any]:
    given = dict(given)
    trainer = SimpleNamespace(global_step=step, global_rank=rank)
    callback.on_train_batch_start(trainer, None, given, index)
    return given


def number_of_distinct(images: torch.Tensor) -> int:
    return len(images.flatten(1).unique(dim=0))


@pytest.mark.parametrize("transforms", [[JITTER], [SHIFT], [SHIFT, JITTER]])
def test_each_image_of_each_view_is_transformed_on_its_own(transforms):
    given = batch()
    result = augmented(ImageAugmentation(transforms), given)
    for view, images in result["images"].items():
        assert images.shape == (6, 3, *SIZES[view])
        assert images.dtype == torch.uint8
        assert number_of_distinct(images) >= 4
        assert number_of_distinct(given["images"][view]) == 1


def test_an_image_is_transformed_as_by_torchvision():
    given = batch(2)
    result = augmented(ImageAugmentation([v2.RandomHorizontalFlip(p=1.0)], ["top"]), given)
    assert result["images"]["top"].equal(given["images"]["top"].flip(-1))
    assert result["images"]["wrist"].equal(given["images"]["wrist"])


def test_transforms_are_a_function_of_seed_step_batch_rank_and_view(monkeypatch):
    callback, given = ImageAugmentation([JITTER, SHIFT]), batch()

    def images(**position: int) -> torch.Tensor:
        torch.rand(7)  # they do not depend on the state of torch's generator
        return augmented(callback, given, **position)["images"]["top"]

    first = images(step=3, index=5)
    assert first.equal(images(step=3, index=5))
    for other in ({"step": 4, "index": 5}, {"step": 3, "index": 6}, {"step": 3, "rank": 1}):
        assert not first.equal(images(**other))
    only = augmented(ImageAugmentation([JITTER, SHIFT], ["top"]), given, step=3, index=5)
    assert first.equal(only["images"]["top"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert not first.equal(images(step=3, index=5))


def test_the_global_generator_is_left_as_it_is():
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    augmented(ImageAugmentation([JITTER]), batch())
    assert torch.rand(3).equal(expected)


def ramps(height: int, width: int, size: int) -> torch.Tensor:
    """Images whose first two channels are the column and row of each pixel's centre."""
    rows, columns = torch.meshgrid(
        torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
    )
    image = torch.stack([columns, rows, torch.ones(height, width)])
    return image.repeat(size, 1, 1, 1)


@pytest.mark.parametrize(
    "transform",
    [
        SHIFT,
        v2.RandomCrop((36, 48), padding=5),
        v2.RandomResizedCrop((36, 48), scale=(0.5, 0.9)),
        v2.RandomAffine(15, (0.1, 0.1), (0.8, 1.2), 5, interpolation=v2.InterpolationMode.BILINEAR),
        JITTER,
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_camera_matrices_follow_the_pixels(transform):
    """A point stays on the ray of the pixel at which the transformed image shows it."""
    matrix = torch.from_numpy(camera_matrix(60.0, 48, 48)).repeat(4, 1, 1)
    images = ramps(36, 48, 4)
    is_coloured = transform is JITTER
    given = {"images": {"top": images.byte() if is_coloured else images}}
    given["intrinsics"] = {"top": matrix}
    result = augmented(ImageAugmentation([transform]), given)
    moved, after = result["images"]["top"], result["intrinsics"]["top"]
    if is_coloured:
        assert after.allclose(matrix, atol=1e-4)
        return
    assert not after.allclose(matrix)
    rows, columns = slice(14, 22), slice(18, 30)
    targets = ramps(36, 48, 4)[..., rows, columns].flatten(2)
    sources = moved[..., rows, columns].flatten(2)
    assert sources[:, 2].allclose(torch.ones(()))
    predicted = after @ torch.linalg.inv(matrix) @ sources
    tolerance = 1e-3 if transform is not SHIFT else 1e-4
    torch.testing.assert_close(predicted, targets, atol=tolerance, rtol=0)
    assert given["intrinsics"]["top"].equal(matrix)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (v2.RandomHorizontalFlip(p=1.0), "'top', whose camera matrix .* got one that mirrors it"),
        (v2.RandomPerspective(p=1.0), "got one that bends it"),
        (v2.ElasticTransform(), "got one that bends it"),
    ],
)
def test_reflections_and_bends_of_a_known_camera_are_refused(transform, message):
    given = batch() | {"intrinsics": {"top": torch.eye(3).repeat(6, 1, 1)}}
    with pytest.raises(ValueError, match=message):
        augmented(ImageAugmentation([transform], ["top"]), given)


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (v2.CenterCrop(30), r"\(3, 30, 30\) torch.uint8"),
        (v2.ToDtype(torch.float32, scale=True), r"\(3, 36, 48\) torch.float32"),
    ],
)
@pytest.mark.parametrize("intrinsics", [{}, {"top": torch.eye(3).repeat(6, 1, 1)}])
def test_another_size_or_type_is_refused(transform, got, intrinsics):
    with pytest.raises(ValueError, match=rf"view 'top' as \(3, 36, 48\) torch.uint8, got {got}"):
        augmented(ImageAugmentation([transform]), batch() | {"intrinsics": intrinsics})


def test_views_are_checked_against_the_data_before_the_first_step():
    callback = ImageAugmentation([JITTER], ["side"])
    data = SimpleNamespace(spec=PolicySpec({"top": 32}))
    with pytest.raises(ValueError, match=r"expected views among \['top'\], got \['side'\]"):
        callback.on_fit_start(SimpleNamespace(callbacks=[callback], datamodule=data), None)


def test_it_follows_the_viewpoint_perturbation():
    callback, viewpoint = ImageAugmentation([JITTER]), ViewpointPerturbation()
    callback.on_fit_start(SimpleNamespace(callbacks=[viewpoint, callback]), None)
    with pytest.raises(ValueError, match="expected it after ViewpointPerturbation"):
        callback.on_fit_start(SimpleNamespace(callbacks=[callback, viewpoint]), None)


def test_a_rotated_view_is_shifted_after_its_rotation():
    """The offset is that of the recorded camera, and the matrix that of the shifted image."""
    matrix = torch.from_numpy(camera_matrix(60.0, 32, 32)).repeat(2, 1, 1)
    given = {"images": {"top": ramps(32, 32, 2)}, "intrinsics": {"top": matrix}}
    trainer = SimpleNamespace(global_step=0, global_rank=0, is_global_zero=False)
    ViewpointPerturbation(max_yaw=10, max_pitch=0).on_train_batch_start(trainer, None, given, 0)
    ImageAugmentation([SHIFT]).on_train_batch_start(trainer, None, given, 0)
    yaw = given["view_offset"]["top"][:, 1]
    assert 0 < yaw.abs().max() <= math.radians(10)
    shift = given["intrinsics"]["top"][:, :2, 2] - matrix[:, :2, 2]
    torch.testing.assert_close(shift, shift.round(), atol=1e-4, rtol=0)
    assert shift.abs().amax() > 0


@pytest.mark.parametrize("intrinsics", [{}, {"top": torch.eye(3).repeat(6, 1, 1)}])
def test_earlier_images_are_transformed_like_the_current_one(intrinsics):
    given = batch() | {"intrinsics": intrinsics}
    past = {view: images[:, None].repeat(1, 2, 1, 1, 1) for view, images in given["images"].items()}
    given["history"] = {"images": past, "state": torch.zeros(6, 2, 3)}
    result = augmented(ImageAugmentation([SHIFT, JITTER]), given)
    for view, images in result["images"].items():
        assert not images.equal(given["images"][view])
        for step in range(2):
            assert result["history"]["images"][view][:, step].equal(images)
    assert result["history"]["state"].equal(given["history"]["state"])
    assert given["history"]["images"]["top"].equal(past["top"])
