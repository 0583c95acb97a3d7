"""Checkpoint files: safe reading with one clear error, and loading of pretrained weights."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from e0_lightning.training.constructor_tree import make_self_contained
from e0_lightning.training.optimizer import name_optimizer_state, parameter_names
from e0_lightning.types import PolicySpec

PRETRAINED = ("encoder.vision.", "encoder.language.", "encoder.projector.", "expert.")
"""Networks that a checkpoint of pretrained weights must fill; other sizes depend on the robot."""
ROBOT = ("expert.state.",)
"""Parts of those networks whose sizes depend on the robot too."""

_ANOTHER = "Use another checkpoint of the run, such as the numbered one beside it."


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are unpickled, nothing is executed.

    Tensors are memory-mapped: the optimizer state may be several times as large as the weights.

    Args:
        path: File written by a Lightning trainer.

    Raises:
        ValueError: If the file is missing, empty, a git-lfs pointer, damaged, or no checkpoint.
    """
    path = Path(path)
    _check_container(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: expected tensors and plain values, got pickled Python objects, which could "
            "run code and are not loaded. Use a checkpoint written by e0-lightning."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{path}: expected a checkpoint, got a zip file that torch cannot load "
            f"({one_line(error)}). {_ANOTHER}"
        ) from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint)
        raise ValueError(
            f"{path}: expected a Lightning checkpoint with a state_dict, got {found}. "
            "Use a checkpoint written by e0-lightning."
        )
    return checkpoint


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        weights: Name to tensor.
        source: Owner of the weights, for the message.

    Raises:
        ValueError: If any value is not finite, with the names of the first such tensors.
    """
    broken = [
        name
        for name, weight in weights.items()
        if weight.is_floating_point() and not weight.isfinite().all()
    ]
    if broken:
        raise ValueError(
            f"{source}: expected finite weights, got NaN or infinity in {len(broken)} tensors "
            f"({', '.join(broken[:3])}). {_ANOTHER}"
        )


def complete_checkpoint(policy: Any, checkpoint: dict[str, Any], spec: PolicySpec | None) -> None:
    """Make a checkpoint that Lightning assembled sufficient to rebuild its policy.

    Adds the spec, replaces references to other files in the constructor tree, and names the
    parameters in optimizer states.

    Args:
        policy: Policy that is saved.
        checkpoint: Its checkpoint, before it is written; changed in place.
        spec: Spec of the policy, if it has one.

    Raises:
        ValueError: If a weight is not finite.
    """
    names = {name for name, _ in policy.named_parameters()}
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name in names}
    check_finite(weights, "the checkpoint to be written")
    if "hyper_parameters" in checkpoint:
        tree = dict(checkpoint["hyper_parameters"])
        checkpoint["hyper_parameters"] = make_self_contained(tree, policy.encoder.language)
    if checkpoint.get("optimizer_states"):
        is_sharded = policy.device_mesh is not None
        order = parameter_names(policy, policy.trainer.optimizers[0], is_sharded)
        states = [state for state in checkpoint["optimizer_states"] if state]
        checkpoint["optimizer_states"] = [name_optimizer_state(each, order) for each in states]
    if spec is not None:
        checkpoint["spec"] = spec.as_dict()


def stored_spec(checkpoint: Mapping[str, Any], source: str) -> PolicySpec:
    """Spec of a checkpoint that has one.

    Raises:
        ValueError: If its fields are not those of this version.
    """
    try:
        return PolicySpec(**checkpoint["spec"])
    except TypeError as error:
        expected = [field.name for field in fields(PolicySpec)]
        raise ValueError(
            f"{source}: expected a spec of {expected}, got {sorted(checkpoint['spec'])}. "
            "It was written by another version of e0-lightning: install that one."
        ) from error


def load_pretrained(policy: nn.Module, path: str | PathLike[str]) -> None:
    """Copy the weights of a checkpoint into a policy, and nothing else of it.

    Vision encoder, language model, projector and expert must equal those of the checkpoint in
    shape; other weights of a different shape, as for another robot, keep their initialization.

    Args:
        policy: Policy without adapters.
        path: Checkpoint of any policy, such as ``e0 import-weights`` writes.

    Raises:
        ValueError: If the file is no checkpoint, or its networks differ.
    """
    state = read_checkpoint(path)["state_dict"]
    initialized, differing = [], []
    for name, parameter in policy.named_parameters():
        stored = state.get(name)
        if stored is not None and stored.shape == parameter.shape:
            with torch.no_grad():
                parameter.copy_(stored)
        elif name.startswith(PRETRAINED) and not name.startswith(ROBOT):
            shape = None if stored is None else tuple(stored.shape)
            differing.append(f"  {name}: expected {tuple(parameter.shape)}, got {shape}")
        else:
            initialized.append(name)
    for name, buffer in policy.named_buffers():
        # Such as the running statistics of a batch norm.
        stored = state.get(name) if name.startswith(PRETRAINED) else None
        if stored is not None and stored.shape == buffer.shape:
            buffer.copy_(stored)
    if differing:
        raise ValueError(
            f"weights: {len(differing)} tensors of {path} do not fit the model:\n"
            + "\n".join(differing[:8])
            + "\nGive the model the networks of the checkpoint. A checkpoint with LoRA adapters "
            "cannot be used here."
        )
    rank_zero_info(f"Weights from {path}; initialized anew: {', '.join(initialized) or 'none'}.")


def _check_container(path: Path) -> None:
    """Refuse a file that is not a complete zip archive with correct checksums."""
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise ValueError(f"{path}: expected a checkpoint file, got {found}.")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ValueError(f"{path}: expected a checkpoint, got an empty file. {_ANOTHER}")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path}: expected a checkpoint, got a git-lfs pointer to one. Run `git lfs pull`."
        )
    if not zipfile.is_zipfile(path):
        found = "the beginning of one: it is cut off" if head[:2] == b"PK" else "another format"
        raise ValueError(f"{path}: expected a checkpoint, got {found}. {_ANOTHER}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError):
        damaged = "its directory"
    if damaged:
        raise ValueError(
            f"{path}: expected a complete checkpoint, got one with wrong checksums in {damaged}: "
            f"it is damaged. {_ANOTHER}"
        )


def one_line(error: Exception) -> str:
    """Message of an error without line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300]
