"""A report as one HTML page that opens from disk and loads nothing from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e0_lightning.inspection.demo_set import DemoSet
from e0_lightning.inspection.description import describe
from e0_lightning.inspection.hazards import find_hazards
from e0_lightning.inspection.pictures import PLOT_HEIGHT, PLOT_WIDTH, film, first_frames, plot
from e0_lightning.inspection.statistics import BINS, measure


def write_report(demo_sets: list[DemoSet], out: Path) -> None:
    """Write a page with pictures, films, plots, statistics and hazards of demonstrations.

    Args:
        demo_sets: Files that can be read; what cannot be read of them is listed in the page.
        out: The page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("e0_lightning", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("inspection/html_report.html.j2")
    sections = [_section(demo_set) for demo_set in demo_sets]
    page = template.render(sections=sections, bins=BINS, width=PLOT_WIDTH, height=PLOT_HEIGHT)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page)


def _section(demo_set: DemoSet) -> dict[str, Any]:
    sheets, films = {}, []
    try:
        sheets, films = first_frames(demo_set), film(demo_set) if demo_set.demos else []
    except ValueError as error:
        demo_set.problems.append(str(error))
    hazards = [line.partition(": ") for line in find_hazards(demo_set)]
    return {
        "title": demo_set.title,
        "facts": list(describe(demo_set)),
        "hazards": [(name, text) for name, _, text in hazards],
        "problems": demo_set.problems,
        "sheets": sheets,
        "films": films,
        "actions": measure(demo_set.actions, demo_set.action_names),
        "state": measure(demo_set.states, demo_set.state_names),
        "action_plots": plot([demo.actions for demo in demo_set.demos], demo_set.action_names),
        "state_plots": plot([demo.states for demo in demo_set.demos], demo_set.state_names),
    }
