import json

import pytest
import torch

from e0_lightning.comparison.compare import compare

pytestmark = pytest.mark.slow

TABLE = """
title: Toys
training_variants:
  base: []
  better: [--model.init_args.skill=5]
inference_variants:
  luckier: [--model.init_args.bonus=1]
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(TABLE)
    return str(path)


def report(out):
    (table,) = json.loads((out / "report.json").read_text())["tables"]
    return table["rows"]


def verbs(commands):
    return [words[0] for words in commands]


def test_every_variant_is_trained_evaluated_timed_and_reported(
    table, benchmark, commands, tmp_path
):
    out = tmp_path / "out"
    compare([benchmark], out, [table], steps=6, num_episodes=4)
    rows = report(out)
    assert {name: (row["rate"], row["n"]) for name, row in rows.items()} == {
        "base": (0.75, 8),
        "better": (1.0, 8),
        "luckier": (1.0, 8),
    }
    assert rows["better"]["difference"]["difference"] == 0.25
    assert (rows["base"]["steps"], rows["base"]["parameters"]) == (6, 1)
    # The weight counts the steps, and is the action.
    assert {row["action_l1"] for row in rows.values()} == {6.0}
    assert all(row["act_seconds"] > 0 for row in rows.values())
    text = (out / "report.md").read_text()
    assert "| better | 100.0% |" in text
    assert "+25.0" in text
    assert (out / "report.png").stat().st_size > 1000


def test_inference_variant_uses_the_weights_of_the_baseline(table, benchmark, commands, tmp_path):
    compare([benchmark], tmp_path / "out", [table], only=["luckier"], num_episodes=4)
    assert verbs(commands) == ["fit", "test", "test", "validate"]
    assert {name for name, row in report(tmp_path / "out").items() if row} == {"base", "luckier"}


def test_finished_stages_are_skipped(table, benchmark, commands, tmp_path):
    compare([benchmark], tmp_path / "out", [table], only=["base"])
    commands.clear()
    compare([benchmark], tmp_path / "out", [table], only=["base"])
    assert commands == []
    compare([benchmark], tmp_path / "out", [table], only=["base"], num_episodes=7)
    assert verbs(commands) == ["test"]
    assert report(tmp_path / "out")["base"]["n"] == 14


def test_interrupted_training_resumes_from_its_last_checkpoint(
    table, benchmark, commands, tmp_path
):
    fault = tmp_path / "fault.yaml"
    fault.write_text("trainer: {callbacks+: [{class_path: comparison_toy.FailOnce}]}")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"base: `lightning fit` failed(.|\n)*power failure"):
        compare([benchmark, str(fault)], out, [table], only=["base"])
    compare([benchmark, str(fault)], out, [table], only=["base"])
    resumed = commands[1]
    assert any(word.endswith("version_0/checkpoints/last.ckpt") for word in resumed)
    record = json.loads((out / "base" / "training.json").read_text())
    assert record["steps"] == 8
    # The time of the steps before the checkpoint is included.
    saved = torch.load(next(out.glob("base/lightning_logs/version_0/checkpoints/last.ckpt")))
    assert record["seconds"] > saved["callbacks"]["TrainingRecord"]["seconds"] > 0
    assert report(out)["base"]["action_l1"] == 8.0


def test_complete_training_without_its_files_is_an_error(table, benchmark, commands, tmp_path):
    out = tmp_path / "out"
    compare([benchmark], out, [table], only=["base"])
    for name in ("trained.ckpt", "training.json"):
        (out / "base" / name).unlink()
    with pytest.raises(ValueError, match=r"the training is complete, but trained\.ckpt"):
        compare([benchmark], out, [table], only=["base"])


def test_folder_of_another_budget_is_refused(table, benchmark, commands, tmp_path):
    compare([benchmark], tmp_path / "out", [table], only=["base"])
    with pytest.raises(ValueError, match="another --out"):
        compare([benchmark], tmp_path / "out", [table], only=["base"], steps=4)


def test_failure_of_one_variant_does_not_stop_the_others(benchmark, commands, tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text(TABLE.replace("[--model.init_args.skill=5]", "[--model.init_args.skill=no]"))
    with pytest.raises(ValueError, match="better: `lightning fit` failed"):
        compare([benchmark], tmp_path / "out", [str(table)])
    assert {name for name, row in report(tmp_path / "out").items() if row} == {"base", "luckier"}


def test_unknown_variant_is_refused(table, benchmark, tmp_path):
    with pytest.raises(
        ValueError, match="only: expected names among base, better, luckier, got worse"
    ):
        compare([benchmark], tmp_path / "out", [table], only=["worse"])


def test_trainings_of_several_seeds_share_a_row(benchmark, commands, tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text("title: T\ntraining_variants: {base: [], better: [--model.init_args.skill=4]}")
    compare([benchmark], tmp_path / "out", [str(table)], num_episodes=4, seeds=[3, 5])
    assert [words[0] for words in commands].count("fit") == 4
    assert {word for words in commands for word in words if "seed_everything" in word} == {
        "--seed_everything=3",
        "--seed_everything=5",
    }
    rows = report(tmp_path / "out")
    assert {name: (row["rate"], row["trainings"], row["n"]) for name, row in rows.items()} == {
        "base": (0.75, 2, 16),
        "better": (1.0, 2, 16),
    }
    # Both trainings of the toy are alike, so the interval is that over 8 episodes.
    assert rows["better"]["difference"]["low"] < 0 < rows["better"]["difference"]["difference"]
    assert (tmp_path / "out" / "seed_5" / "better" / "trained.ckpt").exists()


def test_a_seed_given_twice_is_refused(table, benchmark, tmp_path):
    with pytest.raises(ValueError, match=r"expected different seeds, one or more, got \[1, 1\]"):
        compare([benchmark], tmp_path / "out", [table], seeds=[1, 1])
