"""Checkpoints that are written beside their target, flushed to the disk, and renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from fsspec.utils import get_protocol
from lightning.fabric.plugins import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Replaces a local checkpoint only by a complete one.

    Lightning's own writes to ``$TMPDIR`` and moves the file. Between two disks a move is a copy,
    which a full disk or a killed process cuts where the last good checkpoint was.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; remote paths (fsspec) are left to Lightning.

        Raises:
            OSError: If it cannot be written; what was at `path` is unchanged.
        """
        if get_protocol(str(path)) != "file" or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        part = target.with_name(f"{target.name}.part")
        try:
            _write(checkpoint, part)
            part.replace(target)
        except BaseException as error:
            part.unlink(missing_ok=True)
            # After an OSError torch cannot finish the file, and raises another error.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(
                f"{target}: the checkpoint cannot be written ({cause}). Earlier checkpoints are "
                "complete: free space on the disk, and resume from the last one with --ckpt_path."
            ) from error


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint and flush it to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
