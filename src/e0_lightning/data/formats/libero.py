"""LIBERO's files: how their layout, which is robomimic's, is to be read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree import ElementTree

import h5py
import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.hdf5 import find, members
from e0_lightning.data.formats.rendering import read_render_quality
from e0_lightning.geometry import quaternion_to_matrix
from e0_lightning.types import RenderQuality

CONTROL_MODE = "osc_pose_delta"
"""LIBERO's controller: steps of at most 5 cm and 0.5 rad, at 20 Hz; gripper -1 open, +1 closed."""

CAMERAS = {"agentview": "agentview", "eye_in_hand": "robot0_eye_in_hand"}
"""View name to the camera's name in the simulator's model."""

FIELDS_OF_VIEW = {"agentview": 45.0, "eye_in_hand": 75.0}
"""Vertical degrees, for files that carry no model."""


@dataclass(frozen=True)
class DemoLayout:
    """How to read the demonstrations of one file.

    Args:
        format: Name of the format.
        views: View name to its data set under ``obs``.
        parts: Vectors under ``obs`` that may be state parts.
        lag: Actions by which the t-th observation is late: 1 where it was recorded *after* the
            t-th action, so that the (t + 1)-th was chosen from it.
        upside_down: Whether images are stored with the bottom row first.
        control_mode: Controller that the actions are meant for, None if the file has none.
        fields_of_view: View to vertical field of view in degrees where the file has no model.
        render_quality: How the simulator rendered the images.
    """

    format: str
    views: dict[str, str]
    parts: list[str]
    lag: int
    upside_down: bool
    control_mode: str | None
    fields_of_view: dict[str, float] = field(default_factory=dict)
    render_quality: RenderQuality = "default"


class Camera(NamedTuple):
    """A camera as a model file describes it."""

    fov: float
    """Vertical field of view, degrees."""
    pose: NDArray[np.float64]
    """To the body it is fixed to, ``(4, 4)``; MuJoCo's axes: x right, y up, looking along -z."""


def find_layout(file: h5py.File, demo: str) -> DemoLayout | None:
    """Layout of a LIBERO file, official or regenerated without no-ops; None if it is neither."""
    observations = members(find(file, f"data/{demo}/obs"))
    views = {view: f"{view}_rgb" for view in CAMERAS if f"{view}_rgb" in observations}
    if not views:
        return None
    convention = str(file["data"].attrs.get("macros_image_convention", "opengl"))
    late = _is_late(file["data"], demo)
    return DemoLayout(
        format="LIBERO" if late else "LIBERO, without no-ops",
        views=views,
        parts=[k for k, v in observations.items() if isinstance(v, h5py.Dataset) and v.ndim == 2],
        lag=int(late),
        upside_down=convention == "opengl",
        control_mode=control_mode(file["data"]) or CONTROL_MODE,
        fields_of_view=FIELDS_OF_VIEW,
        render_quality=render_quality(file["data"]),
    )


def _is_late(data: h5py.Group, demo: str) -> bool:
    """Whether observations were recorded after their actions.

    The simulator's state is the one before its action in both kinds of files. It holds the time,
    then the robot's seven joints: the observation belongs to the nearer of two successive states.
    Without such states, the attributes decide, which only official files have.
    """
    states, joints = find(data, f"{demo}/states"), find(data, f"{demo}/obs/joint_states")
    if not (
        isinstance(states, h5py.Dataset)
        and isinstance(joints, h5py.Dataset)
        and (states.ndim, joints.ndim) == (2, 2)
        and len(states) >= 2
        and states.shape[1] >= 8
    ):
        return "num_samples" in data[demo].attrs
    rows = min(len(states), len(joints), 64)
    poses, observed = states[:rows, 1:8], joints[:rows]
    after = np.abs(observed[:-1] - poses[1:]).sum()
    before = np.abs(observed[:-1] - poses[:-1]).sum()
    return bool(after < before)


def control_mode(data: h5py.Group) -> str | None:
    """Controller named in ``env_args``, such as ``osc_pose_delta``.

    From version 1.5 on, robosuite names one for each part of the body; those of the arms are used.

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
            f"{data.file.filename}: expected one control mode for all arms in its env_args, got "
            f"{modes}. Record or convert the demonstrations with one for both arms."
        )
    return next(iter(modes.values()), None)


def control_rate(data: h5py.Group) -> float:
    """Control frequency in ``env_args``, Hz; 0 if it is not there."""
    try:
        return float(json.loads(data.attrs["env_args"])["env_kwargs"]["control_freq"])
    except (KeyError, TypeError, ValueError):
        return 0


def render_quality(data: h5py.Group) -> RenderQuality:
    """How the images were rendered, as `e0 collect libero` writes it into ``env_args``.

    Returns:
        ``default`` where it is not there, as in the official files.

    Raises:
        ValueError: If there is no such quality.
    """
    try:
        settings = dict(json.loads(data.attrs["env_args"])["env_kwargs"])
    except (KeyError, TypeError, ValueError):
        return "default"
    return read_render_quality(settings, f"{data.file.filename}: env_args")


def _mode(controller: str, delta: bool) -> str:
    return controller.lower() + ("_delta" if delta else "")


def read_instruction(data: h5py.Group) -> str | None:
    """Instruction in the attribute ``problem_info`` of a file; None if there is none."""
    try:
        words = json.loads(data.attrs["problem_info"])["language_instruction"]
    except (KeyError, TypeError, json.JSONDecodeError):
        return None
    return (words if isinstance(words, str) else " ".join(words)).strip() or None


def sentence(name: str) -> str:
    """Instruction in the name of a LIBERO task, without the scene that some begin with."""
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", name).replace("_", " ")


def camera(model: str, name: str) -> Camera:
    """Find a camera in an MJCF model.

    Args:
        model: The XML.
        name: Name of the camera.

    Raises:
        ValueError: If it is not XML, has no such camera, or the camera has invalid numbers.
    """
    try:
        root = ElementTree.fromstring(model)
    except ElementTree.ParseError as error:
        raise ValueError(f"its MJCF cannot be parsed ({error})") from error
    element = next((each for each in root.iter("camera") if each.get("name") == name), None)
    if element is None:
        names = sorted(each.get("name", "") for each in root.iter("camera"))
        raise ValueError(f"its MJCF has no camera {name!r}, it has: {', '.join(names)}")
    try:
        fov = float(element.get("fovy", "45"))  # MuJoCo's default
        pose = np.eye(4)
        pose[:3, 3] = [float(x) for x in element.get("pos", "0 0 0").split()]
        quaternion = [float(x) for x in element.get("quat", "1 0 0 0").split()]
        pose[:3, :3] = quaternion_to_matrix(quaternion)
    except ValueError as error:
        raise ValueError(f"its MJCF has invalid numbers for camera {name!r} ({error})") from error
    return Camera(fov, pose)
