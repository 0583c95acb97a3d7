"""Two processes that write to one output."""

from __future__ import annotations

from collections.abc import Iterator

from e0_lightning.benchmarks.faults.cases import CommandCase
from e0_lightning.benchmarks.faults.commands import finish, refusal, start
from e0_lightning.benchmarks.faults.results import Trial


def two_at_once(case: CommandCase) -> Iterator[Trial]:
    """Start a command twice in one folder; each completes, or one is refused.

    Runs of `lightning fit` have a folder each, and the results of each.
    """
    _, expected = case.reference
    folder = case.folder / "two"
    processes = [start(case.command(folder), folder) for _ in range(2)]
    ends = [finish(process, folder) for process in processes]
    completed = [ended for ended in ends if ended.status == 0]
    for ended in ends:
        if ended.status != 0:
            yield refusal(ended)
    try:
        found = case.results(folder)
    except (ValueError, OSError) as error:
        yield Trial("wrong", str(error))
        return
    is_right = found == (expected * len(completed) if case.name == "fit" else expected)
    for _ in completed:
        yield Trial("read right") if is_right else Trial("wrong", f"got {found}, {folder}")
