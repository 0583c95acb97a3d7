"""A checkpoint is enough: class path, constructor tree, spec and tensors in one file."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from lightning.pytorch.cli import instantiate_module

from e0_lightning.policies.base import Policy


def build_policy(settings: dict[str, Any]) -> Policy:
    """Build a policy from a tree of plain values, as a YAML file holds it.

    Args:
        settings: ``{"class_path": ..., "init_args": {...}}``.

    Returns:
        A policy whose checkpoints carry that tree, so that :func:`load_policy` opens them.
    """
    tree = {"_class_path": settings["class_path"], **settings.get("init_args", {})}
    policy: Policy = instantiate_module(Policy, tree)  # type: ignore[type-abstract]
    policy.save_hyperparameters(
        {**tree, "_instantiator": "lightning.pytorch.cli.instantiate_module"}, logger=False
    )
    return policy


def load_policy(path: str | PathLike[str], device: torch.device | str = "cpu") -> Policy:
    """Rebuild whichever policy wrote a checkpoint, ready to act.

    Nothing but tensors and plain values is unpickled. With weight averaging, the averaged weights
    are the ones loaded.

    Args:
        path: A checkpoint written by the trainer of a policy built by the command line or by
            :func:`build_policy`.
        device: Where to put it.

    Returns:
        The policy; one that was imported and met no data yet has no spec, and cannot act.

    Raises:
        ValueError: If the file holds no constructor tree.
    """
    # Mapped, not read: the optimizer's state beside the weights may be several times as large.
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    settings = dict(checkpoint.get("hyper_parameters", {}))
    settings.pop("_instantiator", None)
    class_path = settings.pop("_class_path", None)
    if class_path is None:
        raise ValueError(
            f"{path}: no constructor tree in this checkpoint (keys {sorted(checkpoint)}). It was "
            "written by a module built by hand or by another project: build the policy with "
            "build_policy or the lightning command before fitting, or rebuild it and load "
            "'state_dict' into it."
        )
    policy = build_policy({"class_path": class_path, "init_args": settings})
    policy.configure_model()  # adapters, whose weights the checkpoint holds
    policy.on_load_checkpoint(checkpoint)
    policy.load_state_dict(checkpoint["state_dict"])
    return policy.to(device).eval()
