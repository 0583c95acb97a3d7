"""Files of demonstrations as their recorders write them, with random content.

Every function follows the published steps of one recorder: names, shapes, dtypes, chunks and
compression. Frames have a red patch in the upper left corner, so that a test sees swapped colors.
"""

import json

import h5py
import numpy as np
import pytest

RED = np.array([220, 20, 30], np.uint8)


def make_frames(rng, steps, height=48, width=64):
    """Frames ``(T, h, w, 3)`` uint8 RGB: random gradients with a red patch."""
    top, bottom = rng.integers(0, 256, (2, steps, 1, 1, 3))
    share = np.linspace(0, 1, height)[:, None, None]
    frames = (top + share * (bottom - top)).astype(np.uint8).repeat(width, axis=2)
    frames[:, : height // 3, : width // 3] = RED
    return frames


def write_act(path, steps=6, cameras=("top",), sim=True, seed=0):
    """One episode of ACT, as record_sim_episodes.py and record_episodes.py of ALOHA write it."""
    rng = np.random.default_rng(seed)
    recorded = {
        "/observations/qpos": rng.normal(size=(steps, 14)),
        "/observations/qvel": rng.normal(size=(steps, 14)),
        "/action": rng.normal(size=(steps, 14)),
    }
    if not sim:
        recorded["/observations/effort"] = rng.normal(size=(steps, 14))
    for name in cameras:
        recorded[f"/observations/images/{name}"] = make_frames(rng, steps, 480, 640)
    with h5py.File(path, "w", rdcc_nbytes=1024**2 * 2) as root:
        root.attrs["sim"] = sim
        obs = root.create_group("observations")
        image = obs.create_group("images")
        for name in cameras:
            image.create_dataset(name, (steps, 480, 640, 3), dtype="uint8", chunks=(1, 480, 640, 3))
        for name in ("qpos", "qvel") if sim else ("qpos", "qvel", "effort"):
            obs.create_dataset(name, (steps, 14), dtype="f4")  # h5py's default type
        root.create_dataset("action", (steps, 14), dtype="f4")
        for name, array in recorded.items():
            root[name][...] = array
    return recorded


def encode_jpeg(image, quality=95):
    """OpenCV takes BGR: red and blue of an RGB image are swapped in the file."""
    cv2 = pytest.importorskip("cv2", reason="the recorder encodes with OpenCV")
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].ravel()


def write_mobile_aloha(path, steps=6, base=True, seed=0):
    """One episode of Mobile ALOHA: JPEG rows padded with zeros, their lengths beside."""
    cameras = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    rng = np.random.default_rng(seed)
    recorded = {key: rng.normal(size=(steps, 14)) for key in ("qpos", "qvel", "effort", "action")}
    recorded["base_action"] = rng.normal(size=(steps, 2))
    images = {name: make_frames(rng, steps, 480, 640) for name in cameras}
    encoded = {
        name: [encode_jpeg(frame, quality=50) for frame in frames]
        for name, frames in images.items()
    }
    longest = max(len(row) for rows in encoded.values() for row in rows)
    with h5py.File(path, "w", rdcc_nbytes=1024**2 * 2) as root:
        root.attrs["sim"] = False
        root.attrs["compress"] = True
        obs = root.create_group("observations")
        image = obs.create_group("images")
        for name, rows in encoded.items():
            padded = np.zeros((steps, longest), np.uint8)
            for row, data in zip(padded, rows, strict=True):
                row[: len(data)] = data
            image.create_dataset(name, data=padded, chunks=(1, longest))
        for name in ("qpos", "qvel", "effort"):
            obs.create_dataset(name, (steps, 14), dtype="f4")[...] = recorded[name]
        root.create_dataset("action", (steps, 14), dtype="f4")[...] = recorded["action"]
        if base:
            root.create_dataset("base_action", (steps, 2), dtype="f4")[...] = recorded[
                "base_action"
            ]
        lengths = np.array([[len(row) for row in rows] for rows in encoded.values()])
        root.create_dataset("compress_len", lengths.shape, dtype="f4")[...] = lengths
    return {**recorded, "images": images}


def write_robotwin(folder, episode=0, steps=6, seed=0):
    """One episode of RoboTwin 2 until August 2026, as envs/utils/pkl2hdf5.py wrote it."""
    rng = np.random.default_rng(seed)
    recorded = _robotwin_steps(rng, steps)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "instructions").mkdir(exist_ok=True)
    path = folder / "data" / f"episode{episode}.hdf5"
    with h5py.File(path, "w") as file:
        for camera, frames in recorded["images"].items():
            rows = [encode_jpeg(frame).tobytes() for frame in frames]
            longest = max(map(len, rows))
            group = file.create_group(f"observation/{camera}")
            group.create_dataset("rgb", data=rows, dtype=f"S{longest}")
            group.create_dataset("intrinsic_cv", data=np.tile(INTRINSICS, (steps, 1, 1)))
        joints = {name: recorded[name] for name in ROBOTWIN_JOINTS}
        for name, values in joints.items():
            file.create_dataset(f"joint_action/{name}", data=values)
        vector = np.concatenate([v.reshape(steps, -1) for v in joints.values()], axis=1)
        file.create_dataset("joint_action/vector", data=vector)
        file.create_dataset("endpose/left_endpose", data=rng.normal(size=(steps, 7)))
    sentences = {"seen": ["Lift the red block.", "Pick it up."], "unseen": ["Raise the cube."]}
    (folder / "instructions" / f"episode{episode}.json").write_text(json.dumps(sentences))
    return str(path), {**recorded, "vector": vector}


ROBOTWIN_JOINTS = {"left_arm": 6, "left_gripper": 0, "right_arm": 6, "right_gripper": 0}

INTRINSICS = np.array([[358.6, 0, 160], [0, 358.6, 120], [0, 0, 1]], np.float32)


def _robotwin_steps(rng, steps):
    cameras = ("head_camera", "left_camera", "right_camera")
    joints = {
        name: rng.normal(size=(steps, dims) if dims else steps)
        for name, dims in ROBOTWIN_JOINTS.items()
    }
    return {**joints, "images": {name: make_frames(rng, steps, 240, 320) for name in cameras}}


def write_robotwin_xpolicylab(path, steps=6, marked=False, seed=0):
    """One episode of RoboTwin 2 since August 2026, which pairs states and actions itself.

    Args:
        path: The file.
        steps: Recorded steps, one more than there are pairs.
        marked: Whether images are RGB, with the comment of newer versions.
        seed: Seed of the content.
    """
    recorded = _robotwin_steps(np.random.default_rng(seed), steps)
    text = h5py.string_dtype(encoding="utf-8")
    names = {
        "left_arm": "left_arm_joint_states",
        "left_gripper": "left_ee_joint_states",
        "right_arm": "right_arm_joint_states",
        "right_gripper": "right_ee_joint_states",
    }
    cameras = {
        "head_camera": "cam_head",
        "left_camera": "cam_left_wrist",
        "right_camera": "cam_right_wrist",
    }
    with h5py.File(path, "w") as file:
        file.attrs["source_format"] = "RoboTwin"
        file.attrs["source_path"] = "native_collection"
        file.create_dataset("data_format_version", data="v1.0", dtype=text)
        sentences = json.dumps(["Lift the red block.", "Raise the cube."])
        file.create_dataset("instructions", data=sentences, dtype=text)
        file.create_group("additional_info").create_dataset("frequency", data=np.int32(15))
        for source, target in names.items():
            values = np.float32(recorded[source]).reshape(steps, -1)
            file.create_dataset(f"state/{target}", data=values[:-1])
            file.create_dataset(f"action/{target}", data=values[1:])
        for source, target in cameras.items():
            frames = recorded["images"][source][:-1]
            rows = [_mark_rgb(frame) if marked else encode_jpeg(frame) for frame in frames]
            data = [row.tobytes() for row in rows]
            group = file.create_group(f"vision/{target}")
            group.create_dataset("colors", data=data, dtype=f"S{max(map(len, data))}")
            group.create_dataset("shape", data=np.int32(frames[0].shape))
            group.create_dataset("intrinsic_matrix", data=np.tile(INTRINSICS, (steps - 1, 1, 1)))
    return recorded


def _mark_rgb(frame):
    """A JPEG of RGB with the comment by which XPolicyLab knows it."""
    data = encode_jpeg(frame[..., ::-1]).tobytes()
    end = 4 + int.from_bytes(data[4:6], "big")  # of the JFIF segment
    comment = b"\xff\xfe\x00\x0aXPL-RGB1"
    return np.frombuffer(data[:end] + comment + data[end:], np.uint8)


def write_robomind(path, joints, steps=6, raw_rows=(), bgr=True, seed=0):
    """One trajectory of RoboMIND: JPEG bytes of variable length, some rows raw.

    Args:
        path: The file.
        joints: Names of the joint data sets and their dimensions.
        steps: Number of steps.
        raw_rows: Rows that are stored without encoding.
        bgr: Whether a standard decoder returns BGR.
        seed: Seed of the content.
    """
    rng = np.random.default_rng(seed)
    recorded = {f"master/{name}": rng.normal(size=(steps, dims)) for name, dims in joints.items()}
    recorded |= {f"puppet/{name}": rng.normal(size=(steps, dims)) for name, dims in joints.items()}
    images = {name: make_frames(rng, steps, 480, 640) for name in ("camera_top", "camera_left")}
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file.attrs["compress"] = True
        for name, values in recorded.items():
            file.create_dataset(name, data=values)
        for name, frames in images.items():
            rows = file.create_dataset(
                f"observations/rgb_images/{name}", (steps,), dtype=h5py.vlen_dtype(np.uint8)
            )
            for index, frame in enumerate(frames):
                stored = frame[..., ::-1] if bgr else frame
                # OpenCV encodes BGR, so that a standard decoder returns what is stored.
                encoded = encode_jpeg(np.ascontiguousarray(stored[..., ::-1]))
                rows[index] = stored.ravel() if index in raw_rows else encoded
        file.create_dataset("language_raw", data=[b"close the trash bin"])
    return {**recorded, "images": images}


def write_droid(folder, steps=20, success=True, images=False, seed=0):
    """One episode of DROID; frames in videos beside, or as its converter adds them.

    Data sets grow by a row at each step, as droid/trajectory_utils/trajectory_writer.py does.
    """
    rng = np.random.default_rng(seed)
    serials = {"22008760": 0, "24400334": 1, "26405488": 1}  # camera to its type, 0 at the wrist
    enabled = rng.random(steps) < 0.7
    enabled[:3] = True
    recorded = {
        "observation/robot_state/joint_positions": rng.normal(size=(steps, 7)),
        "observation/robot_state/cartesian_position": rng.normal(size=(steps, 6)),
        "observation/robot_state/gripper_position": rng.random(steps),
        "observation/controller_info/movement_enabled": enabled,
        "action/joint_velocity": rng.normal(size=(steps, 7)),
        "action/cartesian_position": rng.normal(size=(steps, 6)),
        "action/gripper_position": rng.random(steps),
    }
    for serial, kind in serials.items():
        recorded[f"observation/camera_type/{serial}"] = np.full(steps, kind)
        recorded[f"observation/camera_extrinsics/{serial}_left"] = rng.normal(size=(steps, 6))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("trajectory_im48.h5" if images else "trajectory.h5")
    frames = [make_frames(rng, steps, 48, 48 if images else 64) for _ in serials]
    with h5py.File(path, "w") as file:
        for name, value in {"success": success, "failure": not success}.items():
            file.attrs[name] = value
        file.attrs["current_task"] = "Put the marker in the pot"
        for key, values in recorded.items():
            _append_rows(file, key, values)
        names = ("hand_camera", "varied_camera_1", "varied_camera_2") if images else ()
        for name, pixels in zip(names, frames, strict=False):
            key = f"observation/camera/image/{name}_left_image"
            file.create_dataset(key, data=pixels, compression="gzip")
    cameras = dict(zip(("wrist", "ext1", "ext2"), serials, strict=True))
    metadata = {f"{camera}_cam_serial": serial for camera, serial in cameras.items()}
    (folder / "metadata_LAB+5d05c5aa+2023-07-07.json").write_text(json.dumps(metadata))
    if not images:
        for serial, pixels in zip(serials, frames, strict=True):
            write_video(folder / "recordings/MP4" / f"{serial}.mp4", pixels)
    return str(path), {**recorded, "frames": dict(zip(serials, frames, strict=True))}


def _append_rows(file, key, values):
    shape = values.shape[1:]
    dataset = file.create_dataset(key, (1, *shape), maxshape=(None, *shape), dtype=values.dtype)
    for index, value in enumerate(values):
        dataset.resize(index + 1, axis=0)
        dataset[-1] = value


def write_video(path, frames, codec="libx264", rate=15, keyframes=6):
    """An MP4 of frames ``(T, h, w, 3)`` with bidirectional prediction."""
    av = pytest.importorskip("av", reason="PyAV is not installed (extra video)")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        stream.gop_size = keyframes
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_mimicgen(path, demos=2, steps=5, seed=0):
    """Demonstrations of MimicGen: robomimic's layout with groups beside the observations."""
    rng = np.random.default_rng(seed)
    controller = {"type": "OSC_POSE", "control_delta": True}
    kwargs = {"controller_configs": controller, "control_freq": 20}
    frames = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = demos * steps
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Coffee_D0", "type": 1, "env_kwargs": kwargs}, indent=4
        )
        for number in range(demos):
            demo = data.create_group(f"demo_{number}")
            demo.create_dataset("actions", data=rng.normal(size=(steps, 7)))
            demo.create_dataset("states", data=rng.normal(size=(steps, 45)))
            frames[number] = make_frames(rng, steps, 24, 32)
            observed = {
                "agentview_image": frames[number],
                "robot0_eef_pos": rng.normal(size=(steps, 3)),
                "robot0_gripper_qpos": rng.normal(size=(steps, 2)),
            }
            for key, values in observed.items():
                demo.create_dataset(f"obs/{key}", data=values, compression="gzip")
            demo.create_dataset("datagen_info/eef_pose", data=rng.normal(size=(steps, 4, 4)))
            demo.create_dataset("datagen_info/object_poses/mug", data=np.zeros((steps, 4, 4)))
            demo.create_dataset("src_demo_inds", data=np.array([1, 0]))
            demo.attrs["num_samples"] = steps
    return frames


def write_isaac_lab(path, successes=(True, False, True), steps=5, seed=0):
    """Demonstrations of Isaac Lab Mimic, as HDF5DatasetFileHandler writes nested dictionaries."""
    rng = np.random.default_rng(seed)

    def write(group, key, value):
        if isinstance(value, dict):
            inner = group.create_group(key)
            for name, entry in value.items():
                write(inner, name, entry)
        else:
            group.create_dataset(key, data=value, compression="gzip")

    recorded = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = len(successes) * steps
        name = "Isaac-Stack-Cube-Franka-IK-Rel-Visuomotor-Mimic-v0"
        data.attrs["env_args"] = json.dumps({"env_name": name, "type": 2})
        for number, success in enumerate(successes):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = steps
            demo.attrs["seed"] = number
            demo.attrs["success"] = success
            pose = np.float32(rng.normal(size=(steps, 7)))
            content = {
                "actions": np.float32(rng.normal(size=(steps, 7))),
                "initial_state": {"rigid_object": {"cube_1": {"root_pose": pose[:1]}}},
                "obs": {
                    "joint_pos": np.float32(rng.normal(size=(steps, 9))),
                    "eef_quat": pose[:, 3:],
                    "table_cam": make_frames(rng, steps, 24, 32),
                    "wrist_cam": make_frames(rng, steps, 24, 32),
                    "datagen_info": {
                        "eef_pose": {"franka": np.zeros((steps, 4, 4), np.float32)},
                        "subtask_term_signals": {"grasp_1": np.zeros((steps, 1), bool)},
                    },
                },
                "states": {"articulation": {"robot": {"root_pose": pose}}},
            }
            for key, value in content.items():
                write(demo, key, value)
            recorded.append(content)
    return recorded


def write_robocasa(path, sentences, steps=5, seed=0):
    """Demonstrations of RoboCasa: a sentence each in ``ep_meta``, arms of a mobile base."""
    rng = np.random.default_rng(seed)
    arm = {"type": "OSC_POSE", "input_type": "delta"}
    controller = {"type": "HYBRID_MOBILE_BASE", "body_parts": {"arms": {"right": arm}}}
    kwargs = {"controller_configs": controller, "control_freq": 20}
    names = [f"demo_{number}" for number in range(1, len(sentences) + 1)]
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "PnP", "type": 1, "env_kwargs": kwargs})
        for name, sentence in zip(names, sentences, strict=True):
            demo = data.create_group(name)
            demo.attrs["ep_meta"] = json.dumps({"lang": sentence, "layout_id": 3})
            demo.create_dataset("actions", data=rng.normal(size=(steps, 12)))
            demo.create_dataset("obs/robot0_base_pos", data=rng.normal(size=(steps, 3)))
            pixels = make_frames(rng, steps, 24, 32)
            demo.create_dataset("obs/robot0_agentview_left_image", data=pixels, compression="gzip")
        file["mask/train"] = np.array(names[:-1], dtype="S")
        file["mask/valid"] = np.array(names[-1:], dtype="S")
