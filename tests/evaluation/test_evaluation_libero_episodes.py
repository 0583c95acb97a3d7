from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from e0_lightning.benchmarks.libero import SPEC
from e0_lightning.envs.base import EvalEpisode
from e0_lightning.envs.camera_orbit import CameraGrid
from e0_lightning.envs.libero import NO_OP
from e0_lightning.envs.libero_assets import Assets
from e0_lightning.envs.libero_tasks import SUITES
from e0_lightning.evaluation.libero_episodes import LiberoEpisodes, comparability_notes
from e0_lightning.evaluation.report.callback import RolloutReport

BUTTER = "pick_up_the_butter_and_place_it_in_the_basket"
SOUP = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"


def test_reasons_against_a_comparison_are_noted(tmp_path):
    full, reduced = (Assets(tmp_path, "pack", given) for given in (False, True))
    assert comparability_notes(full, "3.3.2", "default") == []
    assert "replaced meshes" in comparability_notes(reduced, "3.3.2", "default")[0]
    assert "floors darker" in comparability_notes(full, "3.3.3", "default")[0]
    assert "without reflections" in comparability_notes(full, "3.3.2", "fast")[0]
    assert len(comparability_notes(reduced, "3.10.0", "fast")) == 3


def metadata(monkeypatch, reduced=False, **settings):
    data = LiberoEpisodes(**{"suites": ["libero_goal"], **settings})
    data._assets = Assets(Path("assets"), "pack", reduced)
    installed = {"mujoco": "3.3.2"}
    monkeypatch.setattr("e0_lightning.evaluation.libero_episodes.versions", lambda: installed)
    monkeypatch.setattr("e0_lightning.evaluation.libero_episodes.offscreen", lambda: "egl")
    return data.metadata(["libero_goal/open_the_drawer"])


def test_published_rates_are_given_only_for_their_assets_and_episode_lengths(monkeypatch):
    protocol = metadata(monkeypatch)["published"]["libero_goal"]
    assert (protocol["tasks"], protocol["episodes"]) == (10, 50)
    assert protocol["rates"]["E0, published"] == 0.95
    assert metadata(monkeypatch, reduced=True)["published"] == {}
    assert metadata(monkeypatch, max_steps=77)["published"] == {}
    other = {"libero_goal/open_the_drawer": "close it"}
    assert metadata(monkeypatch, instructions=other)["published"] == {}


def test_a_test_on_validation_states_is_noted(monkeypatch):
    assert metadata(monkeypatch, num_val_episodes=10, num_episodes=40)["notes"] == []
    (note,) = metadata(monkeypatch, num_val_episodes=10)["notes"]
    assert "initial states 40 to 49" in note


def test_validation_uses_the_last_initial_states():
    data = LiberoEpisodes(["libero_goal"], num_episodes=3, num_val_episodes=2)
    assert list(data.test_seeds()) == [0, 1, 2]
    assert list(data.val_seeds()) == [48, 49]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"suites": []}, "suites: expected at least one"),
        ({"num_episodes": 51}, "expected at most 50"),
        ({"num_val_episodes": 51}, "expected at most 50"),
        ({"tasks": [10]}, "expected indices from 0 to 9"),
        ({"tasks": []}, "expected indices from 0 to 9"),
        ({"max_steps": "mine"}, "a number or openvla or lerobot"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"perturbations": ["swop"]}, "expected some of object, swap, lan, task, got 'swop'"),
    ],
    ids=[
        "suites",
        "episodes",
        "val episodes",
        "task",
        "no task",
        "max steps",
        "0 steps",
        "perturbation",
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LiberoEpisodes(**{"suites": ["libero_object"], **wrong})


@pytest.mark.parametrize(
    ("max_steps", "expected"),
    [("openvla", [220, 280, 300, 520]), ("lerobot", [280, 280, 300, 520]), (77, [77] * 4)],
)
def test_max_steps_are_published_ones_or_a_number(max_steps, expected):
    data = LiberoEpisodes(["libero_spatial"], max_steps=max_steps)
    assert [data.max_steps_of(f"{suite}/anything") for suite in SUITES] == expected


def test_a_suite_is_evaluated_from_its_official_initial_states(libero_assets):
    data = LiberoEpisodes(
        ["libero_object"], tasks=[0, 3], num_episodes=2, camera_offset=CameraGrid(azimuth=(0, 5))
    )
    episodes = [episode for batch in data.test_dataloader() for episode in batch.episodes]
    data.teardown("test")
    assert episodes[0] == EvalEpisode(SOUP, 0, 280, None, (0, 0, 0))
    assert episodes[1] == EvalEpisode(SOUP, 0, 280, None, (5, 0, 0))
    assert len(episodes) == 8


class NoOp(LightningModule):
    """Executes no-ops, two steps at a time."""

    spec = replace(SPEC, horizon=2)

    def act(self, observation):
        return torch.tensor(NO_OP).expand(len(observation["state"]), 2, 7)

    def test_step(self, batch, batch_idx):
        return batch.run(self)


def test_no_ops_fail_and_are_reported(libero_assets, tmp_path):
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
    trainer.test(NoOp(), data)
    table = (tmp_path / "rollouts" / "results.md").read_text()
    assert f"| {SOUP} | 0.0% |" in table
    assert "| 2 | 0 | 4 | 4 |" in table


def test_perturbed_versions_are_evaluated_beside_their_suite(libero_assets, tmp_path, monkeypatch):
    monkeypatch.setattr("e0_lightning.envs.libero_tasks.pro_package", lambda: tmp_path)
    data = LiberoEpisodes(["libero_object"], tasks=[6], perturbations=["swap"])
    suites = ("libero_object", "libero_object_swap")
    assert data.task_names() == [f"{suite}/{BUTTER}" for suite in suites]
    assert data.max_steps_of(f"libero_object_swap/{BUTTER}") == 280
