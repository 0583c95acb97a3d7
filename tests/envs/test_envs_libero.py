from dataclasses import replace

import numpy as np
import pytest

from e0_lightning.benchmarks.libero import SPEC, benchmark
from e0_lightning.data.formats.libero import CAMERAS, CONTROL_MODE
from e0_lightning.envs import mujoco_gl
from e0_lightning.envs.libero import (
    NO_OP,
    PARTS,
    LiberoEnvironment,
    check_spec,
)
from e0_lightning.envs.libero_assets import FOLDERS, package
from e0_lightning.envs.libero_tasks import check_task, tasks

SOUP = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"


@pytest.fixture(scope="module")
def soup(libero_assets):
    environment = LiberoEnvironment(SOUP, SPEC, mujoco_gl.offscreen(), libero_assets.path)
    yield environment
    environment.close()


def incomplete_assets(folder):
    for name in FOLDERS:
        (folder / "assets" / name).mkdir(parents=True)
    return folder / "assets"


def test_an_unknown_suite_is_refused_with_a_near_miss():
    with pytest.raises(ValueError, match=r"got 'libero_objects'; did you mean libero_object\?"):
        tasks("libero_objects")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": {"frontview": 128}}, "expected views among .* got 'frontview'"),
        ({"state": {"qpos": 9}}, r"expected state parts .* got qpos \(9\)"),
        ({"state": {"ee_pos": 7}}, r"expected state parts .* got ee_pos \(7\)"),
        ({"action_dim": 8}, "expected 7 action dimensions"),
        ({"control_mode": "osc_pose"}, "in osc_pose_delta, got 7 in 'osc_pose'"),
    ],
    ids=["view", "state", "dimensions", "actions", "controller"],
)
def test_an_incompatible_spec_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_spec(SOUP, replace(SPEC, **wrong))
    check_spec(SOUP, replace(SPEC, views={"agentview_mirrored": 256}))


def test_every_suite_has_ten_tasks(libero_assets):
    assert [len(tasks(f"libero_{name}")) for name in ("spatial", "object", "goal", "10")] == [
        10
    ] * 4
    assert tasks("libero_object")[0] == SOUP
    with pytest.raises(ValueError, match=r"did you mean .*alphabet_soup"):
        check_task("libero_object/pick_up_the_alphabet_soup")


# Two tests before `soup` is built: freeing one rendering context clears another.
def test_the_benchmark_times_a_task(libero_assets, monkeypatch, capsys):
    monkeypatch.setattr("e0_lightning.benchmarks.libero.tasks", lambda suite: [SOUP])
    benchmark(["libero_object"])
    assert SOUP in capsys.readouterr().out


def test_random_placements_put_the_bowl_into_the_drawer(libero_assets):
    task = (
        "libero_spatial/pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it"
        "_on_the_plate"
    )
    environment = LiberoEnvironment(task, SPEC, mujoco_gl.offscreen(), libero_assets.path)
    for seed in (0, 1):
        environment.reset_to_random_placement(seed)
        inside = ["in", "akita_black_bowl_1", "wooden_cabinet_1_top_region"]
        assert environment.control_env.env._eval_predicate(inside)
    environment.close()


def test_observations_have_images_state_and_the_instruction_of_the_papers(soup):
    observation = soup.reset(0)
    assert observation.instruction == "pick up the alphabet soup and place it in the basket"
    assert {name: image.shape for name, image in observation.images.items()} == dict.fromkeys(
        CAMERAS, (128, 128, 3)
    )
    assert observation.state.shape == (sum(PARTS.values()),)
    mirrored = soup.render("agentview_mirrored", 128, 128)
    np.testing.assert_array_equal(mirrored, observation.images["agentview"][:, ::-1])


@pytest.mark.parametrize("name", ["alphabet_soup_1", "milk_1", "tomato_sauce_1"])
def test_objects_are_projected_by_the_camera_matrix(soup, name):
    """Images are upright and not mirrored: the pixels that change when an object is removed."""
    observation, sim = soup.reset(0), soup.control_env.sim
    position = sim.data.body_xpos[soup.control_env.env.obj_body_id[name]]
    camera = sim.model.camera_name2id("agentview")
    x, y, z = sim.data.cam_xmat[camera].reshape(3, 3).T @ (position - sim.data.cam_xpos[camera])
    # MuJoCo's cameras have x to the right and y up, and point along -z.
    expected = observation.intrinsics["agentview"] @ [x / -z, -y / -z, 1]
    sim.data.set_joint_qpos(f"{name}_joint0", [0, 0, -5, 1, 0, 0, 0])
    sim.forward()
    without = soup.render("agentview", 128, 128).astype(int)
    changed = np.abs(observation.images["agentview"] - without).sum(axis=-1) > 60
    row, column = np.argwhere(changed).mean(axis=0) + 0.5
    np.testing.assert_allclose([column, row], expected[:2], atol=1.5)


def final_state(environment, seed, actions):
    environment.reset_to_initial_state(seed)
    environment.run(actions, last=True, on_frame=None)
    return environment.control_env.get_sim_state()


def test_an_episode_depends_on_its_initial_state_alone(soup):
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 7)).astype(np.float32)
    first, other, again = (final_state(soup, seed, actions) for seed in (3, 4, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_reused_scene_behaves_like_a_new_one(soup):
    from libero.libero.envs.env_wrapper import ControlEnv

    actions = np.random.default_rng(1).uniform(-1, 1, (12, 7)).astype(np.float32)
    final_state(soup, 1, actions)
    reused = final_state(soup, 7, actions)
    # Without a renderer: freeing its rendering context would clear that of `soup`.
    path = package() / "bddl_files" / f"{SOUP}.bddl"
    fresh = ControlEnv(str(path), use_camera_obs=False, has_offscreen_renderer=False)
    np.random.seed(0)
    fresh.env.reset()
    fresh.set_init_state(soup._initial_states[7])
    for action in [np.array(NO_OP)] * 10 + list(actions.astype(np.float64)):
        fresh.step(action)
    state = fresh.get_sim_state()
    fresh.close()
    np.testing.assert_allclose(reused, state, rtol=0, atol=1e-10)


def test_the_camera_is_displaced_and_restored(soup):
    images = [soup.reset(2, (angle, 0, 0)).images for angle in (0, 15, 0)]
    np.testing.assert_array_equal(images[0]["agentview"], images[2]["agentview"])
    assert np.abs(images[0]["agentview"].astype(float) - images[1]["agentview"]).mean() > 5
    np.testing.assert_array_equal(images[0]["eye_in_hand"], images[1]["eye_in_hand"])


def test_incomplete_assets_are_named(libero_assets, tmp_path, monkeypatch):
    monkeypatch.setattr("libero.libero._assets_path_cache", None)  # restored afterwards
    with pytest.raises(ValueError, match=r"may be incomplete.*\.xml.*set LIBERO_ASSETS to"):
        LiberoEnvironment(SOUP, SPEC, mujoco_gl.offscreen(), incomplete_assets(tmp_path))


def test_a_missing_initial_state_is_refused(soup):
    with pytest.raises(ValueError, match="expected an initial state from 0 to 49, got 50"):
        soup.reset(50)


def test_the_control_mode_is_that_of_the_demonstrations():
    assert SPEC.control_mode == CONTROL_MODE
