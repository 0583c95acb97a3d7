import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from e0_lightning.augment.orbit import OrbitWarp
from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.augment.viewpoint import ViewpointPerturbation, is_on_gripper
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.geometry import camera_matrix
from e0_lightning.types import PolicySpec

SIDE = 32
CAMERA = torch.from_numpy(camera_matrix(90.0, SIDE, SIDE))


def sample(views: tuple[str, ...] = ("base_camera", "hand_camera")) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(256, (3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return {"images": dict.fromkeys(views, image), "intrinsics": dict.fromkeys(views, CAMERA)}


def batch(size: int = 4, **changes: Any) -> dict[str, Any]:
    loaded = next(iter(DataLoader([sample()] * size, batch_size=size)))
    return {**loaded, **changes}


def perturbed(
    callback: ViewpointPerturbation,
    given: dict[str, Any],
    step: int = 0,
    index: int = 0,
    rank: int = 0,
) -> dict[str, Any]:
    trainer = SimpleNamespace(
        global_step=step, global_rank=rank, is_global_zero=rank == 0, loggers=[]
    )
    given = dict(given)
    callback.on_train_batch_start(trainer, None, given, index)
    return given


def test_the_written_offset_is_that_of_the_warp():
    given = batch()
    result = perturbed(ViewpointPerturbation(max_yaw=12, max_pitch=7), given)
    offset = result["view_offset"]["base_camera"]
    radial, yaw, pitch = offset.unbind(-1)
    assert (radial == 0).all()
    assert 0 < yaw.abs().max() <= math.radians(12)
    assert 0 < pitch.abs().max() <= math.radians(7)
    original, cameras = given["images"]["base_camera"], given["intrinsics"]["base_camera"]
    warped, _ = SphericalWarp().warp(original, yaw, pitch, cameras)
    assert torch.equal(result["images"]["base_camera"], warped)
    assert not torch.equal(warped, original)


def test_views_on_the_gripper_are_not_perturbed_by_default():
    given = batch()
    result = perturbed(ViewpointPerturbation(), given)
    assert torch.equal(result["images"]["hand_camera"], given["images"]["hand_camera"])
    assert torch.equal(result["view_offset"]["hand_camera"], torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("view", "on_gripper"),
    [
        ("hand_camera", True),
        ("eye_in_hand_rgb", True),
        ("cam_left_wrist", True),
        ("GripperCam", True),
        ("base_camera", False),
        ("agentview_rgb", False),
        ("overhead", False),
    ],
)
def test_views_on_the_gripper_are_recognized_by_name(view, on_gripper):
    assert is_on_gripper(view) is on_gripper


def test_only_named_views_are_perturbed():
    given = batch()
    result = perturbed(ViewpointPerturbation(views=["hand_camera"]), given)
    assert torch.equal(result["images"]["base_camera"], given["images"]["base_camera"])
    assert not torch.equal(result["images"]["hand_camera"], given["images"]["hand_camera"])


def test_the_original_images_are_not_modified():
    given = batch()
    before = given["images"]["base_camera"].clone()
    perturbed(ViewpointPerturbation(), given)
    assert torch.equal(given["images"]["base_camera"], before)


def test_angles_are_a_function_of_seed_step_batch_and_rank(monkeypatch):
    callback, given = ViewpointPerturbation(), batch()

    def offset(**position: int) -> torch.Tensor:
        torch.rand(7)  # angles do not depend on torch's generator
        return perturbed(callback, given, **position)["view_offset"]["base_camera"]

    first = offset(step=3, index=5)
    assert torch.equal(first, offset(step=3, index=5))
    for other in ({"step": 4, "index": 5}, {"step": 3, "index": 6}, {"step": 3, "rank": 1}):
        assert not torch.equal(first, offset(**other))
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert not torch.equal(first, offset(step=3, index=5))


def test_sampling_does_not_advance_the_global_generator():
    given = batch()
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    perturbed(ViewpointPerturbation(), given)
    assert torch.equal(torch.rand(3), expected)


def test_angles_of_a_view_do_not_depend_on_the_other_views():
    both = perturbed(ViewpointPerturbation(views=["hand_camera", "base_camera"]), batch())
    alone = perturbed(ViewpointPerturbation(), batch())
    offsets = both["view_offset"]
    assert not torch.equal(offsets["base_camera"], offsets["hand_camera"])
    assert torch.equal(offsets["base_camera"], alone["view_offset"]["base_camera"])


def test_probability_is_the_share_of_rotated_images():
    given = batch(400)
    result = perturbed(ViewpointPerturbation(probability=0.25), given)
    rotated = result["view_offset"]["base_camera"].any(dim=-1)
    assert 70 <= rotated.sum() <= 130
    same = (result["images"]["base_camera"] == given["images"]["base_camera"]).flatten(1).all(dim=1)
    assert torch.equal(same, ~rotated)


def test_offset_keep_prob_is_the_share_of_offsets_written():
    given = batch(size=400)
    reference = perturbed(ViewpointPerturbation(), given)
    result = perturbed(ViewpointPerturbation(offset_keep_prob=0.25), given)
    assert torch.equal(result["images"]["base_camera"], reference["images"]["base_camera"])
    written = result["view_offset"]["base_camera"].any(dim=-1)
    assert 0.2 < written.float().mean() < 0.3
    kept = reference["view_offset"]["base_camera"]
    assert torch.equal(result["view_offset"]["base_camera"][written], kept[written])


def test_relative_offsets_of_the_other_views_are_opposite():
    given = batch()
    plain, relative = (
        perturbed(ViewpointPerturbation(offset_keep_prob=0.5, relative=each), given)
        for each in (False, True)
    )
    own = plain["view_offset"]["base_camera"]
    assert own.any()
    assert torch.equal(relative["view_offset"]["base_camera"], own)
    assert torch.equal(relative["view_offset"]["hand_camera"], -own)
    assert torch.equal(relative["images"]["base_camera"], plain["images"]["base_camera"])


@pytest.mark.parametrize("views", [("base_camera",), ("left_camera", "right_camera")])
def test_relative_offsets_need_one_rotated_view_and_another(views):
    given = next(iter(DataLoader([sample(views)], batch_size=1)))
    with pytest.raises(ValueError, match="relative: expected one view to rotate and others"):
        perturbed(ViewpointPerturbation(relative=True), given)


def test_an_offset_of_the_batch_is_added_to():
    present = torch.full((4, 3), 0.5)
    given = batch(view_offset={"base_camera": present})
    result = perturbed(ViewpointPerturbation(), given)["view_offset"]
    without = perturbed(ViewpointPerturbation(), batch())["view_offset"]
    torch.testing.assert_close(result["base_camera"], without["base_camera"] + 0.5)


@pytest.mark.parametrize("fov", [90.0, {"base_camera": 90.0}])
def test_field_of_view_replaces_missing_intrinsics(fov):
    without = {key: value for key, value in batch().items() if key != "intrinsics"}
    result = perturbed(ViewpointPerturbation(fov=fov), without)
    expected = perturbed(ViewpointPerturbation(), batch())
    assert torch.equal(result["images"]["base_camera"], expected["images"]["base_camera"])


def test_intrinsics_of_the_batch_are_used_before_the_field_of_view():
    result = perturbed(ViewpointPerturbation(fov=30.0), batch())
    expected = perturbed(ViewpointPerturbation(), batch())
    assert torch.equal(result["images"]["base_camera"], expected["images"]["base_camera"])


@pytest.mark.parametrize("fov", [None, {"hand_camera": 60.0}])
def test_missing_intrinsics_and_field_of_view_name_both_remedies(fov):
    with pytest.raises(ValueError, match=r"'base_camera'.*store intrinsics, or set fov"):
        perturbed(ViewpointPerturbation(fov=fov), batch(intrinsics={}))


@pytest.mark.parametrize("side", [SIDE // 2, SIDE * 2])
def test_intrinsics_of_another_image_size_are_refused(side):
    cameras = torch.from_numpy(camera_matrix(90.0, side, side)).expand(4, 3, 3)
    with pytest.raises(
        ValueError, match=rf"'base_camera': expected .* images of {SIDE} x {SIDE} pixels"
    ):
        perturbed(ViewpointPerturbation(), batch(intrinsics={"base_camera": cameras}))


def test_data_with_views_on_the_gripper_only_are_refused():
    given = next(iter(DataLoader([sample(("wrist",))], batch_size=1)))
    with pytest.raises(ValueError, match=r"expected a third-person view, .*\['wrist'\]"):
        perturbed(ViewpointPerturbation(), given)


def test_a_view_that_the_batch_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"views among \['base_camera', .*got \['side'\]"):
        perturbed(ViewpointPerturbation(views=["side"]), batch())


def test_mirrored_views_are_refused():
    with pytest.raises(ValueError, match=r"cannot rotate \['side_mirrored'\], whose images are"):
        perturbed(ViewpointPerturbation(), next(iter(DataLoader([sample(("side_mirrored",))]))))


def test_a_batch_without_images_is_refused():
    with pytest.raises(ValueError, match="expected a batch that is a dict"):
        ViewpointPerturbation().on_train_batch_start(None, None, torch.zeros(2), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_yaw": 90.0}, "max_yaw: expected degrees"),
        ({"probability": 1.5}, "probability: expected a share"),
        ({"offset_keep_prob": -0.5}, "offset_keep_prob: expected a share"),
        ({"fov": 0.0}, "between 0 and 180"),
        ({"fov": {"base_camera": 200.0}}, "between 0 and 180"),
        ({"log_every_n_steps": 0}, "log_every_n_steps: expected at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ViewpointPerturbation(**settings)


class OffsetRecorder(LightningModule):
    """Stores the offsets of its training batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.offsets: list[torch.Tensor] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.offsets.append(batch["view_offset"]["base_camera"])
        return self.weight * batch["images"]["base_camera"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def trained(
    path: Any, steps: int, resume: Any = None, logger: Any = False
) -> tuple[Any, OffsetRecorder]:
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=logger,
        callbacks=[ViewpointPerturbation(log_every_n_steps=3)],
        default_root_dir=path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    recorder = OffsetRecorder()
    loader = DataLoader([sample()] * 12, batch_size=2)
    trainer.fit(recorder, loader, ckpt_path=resume, weights_only=True if resume else None)
    return trainer, recorder


def test_a_resumed_run_continues_with_the_same_angles(tmp_path):
    _, whole = trained(tmp_path, 9)
    stopped, start = trained(tmp_path, 4)
    stopped.save_checkpoint(tmp_path / "middle.ckpt")
    _, rest = trained(tmp_path, 9, resume=tmp_path / "middle.ckpt")
    assert len(whole.offsets) == 9
    assert torch.equal(torch.stack(whole.offsets), torch.stack(start.offsets + rest.offsets))
    assert len({offset.sum().item() for offset in whole.offsets}) == 9


def test_originals_and_warps_are_logged_to_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run")
    trained(tmp_path, 5, logger=[logger, CSVLogger(tmp_path, name="other")])
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Tags()["images"] == ["viewpoint/base_camera"]
    logged = events.Images("viewpoint/base_camera")
    assert [image.step for image in logged] == [0, 3]
    assert (logged[0].height, logged[0].width) == (2 * SIDE, 2 * SIDE)


def test_real_demonstrations_have_the_intrinsics_for_it(demos):
    data = RobotDemos(
        [str(demos)], ["base_camera"], ["qpos"], horizon=4, batch_size=2, num_workers=0
    )
    data.setup("fit")
    given = next(iter(data.train_dataloader()))
    result = perturbed(ViewpointPerturbation(), given)
    assert result["view_offset"]["base_camera"].shape == (2, 3)
    changed = result["images"]["base_camera"] != given["images"]["base_camera"]
    assert changed.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(
    ("settings", "views", "message"),
    [
        ({"views": ["side"]}, ["base_camera"], r"expected views among \['base_camera'\], got"),
        ({"fov": {"side": 60.0}}, ["base_camera"], r"got \['side'\]"),
        ({}, ["wrist"], "expected a third-person view"),
        ({"views": ["top_mirrored"]}, ["top_mirrored"], "cannot rotate"),
    ],
)
def test_views_are_checked_against_the_data_before_the_first_step(settings, views, message):
    spec = PolicySpec(dict.fromkeys(views, SIDE))
    trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=spec))
    with pytest.raises(ValueError, match=message):
        ViewpointPerturbation(**settings).on_fit_start(trainer, None)


def test_images_are_logged_to_any_logger_that_takes_them():
    logged = []
    wandb = SimpleNamespace(log_image=lambda key, images, step: logged.append((key, images, step)))
    trainer = SimpleNamespace(global_step=0, global_rank=0, is_global_zero=True, loggers=[wandb])
    ViewpointPerturbation().on_train_batch_start(trainer, None, batch(), 0)
    ((key, (image,), step),) = logged
    assert (key, image.shape, step) == ("viewpoint/base_camera", (2 * SIDE, 4 * SIDE, 3), 0)


def test_earlier_images_are_warped_like_the_current_one():
    given = batch()
    past = {view: images[:, None].repeat(1, 2, 1, 1, 1) for view, images in given["images"].items()}
    given["history"] = {"images": past, "state": torch.zeros(4, 2, 3)}
    result = perturbed(ViewpointPerturbation(), given)
    assert not result["images"]["base_camera"].equal(given["images"]["base_camera"])
    for view, images in result["images"].items():
        for step in range(2):
            assert result["history"]["images"][view][:, step].equal(images)
    assert given["history"]["images"] is past


def test_cameras_move_around_their_look_at_points_where_depth_is_known():
    callback = ViewpointPerturbation(max_yaw=10, max_pitch=10, max_radial=0.2)
    generator = torch.Generator().manual_seed(3)
    depth = torch.rand(4, SIDE, SIDE, generator=generator) + 0.5
    given = batch(depth={"base_camera": depth})
    result = perturbed(callback, given)
    offset = result["view_offset"]["base_camera"]
    assert (offset != 0).all()
    assert offset[:, 0].abs().max() <= 0.2
    original, cameras = given["images"]["base_camera"], given["intrinsics"]["base_camera"]
    warped, _ = OrbitWarp().warp(original, depth, offset, cameras)
    assert torch.equal(result["images"]["base_camera"], warped)
    assert torch.equal(result["images"]["hand_camera"], given["images"]["hand_camera"])


def test_cameras_that_are_not_displaced_keep_their_images_in_an_orbit():
    callback = ViewpointPerturbation(max_radial=0.2, probability=0.0)
    given = batch(depth={"base_camera": torch.zeros(4, SIDE, SIDE)})
    result = perturbed(callback, given)
    assert torch.equal(result["images"]["base_camera"], given["images"]["base_camera"])
    assert (result["view_offset"]["base_camera"] == 0).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"depth": {"base_camera": torch.ones(4, SIDE, SIDE)}, "history": {"images": {}}}],
    ids=["no depth", "history"],
)
def test_an_orbit_without_depth_or_with_a_history_is_refused(changes):
    with pytest.raises(ValueError, match=r"max_radial: expected the depth of view 'base_camera'"):
        perturbed(ViewpointPerturbation(max_radial=0.1), batch(**changes))
