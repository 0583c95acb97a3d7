import pytest
import torch

from e0_lightning.networks.vision import (
    RelativeSphericalEmbedding,
    VisionEncoder,
    sine_cosine_grid,
)


@pytest.mark.parametrize(
    ("name", "stage", "tokens"),
    [("convnext_atto", 1, 64), ("test_resnet", None, 4), ("test_vit", None, 16)],
)
def test_any_timm_family_gives_tokens(name, stage, tokens):
    encoder = VisionEncoder(name, stage=stage, side=64)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    assert encoder(images).shape == (2, tokens, encoder.width)


def test_uint8_and_unit_floats_mean_the_same():
    encoder = VisionEncoder("test_vit", side=64)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder.prepare(images), encoder.prepare(images / 255))


def test_crop_takes_the_named_square_and_leaves_other_views_whole():
    encoder = VisionEncoder("test_vit", side=32, crop={"base": [16, 8, 32]})
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    inside = encoder.prepare(images[..., 16:48, 8:40], "wrist")
    torch.testing.assert_close(encoder.prepare(images, "base"), inside)


def test_crop_outside_the_frame_is_refused_with_its_size():
    encoder = VisionEncoder("test_vit", side=32, crop={"base": [40, 0, 32]})
    with pytest.raises(ValueError, match=r"leaves the frame of 64 pixels"):
        encoder.prepare(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "base")


def test_unknown_backbone_names_its_neighbours():
    with pytest.raises(ValueError, match=r"no model 'convnext_atomic'.*convnext_atto"):
        VisionEncoder("convnext_atomic")


def test_an_argument_of_another_family_is_named():
    with pytest.raises(ValueError, match=r"model_args.*'test_vit'.*'ls_init_value'.*leave out"):
        VisionEncoder("test_vit", model_args={"ls_init_value": 10})


def test_displacement_changes_nothing_at_the_start():
    embedding = RelativeSphericalEmbedding(8)
    assert torch.equal(embedding(torch.randn(4, 3)), torch.zeros(4, 8))


def test_cells_of_a_map_have_distinct_positions():
    grid = sine_cosine_grid(8, 8, 32).flatten(0, 1)
    distances = torch.cdist(grid, grid) + torch.eye(64) * 10
    assert distances.min() > 0.1


def test_a_stage_that_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"vision.stage: found 9, which 'convnext_atto' does not"):
        VisionEncoder("convnext_atto", stage=9, side=32)


def test_a_side_that_a_backbone_cannot_take_is_named():
    with pytest.raises(ValueError, match=r"vision.side: .*tiny.* takes no images of 64 pixels"):
        VisionEncoder("swin_tiny_patch4_window7_224", side=64)
