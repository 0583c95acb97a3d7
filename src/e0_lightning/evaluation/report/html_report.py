"""A report as one HTML file that opens from disk: nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from e0_lightning.evaluation.report.tables import Figures, about
from e0_lightning.evaluation.report.video import representative_videos

STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff}
h1 {font-size: 1.5em} h2 {font-size: 1.15em; margin-top: 2em}
table {border-collapse: collapse; width: 100%} th {text-align: left; font-weight: 600}
td, th {padding: .25em .6em; border-bottom: 1px solid #ddd; vertical-align: middle}
td, figcaption {overflow-wrap: anywhere} td:first-child {min-width: 9em}
td.n {text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap}
.bar {position: relative; height: 1em; min-width: 10em; background: #eee}
.bar i {position: absolute; top: 0; bottom: 0; background: #7aa6d8}
.bar b {position: absolute; top: .4em; height: .2em; background: #123}
.note {border-left: 4px solid #d90; padding: .3em .8em; background: #fff7e6}
.films {display: grid; grid-template-columns: repeat(auto-fill, minmax(15em, 1fr)); gap: 1em}
figure {margin: 0} video {width: 100%; background: #000} figcaption {font-size: .85em}
pre {background: #f5f5f5; padding: .8em; overflow: auto; font-size: .8em}
@media (prefers-color-scheme: dark) {
  body {color: #ddd; background: #181818} td, th {border-color: #444} .bar {background: #333}
  .bar b {background: #fff} .note {background: #3a2c10} pre {background: #222}
}
"""

CLASSES = 20
"""Bars of the histogram of lengths."""


def page(found: dict[str, Any]) -> str:
    """Lay out a report.

    Args:
        found: What ``results.json`` holds; videos are read from where its episodes say.

    Returns:
        HTML with style, pictures and videos inside.
    """
    parts = [
        f"<h1>Success {found['mean']:.1%}, the mean of {len(found['tasks'])} tasks</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in found.get("notes", [])),
        _table("Task", found["tasks"]),
    ]
    if found.get("suites"):
        parts += ["<h2>Suites</h2>", _table("Suite", found["suites"], found.get("published"))]
    if found.get("cameras"):
        parts += ["<h2>Success against the camera's displacement</h2>"]
        parts += [_table("Camera", found["cameras"])]
    parts += ["<h2>Length of episodes</h2>", _histogram(found["episodes"])]
    parts += _films(found["episodes"])
    parts += _broken(found["episodes"])
    parts += ["<h2>What was run</h2>", "<ul>", *(f"<li>{escape(x)}</li>" for x in about(found))]
    config = {key: value for key, value in found.items() if key not in _SHOWN}
    parts += ["</ul>", f"<pre>{escape(json.dumps(config, indent=2, default=str))}</pre>"]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Evaluation</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


_SHOWN = {"tasks", "suites", "cameras", "episodes", "notes", "mean"}


def _table(
    what: str, rows: dict[str, Figures], published: dict[str, dict[str, float]] | None = None
) -> str:
    others = list(dict.fromkeys(name for row in (published or {}).values() for name in row))
    heads = [what, "Success", "", "95 % interval", "Episodes", "Errors", "Steps", *others]
    lines = ["<table><tr>", *(f"<th>{escape(head)}</th>" for head in heads), "</tr>"]
    for name, figures in rows.items():
        cells = [
            f"{figures['rate']:.1%}",
            f"{figures['low']:.1%} – {figures['high']:.1%}",
            f"{figures['n']}",
            f"{figures['errors']}",
            f"{figures['mean_steps']:.0f}",
        ]
        for other in others:
            rate = (published or {}).get(name, {}).get(other)
            cells.append("" if rate is None else f"{rate:.1%}")
        first, *rest = (f'<td class="n">{cell}</td>' for cell in cells)
        lines.append(f"<tr><td>{escape(name)}</td>{first}<td>{_bar(figures)}</td>{''.join(rest)}")
        lines.append("</tr>")
    return "".join([*lines, "</table>"])


def _bar(figures: Figures) -> str:
    """The rate as a bar, its interval as a line over it."""
    rate, low, high = (100 * figures[name] for name in ("rate", "low", "high"))
    return (
        f'<div class="bar"><i style="left:0;width:{rate:.1f}%"></i>'
        f'<b style="left:{low:.1f}%;width:{high - low:.1f}%"></b></div>'
    )


def _histogram(episodes: list[dict[str, Any]]) -> str:
    """How many episodes ended after how many steps, successes under failures."""
    longest = max(episode["steps"] for episode in episodes) or 1
    width = max(1, -(-(longest + 1) // CLASSES))
    counts = [[0, 0] for _ in range(longest // width + 1)]
    for episode in episodes:
        counts[episode["steps"] // width][not episode["success"]] += 1
    tallest = max(sum(count) for count in counts)
    drawn = []
    for place, (good, bad) in enumerate(counts):
        told = f"{place * width} to {(place + 1) * width - 1} steps: {good} succeeded, {bad} failed"
        drawn.append(f"<g><title>{told}</title>")
        level = 100.0
        for number, colour in ((good, "#3a7"), (bad, "#c64")):
            height = 95 * number / tallest
            level -= height
            drawn.append(
                f'<rect x="{place * 30 + 2}" y="{level:.1f}" width="26" height="{height:.1f}" '
                f'fill="{colour}"/>'
            )
        drawn.append("</g>")
        drawn.append(
            f'<text x="{place * 30 + 2}" y="113" font-size="9" fill="currentColor">'
            f"{place * width}</text>"
        )
    return (
        f'<svg viewBox="0 0 {30 * len(counts)} 118" width="100%" role="img">{"".join(drawn)}</svg>'
        "<p>Steps; green episodes succeeded, red ones failed.</p>"
    )


def _films(episodes: list[dict[str, Any]]) -> list[str]:
    """The films that :func:`representative_videos` chooses, each playable."""
    chosen = representative_videos(episodes)
    if not chosen:
        return []
    lines = ["<h2>First success and first failure of each task</h2>", '<div class="films">']
    for (task, outcome), episode in chosen.items():
        film = base64.b64encode(Path(episode["video"]).read_bytes()).decode()
        told = f"{task}, {outcome}, start {episode['seed']}"
        lines.append(
            f'<figure><video controls loop muted src="data:video/mp4;base64,{film}"></video>'
            f"<figcaption>{escape(told)}</figcaption></figure>"
        )
    return [*lines, "</div>"]


def _broken(episodes: list[dict[str, Any]]) -> list[str]:
    broken = [episode for episode in episodes if episode["error"]]
    if not broken:
        return []
    told = (f"{each['task']}, start {each['seed']}: {each['error']}" for each in broken)
    lines = [f"<li>{escape(line)}</li>" for line in told]
    return ["<h2>Episodes that broke off, counted as failures</h2>", "<ul>", *lines, "</ul>"]
