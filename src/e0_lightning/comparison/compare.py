"""`e0 compare`: every variant trained, played and timed under one budget, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from e0_lightning.comparison.report import write_report
from e0_lightning.comparison.runs import Budget, Variant
from e0_lightning.comparison.tables import Table, read_tables

TABLES = ["experiments/compare/policies.yaml", "experiments/compare/ablations.yaml"]


def compare(
    experiment: list[str],
    out: Path,
    tables: list[str] = TABLES,
    only: list[str] | None = None,
    steps: int | None = None,
    episodes: int | None = None,
    parallel: int = 1,
) -> None:
    """Train variants of one benchmark under one budget, play them on the same seeds, report.

    Each variant has a folder of its own in `out`, and each of its stages is done once: run the same
    command again to go on. ``report.md``, ``report.json`` and ``report.png`` in `out` tell of all
    that is finished there.

    Args:
        experiment: What describes the benchmark to ``lightning fit``, as it is there: ``--config
            FILE``, and any of ``--seed_everything``, ``--trainer…``, ``--data…`` and ``--model…``.
        out: Where everything goes.
        tables: What to compare, a table of the report each.
        only: Names of the variants to run now; None for all.
        steps: Optimizer steps for each; None for as many as the benchmark's files say.
        episodes: Episodes of each task; None for as many as the benchmark's files say.
        parallel: Variants trained and played at a time, an equal share of the cores for each;
            decisions are timed one variant at a time.

    Raises:
        ValueError: If a table makes no sense, holds no such variant, or a variant failed.
    """
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}; run one variant at a time at least.")
    known = read_tables(tables)
    threads = max(1, len(os.sched_getaffinity(0)) // parallel) if parallel > 1 else None
    budget = Budget(experiment, steps, episodes, threads)
    variants = build(known, Path(out), budget)
    chosen = _choose(variants, only)

    def report() -> str:
        return write_report(known, variants, Path(out))

    report()  # what it lacks is to be missed before the work, not after
    failures = _each(_train_and_play, _trained(chosen), parallel, report)
    failed = {variant for variant, _ in failures}
    sampled = [v for v in chosen if v.trained_as is not None and v.trained_as not in failed]
    failures += _each(Variant.play, sampled, parallel, report)
    failed = {variant for variant, _ in failures}
    playable = [v for v in chosen if not {v, v.trained_as or v} & failed]
    failures += _each(Variant.measure, playable, 1, report)
    print(report())
    if failures:
        raise ValueError("\n".join(str(error) for _, error in failures))


def build(tables: list[Table], out: Path, budget: Budget) -> dict[str, Variant]:
    """The variants of all tables, by name, each once."""
    variants: dict[str, Variant] = {}
    for table in tables:
        for name, words in table.trained.items():
            variants.setdefault(name, Variant(out / name, words, budget))
        base = variants[table.base]
        for name, words in table.sampled.items():
            variants.setdefault(name, Variant(out / name, words, budget, trained_as=base))
    return variants


def _choose(variants: dict[str, Variant], only: list[str] | None) -> list[Variant]:
    if strange := set(only or []) - set(variants):
        raise ValueError(
            f"only: there is no {', '.join(sorted(strange))}; choose from {', '.join(variants)}."
        )
    return [variant for name, variant in variants.items() if only is None or name in only]


def _trained(chosen: Iterable[Variant]) -> list[Variant]:
    """What must be trained, each once: the chosen, and what the chosen are sampled from."""
    return list(dict.fromkeys(variant.trained_as or variant for variant in chosen))


def _train_and_play(variant: Variant) -> None:
    variant.train()
    variant.play()


def _each(
    stage: Callable[[Variant], None],
    variants: list[Variant],
    parallel: int,
    report: Callable[[], str],
) -> list[tuple[Variant, Exception]]:
    """Take variants through a stage, some at a time; who failed, and why."""
    failures: list[tuple[Variant, Exception]] = []
    with ThreadPoolExecutor(parallel) as pool:
        under_way = {pool.submit(stage, variant): variant for variant in variants}
        try:
            for done in as_completed(under_way):
                variant, error = under_way[done], done.exception()
                if isinstance(error, ValueError | RuntimeError | OSError):
                    failures.append((variant, error))
                elif error is not None:
                    raise error
                print(f"{variant.name}: {'failed' if error else 'done'}", flush=True)
                report()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures
