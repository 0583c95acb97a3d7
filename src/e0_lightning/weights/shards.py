"""Reads the tensors of a checkpoint from safetensors files, one at a time; never unpickles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def find_shards(source: str) -> list[Path]:
    """Find the safetensors files of a checkpoint.

    Args:
        source: A file, a folder, or a repository on the Hugging Face Hub.

    Returns:
        Its files; those listed in an index, if there is one.

    Raises:
        ValueError: If there is no safetensors file, or one listed in the index is missing.
    """
    path = Path(source)
    if not path.exists() and path.suffix not in (".safetensors", *PICKLED):
        path = _download(source)
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    if not path.is_dir():
        found = "a pickle, which can execute code" if path.suffix in PICKLED else "no such file"
        raise ValueError(
            f"{source}: expected a .safetensors file or a folder of them, got {found}. Convert a "
            "trusted pickle: load it with weights_only=True, save with safetensors.torch."
        )
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if not indexes:
        return _all_shards(path)
    named = sorted(set(json.loads(indexes[0].read_text())["weight_map"].values()))
    missing = [name for name in named if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{indexes[0]}: expected {len(named)} files, of which {missing} are missing. Download "
            "the checkpoint again."
        )
    return [path / name for name in named]


def read_names(shards: list[Path]) -> list[str]:
    """Read the names of all tensors from the headers of the files.

    Raises:
        ValueError: If a file is damaged.
    """
    return [name for shard in shards for name in _open(shard).keys()]  # noqa: SIM118


def read_tensors(shards: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Read names and tensors, one in memory at a time.

    Raises:
        ValueError: If a file is damaged.
    """
    for shard in shards:
        opened = _open(shard)
        for name in opened.keys():  # noqa: SIM118  # an open file is not a mapping
            yield name, opened.get_tensor(name)


def _all_shards(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        found = f"only pickles {pickled}, which can execute code" if pickled else "no weights"
        raise ValueError(f"{folder}: expected .safetensors files, got {found}.")
    return shards


def _open(shard: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(shard, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"{shard}: expected a complete safetensors file ({error}). Download or copy it again."
        ) from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.index.json"]))
    except (HFValidationError, OSError) as error:
        raise ValueError(
            f"{name}: no such file or folder, and the Hugging Face Hub failed ({error}). Give the "
            "path of a downloaded checkpoint, or a repository that you have access to."
        ) from error
