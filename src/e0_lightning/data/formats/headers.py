"""What a reader answers from the headers of its file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from e0_lightning.types import PolicySpec


class DemoInfo(NamedTuple):
    """One demonstration, as described by its headers."""

    name: str
    """Name of the demonstration inside its file."""
    steps: int
    """Number of actions T; an observation exists before each of them."""
    block_length: int
    """Steps that are stored together, so that reading one costs as much as reading all."""


@dataclass
class Headers:
    """Answers of a :class:`DemoReader`, each read once; None or missing: not asked yet.

    Args:
        is_failure: Whether the file is left out.
        spec: Spec of the first demonstration.
        demos: Usable demonstrations.
        lists: Names of demonstrations by list: ``train`` and ``valid`` where the file has them, and
            ``failed``.
        instructions: Demonstration to its instruction.
        intrinsics: Demonstration to the camera matrices ``(3, 3)`` of its views.
    """

    is_failure: bool | None = None
    spec: PolicySpec | None = None
    demos: list[DemoInfo] | None = None
    lists: dict[str, list[str]] | None = None
    instructions: dict[str, str] = field(default_factory=dict)
    intrinsics: dict[str, dict[str, npt.NDArray[np.float32]]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The answers as plain values, for JSON."""
        intrinsics = {
            demo: {view: matrix.tolist() for view, matrix in matrices.items()}
            for demo, matrices in self.intrinsics.items()
        }
        spec = None if self.spec is None else self.spec.as_dict()
        return {**vars(self), "spec": spec, "intrinsics": intrinsics}

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Headers:
        """The answers that :meth:`as_dict` returned."""
        headers = cls(**kept)
        if kept["spec"] is not None:
            spec = PolicySpec(**kept["spec"])
            views = {
                view: replace(size, camera=None if size.camera is None else size.camera_size)
                for view, size in spec.views.items()
            }
            headers.spec = replace(spec, views=views)
        if kept["demos"] is not None:
            headers.demos = [DemoInfo(*info) for info in kept["demos"]]
        headers.intrinsics = {
            demo: {view: np.array(matrix, np.float32) for view, matrix in matrices.items()}
            for demo, matrices in kept["intrinsics"].items()
        }
        return headers
