from dataclasses import replace

import h5py
import numpy as np
import pytest

from e0_lightning.collection.maniskill import collect
from e0_lightning.data.formats.maniskill import ManiSkillReader
from e0_lightning.envs.maniskill import ManiSkillEnvironment
from e0_lightning.types import PolicySpec

pytestmark = pytest.mark.simulator

DEFAULT = PolicySpec(
    views={"base_camera": 128, "hand_camera": 128},
    state={"qpos": 9, "tcp_pose": 7},
    action_dim=8,
    control_mode="pd_joint_pos",
    horizon=1,
)


@pytest.fixture(scope="module")
def environments():
    qualities = ("default", "fast")
    made = [
        ManiSkillEnvironment("StackCube-v1", replace(DEFAULT, render_quality=quality))
        for quality in qualities
    ]
    yield made
    for environment in made:
        environment.close()


def triangles(environment):
    """Name of each entity in the scene to the triangles that are rendered."""
    from sapien.render import RenderBodyComponent, RenderShapeTriangleMesh

    counts = {}
    for entity in environment.batch._base.scene.sub_scenes[0].entities:
        body = entity.find_component_by_type(RenderBodyComponent)
        shapes = [] if body is None else body.render_shapes
        meshes = [shape for shape in shapes if isinstance(shape, RenderShapeTriangleMesh)]
        parts = [part for mesh in meshes for part in mesh.parts]
        counts[entity.name] = sum(len(part.triangles) for part in parts)
    return counts


# The second reset builds the scene from shapes that the first has made.
@pytest.mark.parametrize("seed", [0, 1])
def test_fast_images_show_the_same_scene(environments, seed):
    default, fast = (environment.reset(seed) for environment in environments)
    np.testing.assert_array_equal(fast.state, default.state)
    for view in DEFAULT.views:
        difference = np.abs(fast.images[view].astype(int) - default.images[view])
        assert difference.mean() < 1
        assert (difference.max(axis=-1) > 20).mean() < 0.02
    assert not np.array_equal(fast.images["base_camera"], default.images["base_camera"])


def test_only_the_robot_has_fewer_triangles(environments):
    for environment in environments:
        environment.reset(0)
    default, fast = (triangles(environment) for environment in environments)
    assert fast.keys() == default.keys()
    links = environments[0].batch._base.agent.robot.links
    robot = {component.entity.name for link in links for component in link._objs}
    assert {name for name in fast if fast[name] != default[name]} < robot
    assert sum(fast[name] for name in robot) < 0.15 * sum(default[name] for name in robot)
    # A hand camera sees the fingers from nearby.
    assert fast["panda_leftfinger"] == default["panda_leftfinger"]


def test_the_simulation_is_the_same(environments):
    down = np.float32([0, 0.6, 0, -2.0, 0, 2.6, 0.785, -1])
    states = []
    for environment in environments:
        environment.reset(0)
        observation = environment.run(np.tile(down, (20, 1)), False, None).observation
        states.append(observation.state)
    np.testing.assert_array_equal(*states)


def test_demonstrations_say_how_they_are_rendered_and_are_met_again(tmp_path):
    out = collect("PushCube-v1", 1, tmp_path / "push.h5", render_quality="fast", workers=1)
    reader = ManiSkillReader(str(out))
    spec = reader.read_spec("traj_0")
    assert spec.render_quality == "fast"
    environment = ManiSkillEnvironment("PushCube-v1", replace(spec, state={"qpos": 9}, horizon=1))
    images = environment.reset(reader.episodes["traj_0"]["episode_seed"]).images
    environment.close()
    with h5py.File(out) as file:
        recorded = file["traj_0/obs/sensor_data/base_camera/rgb"][0]
    np.testing.assert_array_equal(images["base_camera"], recorded)
    with pytest.raises(ValueError, match="with render_quality default, got fast"):
        collect("PushCube-v1", 2, out)
