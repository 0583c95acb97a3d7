"""Meshes of LIBERO with fewer triangles, for software renderers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT = 0.1
"""Share of a mesh's triangles that is kept."""

MIN_TRIANGLES = 1000
"""Meshes with fewer are kept as they are."""


def simplify_meshes(model: Any) -> None:
    """Render a tenth of the triangles of large meshes, in contexts that are created from now on.

    On the CPU most of the time of an image goes into 300 000 triangles of robot and objects,
    eighteen times the pixels of an image of 128 by 128. Collisions and masses do not change.

    Args:
        model: MuJoCo's ``MjModel``, changed in place.
    """
    import mujoco

    is_mesh = model.geom_type == mujoco.mjtGeom.mjGEOM_MESH
    collides = (model.geom_contype | model.geom_conaffinity) != 0
    texture = model.mat_texid.reshape(model.nmat, -1).max(axis=1, initial=-1)
    has_texture = (model.geom_matid >= 0) & (texture[model.geom_matid] >= 0)
    visual, colliding, textured = (
        set(model.geom_dataid[is_mesh & geoms]) for geoms in (True, collides, has_texture)
    )
    for mesh in visual - colliding:
        if model.mesh_facenum[mesh] >= MIN_TRIANGLES:
            _simplify(model, mesh, mesh in textured)


def _simplify(model: Any, mesh: int, has_texture: bool) -> None:
    """Overwrite the triangles of a mesh by fewer, between some of its vertices."""
    start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    indices = [model.mesh_face, model.mesh_facenormal, model.mesh_facetexcoord]
    vertices, normals, texcoords = (part[start : start + count].reshape(-1) for part in indices)
    corners = [model.mesh_vert[model.mesh_vertadr[mesh] + vertices]]
    if has_texture:
        corners.append(model.mesh_texcoord[model.mesh_texcoordadr[mesh] + texcoords])
    chosen = simplify(np.hstack(corners), model.mesh_normal[model.mesh_normaladr[mesh] + normals])
    for part in indices:
        part[start : start + len(chosen)] = part[start : start + count].reshape(-1)[chosen]
    model.mesh_facenum[mesh] = len(chosen)


def simplify(
    corners: NDArray[np.float32], normals: NDArray[np.float32], kept: float = KEPT
) -> NDArray[np.int64]:
    """Choose corners of a mesh for fewer triangles with about the same surface.

    Args:
        corners: Positions of the triangles' corners, three rows for each triangle, and after them
            texture coordinates, if any: ``(3 n, 3)`` or ``(3 n, 5)``. Corners in one place with
            other texture coordinates stay apart, so that seams of a texture stay seams.
        normals: Of the corners, ``(3 n, 3)``.
        kept: Share of the triangles to keep.

    Returns:
        Indices of the corners of each new triangle, ``(m, 3)``.
    """
    import fast_simplification

    distinct, point = np.unique(corners, axis=0, return_inverse=True)
    points, point = distinct[:, :3], point.reshape(-1)
    triangles = point.reshape(-1, 3).astype(np.int32)
    *_, collapses = fast_simplification.simplify(
        points, triangles, target_reduction=1 - kept, return_collapses=True
    )
    moved, faces, replacement = fast_simplification.replay_simplification(
        points, triangles, collapses
    )
    # Of the points that became one, the nearest to it stands for it.
    distance = np.linalg.norm(points - moved[replacement], axis=1)
    order = np.lexsort((distance, replacement))
    became, nearest = np.unique(replacement[order], return_index=True)
    stands_for = np.zeros(len(moved), np.int64)
    stands_for[became] = order[nearest]
    faces = stands_for[faces]
    return _smoothest_corners(faces, points, point, normals)


def _smoothest_corners(
    faces: NDArray[np.int64],
    points: NDArray[np.float32],
    point: NDArray[np.int64],
    normals: NDArray[np.float32],
) -> NDArray[np.int64]:
    """For each corner of new faces, ``(m, 3)`` points, the old corner whose normal suits it best.

    Args:
        faces: Points of the new faces.
        points: Their positions.
        point: Point of each old corner.
        normals: Of the old corners.
    """
    a, b, c = points[faces].swapaxes(0, 1)
    directions = np.repeat(np.cross(b - a, c - a), 3, axis=0)
    by_point = np.argsort(point, kind="stable")
    counts = np.bincount(point, minlength=len(points))
    first, count = (np.cumsum(counts) - counts)[faces.reshape(-1)], counts[faces.reshape(-1)]
    # Old corners at the point of each new corner, one new corner after another.
    ends = np.cumsum(count)
    new = np.repeat(np.arange(len(count)), count)
    old = by_point[np.arange(ends[-1]) + np.repeat(first - ends + count, count)]
    agreement = (normals[old] * directions[new]).sum(axis=1)
    best: NDArray[np.int64] = old[np.lexsort((agreement, new))[ends - 1]]
    return best.reshape(-1, 3)
