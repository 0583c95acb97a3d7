import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from e0_lightning.benchmarks.libero import SPEC, check
from e0_lightning.data.formats.libero import CAMERAS, CONTROL_MODE
from e0_lightning.envs import libero_assets
from e0_lightning.envs import mujoco_gl as rendering
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.camera_orbit import CameraGrid
from e0_lightning.envs.libero import (
    PARTS,
    STAY,
    SUITES,
    LiberoEnvironment,
    require_spec,
    require_task,
    tasks,
)
from e0_lightning.envs.libero_assets import FOLDERS, Assets, find_assets, package, unpack
from e0_lightning.evaluation.libero_episodes import LiberoEpisodes, notes
from e0_lightning.evaluation.report.callback import RolloutReport

SOUP = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"


@pytest.fixture(scope="module")
def soup(libero_assets):
    environment = LiberoEnvironment(SOUP, SPEC, rendering.offscreen(), libero_assets.path)
    yield environment
    environment.close()


def folder_of_assets(path):
    for name in FOLDERS:
        (path / "assets" / name).mkdir(parents=True)
    return path / "assets"


def test_an_archive_is_unpacked_once(tmp_path):
    made = folder_of_assets(tmp_path / "source")
    with tarfile.open(tmp_path / "pack.tar.xz", "w:xz") as file:
        file.add(made, "assets")
    folder = unpack(tmp_path / "pack.tar.xz", tmp_path / "cache")
    assert sorted(each.name for each in folder.iterdir()) == sorted(FOLDERS)
    (folder / "mark").touch()
    assert (unpack(tmp_path / "pack.tar.xz", tmp_path / "cache") / "mark").exists()


def test_a_broken_archive_leaves_nothing_behind(tmp_path):
    (tmp_path / "pack.tar.xz").write_bytes(b"\xfd7zXZ\x00 and then nothing")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(tmp_path / "pack.tar.xz", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no meshes")
    with tarfile.open(tmp_path / "pack.tar", "w") as file:
        file.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(ValueError, match=r"found \['notes.txt'\].*a folder `assets` is wanted"):
        unpack(tmp_path / "pack.tar", tmp_path / "cache")


def test_a_folder_without_assets_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(libero_assets, "package", lambda: tmp_path)
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    with pytest.raises(ValueError, match="found no articulated_objects"):
        find_assets()


def test_missing_assets_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(libero_assets, "package", lambda: tmp_path)
    monkeypatch.delenv("LIBERO_ASSETS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(RuntimeError, match="set LIBERO_ASSETS to"):
        find_assets()


def unreachable(*args, **kwargs):
    raise ConnectionError("no network")


def test_a_reduced_pack_is_noticed(tmp_path, monkeypatch):
    folder = folder_of_assets(tmp_path)
    monkeypatch.setattr(libero_assets, "package", lambda: tmp_path / "package")
    monkeypatch.setenv("LIBERO_ASSETS", str(folder))
    assert not find_assets().reduced
    (folder / "NOTICE.txt").write_text("LIBERO assets, reduced and partly replaced")
    assert find_assets().reduced


def test_notes_tell_when_figures_do_not_compare(tmp_path):
    whole, reduced = (Assets(tmp_path, "pack", given) for given in (False, True))
    assert notes(whole, "3.3.2") == []
    assert "replaced meshes" in notes(reduced, "3.3.2")[0]
    assert "floors darker" in notes(whole, "3.3.3")[0]
    assert len(notes(reduced, "3.10.0")) == 2


def test_a_fall_back_to_software_is_announced(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "_try", {"egl": "no display", "osmesa": ""}.get)
    with pytest.warns(UserWarning, match=r"EGL does not work here \(no display\).*OSMesa"):
        assert rendering.offscreen.__wrapped__() == "osmesa"


def test_without_any_renderer_both_reasons_are_given(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "_try", {"egl": "no display", "osmesa": "no library"}.get)
    with pytest.raises(RuntimeError, match=r"(?s)EGL: no display.*OSMesa: no library.*apt-get"):
        rendering.offscreen.__wrapped__()


def test_an_unknown_suite_is_refused_with_the_one_meant():
    with pytest.raises(ValueError, match="no suite 'libero_objects'; did you mean libero_object"):
        tasks("libero_objects")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"views": {"frontview": 128}}, "no camera 'frontview'"),
        ({"state": {"qpos": 9}}, "no state part 'qpos' of 9"),
        ({"state": {"ee_pos": 7}}, "no state part 'ee_pos' of 7"),
        ({"action_dim": 8}, "takes 7 action dimensions"),
        ({"control_mode": "osc_pose"}, "in osc_pose_delta, the actor gives 7 in 'osc_pose'"),
    ],
    ids=["view", "state", "dimensions", "actions", "controller"],
)
def test_an_actor_of_another_contract_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        require_spec(SOUP, replace(SPEC, **wrong))
    require_spec(SOUP, replace(SPEC, views={"agentview_mirrored": 256}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"suites": []}, "one suite at least"),
        ({"num_episodes": 51}, "from 1 to 50"),
        ({"tasks": [10]}, "numbered from 0 to 9"),
        ({"max_steps": "mine"}, "openvla or lerobot"),
    ],
    ids=["suites", "episodes", "tasks", "caps"],
)
def test_numbers_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LiberoEpisodes(**{"suites": ["libero_object"], **wrong})


@pytest.mark.parametrize(
    ("max_steps", "caps"),
    [("openvla", [220, 280, 300, 520]), ("lerobot", [280, 280, 300, 520]), (77, [77] * 4)],
)
def test_caps_are_the_published_ones_or_ones_own(max_steps, caps):
    data = LiberoEpisodes(["libero_spatial"], max_steps=max_steps)
    assert [data._cap(f"{suite}/anything") for suite in SUITES] == caps


def test_every_suite_has_ten_tasks(libero_assets):
    assert [len(tasks(f"libero_{name}")) for name in ("spatial", "object", "goal", "10")] == [
        10
    ] * 4
    assert tasks("libero_object")[0] == SOUP
    with pytest.raises(ValueError, match=r"did you mean .*alphabet_soup"):
        require_task("libero_object/pick_up_the_alphabet_soup")


# Before `soup` is built: the end of one drawing context would empty another.
def test_check_times_a_task(libero_assets, monkeypatch, capsys):
    monkeypatch.setattr("e0_lightning.benchmarks.libero.tasks", lambda suite: [SOUP])
    assert check(["libero_object"]) == 0
    assert SOUP in capsys.readouterr().out


def test_it_shows_pictures_state_and_the_sentence_of_the_papers(soup):
    view = soup.reset(0)
    assert view.instruction == "pick up the alphabet soup and place it in the basket"
    assert {name: image.shape for name, image in view.images.items()} == dict.fromkeys(
        CAMERAS, (128, 128, 3)
    )
    assert view.state.shape == (sum(PARTS.values()),)
    mirrored = soup.draw("agentview_mirrored", 128)
    np.testing.assert_array_equal(mirrored, view.images["agentview"][:, ::-1])


@pytest.mark.parametrize("name", ["alphabet_soup_1", "milk_1", "tomato_sauce_1"])
def test_things_are_seen_where_the_camera_matrix_says(soup, name):
    """Pictures are upright and not mirrored: what changes with a thing's absence is there."""
    view, sim = soup.reset(0), soup.world.sim
    place = sim.data.body_xpos[soup.world.env.obj_body_id[name]]
    camera = sim.model.camera_name2id("agentview")
    x, y, z = sim.data.cam_xmat[camera].reshape(3, 3).T @ (place - sim.data.cam_xpos[camera])
    # MuJoCo's cameras have x to the right and y up, and look along -z.
    expected = view.intrinsics["agentview"] @ [x / -z, -y / -z, 1]
    sim.data.set_joint_qpos(f"{name}_joint0", [0, 0, -5, 1, 0, 0, 0])
    sim.forward()
    without = soup.draw("agentview", 128).astype(int)
    changed = np.abs(view.images["agentview"] - without).sum(axis=-1) > 60
    row, column = np.argwhere(changed).mean(axis=0) + 0.5
    np.testing.assert_allclose([column, row], expected[:2], atol=1.5)


def play(environment, seed, actions):
    environment.begin(seed)
    environment.run(actions, last=True, on_frame=None)
    return environment.world.get_sim_state()


def test_an_episode_depends_on_its_initial_state_alone(soup):
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 7)).astype(np.float32)
    first, other, again = (play(soup, seed, actions) for seed in (3, 4, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_kept_scene_behaves_like_one_built_anew(soup):
    from libero.libero.envs.env_wrapper import ControlEnv

    actions = np.random.default_rng(1).uniform(-1, 1, (12, 7)).astype(np.float32)
    play(soup, 1, actions)
    kept = play(soup, 7, actions)
    # It draws nothing: the end of its drawing context would empty ours.
    path = package() / "bddl_files" / f"{SOUP}.bddl"
    fresh = ControlEnv(str(path), use_camera_obs=False, has_offscreen_renderer=False)
    np.random.seed(0)
    fresh.env.reset()
    fresh.set_init_state(soup._starts[7])
    for action in [np.array(STAY)] * 10 + list(actions.astype(np.float64)):
        fresh.step(action)
    state = fresh.get_sim_state()
    fresh.close()
    np.testing.assert_allclose(kept, state, rtol=0, atol=1e-10)


def test_the_camera_moves_and_comes_back(soup):
    there = [soup.reset(2, (angle, 0, 0)).images for angle in (0, 15, 0)]
    np.testing.assert_array_equal(there[0]["agentview"], there[2]["agentview"])
    assert np.abs(there[0]["agentview"].astype(float) - there[1]["agentview"]).mean() > 5
    np.testing.assert_array_equal(there[0]["eye_in_hand"], there[1]["eye_in_hand"])


def test_assets_that_lack_something_are_named(libero_assets, tmp_path, monkeypatch):
    monkeypatch.setattr("libero.libero._assets_path_cache", None)  # put back afterwards
    with pytest.raises(ValueError, match=r"lack something.*\.xml.*set LIBERO_ASSETS to"):
        LiberoEnvironment(SOUP, SPEC, rendering.offscreen(), folder_of_assets(tmp_path))


def test_an_initial_state_that_does_not_exist_is_refused(soup):
    with pytest.raises(ValueError, match="initial states 0 to 49, 50 is asked for"):
        soup.reset(50)


def test_a_suite_is_played_from_its_official_initial_states(libero_assets):
    data = LiberoEpisodes(
        ["libero_object"], tasks=[0, 3], num_episodes=2, camera_offset=CameraGrid(azimuth=(0, 5))
    )
    played = [episode for batch in data.test_dataloader() for episode in batch.episodes]
    data.teardown("test")
    assert played[0] == EvalEpisode(SOUP, 0, 280, None, (0, 0, 0))
    assert played[1] == EvalEpisode(SOUP, 0, 280, None, (5, 0, 0))
    assert len(played) == 8


class Still(LightningModule):
    """Does nothing, for two steps at a time."""

    spec = replace(SPEC, horizon=2)

    def act(self, observation):
        return torch.tensor(STAY).expand(len(observation["state"]), 2, 7)

    def test_step(self, batch, batch_idx):
        return batch.run(self)


def test_doing_nothing_fails_and_is_reported(libero_assets, tmp_path):
    data = LiberoEpisodes(
        ["libero_object"],
        tasks=[0],
        num_episodes=2,
        num_envs=2,
        n_action_steps=2,
        max_steps=4,
        num_videos=0,
    )
    trainer = Trainer(
        default_root_dir=tmp_path,
        logger=False,
        accelerator="cpu",
        callbacks=[RolloutReport()],
        enable_progress_bar=False,
    )
    trainer.test(Still(), data)
    table = (tmp_path / "rollouts" / "results.md").read_text()
    assert f"| {SOUP} | 0.0% |" in table
    assert "| 2 | 0 | 4 | 4 |" in table


def test_control_mode_is_the_demonstrations_one():
    assert SPEC.control_mode == CONTROL_MODE
