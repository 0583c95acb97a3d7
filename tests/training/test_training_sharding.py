"""Two processes with half the work each come to what one process with the whole does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from e0_lightning.policies.checkpoint import load_policy

from .conftest import make_batch
from .strategies_run import run

REPOSITORY = Path(__file__).parent.parent.parent


def two_processes(script, *words):
    """Run a script of this folder, which starts the second process itself."""
    threads = {"OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-m", f"tests.policies.{script}", *map(str, words)],
        cwd=REPOSITORY,
        env=os.environ | threads,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Checkpoints of one process after two and after four steps."""
    folder = tmp_path_factory.mktemp("alone")
    run("one", 2, folder / "two.ckpt")
    run("one", 4, folder / "four.ckpt", folder / "two.ckpt")
    return folder


def assert_same(found, expected, steps):
    """The same losses, weights and averages, to rounding."""
    losses = torch.load(f"{found}.losses")
    assert len(losses) == steps
    assert losses == pytest.approx(torch.load(f"{expected}.losses"), abs=1e-5)
    found, expected = (torch.load(path, weights_only=True) for path in (found, expected))
    for state in ("state_dict", "current_model_state"):
        assert found[state].keys() == expected[state].keys()
        for name, tensor in expected[state].items():
            torch.testing.assert_close(found[state][name], tensor, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("first", "second"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_two_processes_equal_one_and_go_on_from_each_others_checkpoints(
    first, second, alone, tmp_path
):
    two_processes("strategies_run", first, 2, tmp_path / "two.ckpt")
    assert_same(tmp_path / "two.ckpt", alone / "two.ckpt", 2)
    two_processes("strategies_run", second, 4, tmp_path / "four.ckpt", tmp_path / "two.ckpt")
    assert_same(tmp_path / "four.ckpt", alone / "four.ckpt", 2)
    expected = load_policy(alone / "four.ckpt").act(make_batch())
    torch.testing.assert_close(
        load_policy(tmp_path / "four.ckpt").act(make_batch()), expected, atol=1e-4, rtol=1e-4
    )


def test_an_episode_that_both_processes_played_counts_once(tmp_path):
    two_processes("episodes_run", tmp_path / "logged.json")
    assert json.loads((tmp_path / "logged.json").read_text()) == {
        "played": [[1, 3], [2, 1]],
        "test/success": pytest.approx(1 / 3),
    }
