"""The files that a process keeps open; some data sets have thousands, one for each episode."""

from __future__ import annotations

from collections import OrderedDict

from e0_lightning.data.formats.base import DemoReader

MAX_FILES = 64
"""Files that a process keeps open."""


class OpenFiles:
    """Closes the file that was used least recently when too many are open."""

    def __init__(self) -> None:
        self._readers: OrderedDict[DemoReader, None] = OrderedDict()

    def use(self, reader: DemoReader) -> None:
        """Note that a reader is about to read its file, which may open it."""
        self._readers[reader] = None
        self._readers.move_to_end(reader)
        if len(self._readers) > MAX_FILES:
            self._readers.popitem(last=False)[0].close()

    def close(self) -> None:
        """Close all files; the next read opens them again."""
        while self._readers:
            self._readers.popitem()[0].close()
