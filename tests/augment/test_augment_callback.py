import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from e0_lightning.augment.homography import intrinsics_from_fov
from e0_lightning.augment.spherical_warp import SphericalWarp
from e0_lightning.augment.viewpoint import ViewpointPerturbation, is_on_gripper
from e0_lightning.data.datamodule import RobotDemos

SIDE = 32
CAMERA = intrinsics_from_fov(90.0, SIDE)


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


def test_offset_written_is_the_warp_applied():
    given = batch()
    found = perturbed(ViewpointPerturbation(max_yaw=12, max_pitch=7), given)
    offset = found["view_offset"]["base_camera"]
    radial, yaw, pitch = offset.unbind(-1)
    assert (radial == 0).all()
    assert 0 < yaw.abs().max() <= math.radians(12)
    assert 0 < pitch.abs().max() <= math.radians(7)
    original, cameras = given["images"]["base_camera"], given["intrinsics"]["base_camera"]
    warped, _ = SphericalWarp().warp(original, yaw, pitch, cameras)
    assert torch.equal(found["images"]["base_camera"], warped)
    assert not torch.equal(warped, original)


def test_cameras_on_the_hand_are_left_alone():
    given = batch()
    found = perturbed(ViewpointPerturbation(), given)
    assert torch.equal(found["images"]["hand_camera"], given["images"]["hand_camera"])
    assert torch.equal(found["view_offset"]["hand_camera"], torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("view", "answer"),
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
def test_cameras_on_the_hand_are_known_by_name(view, answer):
    assert is_on_gripper(view) is answer


def test_named_views_are_the_ones_perturbed():
    given = batch()
    found = perturbed(ViewpointPerturbation(views=["hand_camera"]), given)
    assert torch.equal(found["images"]["base_camera"], given["images"]["base_camera"])
    assert not torch.equal(found["images"]["hand_camera"], given["images"]["hand_camera"])


def test_the_images_given_stay_as_they_were():
    given = batch()
    before = given["images"]["base_camera"].clone()
    perturbed(ViewpointPerturbation(), given)
    assert torch.equal(given["images"]["base_camera"], before)


def test_draws_are_a_function_of_seed_step_batch_and_rank(monkeypatch):
    callback, given = ViewpointPerturbation(), batch()

    def offset(**place: int) -> torch.Tensor:
        torch.rand(7)  # the running state of torch's generator has no say
        return perturbed(callback, given, **place)["view_offset"]["base_camera"]

    first = offset(step=3, index=5)
    assert torch.equal(first, offset(step=3, index=5))
    for elsewhere in ({"step": 4, "index": 5}, {"step": 3, "index": 6}, {"step": 3, "rank": 1}):
        assert not torch.equal(first, offset(**elsewhere))
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    assert not torch.equal(first, offset(step=3, index=5))


def test_drawing_leaves_the_generator_of_torch_alone():
    given = batch()
    torch.manual_seed(2)
    wanted = torch.rand(3)
    torch.manual_seed(2)
    perturbed(ViewpointPerturbation(), given)
    assert torch.equal(torch.rand(3), wanted)


def test_views_turn_on_their_own_and_whatever_the_others_do():
    both = perturbed(ViewpointPerturbation(views=["hand_camera", "base_camera"]), batch())
    alone = perturbed(ViewpointPerturbation(), batch())
    offsets = both["view_offset"]
    assert not torch.equal(offsets["base_camera"], offsets["hand_camera"])
    assert torch.equal(offsets["base_camera"], alone["view_offset"]["base_camera"])


def test_probability_is_the_share_of_images_turned():
    given = batch(400)
    found = perturbed(ViewpointPerturbation(probability=0.25), given)
    turned = found["view_offset"]["base_camera"].any(dim=-1)
    assert 70 <= turned.sum() <= 130
    same = (found["images"]["base_camera"] == given["images"]["base_camera"]).flatten(1).all(dim=1)
    assert torch.equal(same, ~turned)


def test_told_is_the_share_of_turns_whose_offset_is_written():
    given = batch(size=400)
    told = perturbed(ViewpointPerturbation(), given)
    found = perturbed(ViewpointPerturbation(told=0.25), given)
    assert torch.equal(found["images"]["base_camera"], told["images"]["base_camera"])
    written = found["view_offset"]["base_camera"].any(dim=-1)
    assert 0.2 < written.float().mean() < 0.3
    kept = told["view_offset"]["base_camera"]
    assert torch.equal(found["view_offset"]["base_camera"][written], kept[written])


def test_an_offset_the_batch_brings_is_added_to():
    brought = torch.full((4, 3), 0.5)
    given = batch(view_offset={"base_camera": brought})
    found = perturbed(ViewpointPerturbation(), given)["view_offset"]
    without = perturbed(ViewpointPerturbation(), batch())["view_offset"]
    torch.testing.assert_close(found["base_camera"], without["base_camera"] + 0.5)


@pytest.mark.parametrize("fov", [90.0, {"base_camera": 90.0}])
def test_field_of_view_stands_in_for_missing_intrinsics(fov):
    without = {key: value for key, value in batch().items() if key != "intrinsics"}
    found = perturbed(ViewpointPerturbation(fov=fov), without)
    wanted = perturbed(ViewpointPerturbation(), batch())
    assert torch.equal(found["images"]["base_camera"], wanted["images"]["base_camera"])


def test_intrinsics_of_the_batch_come_before_the_field_of_view():
    found = perturbed(ViewpointPerturbation(fov=30.0), batch())
    wanted = perturbed(ViewpointPerturbation(), batch())
    assert torch.equal(found["images"]["base_camera"], wanted["images"]["base_camera"])


@pytest.mark.parametrize("fov", [None, {"other": 60.0}])
def test_no_intrinsics_and_no_field_of_view_says_both_ways_out(fov):
    with pytest.raises(ValueError, match=r"'base_camera'.*store intrinsics, or set fov"):
        perturbed(ViewpointPerturbation(fov=fov), batch(intrinsics={}))


@pytest.mark.parametrize("side", [SIDE // 2, SIDE * 2])
def test_intrinsics_of_another_image_size_are_refused(side):
    cameras = intrinsics_from_fov(90.0, side).expand(4, 3, 3)
    with pytest.raises(ValueError, match=rf"'base_camera' do not fit .* side of {SIDE} pixels"):
        perturbed(ViewpointPerturbation(), batch(intrinsics={"base_camera": cameras}))


def test_only_cameras_on_the_hand_is_refused():
    given = next(iter(DataLoader([sample(("wrist",))], batch_size=1)))
    with pytest.raises(ValueError, match=r"No view to perturb: the batch has \['wrist'\]"):
        perturbed(ViewpointPerturbation(), given)


def test_a_view_the_data_lacks_is_refused():
    with pytest.raises(ValueError, match=r"names \['side'\], the batch has \['base_camera'"):
        perturbed(ViewpointPerturbation(views=["side"]), batch())


def test_mirrored_views_are_refused():
    with pytest.raises(ValueError, match=r"cannot turn \['side_mirrored'\], whose images are"):
        perturbed(ViewpointPerturbation(), next(iter(DataLoader([sample(("side_mirrored",))]))))


def test_a_batch_without_images_is_refused():
    with pytest.raises(ValueError, match="needs batches that are dicts"):
        ViewpointPerturbation().on_train_batch_start(None, None, torch.zeros(2), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_yaw": 90.0}, "max_yaw is 90"),
        ({"probability": 1.5}, "probability is 1.5"),
        ({"told": -0.5}, "told is -0.5"),
        ({"fov": 0.0}, "between 0 and 180"),
        ({"fov": {"base_camera": 200.0}}, "between 0 and 180"),
        ({"log_every_n_steps": 0}, "starts at 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ViewpointPerturbation(**settings)


class Witness(LightningModule):
    """Keeps the offsets its training steps are given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        self.seen.append(batch["view_offset"]["base_camera"])
        return self.weight * batch["images"]["base_camera"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def trained(path: Any, steps: int, resume: Any = None, logger: Any = False) -> tuple[Any, Witness]:
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
    witness = Witness()
    loader = DataLoader([sample()] * 12, batch_size=2)
    trainer.fit(witness, loader, ckpt_path=resume, weights_only=True if resume else None)
    return trainer, witness


def test_a_resumed_run_goes_on_with_the_same_turns(tmp_path):
    _, whole = trained(tmp_path, 9)
    stopped, start = trained(tmp_path, 4)
    stopped.save_checkpoint(tmp_path / "middle.ckpt")
    _, rest = trained(tmp_path, 9, resume=tmp_path / "middle.ckpt")
    assert len(whole.seen) == 9
    assert torch.equal(torch.stack(whole.seen), torch.stack(start.seen + rest.seen))
    assert len({offset.sum().item() for offset in whole.seen}) == 9


def test_originals_above_their_warps_go_to_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run")
    trained(tmp_path, 5, logger=[logger, CSVLogger(tmp_path, name="other")])
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Tags()["images"] == ["viewpoint/base_camera"]
    shown = events.Images("viewpoint/base_camera")
    assert [image.step for image in shown] == [0, 3]
    assert (shown[0].height, shown[0].width) == (2 * SIDE, 2 * SIDE)


def test_real_demonstrations_bring_the_intrinsics_it_takes(demos):
    data = RobotDemos(
        [str(demos)], ["base_camera"], ["qpos"], horizon=4, batch_size=2, num_workers=0
    )
    data.setup("fit")
    given = next(iter(data.train_dataloader()))
    found = perturbed(ViewpointPerturbation(), given)
    assert found["view_offset"]["base_camera"].shape == (2, 3)
    changed = found["images"]["base_camera"] != given["images"]["base_camera"]
    assert changed.flatten(1).any(dim=1).all()
