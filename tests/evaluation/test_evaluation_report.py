import json
import re

import pytest
import torch
from evaluation_corridor import SPEC, Corridor, Walker
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.report.callback import RolloutReport
from e0_lightning.evaluation.report.merge import merge
from e0_lightning.evaluation.report.report_files import write_report
from e0_lightning.evaluation.report.tables import markdown
from e0_lightning.evaluation.results_store import FolderLock, fingerprint
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts
from e0_lightning.evaluation.statistics import by_suite, by_task
from e0_lightning.types import EpisodeResult

METADATA = {"max_steps": {"a/push": 9}, "n_action_steps": 4, "versions": {"simulator": "1"}}


def results(task="a/push", successes=2, n=3):
    return [EpisodeResult(task, i, i < successes, 5 + i) for i in range(n)]


def report_of(evaluated, **more):
    report = {"tasks": by_task(evaluated), "mean": 1 / 3, "versions": {}, "episodes": []}
    return {**report, **more}


def test_published_rates_have_their_own_columns():
    evaluated = results("a/push", 2, 4) + results("b/push", 0, 4)
    protocol = {"a": {"tasks": 1, "episodes": 4, "rates": {"E0, published": 0.972}}}
    notes = ["Other assets: not comparable."]
    text = markdown(report_of(evaluated, suites=by_suite(evaluated, protocol), notes=notes))
    assert re.search(r"\| a \| 50\.0% .*\| 97\.2% \|", text)
    assert re.search(r"\| b \| 0\.0% .*\|  \|", text)
    assert "- Other assets" in text


def test_a_score_has_the_first_columns(tmp_path):
    evaluated = [
        EpisodeResult("push", i, i == 0, 5, score=score) for i, score in enumerate([1, 0.5])
    ]
    text = write_report(tmp_path, evaluated, METADATA)
    assert "| task | score | 95 % interval | success |" in text
    assert "| push | 0.750 | 0.000 – 1.000 | 50.0% |" in text
    assert json.loads((tmp_path / "results.json").read_text())["mean_score"] == 0.75
    page = (tmp_path / "results.html").read_text()
    assert "<title>Score 0.750, success 50.0 %</title>" in page
    assert '<td class="number">0.750</td>' in page


def test_tasks_without_a_score_have_no_such_column(tmp_path):
    assert "score" not in write_report(tmp_path, results(), METADATA)
    assert "Score" not in (tmp_path / "results.html").read_text()


def test_flags_are_listed_with_their_shares(tmp_path):
    flags = [{"left": True}, {"left": False}]
    evaluated = [EpisodeResult("push", i, i == 0, 5, flags=each) for i, each in enumerate(flags)]
    shares = "push, left: 50.0% (9.5% – 90.5%) of 2 episodes, 100.0% (20.7% – 100.0%) of 1"
    assert shares in write_report(tmp_path, evaluated, METADATA)
    assert shares in (tmp_path / "results.html").read_text()
    assert "Flags" not in write_report(tmp_path, results(), METADATA)
    assert "Flags" not in (tmp_path / "results.html").read_text()


def test_one_task_has_no_mean_of_tasks():
    text = markdown(report_of([EpisodeResult("push", 1, True, 5)]))
    assert "mean of tasks" not in text
    assert "Episodes with errors" not in text


def test_markdown_escapes_what_it_quotes():
    failed = {"task": "push | pull", "seed": 1, "error": "<script>\n# [link](x) `code`"}
    report = report_of([EpisodeResult("push | pull", 1, False, 5)], episodes=[failed])
    text = markdown(report)
    assert "| push \\| pull | 0.0%" in text
    assert "- push \\| pull, seed 1: \\<script\\> # \\[link\\](x) \\`code\\`" in text


def test_a_page_is_complete_and_loads_nothing(tmp_path):
    video = tmp_path / "videos" / "a #1.mp4"
    video.parent.mkdir()
    video.write_bytes(b"a video")
    evaluated = results()
    evaluated[1] = EpisodeResult("a/push", 1, True, 6, video=str(video))
    evaluated[2] = EpisodeResult("a/push", 2, False, 7, error="<lost> & gone", video=str(tmp_path))
    metadata = {**METADATA, "notes": ["only <here>"], "training_step": 1200}
    write_report(tmp_path, evaluated, metadata)
    page = (tmp_path / "results.html").read_text()
    assert page.count("<video") == 1
    assert "data:video/mp4;base64,YSB2aWRlbw==" in page
    assert 'href="videos/a%20%231.mp4"' in page
    assert "&lt;lost&gt; &amp; gone" in page
    assert "only &lt;here&gt;" in page
    assert "20.8 – 93.9" in page
    assert "training step 1200" in page
    assert not re.search(r"(src|href)=\"(?!data:|videos/)|url\(|@import|https?://", page)
    # Every element that is opened is closed.
    for tag in ("table", "tr", "div", "svg", "g", "figure", "ul", "details", "body", "html"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


class Pedestrian(LightningModule):
    """A module that runs episodes and counts its batches."""

    spec = SPEC

    def __init__(self, sampler="Tweedie"):
        super().__init__()
        if sampler is not None:
            self.save_hyperparameters()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.walker = Walker()
        self.act = self.walker.act

    def test_step(self, batch, batch_idx):
        return batch.run(self)


@pytest.fixture
def rollouts():
    rollouts = Rollouts(Corridor, num_envs=2, n_action_steps=4)
    yield rollouts
    rollouts.close()


def test_an_interrupted_evaluation_resumes(rollouts, tmp_path):
    def evaluate(seeds, checkpoint, sampler="Tweedie", precision="32-true"):
        batches = [
            RolloutBatch(
                rollouts, [EvalEpisode("corridor", seed, 8)], {"max_steps": {"corridor": 8}}
            )
            for seed in seeds
        ]
        module = Pedestrian(sampler)
        trainer = Trainer(
            precision=precision,
            default_root_dir=tmp_path,
            logger=False,
            accelerator="cpu",
            callbacks=[RolloutReport(str(tmp_path / "report"))],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = DataLoader(batches, batch_size=None, collate_fn=lambda each: each)
        trainer.test(module, loader, ckpt_path=checkpoint)
        return len(module.walker.observations)

    paths = []
    for weight in (0.0, 1.0):
        module = Pedestrian()
        trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
        module.weight.data.fill_(weight)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / f"{weight}.ckpt")
        paths.append(tmp_path / f"{weight}.ckpt")
    assert evaluate([2, 3], paths[0]) > 0  # interrupted before 4
    assert evaluate([2, 3, 4], paths[0]) == evaluate([4], paths[1]) > 0
    evaluate([2, 3, 4], paths[0])
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [episode["seed"] for episode in report["episodes"]] == [2, 3, 4]
    assert report["policy"]["settings"] == {"sampler": "Tweedie"}
    assert report["tasks"]["corridor"]["successes"] == 3
    # With another sampler or precision the same checkpoint is another policy.
    assert evaluate([2, 3, 4], paths[0], sampler="Argmax") > 0
    assert evaluate([2, 3, 4], paths[0], precision="bf16-true") > 0
    assert evaluate([2, 3, 4], paths[0], sampler="Argmax") == 0
    # Without hyperparameters nothing is resumed, and the results of the others are kept.
    assert evaluate([2], paths[0], sampler=None) == evaluate([2], paths[0], sampler=None) > 0
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert report["checkpoint_sha256"] == fingerprint(paths[0])
    assert evaluate([2, 3, 4], paths[0], sampler="Argmax") == 0


def test_a_second_test_in_one_folder_is_refused(rollouts, tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    batch = RolloutBatch(rollouts, [EvalEpisode("corridor", 2, 8)], {})
    trainer = Trainer(
        logger=False,
        accelerator="cpu",
        callbacks=[RolloutReport(str(tmp_path))],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader([batch], batch_size=None, collate_fn=lambda each: each)
    with pytest.raises(RuntimeError, match="running `lightning test` has locked"):
        trainer.test(Pedestrian(), loader)
    lock.release()
    trainer.test(Pedestrian(), loader)
    assert (tmp_path / "results.json").exists()


def test_each_episode_is_on_disk_before_the_next_ends(rollouts, tmp_path):
    stored = []

    class Interrupted(Pedestrian):
        def test_step(self, batch, batch_idx):
            add = batch.on_result

            def record(result):
                add(result)
                stored.append(len((tmp_path / "episodes.jsonl").read_text().splitlines()))

            batch.on_result = record
            return batch.run(self)

    episodes = [EvalEpisode("corridor", seed, 8) for seed in (1, 3, 6)]
    trainer = Trainer(
        logger=False,
        accelerator="cpu",
        callbacks=[RolloutReport(str(tmp_path))],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [RolloutBatch(rollouts, episodes, {})]
    trainer.test(Interrupted(), DataLoader(batches, batch_size=None, collate_fn=lambda each: each))
    assert stored == [1, 2, 3]


def test_merging_copies_videos_inside_the_reports_and_reads_no_other_file(tmp_path):
    (tmp_path / "one" / "videos").mkdir(parents=True)
    (tmp_path / "one" / "videos" / "push.mp4").write_bytes(b"video")
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    evaluated = results("a/push", 2, 3)
    evaluated[0] = EpisodeResult("a/push", 0, True, 5, video=str(tmp_path / "one/videos/push.mp4"))
    evaluated[2] = EpisodeResult("a/push", 2, False, 5, video=str(tmp_path / "secret.mp4"))
    write_report(tmp_path / "one", evaluated, METADATA)
    merge([tmp_path / "one"], tmp_path / "whole")
    report = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert [each["video"] for each in report["episodes"]] == ["videos/push.mp4", None, None]
    assert (tmp_path / "whole" / "videos" / "push.mp4").read_bytes() == b"video"
    assert "c2VjcmV0" not in (tmp_path / "whole" / "results.html").read_text()


def test_parts_of_an_evaluation_are_merged(tmp_path):
    metadata = {"checkpoint_sha256": "hash", **METADATA}
    broken = EpisodeResult("a/push", 0, False, 1, error="gone")
    write_report(tmp_path / "one", results("a/push", 2, 3), metadata)
    write_report(tmp_path / "two", [broken, *results("b/pull", 1, 2)], metadata)
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
    report = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert {task: (each["successes"], each["n"]) for task, each in report["tasks"].items()} == {
        "a/push": (2, 3),
        "b/pull": (1, 2),
    }
    assert report["n_action_steps"] == 4


def test_reports_with_different_max_steps_are_not_merged(tmp_path):
    for name, steps in (("one", 9), ("two", 8)):
        write_report(tmp_path / name, results(), {**METADATA, "max_steps": {"a/push": steps}})
    with pytest.raises(ValueError, match=r"got max_steps 8 for a/push in .*two and 9 in another"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")


def test_reports_of_different_checkpoints_are_not_merged(tmp_path):
    for name in ("one", "two"):
        write_report(tmp_path / name, results(), {"checkpoint_sha256": name, **METADATA})
    with pytest.raises(ValueError, match="which differ in checkpoint_sha256"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
    with pytest.raises(ValueError, match=r"expected the results.json"):
        merge([tmp_path / "three"], tmp_path / "whole")


def test_differing_settings_are_named(tmp_path):
    for name, steps in (("one", 4), ("two", 10)):
        settings = {"sampler": {"num_steps": steps, "eta": 0}, "horizon": 12}
        write_report(tmp_path / name, results(), {"policy": {"settings": settings}, **METADATA})
    with pytest.raises(ValueError, match=r"in policy.settings.sampler.num_steps: 10 and 4\."):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
