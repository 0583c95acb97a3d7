"""`e0 compare`: train, evaluate and time every variant under one budget, and write a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
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
    num_episodes: int | None = None,
    parallel: int = 1,
    seeds: list[int] | None = None,
) -> None:
    """Train variants of one benchmark under one budget and evaluate them on the same episodes.

    Each variant has its own folder in `out`, and each of its stages runs once: run the same
    command again to resume. ``report.md``, ``report.json`` and ``report.png`` in `out` cover
    everything that is finished there.

    Args:
        experiment: Options of ``lightning fit`` that describe the benchmark: ``--config FILE``, and
            any of ``--seed_everything``, ``--trainer…``, ``--data…`` and ``--model…``.
        out: Output folder.
        tables: Files of variants, each a table of the report.
        only: Names of the variants to run now; None for all.
        steps: Optimizer steps of each; None for those of the benchmark.
        num_episodes: Episodes of each task; None for those of the benchmark.
        parallel: Variants trained and evaluated at a time, each with an equal share of the cores;
            latency is measured one variant at a time.
        seeds: Seeds of ``--seed_everything``, a training of each variant for each, in folders
            ``seed_<seed>`` of `out`; intervals are then over trainings and episodes. None for one
            training with the seed of the benchmark.

    Raises:
        ValueError: If a table is invalid, a variant does not exist or failed, or a seed is twice.
    """
    if parallel < 1:
        raise ValueError(f"parallel: expected at least 1, got {parallel}.")
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
        raise ValueError(f"seeds: expected different seeds, one or more, got {seeds}.")
    known = read_tables(tables)
    threads = max(1, len(os.sched_getaffinity(0)) // parallel) if parallel > 1 else None
    budget = Budget(experiment, steps, num_episodes, threads)
    trainings = [build(known, folder, own) for folder, own in _seeded(Path(out), budget, seeds)]
    chosen = [variant for variants in trainings for variant in _choose(variants, only)]

    def report() -> str:
        return write_report(known, trainings, Path(out))

    report()  # a missing matplotlib should stop the command before the work, not after it
    failures = _run_stage(_train_and_evaluate, _to_train(chosen), parallel, report)
    failed = {variant for variant, _ in failures}
    inferred = [v for v in chosen if v.trained_as is not None and v.trained_as not in failed]
    failures += _run_stage(Variant.evaluate, inferred, parallel, report)
    failed = {variant for variant, _ in failures}
    evaluated = [v for v in chosen if not {v, v.trained_as or v} & failed]
    failures += _run_stage(Variant.measure, evaluated, 1, report)
    print(report())
    if failures:
        raise ValueError("\n".join(str(error) for _, error in failures))


def build(tables: list[Table], out: Path, budget: Budget) -> dict[str, Variant]:
    """Return the variants of all tables by name."""
    variants: dict[str, Variant] = {}
    for table in tables:
        for name, overrides in table.training_variants.items():
            variants.setdefault(name, Variant(out / name, overrides, budget))
        baseline = variants[table.baseline]
        for name, overrides in table.inference_variants.items():
            variants.setdefault(name, Variant(out / name, overrides, budget, trained_as=baseline))
    return variants


def _seeded(out: Path, budget: Budget, seeds: list[int] | None) -> Iterator[tuple[Path, Budget]]:
    """Folder and budget of each training of the variants."""
    if seeds is None:
        yield out, budget
    for seed in seeds or []:
        experiment = [*budget.experiment, f"--seed_everything={seed}"]
        yield out / f"seed_{seed}", replace(budget, experiment=experiment)


def _choose(variants: dict[str, Variant], only: list[str] | None) -> list[Variant]:
    if unknown := set(only or []) - set(variants):
        raise ValueError(
            f"only: expected names among {', '.join(variants)}, got {', '.join(sorted(unknown))}."
        )
    return [variant for name, variant in variants.items() if only is None or name in only]


def _to_train(chosen: Iterable[Variant]) -> list[Variant]:
    """Return the variants whose weights are needed, each once."""
    return list(dict.fromkeys(variant.trained_as or variant for variant in chosen))


def _train_and_evaluate(variant: Variant) -> None:
    variant.train()
    variant.evaluate()


def _run_stage(
    stage: Callable[[Variant], None],
    variants: list[Variant],
    parallel: int,
    report: Callable[[], str],
) -> list[tuple[Variant, Exception]]:
    """Run a stage of several variants, some at a time; returns those that failed."""
    failures: list[tuple[Variant, Exception]] = []
    with ThreadPoolExecutor(parallel) as pool:
        futures = {pool.submit(stage, variant): variant for variant in variants}
        try:
            for future in as_completed(futures):
                variant, error = futures[future], future.exception()
                if isinstance(error, ValueError | RuntimeError | OSError):
                    failures.append((variant, error))
                elif error is not None:
                    raise error
                print(f"{variant.folder}: {'failed' if error else 'done'}", flush=True)
                report()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures
