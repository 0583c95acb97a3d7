"""The loader of a peer, in an environment of its own: its dependencies exclude ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType

import numpy as np

from e0_lightning.benchmarks.data_files import Recording

SCRIPT = Path(__file__).with_name("peer_loader.py")

VERSIONS = {"LeRobot": "0.4.4", "robomimic": "0.3.0"}
"""Peer to the version that the script is written for."""


class PeerProcess:
    """Writes recordings in the format of a peer and measures its loader; a context manager.

    Args:
        peer: One of `VERSIONS`.
        python: Interpreter of an environment with it.
        folder: Folder to create and write to.
        recordings: The demonstrations.
        size: Rows and columns to resize to; None to keep the recorded frames.
        batch_size: Samples in a batch.
        horizon: Steps in an action chunk.
    """

    def __init__(
        self,
        peer: str,
        python: str,
        folder: Path,
        recordings: list[Recording],
        size: tuple[int, int] | None,
        batch_size: int,
        horizon: int,
    ) -> None:
        self.peer, self.python = peer, python
        folder.mkdir()
        views = list(recordings[0].images)
        for number, (actions, states, images) in enumerate(recordings):
            np.savez(folder / f"{number}.npz", actions=actions, states=states, **images)
        settings = {
            "recordings": len(recordings),
            "views": views,
            "size": size,
            "batch_size": batch_size,
            "horizon": horizon,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        self._process = subprocess.Popen(
            [python, SCRIPT, peer, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> PeerProcess:
        self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Its input does not end while workers that were forked meanwhile have it open.
        self._process.communicate("\n")

    def rate(self, num_workers: int, num_frames: int) -> float:
        """Frames per second of the peer's loader."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{num_workers} {num_frames}\n")
        self._process.stdin.flush()
        return float(self._answer().split()[-1])

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise RuntimeError(
                f"{self.python} {SCRIPT} ended with status {status}, with the "
                "message above. Install it there: pip install "
                f"{self.peer.lower()}=={VERSIONS[self.peer]}."
            )
        return line
