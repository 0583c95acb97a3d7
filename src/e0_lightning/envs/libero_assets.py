"""Meshes and textures of LIBERO: where they are, or how to get them, without asking questions."""

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
"""What a complete folder of assets holds."""

HUB = "lerobot/libero-assets"
"""The hub's data set of full-size assets."""

ADVICE = (
    "set LIBERO_ASSETS to an `assets` folder or an archive of one, or let "
    f"`huggingface_hub` download {HUB} where there is a network"
)


class Assets(NamedTuple):
    """A folder of assets."""

    path: Path
    origin: str
    """``package``, ``hub``, or what LIBERO_ASSETS pointed to, by name."""
    reduced: bool
    """Whether some of it is simplified or replaced, so that figures compare with no others."""


def package() -> Path:
    """The folder of LIBERO's code, found without importing it, because importing may prompt.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    spec = importlib.util.find_spec("libero")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "libero" / "bddl_files").is_dir():
            return Path(place) / "libero"
    raise ModuleNotFoundError(
        "LIBERO is not installed (no package `libero` with task files): "
        "pip install 'e0-lightning[libero]'"
    )


def cache() -> Path:
    """Where archives are unpacked and the package's settings are written."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "e0_lightning" / "libero"


def find_assets() -> Assets:
    """Find assets, or fetch them.

    Looked at in turn: the variable LIBERO_ASSETS (a folder, or an archive, which is unpacked into
    the cache once), the installed package, the package's own download folder, and the hub.

    Raises:
        ValueError: If LIBERO_ASSETS points to something that does not hold assets.
        RuntimeError: If there are none and the hub cannot be reached.
        ModuleNotFoundError: If LIBERO is not installed.
    """
    own = package() / "assets"
    given = os.environ.get("LIBERO_ASSETS")
    if given:
        path = Path(given).expanduser()
        if not path.exists():
            raise ValueError(f"LIBERO_ASSETS={given}: no such file or folder; {ADVICE}")
        folder = unpack(path, cache()) if path.is_file() else path
        if lacking := _lacking(folder):
            raise ValueError(
                f"LIBERO_ASSETS={given}: found no {lacking[0]} in it; a folder with "
                f"{', '.join(FOLDERS)}, or an archive of one, is wanted"
            )
        return Assets(folder, path.name, _reduced(folder))
    if not _lacking(own):
        return Assets(own, "package", _reduced(own))
    downloaded = Path.home() / ".cache" / "libero" / "assets"
    if _lacking(downloaded):
        _download(downloaded)
    return Assets(downloaded, "hub", _reduced(downloaded))


def unpack(archive: Path, target: Path) -> Path:
    """Unpack an archive of one ``assets`` folder, once; later calls find it.

    It is written beside its final place and renamed, so that an interruption leaves nothing half.

    Args:
        archive: ``.tar``, in any compression that Python knows.
        target: Folder in which each archive gets a folder of its own.

    Returns:
        The folder of assets.

    Raises:
        ValueError: If the archive is broken, or holds no such folder.
    """
    status = archive.stat()
    place = target / f"{archive.name.split('.')[0]}-{status.st_size:x}-{status.st_mtime_ns:x}"
    if not place.exists():
        target.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=target))
        try:
            with tarfile.open(archive) as file:
                # The Python of Debian 12, 3.11.2, has no filters yet.
                filtered: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                file.extractall(unfinished, **filtered)
            if not (unfinished / "assets").is_dir():
                raise ValueError(
                    f"{archive}: found {sorted(p.name for p in unfinished.iterdir())[:5]} at its "
                    "top; a folder `assets` is wanted"
                )
            try:
                unfinished.rename(place)
            except OSError:
                if not place.exists():  # else another process was faster
                    raise
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(
                f"{archive}: cannot be unpacked ({error}); a complete tar archive with a folder "
                "`assets` is wanted. Copy it again."
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return place / "assets"


def load_package(assets: Path) -> None:
    """Import LIBERO with these assets, and with settings that keep it from asking questions.

    Without a settings file the first import waits for an answer on the terminal; and whatever the
    file says of assets, the package looks elsewhere, so it is told in its own variable.
    """
    if not (_settings() / "config.yaml").exists():
        folder = cache()
        os.environ["LIBERO_CONFIG_PATH"] = str(folder)
        _write_settings(folder, assets)
    # It says three times in every process that a file of private settings is missing.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    import libero.libero

    libero.libero._assets_path_cache = str(assets)


def _settings() -> Path:
    return Path(os.environ.get("LIBERO_CONFIG_PATH") or Path.home() / ".libero")


def _write_settings(folder: Path, assets: Path) -> None:
    code = package()
    places = {
        "benchmark_root": code,
        "bddl_files": code / "bddl_files",
        "init_states": code / "init_files",
        "datasets": folder / "datasets",
        "assets": assets,
    }
    folder.mkdir(parents=True, exist_ok=True)
    # Several workers may write at once; a JSON string is a valid YAML one.
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
        file.writelines(f"{key}: {json.dumps(str(place))}\n" for key, place in places.items())
    os.replace(file.name, folder / "config.yaml")


def _download(target: Path) -> None:
    try:
        from huggingface_hub import snapshot_download

        print(f"LIBERO's assets are not here; downloading {HUB} to {target}")
        snapshot_download(repo_id=HUB, repo_type="dataset", local_dir=target)
    except Exception as error:  # the hub's client raises whatever its transport raises
        raise RuntimeError(
            f"LIBERO's assets are missing, and {HUB} could not be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}): {ADVICE}"
        ) from error
    if lacking := _lacking(target):
        raise RuntimeError(f"{target}: the download lacks {', '.join(lacking)}; {ADVICE}")


def _lacking(folder: Path) -> list[str]:
    return [name for name in FOLDERS if not (folder / name).is_dir()]


def _reduced(folder: Path) -> bool:
    """Whether a notice beside the assets says that files were replaced."""
    notice = folder / "NOTICE.txt"
    return notice.is_file() and "replaced" in notice.read_text(errors="replace")
