"""How fast training runs and how much of it waits for data."""

from __future__ import annotations

from time import perf_counter


class Throughput:
    """Clock of training steps, averaged over the last ``window`` of them."""

    def __init__(self, window: int = 50) -> None:
        self.window = window
        self._steps: list[tuple[float, float, int]] = []
        self._started = self._ended = 0.0

    def start_step(self) -> None:
        """Call when a batch has arrived."""
        self._started = perf_counter()

    def interrupt(self) -> None:
        """Call after other work, such as a validation, which is no wait for the next batch."""
        self._ended = 0.0

    def end_step(self, samples: int) -> dict[str, float]:
        """Call when the step is done.

        Args:
            samples: Batch size.

        Returns:
            ``samples_per_second`` and ``data_wait_share`` in [0, 1]; empty after the first step
            and the first after other work.
        """
        now = perf_counter()
        wait = self._started - self._ended
        is_first, self._ended = self._ended == 0.0, now
        if is_first:
            return {}
        self._steps = [*self._steps[1 - self.window :], (wait, now - self._started, samples)]
        waits, works, counts = (sum(column) for column in zip(*self._steps, strict=True))
        return {
            "samples_per_second": counts / (waits + works),
            "data_wait_share": waits / (waits + works),
        }
