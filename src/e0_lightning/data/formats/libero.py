"""What LIBERO's files hold, and where they differ from robomimic's, whose layout they share."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

CONTROL_MODE = "osc_pose_delta"
"""LIBERO's controller: steps of 5 cm and 0.5 rad at most, at 20 Hz; gripper -1 open, +1 close."""

CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
"""View name to the camera's name in the simulator's model."""

FIELDS_OF_VIEW = {"agentview": 45.0, "eye_in_hand": 75.0}
"""Vertical degrees, for files that carry no model."""


@dataclass(frozen=True)
class Layout:
    """How to read the demonstrations of one file.

    Args:
        format: Name, for people.
        views: View name to its dataset under ``obs``.
        parts: Vectors under ``obs`` that may be state parts.
        lag: Actions by which the t-th observation is late: 1 where it was recorded *after* the
            t-th action, so that it is what the (t + 1)-th was chosen from.
        upside_down: Whether images are stored with the bottom row first.
        control_mode: Controller that the actions are meant for, None if the file does not say.
        fields: View to vertical field of view in degrees where no model says it.
    """

    format: str
    views: dict[str, str]
    parts: list[str]
    lag: int
    upside_down: bool
    control_mode: str | None
    fields: dict[str, float] = field(default_factory=dict)


class Camera(NamedTuple):
    """A camera as a model file describes it."""

    field: float
    """Vertical field of view, degrees."""
    pose: NDArray[np.float64]
    """To the body it is fixed to, ``(4, 4)``; MuJoCo's axes: x right, y up, looking along -z."""


def libero_layout(file: h5py.File, demo: str) -> Layout | None:
    """How to read a LIBERO file, official or regenerated without no-ops; None if it is neither."""
    observations = file[f"data/{demo}"].get("obs", {})
    views = {view: f"{view}_rgb" for view in CAMERAS if f"{view}_rgb" in observations}
    if not views:
        return None
    convention = str(file["data"].attrs.get("macros_image_convention", "opengl"))
    late = _late(file["data"], demo)
    return Layout(
        format="LIBERO" if late else "LIBERO, without no-ops",
        views=views,
        parts=[k for k, v in observations.items() if v.ndim == 2],
        lag=int(late),
        upside_down=convention == "opengl",
        control_mode=control_mode(file["data"]) or CONTROL_MODE,
        fields=FIELDS_OF_VIEW,
    )


def _late(data: h5py.Group, demo: str) -> bool:
    """Whether observations were recorded after their actions.

    The simulator's state stands before its action in both; it holds the robot's seven joints
    after the time, so it tells to which of two neighbouring states an observation belongs. Where
    there is no such state the attributes tell, which only official files have.
    """
    states, joints = data[demo].get("states"), data[demo].get("obs/joint_states")
    if states is None or joints is None or len(states) < 2 or states.shape[1] < 8:
        return "num_samples" in data[demo].attrs
    rows = min(len(states), len(joints), 64)
    poses, seen = states[:rows, 1:8], joints[:rows]
    after = np.abs(seen[:-1] - poses[1:]).sum()
    before = np.abs(seen[:-1] - poses[:-1]).sum()
    return bool(after < before)


def control_mode(data: h5py.Group) -> str | None:
    """Controller named in ``env_args``, such as ``osc_pose_delta``.

    From its version 1.5 on, robosuite names one for each part of the body; the arms' count.

    Returns:
        None if none is named.

    Raises:
        ValueError: If two arms have different ones.
    """
    try:
        settings = json.loads(data.attrs["env_args"])["env_kwargs"]["controller_configs"]
        parts = settings.get("body_parts")
        if parts is None:
            return _mode(settings["type"], settings.get("control_delta", True))
        arms = parts.get("arms", parts)
        modes = {
            side: _mode(arms[side]["type"], arms[side].get("input_type", "delta") == "delta")
            for side in ("right", "left")
            if side in arms
        }
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        return None
    if len(set(modes.values())) > 1:
        raise ValueError(
            f"{data.file.filename}: its env_args name {modes}; one control mode for all arms is "
            "wanted. Record, or convert, the demonstrations of both arms in one."
        )
    return next(iter(modes.values()), None)


def _mode(controller: str, delta: bool) -> str:
    return controller.lower() + ("_delta" if delta else "")


def told(data: h5py.Group) -> str | None:
    """The sentence in ``problem_info``; None if there is none."""
    try:
        words = json.loads(data.attrs["problem_info"])["language_instruction"]
    except (KeyError, TypeError, json.JSONDecodeError):
        return None
    return (words if isinstance(words, str) else " ".join(words)).strip() or None


def sentence(name: str) -> str:
    """The instruction in a LIBERO task's name, without the scene that some begin with."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


def camera(model: str, name: str) -> Camera:
    """Find a camera in an MJCF model.

    Args:
        model: The XML.
        name: The camera's name.

    Raises:
        ValueError: If it is not XML, or holds no such camera, or the camera no sensible numbers.
    """
    try:
        root = ElementTree.fromstring(model)
    except ElementTree.ParseError as error:
        raise ValueError(f"its MJCF cannot be parsed ({error})") from error
    found = next((each for each in root.iter("camera") if each.get("name") == name), None)
    if found is None:
        there = sorted(each.get("name", "") for each in root.iter("camera"))
        raise ValueError(f"its MJCF has no camera {name!r}; there are: {', '.join(there)}")
    try:
        angle = float(found.get("fovy", "45"))  # MuJoCo's default
        pose = np.eye(4)
        pose[:3, 3] = [float(x) for x in found.get("pos", "0 0 0").split()]
        pose[:3, :3] = _rotation([float(x) for x in found.get("quat", "1 0 0 0").split()])
    except ValueError as error:
        raise ValueError(f"its MJCF gives camera {name!r} no sensible numbers ({error})") from error
    return Camera(angle, pose)


def axis_angle(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation vector ``(3,)`` of a unit quaternion xyzw, angles up to 2π.

    The sign of the quaternion is not normalized: LIBERO's demonstrations were recorded so, and
    the other sign is another vector.
    """
    w = float(np.clip(quaternion[3], -1, 1))
    length = np.sqrt(1 - w * w)
    if np.isclose(length, 0):
        return np.zeros(3)
    turned: NDArray[np.float64] = quaternion[:3] * 2 * np.arccos(w) / length
    return turned


def _rotation(quaternion: list[float]) -> NDArray[np.float64]:
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
