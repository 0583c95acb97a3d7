import json

import pytest
import torch

from e0_lightning.comparison.compare import compare

TABLE = """
title: Guesses
trained:
  base: []
  better: [--model.init_args.skill=5]
sampled:
  bolder: [--model.init_args.bonus=1]
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.yaml"
    path.write_text(TABLE)
    return str(path)


def report(out):
    (found,) = json.loads((out / "report.json").read_text())["tables"]
    return found["rows"]


def verbs(commands):
    return [words[0] for words in commands]


def test_every_variant_is_trained_played_timed_and_told_of(table, benchmark, commands, tmp_path):
    out = tmp_path / "out"
    compare([benchmark], out, [table], steps=6, episodes=4)
    rows = report(out)
    assert {name: (row["rate"], row["n"]) for name, row in rows.items()} == {
        "base": (0.75, 8),
        "better": (1.0, 8),
        "bolder": (1.0, 8),
    }
    assert rows["better"]["difference"]["difference"] == 0.25
    assert (rows["base"]["steps"], rows["base"]["parameters"]) == (6, 1)
    # The weight has counted the steps, and is what the policy answers.
    assert {row["action_error"] for row in rows.values()} == {6.0}
    assert all(row["act_seconds"] > 0 for row in rows.values())
    text = (out / "report.md").read_text()
    assert "| better | 100.0% |" in text
    assert "+25.0" in text
    assert (out / "report.png").stat().st_size > 1000


def test_what_samples_anew_is_not_trained_again(table, benchmark, commands, tmp_path):
    compare([benchmark], tmp_path / "out", [table], only=["bolder"], episodes=4)
    assert verbs(commands) == ["fit", "test", "test", "validate"]
    assert {name for name, row in report(tmp_path / "out").items() if row} == {"base", "bolder"}


def test_what_is_finished_is_not_done_again(table, benchmark, commands, tmp_path):
    compare([benchmark], tmp_path / "out", [table], only=["base"])
    commands.clear()
    compare([benchmark], tmp_path / "out", [table], only=["base"])
    assert commands == []
    compare([benchmark], tmp_path / "out", [table], only=["base"], episodes=7)
    assert verbs(commands) == ["test"]
    assert report(tmp_path / "out")["base"]["n"] == 14


def test_a_stopped_training_goes_on_from_its_last_checkpoint(table, benchmark, commands, tmp_path):
    cut = tmp_path / "cut.yaml"
    cut.write_text("trainer: {callbacks+: [{class_path: comparison_world.PowerCut}]}")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"base: `lightning fit` failed(.|\n)*the power is gone"):
        compare([benchmark, str(cut)], out, [table], only=["base"])
    compare([benchmark, str(cut)], out, [table], only=["base"])
    resumed = commands[1]
    assert any(word.endswith("version_0/checkpoints/last.ckpt") for word in resumed)
    told = json.loads((out / "base" / "training.json").read_text())
    assert told["steps"] == 8
    # Time of the first four steps has come along.
    saved = torch.load(next(out.glob("base/lightning_logs/version_0/checkpoints/last.ckpt")))
    assert told["seconds"] > saved["callbacks"]["TrainingRecord"]["seconds"] > 0
    assert report(out)["base"]["action_error"] == 8.0


def test_a_training_whose_end_was_not_written_says_so(table, benchmark, commands, tmp_path):
    out = tmp_path / "out"
    compare([benchmark], out, [table], only=["base"])
    for name in ("trained.ckpt", "training.json"):
        (out / "base" / name).unlink()
    with pytest.raises(ValueError, match=r"had come to its end before, but trained\.ckpt"):
        compare([benchmark], out, [table], only=["base"])


def test_another_budget_needs_another_folder(table, benchmark, commands, tmp_path):
    compare([benchmark], tmp_path / "out", [table], only=["base"])
    with pytest.raises(ValueError, match="another --out"):
        compare([benchmark], tmp_path / "out", [table], only=["base"], steps=4)


def test_one_failure_does_not_stop_the_others(benchmark, commands, tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text(TABLE.replace("[--model.init_args.skill=5]", "[--model.init_args.skill=no]"))
    with pytest.raises(ValueError, match="better: `lightning fit` failed"):
        compare([benchmark], tmp_path / "out", [str(table)])
    assert {name for name, row in report(tmp_path / "out").items() if row} == {"base", "bolder"}


def test_a_variant_that_there_is_not_is_named(table, benchmark, tmp_path):
    with pytest.raises(ValueError, match="no worse; choose from base, better, bolder"):
        compare([benchmark], tmp_path / "out", [table], only=["worse"])
