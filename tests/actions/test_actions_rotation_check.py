"""Angles and rotations that are treated as numbers are reported when an action space is fitted."""

import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from e0_lightning.actions.action_space import ActionSpace
from e0_lightning.actions.normalizers import QuantileNormalizer
from e0_lightning.actions.relative import RelativeActions, RelativeRotation
from e0_lightning.types import PolicySpec


def fit(values, states=None, batch=1000, **options):
    """Fit an action space to chunks of two steps of a trajectory ``(T, D)``."""
    values = torch.as_tensor(values, dtype=torch.float32)
    states = values[:-1] if states is None else states
    chunks = torch.stack([values[:-1], values[1:]], dim=1)
    valid = torch.ones(chunks.shape[:2], dtype=torch.bool)
    relative = None
    if options:
        relative = RelativeActions(**options).resolve_state(PolicySpec(state={"pose": 4}))
    batches = zip(*(part.split(batch) for part in (chunks, states, valid)), strict=True)
    return ActionSpace(2, QuantileNormalizer(values.shape[1]), relative).fit(batches)


def turning(axis=(1.0, 0, 0)):
    """A rotation about an axis through half a turn, and a coordinate."""
    angles = np.linspace(2.5, 3.7, 50)[:, None]
    return Rotation.from_rotvec(angles * np.array(axis) / np.linalg.norm(axis))


def euler():
    angles = turning().as_euler("xyz")
    return np.hstack([angles, np.linspace(0, 1, 50)[:, None]])


def test_a_state_subtracted_from_an_angle_that_wraps_is_refused():
    with pytest.raises(ValueError, match=r"dimension 0 jumps by 6\.\d* rad .*relative.rotations"):
        fit(euler(), actions=[0, 1, 2], state={"pose": [0, 1, 2]}, batch=7)


def test_a_jump_between_state_and_action_is_refused():
    actions = np.full((20, 4), -3.1)
    state = torch.full((19, 4), 3.1)
    with pytest.raises(ValueError, match=r"jumps by 6.20 rad"):
        fit(actions, state, actions=[0], state={"pose": [0]})


def test_an_axis_angle_that_passes_half_a_turn_is_refused():
    values = np.hstack([turning((1, 1, 1)).as_rotvec(), np.zeros((50, 1))])
    with pytest.raises(ValueError, match=r"jumps by 3\.\d\d rad"):
        fit(values, actions=[0, 1, 2], state={"pose": [0, 1, 2]})


def test_a_subtracted_quaternion_is_refused():
    with pytest.raises(ValueError, match="dimensions 0 to 3 always have the length 1"):
        fit(turning().as_quat(), actions=[0, 1, 2, 3], state={"pose": [0, 1, 2, 3]})


@pytest.mark.parametrize(
    "options",
    [
        {"actions": [0], "state": {"pose": [0]}, "angles": [0]},
        {
            "actions": [3],
            "state": {"pose": [3]},
            "rotations": [RelativeRotation([0, 1, 2], {"pose": [0, 1, 2]}, "euler_xyz")],
        },
    ],
)
def test_angles_and_rotations_that_are_listed_may_wrap(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(euler(), **options)


def test_an_absolute_angle_that_wraps_is_warned_of():
    with pytest.warns(UserWarning, match=r"dimension 0 jumps.*Averages of it are wrong"):
        fit(euler())


def test_large_jumps_of_other_quantities_are_accepted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(np.random.default_rng(0).uniform(-20, 20, (50, 4)))
        gripper = np.sign(np.sin(np.arange(50.0)))[:, None] * np.ones(4)
        fit(gripper, actions=[0], state={"pose": [0]})
