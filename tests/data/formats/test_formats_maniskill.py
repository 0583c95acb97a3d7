import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest

from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.types import ViewSize


def edit(path, change):
    """Apply ``change(sidecar)`` to the JSON beside a recording."""
    sidecar = Path(path).with_suffix(".json")
    content = json.loads(sidecar.read_text())
    change(content)
    sidecar.write_text(json.dumps(content))


def test_spec_and_lengths_of_a_real_recording(real):
    reader = open_demos(str(real), ["base_camera"], ["qpos", "tcp_pose"])
    assert reader.format == "ManiSkill 3"
    assert reader.spec.views == {"base_camera": ViewSize(128, 128)}
    assert reader.spec.state == {"qpos": 9, "tcp_pose": 7}
    assert (reader.spec.action_dim, reader.spec.control_mode) == (8, "pd_joint_pos")
    assert reader.instruction("traj_99") == "push the cube to the target region"
    demos = [("traj_99", 65, 17), ("traj_123", 63, 16)]  # numeric order; their chunks differ
    assert reader.demos() == demos


def test_observation_is_the_one_before_the_action(real):
    reader = open_demos(str(real), ["base_camera"], ["tcp_pose", "qpos"])
    with h5py.File(real) as raw:
        trajectory = raw["traj_123"]
        np.testing.assert_array_equal(reader.actions("traj_123", 5, 9), trajectory["actions"][5:9])
        obs = trajectory["obs"]
        parts = [obs["extra/tcp_pose"][5:9], obs["agent/qpos"][5:9]]
        np.testing.assert_array_equal(reader.states("traj_123", 5, 9), np.hstack(parts))
        pixels = obs["sensor_data/base_camera/rgb"][5:9]
        np.testing.assert_array_equal(reader.images("traj_123", 5, 9)["base_camera"], pixels)
        matrix = obs["sensor_param/base_camera/intrinsic_cv"][0]
    np.testing.assert_array_equal(reader.intrinsics("traj_123")["base_camera"], matrix)


def test_flags_have_one_dimension(record):
    reader = open_demos(record(), ["cam"], ["is_grasped", "qpos"])
    assert reader.spec.state == {"is_grasped": 1, "qpos": 2}
    assert reader.states("traj_1", 2, 4).tolist() == [[1, 1, 2], [0, 1, 3]]


def test_failed_episodes_are_left_out(record):
    path = record()
    edit(path, lambda s: s["episodes"][1].update(success=False))
    reader = open_demos(path)
    assert [demo.name for demo in reader.demos()] == ["traj_0", "traj_2"]
    assert reader.failed() == ["traj_1"]


def test_every_motion_planning_task_has_an_instruction():
    assert len(INSTRUCTIONS) == 14
    assert len(set(INSTRUCTIONS.values())) == 14


def test_is_pickled_without_its_open_file(record):
    reader = open_demos(record(), ["cam"], ["qpos"])
    reader.actions("traj_0", 0, 1)
    copy = pickle.loads(pickle.dumps(reader))
    assert copy._storage._file is None
    assert copy.actions("traj_1", 3, 4).tolist() == [[1, 3, 0]]


def test_a_forked_process_opens_the_file_anew(record):
    def handle():
        return reader.file.id.get_vfd_handle()

    def child():
        sender.send((reader.actions("traj_1", 3, 4).tolist(), os.lseek(handle(), 0, os.SEEK_CUR)))

    reader = open_demos(record(), ["cam"], ["qpos"])
    assert reader.actions("traj_0", 2, 3).tolist() == [[0, 2, 0]]
    # A child process shares the position of an inherited file, which HDF5 neither reads nor moves.
    os.lseek(handle(), 12345, os.SEEK_SET)
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe()
    process = fork.Process(target=child)
    process.start()
    sender.close()
    assert receiver.recv() == ([[1, 3, 0]], 0)
    process.join()
    assert os.lseek(handle(), 0, os.SEEK_CUR) == 12345
    assert reader.actions("traj_2", 4, 5).tolist() == [[2, 4, 0]]


def test_reads_from_a_remote_file_system(record):
    path = Path(record())
    memory = fsspec.filesystem("memory")
    for suffix in (".h5", ".json"):
        memory.pipe(f"/bucket/demos{suffix}", path.with_suffix(suffix).read_bytes())
    reader = open_demos("memory://bucket/demos.h5", ["cam"], ["qpos"])
    assert [demo.steps for demo in reader.demos()] == [7, 12, 5]
    assert reader.images("traj_1", 3, 4)["cam"][0, 0, 0].tolist() == [1, 3, 0]


def read(path, views, state):
    reader = open_demos(path, views, state)
    for demo in reader.demos():
        reader.instruction(demo.name)
        reader.actions(demo.name, 0, demo.steps)


def refused(path, *texts, views=("cam",), state=("qpos",)):
    """Reading everything fails, with all ``texts`` in the message."""
    with pytest.raises(ValueError, match=Path(path).name) as error:
        read(path, views, state)
    for text in texts:
        assert text in str(error.value)


def test_refuses_a_truncated_file(record, tmp_path):
    cut = tmp_path / "cut.h5"
    cut.write_bytes(Path(record()).read_bytes()[:-5000])
    refused(str(cut), "truncated", "Copy or collect it again")


def test_refuses_an_empty_file(tmp_path):
    (tmp_path / "empty.h5").touch()
    refused(str(tmp_path / "empty.h5"), "empty file (0 bytes)")


def test_refuses_files_that_are_not_hdf5(tmp_path):
    (tmp_path / "notes.h5").write_text("not HDF5 at all")
    refused(str(tmp_path / "notes.h5"), "no HDF5 file")
    refused(str(tmp_path), "got a folder", "*.hdf5")


def test_refuses_a_missing_file(tmp_path):
    refused(str(tmp_path / "gone.h5"), "no such file", "e0 collect")


def test_refuses_an_unknown_format(tmp_path):
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["something"] = 1
    refused(
        str(tmp_path / "odd.h5"), "a known format", "something", "ManiSkill 3", "reader: my_module"
    )


def test_refuses_a_missing_camera(record):
    refused(record(), "no camera 'wrist'", "it has cam", views=["wrist"])


def test_refuses_a_recording_without_images(record):
    path = record()
    with h5py.File(path, "a") as file:
        for trajectory in file.values():
            del trajectory["obs"]
            trajectory.create_group("obs")
    refused(path, "no images at all", "replay_trajectory", "e0 collect")


def test_refuses_a_flat_state_recording(record):
    path = record()
    with h5py.File(path, "a") as file:
        for trajectory in file.values():
            del trajectory["obs"]
            trajectory["obs"] = np.zeros((len(trajectory["actions"]) + 1, 5))
    refused(path, "no images at all")


def test_refuses_a_missing_state_part(record):
    refused(record(), "no state part 'goal_pos'", "qpos, is_grasped", state=["qpos", "goal_pos"])


@pytest.fixture
def mixed_sizes(record):
    """A recording whose first demonstration has frames of 6 x 12 pixels, the others of 8 x 8."""
    path = record()
    with h5py.File(path, "a") as file:
        del file["traj_0/obs/sensor_data/cam/rgb"]
        frames = np.random.default_rng(0).integers(256, size=(8, 6, 12, 3), dtype=np.uint8)
        file["traj_0/obs/sensor_data/cam/rgb"] = frames
    return path


def test_frames_of_other_sizes_are_brought_to_the_size_of_the_view(mixed_sizes):
    size = ViewSize(6, 6, crop=[0, 0.5, 1, 0.5])
    reader = open_demos(mixed_sizes, {"cam": size}, ["qpos"])
    first, second = (reader.images(demo, 0, 2)["cam"] for demo in ("traj_0", "traj_1"))
    assert first.shape == second.shape == (2, 6, 6, 3)
    with h5py.File(mixed_sizes) as file:
        recorded = file["traj_0/obs/sensor_data/cam/rgb"][:2]
    np.testing.assert_array_equal(first, recorded[:, :, 6:])
    assert {demo.name for demo in reader.demos()} >= {"traj_0", "traj_1"}


def test_frames_of_other_sizes_need_a_size_of_the_view(mixed_sizes):
    refused(mixed_sizes, "cam: 6 x 12 px", "cam: 8 x 8 px")


def test_camera_matrices_follow_the_size_of_the_view(real):
    size = ViewSize(32, 64, crop=[64, 0, 64, 128])
    reader = open_demos(str(real), {"base_camera": size}, ["qpos"])
    expected = [[32, 0, 32], [0, 32, 0], [0, 0, 1]]
    np.testing.assert_allclose(reader.intrinsics("traj_123")["base_camera"], expected)


def test_a_crop_that_leaves_the_frame_is_refused_by_view_and_file(real):
    with pytest.raises(
        ValueError, match=r"'base_camera' of .*: crop: expected .* 128 x 128 pixels"
    ):
        _ = open_demos(str(real), {"base_camera": ViewSize(8, 8, crop=[100, 0, 64, 64])}, []).spec


def test_refuses_actions_that_are_not_finite(record):
    path = record()
    with h5py.File(path, "a") as file:
        file["traj_1/actions"][4, 2] = np.nan
    refused(path, "traj_1/actions at step 4", "nan", "finite")


def test_refuses_several_agents(record):
    path = record()
    with h5py.File(path, "a") as file:
        del file["traj_0/actions"]
        file["traj_0/actions/panda-0"] = np.zeros((7, 3))
        file["traj_0/actions/panda-1"] = np.zeros((7, 3))
    refused(path, "actions of one robot", "panda-0, panda-1")


def test_refuses_actions_of_another_dimension_in_one_episode(record):
    path = record()
    with h5py.File(path, "a") as file:
        del file["traj_2/actions"]
        file["traj_2/actions"] = np.zeros((5, 4), np.float32)
    refused(path, "traj_2", "action_dim", "3", "4")


def test_refuses_a_missing_sidecar(record):
    path = record()
    Path(path).with_suffix(".json").unlink()
    refused(path, "sidecar", "demos.json is missing")


def test_refuses_a_broken_sidecar(record):
    path = record()
    sidecar = Path(path).with_suffix(".json")
    sidecar.write_text(sidecar.read_text()[:-20])
    with pytest.raises(ValueError, match=r"demos\.json: broken sidecar"):
        open_demos(path).demos()


def test_refuses_an_unknown_render_quality(record):
    path = record()
    edit(path, lambda s: s["env_info"].update(render_quality="best"))
    with pytest.raises(ValueError, match=r"env_info of its sidecar.*default, fast, got 'best'"):
        open_demos(path).demos()


def test_refuses_a_sidecar_without_episodes(record):
    path = record()
    edit(path, lambda s: s.pop("episodes"))
    with pytest.raises(ValueError, match=r"broken sidecar.*episodes"):
        open_demos(path).demos()


def test_refuses_a_sidecar_that_lacks_an_episode(record):
    path = record()
    edit(path, lambda s: s["episodes"].pop())
    refused(path, "disagree", "traj_2 is only in the HDF5 file")


def test_refuses_a_sidecar_with_an_episode_too_many(record):
    path = record()
    edit(path, lambda s: s["episodes"].append({**s["episodes"][0], "episode_id": 9}))
    refused(path, "disagree", "traj_9 is only in the sidecar")


def test_refuses_lengths_that_disagree_with_the_sidecar(record):
    path = record()
    edit(path, lambda s: s["episodes"][1].update(elapsed_steps=11))
    refused(path, "traj_1/actions has 12 steps", "elapsed_steps 11")


def test_refuses_episodes_of_several_control_modes(record):
    path = record()
    edit(path, lambda s: s["episodes"][1].update(control_mode="pd_ee_delta_pose"))
    refused(path, "pd_ee_delta_pose", "pd_joint_pos", "replay_trajectory")


def test_refuses_a_file_of_failures(record):
    path = record(steps=(4,))
    edit(path, lambda s: s["episodes"][0].update(success=False))
    refused(path, "none of its 1 episodes succeeded")


def test_refuses_a_task_without_an_instruction(record):
    refused(record(task="MyTask-v1"), "no instruction for the task MyTask-v1", "PushCube-v1")


def test_sidecar_of_a_file_with_dots_in_its_name(real, tmp_path):
    assert real.name.count(".") > 1  # as in the names that ManiSkill's replay gives
    shutil.copy(real, tmp_path / real.name)
    with pytest.raises(ValueError, match=real.name.replace(".h5", ".json")):
        open_demos(str(tmp_path / real.name)).demos()


def test_damaged_data_are_named_with_data_set_and_chunk(record):
    path = record()
    with h5py.File(path) as file:
        where = file["traj_0/obs/sensor_data/cam/rgb"].id.get_chunk_info(0).byte_offset
    damaged = bytearray(Path(path).read_bytes())
    damaged[where : where + 8] = b"\xff" * 8
    Path(path).write_bytes(damaged)
    with pytest.raises(
        ValueError, match=r"demos.h5: /traj_0/\S*/cam/rgb: the chunk at \(0, 0, 0, 0\)"
    ):
        open_demos(path, ["cam"], ["qpos"]).images("traj_0", 0, 4)


def test_images_that_are_not_uint8_are_refused(record):
    path = record()
    with h5py.File(path, "a") as file:
        for name in file:
            pixels = file[f"{name}/obs/sensor_data/cam/rgb"][:] + np.float32(100)
            del file[f"{name}/obs/sensor_data/cam/rgb"]
            file[f"{name}/obs/sensor_data/cam/rgb"] = pixels
    with pytest.raises(ValueError, match=r"cam/rgb, .* expected float pixels from 0 to 1, got"):
        _ = open_demos(path, ["cam"], ["qpos"]).spec
