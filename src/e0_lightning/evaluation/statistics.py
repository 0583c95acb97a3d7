"""Success rates and scores of episodes by task, suite and camera displacement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from e0_lightning.envs.camera_orbit import NO_OFFSET, CameraOffset
from e0_lightning.metrics import mean_score, wilson
from e0_lightning.types import EpisodeResult

Summary = dict[str, Any]
"""``rate``, ``low`` and ``high`` of its 95 % interval, ``n``, ``successes``, ``errors``,
``mean_steps``, and ``score`` where episodes have one: ``mean``, ``low``, ``high`` and ``n``. Where
they have flags, ``flags``: name to the share of all ``episodes`` that ended with it, and of the
``successes``, each as for successes."""

MAX_CAMERA_ROWS = 25
"""More displacements than these, such as sampled ones, are grouped by angle."""

CAMERA_GROUP = 5.0
"""Width of those groups, degrees."""


def by_task(results: Sequence[EpisodeResult]) -> dict[str, Summary]:
    """Summary of each task; an episode with an error counts as a failure."""
    return _group(results, sorted({each.task for each in results}), lambda each: each.task)


def by_suite(
    results: Sequence[EpisodeResult], published: dict[str, Any] | None = None
) -> dict[str, Summary]:
    """Summary of each suite, where tasks are named ``<suite>/<task>``; empty elsewhere.

    Args:
        results: The results.
        published: Suite to its published protocol: number of ``tasks``, ``episodes`` per task, and
            ``rates`` by method. A suite that was evaluated completely under this protocol gets
            them as ``published``.
    """
    suites = sorted({_suite(each) for each in results if "/" in each.task})
    summaries = _group(results, suites, _suite)
    for suite, protocol in (published or {}).items():
        own = [each for each in results if _suite(each) == suite]
        if suite in summaries and _is_complete(own, protocol):
            summaries[suite]["published"] = protocol["rates"]
    return summaries


def by_camera(results: Sequence[EpisodeResult]) -> dict[str, Summary]:
    """Summary of each camera displacement; empty where no camera was displaced."""
    cameras = sorted({camera_of(each) for each in results})
    if cameras == [NO_OFFSET]:
        return {}
    if len(cameras) <= MAX_CAMERA_ROWS:
        names = map(describe_camera, cameras)
        return _group(results, names, lambda each: describe_camera(camera_of(each)))
    angles = sorted({_angle_group(camera) for camera in cameras})
    labels = {low: f"{low:g}° to {low + CAMERA_GROUP:g}°" for low in angles}
    return _group(results, labels.values(), lambda each: labels[_angle_group(camera_of(each))])


def mean_of_scores(tasks: Mapping[str, Summary]) -> float | None:
    """Mean score of the tasks that have one; None where none has."""
    means = [summary["score"]["mean"] for summary in tasks.values() if "score" in summary]
    return sum(means) / len(means) if means else None


def camera_of(result: EpisodeResult) -> CameraOffset:
    """Camera displacement of an episode, as a tuple of floats."""
    azimuth, elevation, distance = result.camera
    return float(azimuth), float(elevation), float(distance)


def describe_camera(camera: CameraOffset) -> str:
    """A displacement in words: its components that are not zero."""
    azimuth, elevation, distance = camera
    parts = [f"azimuth {azimuth:+g}°"] if azimuth else []
    parts += [f"elevation {elevation:+g}°"] if elevation else []
    parts += [f"distance {distance:+.0%}"] if distance else []
    return ", ".join(parts) or "not displaced"


def _group(
    results: Sequence[EpisodeResult], names: Iterable[str], name_of: Callable[[EpisodeResult], str]
) -> dict[str, Summary]:
    groups: dict[str, list[EpisodeResult]] = {name: [] for name in names}
    for result in results:
        if (name := name_of(result)) in groups:
            groups[name].append(result)
    return {name: _summarize(group) for name, group in groups.items()}


def _summarize(results: Sequence[EpisodeResult]) -> Summary:
    successes = sum(each.success for each in results)
    return {
        **wilson(successes, len(results))._asdict(),
        "successes": successes,
        "errors": sum(bool(each.error) for each in results),
        "mean_steps": sum(each.steps for each in results) / len(results),
        **_scores(results),
        **_flags(results),
    }


def _scores(results: Sequence[EpisodeResult]) -> Summary:
    """The mean score, in which an episode with an error counts as 0; empty where there is none."""
    if all(each.score is None for each in results):
        return {}
    scores = [0.0 if each.error or each.score is None else each.score for each in results]
    return {"score": mean_score(scores)._asdict()}


def _flags(results: Sequence[EpisodeResult]) -> Summary:
    """How many episodes ended with a flag, without those with an error; empty where none has."""
    names = sorted({name for each in results for name in each.flags})
    if not names:
        return {}
    groups = {
        "episodes": [each for each in results if not each.error],
        "successes": [each for each in results if each.success],
    }
    flags = {
        name: {
            group: wilson(sum(each.flags.get(name, False) for each in some), len(some))._asdict()
            for group, some in groups.items()
            if some
        }
        for name in names
    }
    return {"flags": flags}


def _is_complete(results: Sequence[EpisodeResult], protocol: dict[str, Any]) -> bool:
    """Whether the episodes are all of a protocol's, without displaced cameras."""
    seeds: dict[str, set[int]] = {}
    for each in results:
        seeds.setdefault(each.task, set()).add(each.seed)
    return (
        len(seeds) == protocol["tasks"]
        and all(len(of_task) == protocol["episodes"] for of_task in seeds.values())
        and all(camera_of(each) == NO_OFFSET for each in results)
    )


def _suite(result: EpisodeResult) -> str:
    return result.task.split("/")[0]


def _angle_group(camera: CameraOffset) -> float:
    return math.hypot(camera[0], camera[1]) // CAMERA_GROUP * CAMERA_GROUP
