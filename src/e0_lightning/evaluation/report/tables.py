"""Episodes as figures: success by task, by suite and by camera, and the table people read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset
from e0_lightning.metrics import wilson
from e0_lightning.types import EpisodeResult

Figures = dict[str, Any]

CAMERAS_SHOWN = 25
"""With more displacements than these, drawn ones, they are put together by angle."""

ANGLE = 5.0
"""Width of those classes, degrees."""


def summarise(results: Sequence[EpisodeResult]) -> dict[str, Figures]:
    """Figures of each task: success with its 95 % interval, episodes, errors, mean steps."""
    return _by(results, sorted({each.task for each in results}), lambda each: each.task)


def by_suite(results: Sequence[EpisodeResult]) -> dict[str, Figures]:
    """The same for each suite, where tasks are called ``<suite>/<task>``; empty elsewhere."""
    suites = sorted({each.task.split("/")[0] for each in results if "/" in each.task})
    return _by(results, suites, lambda each: each.task.split("/")[0])


def by_camera(results: Sequence[EpisodeResult]) -> dict[str, Figures]:
    """The same for each displacement of the camera; empty where it always stood still."""
    cameras = sorted({camera_of(each) for each in results})
    if cameras == [NO_OFFSET]:
        return {}
    if len(cameras) <= CAMERAS_SHOWN:
        return _by(results, map(describe, cameras), lambda each: describe(camera_of(each)))
    classes = sorted({_class(camera) for camera in cameras})
    names = [f"{low:g}° to {low + ANGLE:g}°" for low in classes]
    return _by(results, names, lambda each: names[classes.index(_class(camera_of(each)))])


def camera_of(result: EpisodeResult) -> CameraOffset:
    """The displacement of an episode; JSON makes lists of tuples."""
    azimuth, elevation, distance = result.camera
    return azimuth, elevation, distance


def describe(camera: CameraOffset) -> str:
    """A displacement in words: the parts of it that are not zero."""
    azimuth, elevation, distance = camera
    parts = [f"azimuth {azimuth:+g}°"] if azimuth else []
    parts += [f"elevation {elevation:+g}°"] if elevation else []
    parts += [f"distance {distance:+.0%}"] if distance else []
    return ", ".join(parts) or "as in the demos"


def markdown(found: dict[str, Any]) -> str:
    """The table of a report, what was run, and the episodes that broke off."""
    caps = found.get("max_steps", {})
    lines = _head("task", "mean steps", "cap")
    for task, figures in found["tasks"].items():
        lines.append(f"{_row(task, figures)} {figures['mean_steps']:.0f} | {caps.get(task, '')} |")
    if len(found["tasks"]) > 1:
        lines.append(f"| mean of tasks | {found['mean']:.1%} | | | | | |")
    lines += _suites(found)
    if found.get("cameras"):
        lines += ["", *_head("camera")]
        lines += [_row(camera, figures) for camera, figures in found["cameras"].items()]
    lines += ["", *(f"- {line}" for line in about(found))]
    broken = [episode for episode in found["episodes"] if episode["error"]]
    if broken:
        lines += ["", "Episodes that broke off, counted as failures:"]
        lines += [f"- {each['task']}, seed {each['seed']}: {each['error']}" for each in broken]
    return "\n".join(lines) + "\n"


def about(found: dict[str, Any]) -> list[str]:
    """What was run, a line each, and why figures may not compare with others."""
    told = ("checkpoint", "first_seed", "n_action_steps", "num_envs", "assets", "renderer")
    lines = [f"{key.replace('_', ' ')}: {found[key]}" for key in told if key in found]
    lines.append(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    return [*lines, *found.get("notes", [])]


def _suites(found: dict[str, Any]) -> list[str]:
    """Figures of each suite, published ones beside them."""
    if not found.get("suites"):
        return []
    published: dict[str, dict[str, float]] = found.get("published", {})
    others = list(dict.fromkeys(name for suite in published.values() for name in suite))
    lines = ["", *_head("suite", *others)]
    for suite, figures in found["suites"].items():
        row = _row(suite, figures)
        for name in others:
            rate = published.get(suite, {}).get(name)
            row += f" {'' if rate is None else f'{rate:.1%}'} |"
        lines.append(row)
    return lines


def _head(what: str, *more: str) -> list[str]:
    names = [what, "success", "95 % interval", "episodes", "errors", *more]
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def _row(name: str, figures: Figures) -> str:
    return (
        f"| {name} | {figures['rate']:.1%} | {figures['low']:.1%} – {figures['high']:.1%} "
        f"| {figures['n']} | {figures['errors']} |"
    )


def _by(
    results: Sequence[EpisodeResult], names: Iterable[str], of: Callable[[EpisodeResult], str]
) -> dict[str, Figures]:
    return {name: _figures([each for each in results if of(each) == name]) for name in names}


def _figures(results: Sequence[EpisodeResult]) -> Figures:
    successes = sum(each.success for each in results)
    return {
        **wilson(successes, len(results))._asdict(),
        "successes": successes,
        "errors": sum(bool(each.error) for each in results),
        "mean_steps": sum(each.steps for each in results) / len(results),
    }


def _class(camera: CameraOffset) -> float:
    return math.hypot(camera[0], camera[1]) // ANGLE * ANGLE
