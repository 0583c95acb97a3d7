import json
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from corridor import SPEC, Corridor, Walker
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from e0_lightning.envs.base import EvalEpisode
from e0_lightning.evaluation.report.callback import RolloutReport, write
from e0_lightning.evaluation.report.merge import merge
from e0_lightning.evaluation.report.tables import by_camera, by_suite, markdown, summarise
from e0_lightning.evaluation.report.video import Video, representative_videos, show
from e0_lightning.evaluation.results_store import ResultsStore, fingerprint, key
from e0_lightning.evaluation.rollout import RolloutBatch, Rollouts
from e0_lightning.types import EpisodeResult

ABOUT = {"max_steps": {"a/push": 9}, "n_action_steps": 4, "versions": {"world": "1"}}


def results(task="a/push", successes=2, n=3, camera=(0.0, 0.0, 0.0)):
    return [EpisodeResult(task, i, i < successes, 5 + i, camera=camera) for i in range(n)]


def test_suites_pool_their_tasks_and_stand_beside_published_figures():
    found = results("a/push", 3, 4) + results("a/pull", 1, 4) + results("b/push", 0, 4)
    suites = by_suite(found)
    assert (suites["a"]["rate"], suites["a"]["n"], suites["b"]["rate"]) == (0.5, 8, 0.0)
    text = markdown(
        {
            "tasks": summarise(found),
            "mean": 1 / 3,
            "suites": suites,
            "published": {"a": {"E0, published": 0.972}},
            "notes": ["Other assets: these figures compare with no others."],
            "versions": {},
            "episodes": [],
        }
    )
    assert re.search(r"\| a \| 50\.0% .*\| 97\.2% \|", text)
    assert re.search(r"\| b \| 0\.0% .*\|  \|", text)
    assert "- Other assets" in text
    assert by_suite(results("push")) == {}


def test_success_is_told_by_displacement_of_the_camera():
    found = results() + results(successes=0, camera=(15.0, 0.0, 0.0))
    found += results(successes=1, camera=(0.0, -5.0, 0.1))
    cameras = by_camera(found)
    assert {name: figures["successes"] for name, figures in cameras.items()} == {
        "as in the demos": 2,
        "azimuth +15°": 0,
        "elevation -5°, distance +10%": 1,
    }
    assert by_camera(results()) == {}


def test_many_displacements_are_put_together_by_angle():
    found = [
        EpisodeResult("push", n, n < 20, 1, camera=(n / 4, 0.0, 0.0)) for n in range(40)
    ]  # 0 to 9.75 degrees
    cameras = by_camera(found)
    assert {name: (f["successes"], f["n"]) for name, f in cameras.items()} == {
        "0° to 5°": (20, 20),
        "5° to 10°": (0, 20),
    }


def test_a_page_holds_everything_and_fetches_nothing(tmp_path):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"film of a success")
    found = results()
    found[1] = EpisodeResult("a/push", 1, True, 6, video=str(film))
    found[2] = EpisodeResult("a/push", 2, False, 7, error="<lost> & gone", video=str(tmp_path))
    write(tmp_path, found, {**ABOUT, "notes": ["only <here>"]})
    page = (tmp_path / "results.html").read_text()
    assert page.count("<video") == 1
    assert "data:video/mp4;base64,ZmlsbSBvZiBhIHN1Y2Nlc3M=" in page
    assert "&lt;lost&gt; &amp; gone" in page
    assert "only &lt;here&gt;" in page
    assert "20.8% – 93.9%" in page
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?://", page)
    # Every element that is opened is closed.
    for tag in ("table", "tr", "div", "svg", "g", "figure", "ul", "body", "html"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag


def test_a_ledger_remembers_what_was_finished_under_the_same_conditions(tmp_path):
    ledger = ResultsStore(tmp_path / "episodes.jsonl", "hash")
    broken = EpisodeResult("a/push", 7, False, 1, error="gone")
    ledger.add([*results(), broken], ABOUT)
    with ledger.path.open("a") as file:
        file.write('{"task": "a/pu')  # died here
    known = ledger.finished(ABOUT)
    assert list(known.values()) == results()
    for other in (
        {"n_action_steps": 5},
        {"max_steps": {"a/push": 10}},
        {"versions": {"world": "2"}},
        {"instructions": {"a/push": "pull"}},
    ):
        assert ledger.finished({**ABOUT, **other}) == {}
    more = {**ABOUT, "max_steps": {"a/push": 9, "a/pull": 20}, "num_envs": 8}
    assert ledger.finished(more) == known
    assert ResultsStore(ledger.path, "another").finished(ABOUT) == {}
    assert ResultsStore(ledger.path, "hash", {"sampler": "another"}).finished(ABOUT) == {}
    assert ResultsStore(ledger.path, None).finished(ABOUT) == {}


def test_an_episode_is_told_by_task_seed_and_camera():
    still, moved = (EvalEpisode("push", 1, 9, camera=camera) for camera in ((0, 0, 0), (5, 0, 0)))
    assert key(still) != key(moved)
    assert key(still) == key(EpisodeResult("push", 1, True, 3))


def test_checkpoints_differ_by_content(tmp_path):
    (tmp_path / "shards").mkdir()
    for name, content in (("a", "1"), ("b", "1"), ("c", "2"), ("shards/0", "1")):
        (tmp_path / name).write_text(content)
    one, same, other, shards = (fingerprint(tmp_path / each) for each in ("a", "b", "c", "shards"))
    assert one == same == shards != other


def test_checkpoints_elsewhere_count_by_content_too(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2")):
        with fsspec.open(f"memory://checkpoints/{name}", "wb") as file:
            file.write(content)
    one, other = (fingerprint(f"memory://checkpoints/{name}") for name in ("a", "b"))
    assert one != other
    (tmp_path / "here").write_bytes(b"1")
    assert fingerprint(tmp_path / "here") == one
    with pytest.raises(FileNotFoundError, match=r"nowhere.ckpt: found no checkpoint"):
        fingerprint(tmp_path / "nowhere.ckpt")


class Pedestrian(LightningModule):
    """Walks, and counts what it is asked."""

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


def test_a_stopped_evaluation_goes_on_where_it_was(rollouts, tmp_path):
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
        return len(module.walker.shown)

    paths = []
    for weight in (0.0, 1.0):
        module = Pedestrian()
        trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
        module.weight.data.fill_(weight)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / f"{weight}.ckpt")
        paths.append(tmp_path / f"{weight}.ckpt")
    assert evaluate([2, 3], paths[0]) > 0  # stopped before 4
    assert evaluate([2, 3, 4], paths[0]) == evaluate([4], paths[1]) > 0
    evaluate([2, 3, 4], paths[0])
    found = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [episode["seed"] for episode in found["episodes"]] == [2, 3, 4]
    assert found["policy"]["settings"] == {"sampler": "Tweedie"}
    # Asked for with another sampler or precision, the same checkpoint is another policy.
    assert evaluate([2, 3, 4], paths[0], sampler="Argmax") > 0
    assert evaluate([2, 3, 4], paths[0], precision="bf16-true") > 0
    assert evaluate([2, 3, 4], paths[0], sampler="Argmax") == 0
    # Of one that does not tell its settings nothing is known, and nothing of the others is lost.
    assert evaluate([2], paths[0], sampler=None) == evaluate([2], paths[0], sampler=None) > 0
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert report["checkpoint_sha256"] == fingerprint(paths[0])
    assert evaluate([2, 3, 4], paths[0], sampler="Argmax") == 0
    assert found["tasks"]["corridor"]["successes"] == 3


def test_parts_of_an_evaluation_are_merged_into_one_report(tmp_path):
    told = {"checkpoint_sha256": "hash", **ABOUT}
    broken = EpisodeResult("a/push", 0, False, 1, error="gone")
    write(tmp_path / "one", results("a/push", 2, 3), told)
    write(tmp_path / "two", [broken, *results("b/pull", 1, 2)], told)
    merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
    found = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert {task: (f["successes"], f["n"]) for task, f in found["tasks"].items()} == {
        "a/push": (2, 3),
        "b/pull": (1, 2),
    }
    assert found["n_action_steps"] == 4


def test_reports_of_different_caps_are_not_merged(tmp_path):
    for name, cap in (("one", 9), ("two", 8)):
        write(tmp_path / name, results(), {**ABOUT, "max_steps": {"a/push": cap}})
    with pytest.raises(ValueError, match="two has max_steps 8 for a/push, others have 9"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")


def test_reports_of_different_checkpoints_are_not_merged(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, results(), {"checkpoint_sha256": name, **ABOUT})
    with pytest.raises(ValueError, match="differ in checkpoint_sha256"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")
    with pytest.raises(ValueError, match="found no whole report"):
        merge([tmp_path / "three"], tmp_path / "whole")


def test_reports_of_different_settings_say_which(tmp_path):
    for name, steps in (("one", 4), ("two", 10)):
        settings = {"sampler": {"num_steps": steps, "eta": 0}, "horizon": 12}
        write(tmp_path / name, results(), {"policy": {"settings": settings}, **ABOUT})
    with pytest.raises(ValueError, match=r"in policy.settings.sampler.num_steps: 10 and 4: only"):
        merge([tmp_path / "one", tmp_path / "two"], tmp_path / "whole")


def test_tensorboard_gets_a_film_that_it_can_play(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="videos need imageio[ffmpeg]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    film = Video(tmp_path / "push.mp4")
    for shade in range(0, 200, 20):
        film.add(np.full((32, 32, 3), shade, np.uint8))
    path = film.finish("success")
    with SummaryWriter(tmp_path / "log") as writer:
        show(writer, "push/success", Path(path))
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    gif = events.Images("push/success")[0].encoded_image_string
    assert gif.startswith(b"GIF89a")
    assert gif.count(b"\x21\xf9\x04") >= 5  # a control block for each of the pictures


def test_films_are_the_first_success_and_the_first_failure(tmp_path):
    films = [tmp_path / f"{n}.mp4" for n in range(5)]
    for film in films[:4]:
        film.touch()
    outcomes = [True, True, False, False, False]
    episodes = [
        {"task": "push", "success": success, "seed": n, "video": str(films[n])}
        for n, success in enumerate(outcomes)
    ]
    chosen = representative_videos(
        [{**episodes[4], "task": "lost"}, *episodes, {**episodes[0], "video": None}]
    )
    assert {key: episode["seed"] for key, episode in chosen.items()} == {
        ("push", "failure"): 2,
        ("push", "success"): 0,
    }
