"""Bounds on what clients may send, on error texts and on log messages."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

from e0_lightning.types import PolicySpec

log = logging.getLogger("e0_lightning.serving")

MAX_ELEMENTS: Final = 2**13
"""Maps, lists, keys and values in a message; an array counts as ten, whatever its size."""
MAX_DEPTH: Final = 16
"""Nesting of maps and lists in a message."""
MAX_TEXT: Final = 2**16
"""Bytes of any text in a message, arrays of text included."""
MAX_INSTRUCTION: Final = 2000
"""Characters of an instruction."""
MAX_MAGNITUDE: Final = 1e9
"""Largest absolute value of a state or action: normalizing anything larger may overflow."""
MAX_ERROR: Final = 500
"""Characters of an error text."""

_OTHER_BYTES: Final = 2 * 2**20
"""Bytes of a message beside the images of its views."""


@dataclass(frozen=True)
class ServerLimits:
    """Limits that keep one client from stalling the server for others.

    Args:
        max_connections: Most clients connected at once, lowered to fit half of the process's limit
            on open files; further ones are refused with HTTP status 503.
        idle_timeout: Seconds without a request after which a client is disconnected if its
            place is needed for another.
        max_frame: Largest WebSocket message, bytes; None for as much as raw images of `max_pixels`
            for all views of the policy take.
        max_pixels: Most pixels of an image, checked before it is decoded; those of full HD fit.
        grace: Longest wait for requests in flight on shutdown, seconds.
    """

    max_connections: int = 256
    idle_timeout: float = 60.0
    max_frame: int | None = None
    max_pixels: int = 2 * 2**20
    grace: float = 30.0

    def __post_init__(self) -> None:
        bounds = self.max_connections, self.max_pixels, self.max_frame
        if any(bound is not None and bound < 1 for bound in bounds):
            raise ValueError(
                f"expected max_connections, max_frame and max_pixels of at least 1, got {self}."
            )
        if self.idle_timeout < 0 or self.grace < 0:
            raise ValueError(f"expected idle_timeout and grace of at least 0 seconds, got {self}.")

    def largest_message(self, spec: PolicySpec) -> int:
        """Bytes of the largest message from clients of a policy."""
        images = 3 * self.max_pixels * len(spec.views) * spec.n_obs_steps
        return images + _OTHER_BYTES if self.max_frame is None else self.max_frame


def shorten(text: str, length: int = MAX_ERROR) -> str:
    """Cut a text to a number of characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


class LogRateLimit(logging.Filter):
    """Drops log records of a kind (logger, level, message) after the first few in a period.

    The first record after dropped ones says how many there were.

    Args:
        burst: Records of a kind that pass in a period.
        period: Seconds.
    """

    def __init__(self, burst: int = 5, period: float = 60.0) -> None:
        super().__init__()
        self.burst, self.period = burst, period
        self._kinds: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record passes."""
        kind = record.name, record.levelno, str(record.msg)[:100]
        now = time.monotonic()
        start, count = self._kinds.get(kind, (now, 0))
        if now - start > self.period:
            if count > self.burst:
                text = f"{record.getMessage()} ({count - self.burst} similar messages dropped)"
                record.msg, record.args = text, None
            start, count = now, 0
        if len(self._kinds) < 1000 or kind in self._kinds:
            self._kinds[kind] = start, count + 1
        return count < self.burst
