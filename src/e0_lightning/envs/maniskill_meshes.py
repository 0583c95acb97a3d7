"""Robots of ManiSkill with fewer triangles, for software renderers."""

from __future__ import annotations

from typing import Any

import numpy as np

KEPT = 0.1
"""Share of a mesh's triangles that is kept."""

MIN_TRIANGLES = 1000
"""Meshes with fewer are kept as they are: fingers, which a hand camera sees from nearby."""

TEXTURES = ("base_color", "diffuse", "emission", "metallic", "normal", "roughness", "transmission")
"""Textures that a material may have."""

_shapes: dict[tuple[str, tuple[float, ...]], list[Any]] = {}
"""Shapes by the file and scale of what they replace; a scene is built at every reset."""


def simplify_robot(env: Any) -> None:
    """Render the robot with a tenth of its triangles, from the next reset with ``reconfigure`` on.

    On the CPU most of the time of an image goes into the robot's triangles, 135 000 of a Panda,
    eight times the pixels of an image of 128 by 128. Neither collisions nor other objects change.

    Args:
        env: ManiSkill environment of one robot, without wrappers.
    """
    load_agent = env._load_agent

    def load_simplified_agent(*args: Any, **kwargs: Any) -> None:
        load_agent(*args, **kwargs)
        for link in env.agent.robot.links:
            for component in link._objs:
                _simplify(component.entity)

    env._load_agent = load_simplified_agent


def _simplify(entity: Any) -> None:
    """Replace the shapes that render an entity."""
    from sapien.render import RenderBodyComponent

    body = entity.find_component_by_type(RenderBodyComponent)
    if body is None:
        return
    simplified = RenderBodyComponent()
    for shape in body.render_shapes:
        for part in _simplified_parts(shape):
            copy = part.clone()
            copy.local_pose = shape.local_pose
            simplified.attach(copy)
    entity.remove_component(body)
    entity.add_component(simplified)


def _simplified_parts(shape: Any) -> list[Any]:
    """What replaces a shape: one shape for each of its parts, or itself."""
    from sapien.render import RenderShapeTriangleMesh

    if not isinstance(shape, RenderShapeTriangleMesh) or not shape.filename:
        return [shape]
    key = shape.filename, tuple(np.asarray(shape.scale).tolist())
    if key not in _shapes:
        parts = shape.parts
        large = any(len(part.triangles) >= MIN_TRIANGLES for part in parts)
        simplify = large and not any(_has_texture(part.material) for part in parts)
        _shapes[key] = [_mesh(part, shape.scale) for part in parts] if simplify else [shape]
    return _shapes[key]


def _has_texture(material: Any) -> bool:
    """Whether a material needs the coordinates of its textures, which simplified meshes lack."""
    return any(getattr(material, f"{name}_texture") is not None for name in TEXTURES)


def _mesh(part: Any, scale: Any) -> Any:
    """A shape with fewer triangles and smooth normals."""
    import trimesh
    from sapien.render import RenderShapeTriangleMesh

    mesh = trimesh.Trimesh(part.vertices, part.triangles)
    if len(mesh.faces) >= MIN_TRIANGLES:
        mesh = mesh.simplify_quadric_decimation(percent=1 - KEPT)
    simplified = RenderShapeTriangleMesh(
        vertices=mesh.vertices.astype(np.float32),
        triangles=mesh.faces.astype(np.uint32),
        normals=mesh.vertex_normals.astype(np.float32),
        uvs=np.zeros((len(mesh.vertices), 2), np.float32),
        material=part.material,
    )
    simplified.scale = scale
    return simplified
