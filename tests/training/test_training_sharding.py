"""Training on two processes equals training on one, and either resumes the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from strategies_run import run

from e0_lightning.policies.checkpoint import load_policy
from tiny_policy import make_batch

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def two_processes(script, *args):
    """Run a script of this folder, which starts the second process itself."""
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(HERE / f"{script}.py"), *map(str, args)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Checkpoints of one process after two and after four steps."""
    folder = tmp_path_factory.mktemp("one_process")
    run("one", 2, folder / "two.ckpt")
    run("one", 4, folder / "four.ckpt", folder / "two.ckpt")
    return folder


def assert_equal_runs(run, expected, steps):
    """Equal losses, weights and averages, up to rounding."""
    losses = torch.load(f"{run}.losses")
    assert len(losses) == steps
    assert losses == pytest.approx(torch.load(f"{expected}.losses"), abs=1e-5)
    saved, expected = (torch.load(path, weights_only=True) for path in (run, expected))
    for state in ("state_dict", "current_model_state"):
        assert saved[state].keys() == expected[state].keys()
        for name, tensor in expected[state].items():
            torch.testing.assert_close(saved[state][name], tensor, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("first", "second"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_two_processes_equal_one_and_resume_each_others_checkpoints(
    first, second, one_process, tmp_path
):
    two_processes("strategies_run", first, 2, tmp_path / "two.ckpt")
    assert_equal_runs(tmp_path / "two.ckpt", one_process / "two.ckpt", 2)
    two_processes("strategies_run", second, 4, tmp_path / "four.ckpt", tmp_path / "two.ckpt")
    assert_equal_runs(tmp_path / "four.ckpt", one_process / "four.ckpt", 2)
    expected = load_policy(one_process / "four.ckpt").act(make_batch())
    torch.testing.assert_close(
        load_policy(tmp_path / "four.ckpt").act(make_batch()), expected, atol=1e-4, rtol=1e-4
    )


def test_an_episode_that_both_processes_run_counts_once(tmp_path):
    two_processes("episodes_run", tmp_path / "logged.json")
    assert json.loads((tmp_path / "logged.json").read_text()) == {
        "episodes": [[1, 3], [2, 1]],
        "test/success_rate": pytest.approx(1 / 3),
    }
