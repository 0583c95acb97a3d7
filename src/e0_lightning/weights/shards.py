"""Tensors of a checkpoint in safetensors files, one at a time and never unpickled."""

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
        source: A file, a folder, or the name of a repository on the Hugging Face hub.

    Returns:
        Its files; all that an index names, where there is one.

    Raises:
        ValueError: If there is no safetensors file, or one that the index names is missing.
    """
    path = Path(source)
    if not path.exists() and path.suffix not in (".safetensors", *PICKLED):
        path = _download(source)
    if path.is_file() and path.suffix == ".safetensors":
        return [path]
    if not path.is_dir():
        found = "a pickle, which could run code" if path.suffix in PICKLED else "no such file"
        raise ValueError(
            f"{source}: {found}; give a .safetensors file or a folder of them. Convert a pickle "
            "where you trust it: load it with weights_only=True, save with safetensors.torch."
        )
    indexes = sorted(path.glob("*.safetensors.index.json"))
    if not indexes:
        return _all_shards(path)
    named = sorted(set(json.loads(indexes[0].read_text())["weight_map"].values()))
    missing = [name for name in named if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{indexes[0]} names {len(named)} files, of which {missing} are missing; "
            "download the checkpoint again."
        )
    return [path / name for name in named]


def read_names(shards: list[Path]) -> list[str]:
    """Names of all tensors, read from the heads of the files.

    Raises:
        ValueError: If a file is damaged.
    """
    return [name for shard in shards for name in _open(shard).keys()]  # noqa: SIM118


def read_tensors(shards: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, one in memory at a time.

    Raises:
        ValueError: If a file is damaged.
    """
    for shard in shards:
        opened = _open(shard)
        for name in opened.keys():  # noqa: SIM118  # an open file is no mapping
            yield name, opened.get_tensor(name)


def _all_shards(folder: Path) -> list[Path]:
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        found = f"only pickles {pickled}, which could run code" if pickled else "no weights"
        raise ValueError(f"{folder}: {found}; a checkpoint in safetensors files is needed.")
    return shards


def _open(shard: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(shard, framework="pt")
    except SafetensorError as error:
        raise ValueError(
            f"{shard} is no whole safetensors file ({error}); download or copy it again."
        ) from error


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.index.json"]))
    except (HFValidationError, OSError) as error:
        raise ValueError(
            f"{name}: no such file or folder here, and the hub gave nothing ({error}). "
            "Give the path of a downloaded checkpoint, or a repository that you may read."
        ) from error
