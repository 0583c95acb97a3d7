"""Off-screen rendering of MuJoCo: EGL, or OSMesa where EGL does not work."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings

from e0_lightning.envs.base import require_opencv

ADVICE = """MuJoCo cannot render off screen.
  EGL: {egl}
  OSMesa: {osmesa}
As root: apt-get install -y libegl1 libgl1 libosmesa6, with -t bookworm-backports where Mesa's
Vulkan driver is from there (EGL uses the graphics card if its driver provides it, otherwise Mesa
in software). Set MUJOCO_GL=egl or MUJOCO_GL=osmesa to choose a backend."""

PROBE = "import mujoco; mujoco.GLContext(64, 64).make_current()"


@functools.cache
def offscreen() -> str:
    """Find a backend that works: ``egl``, else ``osmesa`` with a warning.

    MuJoCo fixes its backend at import and a broken one may crash the process, so each backend is
    tried in a process of its own. The environment variable ``MUJOCO_GL`` restricts the choice.

    Raises:
        RuntimeError: If no backend works or OpenCV lacks a library, with the reasons and the
            packages to install.
    """
    require_opencv()
    given = os.environ.get("MUJOCO_GL", "").lower()
    failures = {"egl": f"MUJOCO_GL={given}", "osmesa": f"MUJOCO_GL={given}"}
    for backend in (given,) if given in failures else tuple(failures):
        failures[backend] = _probe(backend)
        if not failures[backend]:
            if backend == "osmesa" and not given:
                warnings.warn(
                    f"EGL does not work here ({failures['egl']}); rendering with OSMesa in "
                    "software. Images are the same, but a graphics card is not used.",
                    stacklevel=2,
                )
            return backend
    raise RuntimeError(ADVICE.format(**failures))


def gl_variables(backend: str) -> dict[str, str]:
    """Environment variables that select a backend for MuJoCo, PyOpenGL and robosuite alike."""
    return {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}


def _probe(backend: str) -> str:
    """Reason why a backend does not work, empty where it does."""
    probe = subprocess.run(
        [sys.executable, "-c", PROBE],
        env={**os.environ, **gl_variables(backend)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if probe.returncode == 0:
        return ""
    lines = probe.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {probe.returncode}"
