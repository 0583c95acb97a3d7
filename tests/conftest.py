"""Fixtures of all tests: a seed, one thread, real demonstrations, simulators or a skip."""

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from e0_lightning.envs import mujoco_gl
from e0_lightning.envs.libero_assets import ASSET_PACKAGE, Assets, find_assets

DATA = Path(__file__).parent / "data"

# Tests run beside each other and beside simulators: more threads would wait for the same cores.
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


@pytest.fixture(scope="module")
def libero_assets() -> Iterator[Assets]:
    """LIBERO's assets, or a skip with the reason; nothing is downloaded for a test.

    Changes of a simulator to the environment variables are undone at the end.
    """
    if importlib.util.find_spec("libero") is None:
        pytest.skip("LIBERO is not installed: make libero")
    if not (os.environ.get("LIBERO_ASSETS") or importlib.util.find_spec(ASSET_PACKAGE)):
        pytest.skip("LIBERO's assets are not installed: make libero, or set LIBERO_ASSETS")
    try:
        mujoco_gl.offscreen()
    except RuntimeError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LIBERO_CONFIG_PATH", "MUJOCO_GL", "PYOPENGL_PLATFORM", "EGL_PLATFORM"):
            patch.setenv(name, "")  # so that its value is restored
            patch.delenv(name)
        yield find_assets()


@pytest.fixture(scope="module")
def aloha_backend() -> Iterator[str]:
    """MuJoCo's rendering backend for gym-aloha, set in the environment, or a skip."""
    if importlib.util.find_spec("gym_aloha") is None:
        pytest.skip("gym-aloha is not installed: pip install 'e0-lightning[aloha]'")
    try:
        backend = mujoco_gl.offscreen()
    except RuntimeError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in mujoco_gl.gl_variables(backend).items():
            patch.setenv(name, value)
        yield backend


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that need a simulator where there is none, with the reason."""
    if item.get_closest_marker("simulator") and (missing := _missing_renderer()):
        pytest.skip(missing)


@functools.cache
def _missing_renderer() -> str:
    """Why nothing can be rendered here, empty if it can.

    Checked in a process of its own, which a broken driver may crash.
    """
    script = "from e0_lightning.envs.vulkan import check; check()"
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode == 0:
        return ""
    return answer.stderr.strip() or f"the renderer died with exit status {answer.returncode}"
