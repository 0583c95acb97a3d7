"""Which way MuJoCo can draw off screen: EGL, or OSMesa where there is no EGL."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings

from e0_lightning.envs.libraries import require_libraries

ADVICE = """MuJoCo has nothing to draw with off screen.
  EGL: {egl}
  OSMesa: {osmesa}
As root: apt-get install -y libegl1 libgl1 libosmesa6, with -t bookworm-backports where Mesa's
Vulkan driver is from there (EGL uses the graphics card where its driver brings it, and Mesa in
software elsewhere). MUJOCO_GL=egl or MUJOCO_GL=osmesa decides by hand."""

TRIAL = "import mujoco; mujoco.GLContext(64, 64).make_current()"


@functools.cache
def offscreen() -> str:
    """Find what draws: ``egl``, else ``osmesa``, which is announced.

    A backend is fixed when MuJoCo is imported and may bring the process down, so each is tried in
    a process of its own. ``MUJOCO_GL`` in the environment narrows the choice to one.

    Raises:
        RuntimeError: If none works, or OpenCV lacks a library; says why and what to install.
    """
    require_libraries()
    given = os.environ.get("MUJOCO_GL", "").lower()
    failures = {"egl": f"MUJOCO_GL={given}", "osmesa": f"MUJOCO_GL={given}"}
    for backend in (given,) if given in failures else tuple(failures):
        failures[backend] = _try(backend)
        if not failures[backend]:
            if backend == "osmesa" and not given:
                warnings.warn(
                    f"EGL does not work here ({failures['egl']}); drawing with OSMesa in software "
                    "instead. Pictures are the same, a graphics card is not used.",
                    stacklevel=2,
                )
            return backend
    raise RuntimeError(ADVICE.format(**failures))


def environment(backend: str) -> dict[str, str]:
    """Variables that make MuJoCo, PyOpenGL and robosuite agree on a backend."""
    return {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}


def _try(backend: str) -> str:
    """Why a backend does not work, empty where it does."""
    answer = subprocess.run(
        [sys.executable, "-c", TRIAL],
        env={**os.environ, **environment(backend)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if answer.returncode == 0:
        return ""
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {answer.returncode}"
