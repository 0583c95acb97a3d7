import json

import pytest
from corridor import RAISES, SPEC, Corridor, Walker
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.maniskill_episodes import ManiSkillEpisodes
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.evaluation.report.tables import markdown, summarise
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts
from e0_lightning.types import EpisodeResult


def planned(loader):
    return [[(episode.task, episode.seed) for episode in batch.episodes] for batch in loader]


@pytest.mark.simulator
def test_a_test_plays_every_task_on_unseen_seeds():
    data = ManiSkillEpisodes(["PushCube-v1", "PickCube-v1"], num_episodes=12, num_envs=2)
    batches = planned(data.test_dataloader())
    assert [len(batch) for batch in batches] == [10, 2, 10, 2]
    seeds = list(range(100_000, 100_012))
    wanted = [(task, seed) for task in ("PushCube-v1", "PickCube-v1") for seed in seeds]
    assert [episode for batch in batches for episode in batch] == wanted


@pytest.mark.simulator
def test_validation_seeds_are_not_those_of_the_test():
    data = ManiSkillEpisodes(["PushCube-v1"], num_episodes=5, num_val_episodes=4)
    test, val = (
        set(planned(loader)[0]) for loader in (data.test_dataloader(), data.val_dataloader())
    )
    assert len(val) == 4
    assert not test & val


def test_without_validation_episodes_there_is_no_loader():
    assert ManiSkillEpisodes(["PushCube-v1"]).val_dataloader() == []


@pytest.mark.simulator
def test_a_task_that_does_not_exist_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match="did you mean PickCube-v1"):
        ManiSkillEpisodes(["PickCub-v1"]).test_dataloader()


def test_caps_lie_above_the_demonstrations_and_can_be_set():
    tasks = ["PushCube-v1", "PegInsertionSide-v1", "PullCube-v1"]
    assert list(ManiSkillEpisodes(tasks).max_steps.values()) == [100, 300, 200]
    assert set(ManiSkillEpisodes(tasks, max_steps=77).max_steps.values()) == {77}
    one = ManiSkillEpisodes(tasks, max_steps={"PushCube-v1": 60}).max_steps
    assert list(one.values()) == [60, 300, 200]


def test_an_instruction_can_be_given_with_its_task():
    data = ManiSkillEpisodes({"PushCube-v1": "shove it"})
    assert data.instructions["PushCube-v1"] == "shove it"
    assert data.instructions["PickCube-v1"].startswith("pick up")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_episodes": 0}, "one episode at least"),
        ({"first_seed": 3, "num_val_episodes": 4}, "no negative seeds"),
        ({"max_steps": 0}, "needs a step at least"),
        ({"max_steps": {"PickCube-v1": 9}}, "the tasks are PushCube-v1"),
        ({"n_action_steps": 0}, "n_action_steps is 0"),
    ],
    ids=["episodes", "seeds", "cap", "task", "n_action_steps"],
)
def test_numbers_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ManiSkillEpisodes(["PushCube-v1"], **wrong)


class Pedestrian(LightningModule):
    """A module that plays episodes in tests, and in validations while it is fitted."""

    spec = SPEC

    def __init__(self):
        super().__init__()
        self.act = Walker().act

    def test_step(self, batch, batch_idx):
        return batch.run(self)

    validation_step = test_step


@pytest.fixture(scope="module")
def corridor():
    rollouts = Rollouts(Corridor, num_envs=2, n_action_steps=4)
    seeds = {"corridor": (3, 30, RAISES), "passage": (2, 4)}
    yield [
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
    rollouts.close()


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


def test_a_report_says_what_came_of_every_episode(corridor, trainer, tmp_path, capsys):
    trainer.test(Pedestrian(), DataLoader(corridor, batch_size=None, collate_fn=lambda each: each))
    folder = tmp_path / "rollouts"
    found = json.loads((folder / "results.json").read_text())
    task = found["tasks"]["corridor"]
    assert (task["successes"], task["n"], task["errors"]) == (1, 3, 1)
    assert task["rate"] == pytest.approx(1 / 3)
    # Wilson's interval of 1 of 3.
    assert (task["low"], task["high"]) == pytest.approx((0.0615, 0.7923), abs=1e-4)
    assert found["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["n_action_steps"] == 4
    assert found["versions"]["corridor"] == "1.0"
    lines = (folder / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [3, 30, RAISES, 2, 4]
    table = (folder / "results.md").read_text()
    assert "| corridor | 33.3% | 6.1% – 79.2% | 3 | 1 | 4 | 8 |" in table
    assert f"corridor, seed {RAISES}: RuntimeError: the floor gave way" in table
    assert table in capsys.readouterr().out


def test_success_can_be_monitored_in_validation(corridor, trainer):
    loader = DataLoader(corridor, batch_size=None, collate_fn=lambda each: each)
    trainer.validate(Pedestrian(), loader, verbose=False)
    assert trainer.callback_metrics["success/corridor"] == pytest.approx(1 / 3)
    assert trainer.callback_metrics["success/passage"] == 1


def test_an_error_is_a_failure_in_the_figures():
    broken = EpisodeResult("push", 1, False, 2, error="gone")
    tasks = summarise([broken, EpisodeResult("push", 2, True, 10)])
    assert tasks["push"]["rate"] == 0.5
    assert tasks["push"]["mean_steps"] == 6


def test_one_task_needs_no_mean_of_tasks():
    found = {"tasks": summarise([EpisodeResult("push", 1, True, 5)]), "mean": 1.0}
    text = markdown({**found, "versions": {"torch": "2"}, "episodes": []})
    assert "mean of tasks" not in text
    assert "broke off" not in text
