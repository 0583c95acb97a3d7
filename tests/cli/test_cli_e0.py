import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import e0_lightning
from e0_lightning.cli.e0_cli import VERBS, collect_experiment, e0, load_function, overview

HEAVY = ("torch", "lightning", "transformers", "timm", "h5py", "jsonargparse")
PACKAGE = Path(e0_lightning.__file__).parent


def loaded_modules(script: str) -> set[str]:
    """Those of HEAVY that a Python process has imported at the end of a script."""
    command = [sys.executable, "-c", f"{script}\nimport sys; print('loaded', *sys.modules)"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return {*ended.stdout.splitlines()[-1].split()} & {*HEAVY}


def test_importing_the_package_imports_nothing_heavy():
    assert loaded_modules("import e0_lightning") == set()


def test_a_public_name_imports_only_what_its_module_needs():
    assert loaded_modules("from e0_lightning import OneHotDiffusion") == {"torch"}
    assert loaded_modules("from e0_lightning import ActionTokenizer") == {"torch"}


def test_type_checkers_see_the_public_names():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    (declared,) = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert {*ast.literal_eval(declared)} == {*e0_lightning.__all__}
    imported = {
        (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == {
        (f"e0_lightning.{module}", name) for name, module in e0_lightning._MODULES.items()
    }


def test_help_lists_every_verb_and_imports_nothing_heavy():
    script = "from e0_lightning.cli.e0_cli import e0; e0(['--help'])"
    assert loaded_modules(script) == set()
    listed = re.findall(r"^  (\S.*?)  ", overview(), flags=re.MULTILINE)
    assert listed == [*VERBS]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_function_with_a_docstring(verb):
    assert load_function(verb).__doc__


def test_a_group_of_verbs_has_its_own_help(capsys):
    e0(["benchmark", "--help"])
    printed = capsys.readouterr().out
    assert "benchmark memory" in printed
    assert "collect" not in printed


def test_a_verb_describes_its_options(capsys):
    with pytest.raises(SystemExit, match="0"):
        e0(["inspect", "--help"])
    assert "--paths" in capsys.readouterr().out


def test_an_unknown_verb_lists_near_misses():
    with pytest.raises(SystemExit, match=r"e0: expected a verb, got inspct\. Did you mean inspect"):
        e0(["inspct"])
    with pytest.raises(SystemExit, match=r"got benchmark dta\. Did you mean benchmark data"):
        e0(["benchmark", "dta"])


def test_an_unknown_option_lists_near_misses(tmp_path):
    with pytest.raises(SystemExit, match=r"e0: unknown option --checkpont\. .* checkpoint"):
        e0(["serve", "--checkpont", str(tmp_path)])


def test_both_commands_print_their_version(capsys):
    e0(["--version"])
    assert e0_lightning.__version__ in capsys.readouterr().out


def test_inspect_takes_files_as_words(demos, capsys):
    e0(["inspect", str(demos)])
    printed = capsys.readouterr().out
    assert "PushCube-v1" in printed
    assert "base_camera" in printed


def test_a_checkpoint_that_does_not_exist_is_named_without_a_traceback(tmp_path):
    with pytest.raises(SystemExit, match=r"e0: .*lost\.ckpt"):
        e0(["serve", "--checkpoint", str(tmp_path / "lost.ckpt")])


def test_options_of_an_experiment_are_collected():
    words = ["--out", "a", "--config", "b.yaml", "--model.actions.horizon=3", "--trainer.x+", "[1]"]
    *rest, experiment = collect_experiment(words)
    assert rest == ["--out=a"]
    assert json.loads(experiment.removeprefix("--experiment=")) == [
        "--config=b.yaml",
        "--model.actions.horizon=3",
        "--trainer.x+=[1]",
    ]


@pytest.mark.simulator
def test_collect_names_a_task_that_does_not_exist(tmp_path):
    command = ["collect", "maniskill", "--task=PushCubes-v1", "--num_episodes=1"]
    with pytest.raises(SystemExit, match=r"PushCube-v1"):
        e0([*command, f"--out={tmp_path / 'demos.h5'}"])
