"""Episodes in which the policy is given another instruction than the task's own."""

import json

import pytest
from evaluation_corridor import INSTRUCTIONS as OWN
from evaluation_corridor import SPEC, Corridor, Walker
from lightning.pytorch import LightningModule, Trainer

from e0_lightning.cli.lightning_cli import CommandLine, run
from e0_lightning.data.formats.maniskill import INSTRUCTIONS
from e0_lightning.evaluation.episodes import EpisodesDataModule, InstructionOf
from e0_lightning.evaluation.libero_episodes import LiberoEpisodes
from e0_lightning.evaluation.maniskill_episodes import ManiSkillEpisodes
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.evaluation.report.merge import merge
from e0_lightning.evaluation.report.report_files import write_report
from e0_lightning.types import EpisodeResult


class Corridors(EpisodesDataModule):
    """One episode of two steps in each of two tasks that end there with a success."""

    def __init__(self, instructions=None):
        super().__init__(
            num_episodes=1,
            num_val_episodes=1,
            num_envs=1,
            n_action_steps=4,
            num_videos=0,
            camera_offset=None,
            instructions=instructions,
        )

    def task_names(self):
        return list(OWN)

    def test_seeds(self):
        return range(2, 3)

    def val_seeds(self):
        return range(1, 2)

    def max_steps_of(self, task):
        return 4

    def instruction_of(self, task):
        return OWN[task]

    def make_environment(self):
        return Corridor

    def metadata(self, tasks):
        return {"notes": ["Corridors are short."]}


class Pedestrian(LightningModule):
    """Walks straight on, and records the instructions that it is given."""

    spec = SPEC

    def __init__(self, stride=1.0):
        super().__init__()
        self.save_hyperparameters()
        self.walker = Walker(stride)
        self.act = self.walker.act

    def test_step(self, batch, batch_idx):
        return batch.run(self)

    validation_step = test_step

    @property
    def instructions(self):
        return [sentence for each in self.walker.observations for sentence in each["instruction"]]


def trainer(folder):
    return Trainer(
        logger=False,
        accelerator="cpu",
        callbacks=[RolloutReport(str(folder))],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def evaluate(folder, instructions=None, checkpoint=None):
    """Instructions that the policy was given, and the report."""
    module = Pedestrian()
    trainer(folder).test(module, Corridors(instructions), ckpt_path=checkpoint, verbose=False)
    return module.instructions, json.loads((folder / "results.json").read_text())


def test_the_policy_is_given_the_sentence_and_success_stays_that_of_the_task(tmp_path):
    given, report = evaluate(tmp_path, {"passage": "sit down"})
    assert given == ["walk on", "sit down"]
    assert {task: each["rate"] for task, each in report["tasks"].items()} == dict.fromkeys(OWN, 1)


def test_the_sentence_of_another_task_is_found_by_its_name(tmp_path):
    assert evaluate(tmp_path, {"corridor": InstructionOf("passage")})[0] == ["walk back"] * 2


def test_the_report_says_which_sentences_were_given(tmp_path):
    _, report = evaluate(tmp_path, {"passage": "sit down", "corridor": "walk on"})
    assert report["instructions"] == {"passage": "sit down"}
    note = (
        'In passage the policy was given the instruction "sit down" instead of "walk back"; '
        "success is that of passage."
    )
    assert report["notes"] == ["Corridors are short.", note]
    assert note in (tmp_path / "results.md").read_text()
    assert "instead of" in (tmp_path / "results.html").read_text()


def test_results_with_other_instructions_are_not_resumed(tmp_path):
    module, checkpoint = Pedestrian(), str(tmp_path / "a.ckpt")
    saving = trainer(tmp_path)
    saving.strategy.connect(module)
    saving.save_checkpoint(checkpoint)
    report = tmp_path / "report"
    assert evaluate(report, None, checkpoint)[0] == ["walk on", "walk back"]
    assert evaluate(report, {"passage": "sit down"}, checkpoint)[0] == ["sit down"]
    assert evaluate(report, {"passage": "sit down"}, checkpoint)[0] == []
    assert evaluate(report, {"passage": InstructionOf("passage")}, checkpoint)[0] == []


def test_reports_with_other_instructions_are_not_merged(tmp_path):
    evaluate(tmp_path / "own")
    evaluate(tmp_path / "other", {"passage": "sit down"})
    for parts in (["own", "other"], ["other", "own"]):
        with pytest.raises(ValueError, match="expected parts of one evaluation, got instructions"):
            merge([tmp_path / part for part in parts], tmp_path / "whole")


def test_merging_keeps_the_notes_of_all_parts(tmp_path):
    results = [EpisodeResult("corridor", 2, True, 2)]
    for name in ("one", "two"):
        metadata = {"versions": {}, "notes": ["Corridors are short.", f"Part {name}."]}
        write_report(tmp_path / name, results, metadata)
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
    report = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert report["notes"] == ["Corridors are short.", "Part one.", "Part two."]


def test_validation_keeps_the_instructions_of_the_tasks(tmp_path):
    module, data = Pedestrian(), Corridors({"passage": "sit down"})
    trainer(tmp_path).validate(module, data, verbose=False)
    assert module.instructions == ["walk on", "walk back"]


def test_a_task_that_is_not_evaluated_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"evaluated, got 'coridor'; did you mean corridor\?"):
        Corridors({"coridor": "sit down"}).test_dataloader()


@pytest.mark.simulator
def test_maniskill_knows_the_sentences_of_its_tasks():
    swapped = {"PushCube-v1": InstructionOf("PullCube-v1")}
    (batch,) = ManiSkillEpisodes(
        ["PushCube-v1"], num_episodes=1, instructions=swapped
    ).test_dataloader()
    assert batch.episodes[0].instruction == INSTRUCTIONS["PullCube-v1"]
    assert batch.metadata["instructions"] == {"PushCube-v1": INSTRUCTIONS["PullCube-v1"]}
    unknown = {"PushCube-v1": InstructionOf("PulCube-v1")}
    with pytest.raises(ValueError, match="did you mean PullCube-v1"):
        ManiSkillEpisodes(["PushCube-v1"], instructions=unknown).test_dataloader()


def test_libero_gives_another_tasks_sentence_without_published_rates(libero_assets):
    goal, other = (
        "libero_goal/open_the_middle_drawer_of_the_cabinet",
        "libero_goal/turn_on_the_stove",
    )
    data = LiberoEpisodes(
        ["libero_goal"], tasks=[0], num_episodes=1, instructions={goal: InstructionOf(other)}
    )
    (batch,) = data.test_dataloader()
    assert batch.episodes[0].instruction == "turn on the stove"
    assert batch.metadata["published"] == {}


def test_the_command_line_takes_sentences_and_names_of_tasks(monkeypatch):
    monkeypatch.setattr(CommandLine, "instantiate_classes", lambda self: None)
    option = "{PushCube-v1: {task: PullCube-v1}, PickCube-v1: wave}"
    words = [f"--data.episodes.init_args.instructions={option}", "--data.demos=[a.h5]"]
    config = run(["--config=maniskill.yaml", *words], start=False).config
    given = config["data"]["init_args"]["episodes"]["init_args"]["instructions"]
    assert given["PickCube-v1"] == "wave"
    assert given["PushCube-v1"]["task"] == "PullCube-v1"
