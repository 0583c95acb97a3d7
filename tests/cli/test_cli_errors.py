import json
import sys

import pytest

from e0_lightning.cli import lightning_cli
from e0_lightning.cli.errors import errors_as_text, near_misses

BENCHMARK = "--config=maniskill.yaml"


def config(**tree):
    return f"--config={json.dumps(tree)}"


CASES = {
    "--trainer.max_stps=3": "Did you mean trainer.max_steps",
    "--modl.actions.horizon=3": "Did you mean model",
    "--model.actions.hrizon=3": "ActionSpace has no option hrizon. Did you mean horizon",
    "--data.batch_sise=3": "RobotDemos has no option batch_sise. Did you mean batch_size",
    "--model.sampler=ArgmxSampler": "no class ArgmxSampler. Did you mean ArgmaxSampler",
    "--model.actions.horizon=abc": "model.actions.horizon: expected int or null, got abc",
    "--trainer.callbacks+=EarlyStoping": "no class EarlyStoping. Did you mean EarlyStopping",
    "--trainer.precision=bf17": "trainer.precision: expected ",
    "--model=my_research.Policy": "my_research.Policy: cannot be imported",
    "--model=json.Policy": "module json has no class Policy",
    "--config=manskill.yaml": "Did you mean maniskill.yaml",
    config(trainer={"max_stps": 3}): "Did you mean trainer.max_steps",
    config(dta={"batch_size": 3}): "Did you mean data",
    config(
        trainer={"callbacks": [{"class_path": "ViewpointPerturbation", "init_args": {"yaw": 3}}]}
    ): "ViewpointPerturbation has no option yaw. Did you mean max_yaw",
    config(model={"init_args": {"sampler": {"init_args": {"steps": 3}}}}): "Did you mean num_steps",
}


@pytest.mark.parametrize("word", CASES)
def test_a_typo_is_one_paragraph_with_near_misses(parse, word):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse(BENCHMARK, word)
    assert CASES[word] in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_an_unimportable_class_names_pythonpath(parse):
    with pytest.raises(ValueError, match=r"my_research.*PYTHONPATH"):
        parse(BENCHMARK, "--model=my_research.Policy")


def test_a_missing_model_is_named(parse):
    with pytest.raises(ValueError, match=r"no model: expected --config FILE or --model"):
        parse("--trainer.max_steps=1")


def test_a_user_error_ends_the_command_without_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning", "fti"])
    with pytest.raises(SystemExit, match=r"lightning: expected one of fit, .* Did you mean fit"):
        lightning_cli.main()


def test_debug_shows_the_traceback(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning", "fti", "--debug"])
    with pytest.raises(ValueError, match="expected one of fit"):
        lightning_cli.main()


def test_errors_of_users_are_text_and_defects_keep_their_traceback():
    with pytest.raises(SystemExit, match="e0: expected 1, got 2"), errors_as_text("e0"):
        raise ValueError("expected 1, got 2")
    with pytest.raises(TypeError), errors_as_text("e0"):
        raise TypeError("a defect")


def test_an_error_of_another_library_mentions_debug():
    with pytest.raises(SystemExit, match=r"--debug shows the traceback"), errors_as_text("e0"):
        raise ValueError("not by e0_lightning")


def test_near_misses_are_empty_where_nothing_is_close():
    assert near_misses("horizon", ["views"]) == ""
    assert near_misses("horzon", ["horizon", "views"]) == " Did you mean horizon?"
