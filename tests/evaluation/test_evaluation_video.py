from pathlib import Path

import numpy as np
import pytest

from e0_lightning.evaluation.report.video import (
    Video,
    encode_gif,
    log_video,
    representative_videos,
    video_file,
)

needs_ffmpeg = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("imageio_ffmpeg"),
    reason="videos need imageio[ffmpeg]",
)


def record(path, frames, size=32):
    """A video of a bright square that moves over noise."""
    video, generator = Video(path), np.random.default_rng(0)
    background = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
    for step in range(frames):
        frame = background.copy()
        frame[step % size : step % size + size // 8, : size // 8] = 255
        video.add(frame)
    return Path(video.finish("success"))


@needs_ffmpeg
def test_large_frames_are_downscaled(tmp_path):
    import imageio.v2 as imageio

    with imageio.get_reader(record(tmp_path / "push.mp4", 3, size=512)) as reader:
        assert reader.get_data(0).shape == (256, 256, 3)


@needs_ffmpeg
def test_tensorboard_shows_a_small_animation(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = record(tmp_path / "push.mp4", 300, size=256)
    logger = TensorBoardLogger(tmp_path / "log")
    log_video([logger], "val/push/success", path, 7)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    (event,) = events.Images("val/push/success")
    gif = event.encoded_image_string
    assert event.step == 7
    assert gif.startswith(b"GIF89a")
    assert gif.count(b"\x21\xf9\x04") >= 50  # a control block for each frame
    assert len(gif) < 300_000


@needs_ffmpeg
def test_an_animation_has_the_duration_of_its_video(tmp_path):
    import io

    from PIL import Image

    gif, size = encode_gif(record(tmp_path / "push.mp4", 300, size=256))
    assert size == (128, 128)
    with Image.open(io.BytesIO(gif)) as image:
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(15_000, rel=0.05)  # 300 frames at 20 Hz


def test_representative_videos_are_the_first_success_and_the_first_failure(tmp_path):
    for n in range(4):
        (tmp_path / f"{n}.mp4").touch()
    outcomes = [True, True, False, False, False]
    episodes = [
        {"task": "push", "success": success, "seed": n, "video": f"{n}.mp4"}
        for n, success in enumerate(outcomes)
    ]
    chosen = representative_videos(
        tmp_path, [{**episodes[4], "task": "pull"}, *episodes, {**episodes[0], "video": None}]
    )
    assert {name: episode["seed"] for name, episode in chosen.items()} == {
        ("push", "failure"): 2,
        ("push", "success"): 0,
    }


def test_only_videos_inside_the_folder_of_the_report_are_read(tmp_path):
    report = tmp_path / "report"
    (report / "videos").mkdir(parents=True)
    for path in (tmp_path / "secret.mp4", report / "videos" / "own.mp4", report / "results.json"):
        path.touch()
    (report / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    assert video_file(report, {"video": "videos/own.mp4"}) == report / "videos" / "own.mp4"
    assert video_file(report, {"video": str(report / "videos" / "own.mp4")}) is not None
    for name in (
        "../secret.mp4",
        str(tmp_path / "secret.mp4"),
        "link.mp4",
        "results.json",
        "missing.mp4",
        "videos",
        "/etc/passwd",
        7,
        None,
    ):
        assert video_file(report, {"video": name}) is None
