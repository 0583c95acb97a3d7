from dataclasses import replace

import numpy as np
import pytest

from e0_lightning.envs import mujoco_gl
from e0_lightning.envs.libero import LiberoEnvironment
from e0_lightning.envs.libero_meshes import simplify
from e0_lightning.types import PolicySpec

SPEC = PolicySpec(
    views={"agentview": 128, "eye_in_hand": 128},
    state={"ee_pos": 3, "joint_states": 7},
    action_dim=7,
    control_mode="osc_pose_delta",
    horizon=1,
)
TASK = "libero_object/pick_up_the_butter_and_place_it_in_the_basket"


def grid(size=40):
    """Corners of a square of ``2 (size - 1)²`` triangles with a height, and their normals."""
    x, y = (axis.reshape(-1) / (size - 1) for axis in np.mgrid[:size, :size])
    points = np.stack([x, y, 0.1 * np.sin(3 * x)], axis=-1).astype(np.float32)
    first = np.arange(size * size).reshape(size, size)[:-1, :-1].reshape(-1)
    triangles = np.concatenate(
        [
            np.stack([first, first + size, first + 1], axis=-1),
            np.stack([first + 1, first + size, first + size + 1], axis=-1),
        ]
    )
    slope = np.stack([-0.3 * np.cos(3 * x), np.zeros_like(x), np.ones_like(x)], axis=-1)
    normals = (slope / np.linalg.norm(slope, axis=-1, keepdims=True)).astype(np.float32)
    return points[triangles].reshape(-1, 3), normals[triangles].reshape(-1, 3)


def area(corners):
    a, b, c = corners.reshape(-1, 3, 3).swapaxes(0, 1)
    return np.linalg.norm(np.cross(b - a, c - a), axis=-1).sum() / 2


def test_a_tenth_of_the_triangles_has_the_same_surface():
    corners, normals = grid()
    chosen = simplify(corners, normals)
    assert len(chosen) <= 0.11 * len(corners) / 3
    assert area(corners[chosen.reshape(-1)]) == pytest.approx(area(corners), rel=0.02)
    # Triangles face where their corners' normals point.
    a, b, c = corners[chosen].swapaxes(0, 1)
    assert ((np.cross(b - a, c - a) * normals[chosen].mean(axis=1)).sum(axis=-1) >= 0).all()


def test_a_texture_seam_stays_where_it_is():
    corners, normals = grid()
    # Two textures side by side, which meet at x = 0.5.
    right = corners.reshape(-1, 3, 3)[:, :, 0].mean(axis=1).repeat(3) > 0.5
    texture = np.stack([corners[:, 0] + 5 * right, corners[:, 1]], axis=-1)
    chosen = simplify(np.hstack([corners, texture]), normals)
    sides = right[chosen]
    assert (sides == sides[:, :1]).all()  # no triangle has corners of both textures
    assert {True, False} == set(sides.reshape(-1))


def test_a_shared_vertex_gives_each_face_the_normal_of_its_side():
    # A cube of 6 · 2 · 20² triangles with sharp edges: normals of three faces meet at a vertex.
    flat, _ = grid(21)
    flat[:, 2] = 0
    rotations = [np.roll(np.eye(3), k, axis=0) for k in range(3)]
    sides = [(flat @ turn + offset * turn[2], turn[2]) for turn in rotations for offset in (0, 1)]
    corners = np.concatenate([side for side, _ in sides]).astype(np.float32).round(5)
    normals = np.concatenate([np.tile(normal, (len(flat), 1)) for _, normal in sides])
    chosen = simplify(corners, normals.astype(np.float32))
    a, b, c = corners[chosen].swapaxes(0, 1)
    directions = np.cross(b - a, c - a)
    large = np.linalg.norm(directions, axis=-1) > 1e-6
    unit = directions[large] / np.linalg.norm(directions[large], axis=-1, keepdims=True)
    agreement = np.abs((normals[chosen[large]] * unit[:, None]).sum(axis=-1))
    assert np.median(agreement) == pytest.approx(1)
    assert (agreement > 0.9).mean() > 0.95


@pytest.mark.simulator
def test_fast_images_show_the_same_scene_from_the_same_simulation(libero_assets):
    observed, triangles, colliding = [], [], []
    for quality in ("default", "fast"):
        spec, backend = replace(SPEC, render_quality=quality), mujoco_gl.offscreen()
        environment = LiberoEnvironment(TASK, spec, backend, libero_assets.path)
        first = environment.reset(0)
        down = np.tile(np.float32([0, 0, -0.5, 0, 0, 0.2, -1]), (10, 1))
        observed.append((first, environment.run(down, False, None).observation))
        model = environment.control_env.sim.model
        meshes = model.geom_dataid[model.geom_type == 7]
        solid = model.geom_dataid[(model.geom_type == 7) & (model.geom_contype > 0)]
        triangles.append(model.mesh_facenum[np.unique(meshes)].sum())
        colliding.append(model.mesh_facenum[np.unique(solid)].tolist())
        environment.close()
    assert triangles[1] < 0.4 * triangles[0]
    assert colliding[0] == colliding[1]
    for default, fast in zip(*observed, strict=True):
        np.testing.assert_array_equal(default.state, fast.state)
        for view in SPEC.views:
            difference = np.abs(fast.images[view].astype(int) - default.images[view])
            assert difference.mean() < 6
            assert (difference.max(axis=-1) > 48).mean() < 0.06
