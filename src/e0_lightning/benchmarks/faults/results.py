"""Outcomes of injected faults, and their table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

Outcome = Literal["read right", "clear error", "wrong", "hung", "crashed"]
"""Right values or results; an error that names the file; other values without an error; no end; an
error that is not ours, or the death of a process."""

FAILURES: tuple[Outcome, ...] = ("wrong", "hung", "crashed")


class Trial(NamedTuple):
    """Outcome of one injected fault."""

    outcome: Outcome
    note: str = ""
    """What happened, for a failure."""


@dataclass
class Results:
    """Outcomes of all faults, printed as they come in."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, fault: str, trial: Trial, count: int = 1) -> None:
        """Count the outcome of a fault, and print a failure."""
        self.counts.setdefault(fault, Counter())[trial.outcome] += count
        if trial.outcome in FAILURES and count:
            print(f"{fault}: {trial.outcome}: {trial.note}", flush=True)

    def skip(self, fault: str, reason: str) -> None:
        """Note that a fault cannot be injected here."""
        self.skipped[fault] = reason

    @property
    def failures(self) -> int:
        """Number of outcomes that must not occur."""
        return sum(each[outcome] for each in self.counts.values() for outcome in FAILURES)

    def table(self) -> str:
        """Markdown table: a row for each fault, a column for each outcome."""
        outcomes = get_args(Outcome)
        rows = [["fault", *outcomes], ["---"] * (len(outcomes) + 1)]
        for fault, counts in self.counts.items():
            rows.append([fault, *(str(counts[outcome]) for outcome in outcomes)])
        for fault, reason in self.skipped.items():
            rows.append([fault, f"skipped: {reason}", *[""] * (len(outcomes) - 1)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
