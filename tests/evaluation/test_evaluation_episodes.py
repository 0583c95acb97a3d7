import json
from pathlib import Path
from typing import ClassVar

import pytest
from evaluation_corridor import RAISES, SPEC, Corridor, Walker
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.episodes import EpisodesDataModule
from e0_lightning.evaluation.maniskill_episodes import ManiSkillEpisodes
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts


def planned(loader):
    return [[(episode.task, episode.seed) for episode in batch.episodes] for batch in loader]


@pytest.mark.simulator
def test_every_task_is_tested_on_seeds_without_demonstrations():
    data = ManiSkillEpisodes(["PushCube-v1", "PickCube-v1"], num_episodes=12, num_envs=2)
    batches = planned(data.test_dataloader())
    assert [len(batch) for batch in batches] == [10, 2, 10, 2]
    seeds = list(range(100_000, 100_012))
    expected = [(task, seed) for task in ("PushCube-v1", "PickCube-v1") for seed in seeds]
    assert [episode for batch in batches for episode in batch] == expected


@pytest.mark.simulator
def test_validation_seeds_differ_from_test_seeds():
    data = ManiSkillEpisodes(["PushCube-v1"], num_episodes=5, num_val_episodes=4)
    test, val = (
        set(planned(loader)[0]) for loader in (data.test_dataloader(), data.val_dataloader())
    )
    assert len(val) == 4
    assert not test & val


def test_without_validation_episodes_there_is_no_loader():
    assert ManiSkillEpisodes(["PushCube-v1"]).val_dataloader() == []


@pytest.mark.simulator
def test_an_unknown_task_is_refused_before_any_process_starts():
    with pytest.raises(ValueError, match="did you mean PickCube-v1"):
        ManiSkillEpisodes(["PickCub-v1"]).test_dataloader()


def test_max_steps_exceed_the_demonstrations_and_can_be_set():
    tasks = ["PushCube-v1", "PegInsertionSide-v1", "PullCube-v1"]
    assert list(ManiSkillEpisodes(tasks).max_steps.values()) == [100, 300, 200]
    assert set(ManiSkillEpisodes(tasks, max_steps=77).max_steps.values()) == {77}
    one = ManiSkillEpisodes(tasks, max_steps={"PushCube-v1": 60}).max_steps
    assert list(one.values()) == [60, 300, 200]


def test_an_instruction_can_be_given_by_task():
    data = ManiSkillEpisodes({"PushCube-v1": "shove it"})
    assert data.task_instructions["PushCube-v1"] == "shove it"
    assert data.task_instructions["PickCube-v1"].startswith("pick up")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_episodes": 0}, "num_episodes: expected at least 1"),
        (
            {"first_seed": 3, "num_val_episodes": 4},
            "first_seed: expected at least num_val_episodes",
        ),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"max_steps": {"PickCube-v1": 9}}, "among PushCube-v1, got PickCube-v1"),
        ({"n_action_steps": 0}, "n_action_steps: expected at least 1, got 0"),
    ],
    ids=["episodes", "seeds", "max steps", "task", "n_action_steps"],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ManiSkillEpisodes(["PushCube-v1"], **wrong)


class Pedestrian(LightningModule):
    """A module that runs episodes in tests and validations."""

    spec = SPEC

    def __init__(self):
        super().__init__()
        self.act = Walker().act

    def test_step(self, batch, batch_idx):
        return batch.run(self)

    validation_step = test_step


@pytest.fixture(scope="module")
def rollouts():
    rollouts = Rollouts(Corridor, num_envs=2, n_action_steps=4)
    yield rollouts
    rollouts.close()


@pytest.fixture
def corridor(rollouts):
    seeds = {"corridor": (3, 30, RAISES), "passage": (2, 4)}
    return [
        RolloutBatch(
            rollouts,
            [EvalEpisode(task, seed, 8) for seed in each],
            {
                "max_steps": dict.fromkeys(seeds, 8),
                "n_action_steps": 4,
                "versions": {"corridor": "1.0"},
            },
        )
        for task, each in seeds.items()
    ]


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        default_root_dir=tmp_path,
        logger=False,
        accelerator="cpu",
        callbacks=[RolloutReport()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def test_a_test_reports_every_episode(corridor, trainer, tmp_path, capsys):
    trainer.test(Pedestrian(), DataLoader(corridor, batch_size=None, collate_fn=lambda each: each))
    folder = tmp_path / "rollouts"
    report = json.loads((folder / "results.json").read_text())
    task = report["tasks"]["corridor"]
    assert (task["successes"], task["n"], task["errors"]) == (1, 3, 1)
    assert task["rate"] == pytest.approx(1 / 3)
    # Wilson's interval of 1 of 3.
    assert (task["low"], task["high"]) == pytest.approx((0.0615, 0.7923), abs=1e-4)
    assert report["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert report["n_action_steps"] == 4
    assert report["versions"]["corridor"] == "1.0"
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["seed"] for line in lines) == [2, 3, 4, RAISES, 30]
    assert trainer.callback_metrics["test/success_rate/passage"] == 1
    table = (folder / "results.md").read_text()
    assert "| corridor | 33.3% | 6.1% – 79.2% | 3 | 1 | 4 | 8 |" in table
    assert f"corridor, seed {RAISES}: RuntimeError: the floor gave way" in table
    assert table in capsys.readouterr().out


def test_validation_logs_success_rates_by_task(corridor, trainer):
    loader = DataLoader(corridor, batch_size=None, collate_fn=lambda each: each)
    trainer.validate(Pedestrian(), loader, verbose=False)
    assert trainer.callback_metrics["val/success_rate/corridor"] == pytest.approx(1 / 3)
    assert trainer.callback_metrics["val/success_rate/passage"] == 1


def test_videos_of_a_validation_are_logged_once_per_task_and_outcome(rollouts, tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="videos need imageio[ffmpeg]")

    class VideoLogger(CSVLogger):
        logged: ClassVar[list] = []

        def log_video(self, key, videos, step):
            assert Path(videos[0]).stat().st_size > 0
            self.logged.append((key, step))

    class Episodes(EpisodesDataModule):
        def task_names(self):
            return ["corridor"]

        def val_seeds(self):
            return range(28, 32)

        def max_steps_of(self, task):
            return 29

        def make_environment(self):
            return Corridor

        def metadata(self, tasks):
            return {}

    data = Episodes(
        num_episodes=1,
        num_val_episodes=4,
        num_envs=2,
        n_action_steps=4,
        num_videos=4,
        camera_offset=None,
    )
    trainer = Trainer(
        logger=VideoLogger(tmp_path / "logs"),
        accelerator="cpu",
        callbacks=[RolloutReport(str(tmp_path / "report"))],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(Pedestrian(), data, verbose=False)
    assert trainer.callback_metrics["val/success_rate/corridor"] == 0.5
    assert VideoLogger.logged == [("val/corridor/failure", 0), ("val/corridor/success", 0)]
    kept = [path.name for path in (tmp_path / "report" / "validation").rglob("*.mp4")]
    assert sorted(kept) == ["corridor_failure.mp4", "corridor_success.mp4"]
