"""Files written by LIBERO's and robomimic's own tools, as tests/data/README.md describes."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from e0_lightning.benchmarks.libero import SPEC
from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.formats.detect import open_demos
from e0_lightning.data.sources import DemoSource
from e0_lightning.envs.libero import LiberoEnvironment
from e0_lightning.envs.mujoco_gl import offscreen
from e0_lightning.types import ViewSize

DATA = Path(__file__).parents[1]
README = DATA.parents[1] / "README.md"
BUTTER = "pick_up_the_butter_and_place_it_in_the_basket"
LIBERO = str(DATA / "libero" / f"{BUTTER}_demo.hdf5")
LIFT = str(DATA / "robomimic" / "lift.hdf5")


def pixel(file, demo, view, point):
    """Projection of a point of the scene, ``(3,)``, into the view of a fixed camera."""
    camera = file.cameras(demo)[view]
    x, y, z = camera.pose[:3, :3].T @ (point - camera.pose[:3, 3])
    return (file.intrinsics(demo)[view] @ [x / -z, -y / -z, 1])[:2]


def test_libero_actions_follow_the_observed_state():
    file = open_demos(LIBERO, ["agentview"], ["joint_states", "gripper_states"])
    (demo,) = file.demos()
    assert demo.steps == 3  # the first of four recorded actions has no observation
    before = file.file["data/demo_0/states"][1:]
    observed = file.states("demo_0", 0, 3)
    np.testing.assert_allclose(observed[:, :7], before[:, 1:8], atol=1e-6)
    np.testing.assert_allclose(observed[:, 7:], before[:, 8:10], atol=1e-6)
    np.testing.assert_allclose(
        file.actions("demo_0", 0, 3), file.file["data/demo_0/actions"][1:], atol=1e-6
    )


def test_spec_and_cameras_of_a_libero_file():
    file = open_demos(LIBERO, ["agentview", "eye_in_hand"], ["ee_states", "gripper_states"])
    assert file.instruction("demo_0") == "pick up the butter and place it in the basket"
    assert file.spec.views == dict.fromkeys(["agentview", "eye_in_hand"], ViewSize(128, 128))
    assert (file.spec.state_dim, file.spec.control_mode) == (8, "osc_pose_delta")
    fields = {view: camera.fov for view, camera in file.cameras("demo_0").items()}
    assert fields == {"agentview": 45, "eye_in_hand": 75}
    # The gripper points down: π about x, with the sign of the recording.
    np.testing.assert_allclose(file.states("demo_0", 0, 3)[:, 3], np.pi, atol=0.01)


def test_libero_images_change_at_the_projection_of_the_gripper():
    file = open_demos(LIBERO, ["agentview"], ["ee_pos"])
    first, last = file.images("demo_0", 0, 3)["agentview"][[0, 2]].astype(int)
    row, column = np.argwhere(np.abs(first - last).sum(axis=-1) > 60).mean(axis=0)
    hand = pixel(file, "demo_0", "agentview", file.states("demo_0", 1, 2)[0])
    assert abs(column - hand[0]) < 5
    assert row < hand[1]  # the arm, which moves as well, is above the hand


def test_libero_images_equal_those_of_the_environment(libero_assets):
    file = open_demos(LIBERO, ["agentview", "eye_in_hand"], ["ee_pos"])
    task = f"libero_object/{BUTTER}"
    environment = LiberoEnvironment(task, SPEC, offscreen(), libero_assets.path)
    environment.reset(0)
    recorded = file.images("demo_0", 0, 3)
    for step, state in enumerate(file.file["data/demo_0/states"][1:]):
        environment.control_env.set_init_state(state)
        for view, images in recorded.items():
            errors = np.abs(environment.render(view, 128, 128) - images.astype(int)).mean(
                axis=(1, 2, 3)
            )
            assert errors.argmin() == step
            # Other assets than in the recording leave up to 4.8; the neighbouring steps 6.6 at
            # least, mirrored images 22, flipped ones 56.
            assert errors[step] < 6
    environment.close()


@pytest.mark.parametrize("demo", ["demo_1", "demo_2"])
def test_robomimic_actions_follow_the_observed_state(demo):
    file = open_demos(LIFT, ["agentview"], ["robot0_joint_pos", "robot0_gripper_qpos"])
    steps = {each.name: each.steps for each in file.demos()}[demo]
    before = file.file[f"data/{demo}/states"][:]
    observed = file.states(demo, 0, steps)
    np.testing.assert_allclose(observed, before[:, 1:10], atol=1e-6)
    np.testing.assert_allclose(
        file.actions(demo, 0, steps), file.file[f"data/{demo}/actions"], atol=1e-6
    )


@pytest.mark.parametrize("demo", ["demo_1", "demo_2"])
def test_robomimic_images_have_the_red_cube_at_its_projection(demo):
    file = open_demos(LIFT, ["agentview", "robot0_eye_in_hand"], ["object"])
    assert set(file.intrinsics(demo)) == {"agentview", "robot0_eye_in_hand"}
    image = file.images(demo, 0, 1)["agentview"][0].astype(int)
    redness = np.clip(image[..., 0] - image[..., 1:].max(axis=-1) - 30, 0, None)
    rows, columns = np.mgrid[:32, :32] + 0.5
    center = np.array([(redness * columns).sum(), (redness * rows).sum()]) / redness.sum()
    cube = pixel(file, demo, "agentview", file.states(demo, 0, 1)[0, :3])
    np.testing.assert_allclose(center, cube, atol=1)


def test_a_file_without_an_instruction_needs_one_in_the_config():
    with pytest.raises(ValueError, match=r"Give one with .*: \{path: …, instruction: …\}"):
        open_demos(LIFT).instruction("demo_1")
    data = RobotDemos(
        [DemoSource(LIFT, instruction="lift the cube")],
        ["agentview"],
        ["robot0_eef_pos"],
        horizon=4,
        num_workers=0,
        val_fraction=0.0,
    )
    batch = next(iter(data.train_dataloader()))
    assert set(batch["instruction"]) == {"lift the cube"}
    assert batch["actions"].shape[1:] == (4, 7)


def test_robosuites_raw_recording_is_refused_with_the_tool_to_run():
    spec = importlib.util.find_spec("robosuite")
    if spec is None or spec.origin is None:
        pytest.skip("robosuite is not installed: make libero")
    path = Path(spec.origin).parent / "models/assets/demonstrations/lift/demo.hdf5"
    with pytest.raises(
        ValueError, match=r"demo_1: expected .* got actions, .*dataset_states_to_obs"
    ):
        _ = open_demos(str(path)).spec


def test_the_minimal_file_of_the_readme_is_read(tmp_path, monkeypatch):
    section = README.read_text().partition("## Your own demonstrations")[2]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    rng = np.random.default_rng(0)
    actions, joints = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    frames = rng.integers(256, size=(5, 16, 16, 3), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    exec(code, {"h5py": h5py, "json": json, "episodes": [(actions, frames, joints)]})
    file = open_demos("demos.hdf5", ["front"], ["joint_pos"])
    assert file.spec.control_mode == "joint_position"
    np.testing.assert_allclose(file.actions("demo_0", 0, 5), actions, rtol=1e-6)
    np.testing.assert_allclose(file.states("demo_0", 0, 5), joints, rtol=1e-6)
    np.testing.assert_array_equal(file.images("demo_0", 0, 5)["front"], frames)


def test_frames_that_are_not_uint8_are_refused(tmp_path):
    copy = tmp_path / "lift.hdf5"
    copy.write_bytes(Path(LIFT).read_bytes())
    with h5py.File(copy, "a") as file:
        for demo in file["data"].values():
            pixels = demo["obs/agentview_image"][:].astype(np.float32)
            del demo["obs/agentview_image"]
            demo["obs/agentview_image"] = pixels
    with pytest.raises(
        ValueError, match=r"agentview_image, .* expected float pixels from 0 to 1, got"
    ):
        _ = open_demos(str(copy)).spec


def test_an_unknown_render_quality_is_refused_with_the_file(tmp_path):
    path = tmp_path / f"{BUTTER}_demo.hdf5"
    shutil.copy(LIBERO, path)
    with h5py.File(path, "a") as file:
        settings = {"env_kwargs": {"render_quality": "best"}}
        file["data"].attrs["env_args"] = json.dumps(settings)
    message = r"_demo\.hdf5: env_args: expected a render_quality .* got 'best'"
    with pytest.raises(ValueError, match=message):
        open_demos(str(path)).read_spec("demo_0")
