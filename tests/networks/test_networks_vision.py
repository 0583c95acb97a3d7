import pytest
import torch

from e0_lightning.networks.vision import (
    RelativeSphericalEmbedding,
    VisionEncoder,
)


@pytest.mark.parametrize(
    ("name", "stage", "tokens"),
    [("convnext_atto", 1, 64), ("test_resnet", None, 4), ("test_vit", None, 16)],
)
def test_timm_families_give_tokens(name, stage, tokens):
    encoder = VisionEncoder(name, stage=stage, size=64)
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    assert encoder(images).shape == (2, tokens, encoder.width)


def test_uint8_and_float_images_are_equivalent():
    encoder = VisionEncoder("test_vit", size=64)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(encoder.prepare(images), encoder.prepare(images / 255))


def test_a_crop_applies_to_its_view_only():
    encoder = VisionEncoder("test_vit", size=32, crop={"base": [16, 8, 32]})
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    inside = encoder.prepare(images[..., 16:48, 8:40], "wrist")
    torch.testing.assert_close(encoder.prepare(images, "base"), inside)


def test_a_crop_outside_of_the_image_is_refused():
    encoder = VisionEncoder("test_vit", size=32, crop={"base": [40, 0, 32]})
    with pytest.raises(ValueError, match="inside the image of 64 x 64 pixels"):
        encoder.prepare(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "base")


def test_an_unknown_backbone_is_refused_with_similar_names():
    with pytest.raises(ValueError, match=r"got 'convnext_atomic'.*convnext_atto"):
        VisionEncoder("convnext_atomic")


def test_an_argument_of_another_family_is_refused():
    with pytest.raises(ValueError, match=r"model_args: .*'test_vit'.*'ls_init_value'.*leave out"):
        VisionEncoder("test_vit", model_args={"ls_init_value": 10})


def test_the_displacement_embedding_is_zero_at_initialization():
    embedding = RelativeSphericalEmbedding(8)
    assert torch.equal(embedding(torch.randn(4, 3)), torch.zeros(4, 8))


def test_an_unknown_stage_is_refused():
    with pytest.raises(
        ValueError, match=r"vision.stage: expected a stage of 'convnext_atto' .*, got 9"
    ):
        VisionEncoder("convnext_atto", stage=9, size=32)


def test_an_image_side_that_does_not_fit_the_backbone_is_refused():
    with pytest.raises(
        ValueError, match=r"vision.size: expected .*tiny.* accepts, got 64 x 64 pixels"
    ):
        VisionEncoder("swin_tiny_patch4_window7_224", size=64)
