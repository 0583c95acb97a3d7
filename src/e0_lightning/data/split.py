"""Which demonstrations are trained on and which are held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from e0_lightning.data.formats.base import DemoReader
from e0_lightning.data.formats.headers import DemoInfo
from e0_lightning.data.samples import Demo


def read_split(reader: DemoReader, infos: Sequence[DemoInfo]) -> dict[str, str | None]:
    """Part of each demonstration by the lists in its file.

    Returns:
        Demonstration to ``train`` or ``valid``, or to None where the file does not decide it; those
        that the file leaves out of both lists are missing.

    Raises:
        ValueError: If the lists overlap or name demonstrations that are not in the file.
    """
    masks, names = reader.lists(), [info.name for info in infos]
    train, valid = set(masks.get("train", ())), set(masks.get("valid", ()))
    advice = "Mend the lists, or set `use_masks: false` for this entry of demos."
    if both := sorted(train & valid):
        raise ValueError(
            f"{reader.path}: mask/train and mask/valid both name {both[0]} "
            f"({len(both)} demonstrations); expected disjoint lists. {advice}"
        )
    if unknown := sorted((train | valid) - set(names) - set(masks["failed"])):
        raise ValueError(
            f"{reader.path}: its masks name {unknown[0]} ({len(unknown)} demonstrations), which "
            f"the file does not have. {advice}"
        )
    if "train" not in masks:
        train = set(names) - valid
    if left_out := [name for name in names if name not in train | valid]:
        warnings.warn(
            f"{reader.path}: {len(left_out)} of {len(names)} demonstrations are in neither "
            f"mask/train nor mask/valid and are left out ({left_out[0]}, …); set "
            "`use_masks: false` for this entry of demos to use them.",
            stacklevel=2,
        )
    decided = "train" if "valid" in masks else None
    return {name: "valid" if name in valid else decided for name in names if name in train | valid}


def split(demos: Sequence[Demo], val_fraction: float) -> tuple[list[Demo], list[Demo]]:
    """Divide demonstrations into training and validation.

    What the files do not decide is divided at random, in the same proportion for every source. The
    result does not depend on the seed of the run: no run trains on what another one holds out.

    Args:
        demos: All demonstrations.
        val_fraction: Share to validate on, at least one demonstration of each source; 0 validates
            on none, and leaves out what the files hold out.

    Raises:
        ValueError: If a source has nothing left to train on.
    """
    held_out: set[int] = set()
    for source in sorted({demo.source for demo in demos}):
        own = [i for i, demo in enumerate(demos) if demo.source == source]
        held_out.update(i for i in own if demos[i].split == "valid")
        free = [i for i in own if demos[i].split is None]
        count = max(1, round(val_fraction * len(free))) if val_fraction > 0 and free else 0
        order = np.random.default_rng([0, source]).permutation(free)
        held_out.update(order[:count].tolist())
        if held_out.issuperset(own):
            raise ValueError(
                f"{demos[own[0]].reader.path}: val_fraction {val_fraction} holds out "
                f"{len(own)} of {len(own)} demonstrations and leaves nothing for training. Lower "
                "`val_fraction`, set it to 0, or collect more demonstrations."
            )
    training = [demo for i, demo in enumerate(demos) if i not in held_out]
    return training, [demos[i] for i in sorted(held_out)] if val_fraction > 0 else []


def check_horizon(demos: Sequence[Demo], horizon: int) -> None:
    """Refuse a horizon longer than every demonstration.

    Raises:
        ValueError: If it is.
    """
    longest = max(demos, key=lambda demo: demo.steps)
    if not 1 <= horizon <= longest.steps:
        raise ValueError(
            f"horizon: expected 1 to {longest.steps}, the steps of the longest of {len(demos)} "
            f"demonstrations ({longest.name} of {longest.reader.path}), got {horizon}."
        )
