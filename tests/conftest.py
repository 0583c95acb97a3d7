"""What every test can count on: a seed, one thread, real demonstrations, a renderer or a skip."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

DATA = Path(__file__).parent / "data"

# Tests run beside each other and beside simulators; more threads only fight for the cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start every test from the same seed, and let no run's seed outlive its test."""
    # Set first, so that monkeypatch also undoes what `seed_everything` writes during the test.
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.delenv("PL_GLOBAL_SEED")
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def demos() -> Path:
    """A small file of real PushCube-v1 demonstrations with images, its JSON sidecar beside it."""
    return DATA / "maniskill" / "trajectory.rgb.pd_joint_pos.physx_cpu.h5"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a simulator where there is none, saying what is missing."""
    if item.get_closest_marker("simulator") and (missing := _missing_renderer()):
        pytest.skip(missing)


@functools.cache
def _missing_renderer() -> str:
    """Why nothing can be rendered here, empty where it can.

    Asked in a process of its own, which a broken driver may take down.
    """
    script = "from e0_lightning.simulation.renderer import check; check()"
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode == 0:
        return ""
    return answer.stderr.strip() or f"the renderer died with exit status {answer.returncode}"
