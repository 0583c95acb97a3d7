"""Imports: which folder may import which, what an import costs, and which names are public."""

import ast
import graphlib
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
ROOT = REPOSITORY / "src" / "e0_lightning"
FILES = sorted(ROOT.rglob("*.py"))
FOLDERS = sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} | {"metrics"})

ALLOWED: dict[str, set[str] | None] = {
    "__init__": None,
    "cli": None,
    "comparison": {*FOLDERS} - {"cli", "comparison"},
    "benchmarks": {*FOLDERS} - {"cli", "comparison", "benchmarks"},
    "inspection": {"data", "actions"},
    "envs": {"data"},
    "collection": {"envs", "data"},
    "evaluation": {"envs", "data", "metrics"},
    "export": {"policies", "networks"},
    "policies": {"actions", "diffusion", "networks", "training", "metrics"},
}
"""Folder to the folders that it may import besides itself and :data:`BASE`; None is all of them,
a folder that is absent imports none."""

BASE = {"types", "geometry", "random", "key_map"}
"""Modules at the top of the package that every folder may import."""

SIMULATED = {"e0_lightning.envs.detour", "e0_lightning.envs.precise_pick"}
"""Modules that extend a class of a simulator: they import it, and only functions import them."""

LAZY = [ROOT, ROOT / "cli"]
"""Packages that import their names on first use."""

PUBLIC = [
    "E0",
    "Policy",
    "load_policy",
    "RobotDemos",
    "ManiSkillEpisodes",
    "LiberoEpisodes",
    "PushTEpisodes",
    "E0Hybrid",
    "FlowMatching",
    "MaskedDiffusion",
    "Autoregressive",
    "Regression",
    "ViewpointPerturbation",
    "SphericalWarp",
    "QuantileNormalizer",
    "MeanStdNormalizer",
    "ActionTokenizer",
    "OneHotDiffusion",
    "TweedieSampler",
    "ArgmaxSampler",
    "CategoricalSampler",
    "ReleasedSampler",
    "PrefixEncoder",
    "ActionExpert",
    "ActionSpace",
    "Observation",
    "Batch",
    "Sampler",
    "DemoReader",
    "VisionEncoder",
    "PolicySpec",
    "ActionSample",
]

HEAVY = [
    "sapien",
    "mani_skill",
    "mplib",
    "gymnasium",
    "gym_pusht",
    "pymunk",
    "pygame",
    "zarr",
    "imageio",
    "libero",
    "robosuite",
    "mujoco",
    "dm_control",
    "websockets",
    "msgpack",
    "fastapi",
    "uvicorn",
    "matplotlib",
    "cv2",
    "pandas",
    "tensorflow",
    "jax",
]

each_file = pytest.mark.parametrize(
    "path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES]
)


def area(module: str) -> str:
    """``data`` for ``e0_lightning.data.chunk_dataset``, ``__init__`` for ``e0_lightning``."""
    return [*module.split("."), "__init__"][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(node: ast.AST) -> Iterator[str]:
    """Modules that one statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module if node.level == 0 else "." * node.level


def all_imports(path: Path) -> set[str]:
    """Modules that a file imports, inside functions too."""
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in imports(node)}


def eager_imports(node: ast.AST) -> Iterator[str]:
    """Modules that importing the file imports, which excludes functions."""
    for child in ast.iter_child_nodes(node):
        yield from imports(child)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from eager_imports(child)


def dependencies() -> set[str]:
    """Core dependencies, whose import names equal their package names."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return {
        requirement.split(">")[0].split("[")[0].strip() for requirement in project["dependencies"]
    }


@each_file
def test_folders_import_only_folders_below_them(path):
    allowed = ALLOWED.get(area(module_of(path)), set())
    own = {name for name in all_imports(path) if name.split(".")[0] == "e0_lightning"}
    reached = {area(name) for name in own} - {area(module_of(path))} - BASE
    assert allowed is None or reached <= allowed


@each_file
def test_names_come_from_the_module_that_defines_them(path):
    packages = {module_of(file) for file in FILES if file.name == "__init__.py"}
    # The command line imports the public names, as its users do.
    assert area(module_of(path)) == "cli" or not all_imports(path) & packages
    assert not any(name.startswith(".") for name in all_imports(path))


@each_file
def test_importing_a_file_requires_core_dependencies_only(path):
    eager = set(eager_imports(ast.parse(path.read_text())))
    assert not eager & SIMULATED
    if module_of(path) in SIMULATED:
        return
    outer = {name.split(".")[0] for name in eager}
    assert outer - sys.stdlib_module_names - {"e0_lightning"} <= dependencies()


def test_files_import_each_other_without_a_cycle():
    graph = {
        module_of(path): eager_imports(ast.parse(path.read_text()))
        for path in FILES
        if path.name != "__init__.py"
    }
    sorter = graphlib.TopologicalSorter(
        {module: [name for name in names if name in graph] for module, names in graph.items()}
    )
    assert len(list(sorter.static_order())) == len(graph)


@each_file
def test_no_file_exceeds_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=module_of)
def test_init_files_only_re_export(path):
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    for statement in rest:
        is_all = (
            isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        )
        assert is_all or isinstance(statement, ast.ImportFrom) or path.parent in LAZY


@pytest.mark.parametrize("path", sorted(ROOT.rglob("__init__.py")), ids=module_of)
def test_every_name_of_all_exists(path):
    package = importlib.import_module(module_of(path))
    names = getattr(package, "__all__", [])
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(package, name)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_importable_from_the_package(name):
    import e0_lightning

    assert name in e0_lightning.__all__
    assert getattr(e0_lightning, name) is not None


def test_importing_the_package_imports_no_simulator_and_no_server():
    # torchmetrics and others import matplotlib and pandas if installed: these do not count.
    script = f"""
import importlib, sys
for name in {sorted(dependencies())!r} + ["lightning.pytorch.cli", "torch.utils.tensorboard"]:
    importlib.import_module(name)
before = set(sys.modules)
import e0_lightning
print(*({{name.split(".")[0] for name in set(sys.modules) - before}} & set({HEAVY!r})))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
