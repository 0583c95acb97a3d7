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
    files = ["first_stderr.txt", "second_stderr.txt"]
    processes = [start(case.command(folder), folder, errors=name) for name in files]
    ends = [
        finish(process, folder, errors=name) for process, name in zip(processes, files, strict=True)
    ]
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
