"""Writes a report as a page, as Markdown and as JSON; each file appears whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

import plaudit
from plaudit.evaluation.report.escaping import markdown_block, markdown_inline, visible
from plaudit.evaluation.report.forest import forest
from plaudit.evaluation.report.plots import climb_plot, curve_plot, length_plot, reliability_plot
from plaudit.evaluation.report.run_report import RunReport
from plaudit.profile_figures import COLUMNS

if TYPE_CHECKING:
    from jinja2 import Environment

CLASSES = {
    "better": "better",
    "worse": "worse",
    "no clear change": "unclear",
    "higher": "neutral",
    "lower": "neutral",
    "not compared": "neutral",
}
SIGNS = {"better": "✓", "worse": "✗", "no clear change": "○", "higher": "→", "lower": "←", "not compared": ""}


def write_report(report: RunReport, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write `report.html`, `report.md` and `report.json` into a folder, which is made where it is missing.

    The page needs nothing but itself: style and plots are inside, it loads nothing and runs nothing. All text of models
    and people is escaped, and invisible characters are shown.

    Returns:
        The paths of the page and of the Markdown file.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    html, markdown = place / "report.html", place / "report.md"
    write_whole(place / "report.json", report.to_json() + "\n")
    write_whole(markdown, render_markdown(report))
    write_whole(html, render_html(report))
    return html, markdown


def render_html(report: RunReport) -> str:
    """The report as one self-contained HTML page."""
    strips = forest(report.headline)
    plotted = [(name, curve, curve_plot(name, curve)) for name, curve in report.curves.items()]
    return (
        environment(html=True)
        .get_template("report.html.j2")
        .render(
            report=report,
            version=plaudit.__version__,
            css=stylesheet(),
            judged=[strip for strip in strips if strip.row.better is not None],
            neutral=[strip for strip in strips if strip.row.better is None],
            alone=[row for row in report.headline if row.null is None],
            curves=[(name, curve, plot) for name, curve, plot in plotted if plot is not None],
            climb=climb_plot(report.climb) if report.climb else None,
            reliability=reliability_plot(report.reliability) if report.reliability else None,
            lengths=[(histogram, length_plot(histogram)) for histogram in report.lengths],
            created=f"{report.created.day} {report.created:%B %Y, %H:%M %Z}",
            classes=CLASSES,
            signs=SIGNS,
            **_shared(report),
        )
    )


def stylesheet() -> Markup:
    """The pages' style."""
    css = resources.files(__package__ or "").joinpath("report.css").read_text(encoding="utf-8")
    return Markup(css)  # noqa: S704 - our own file


def render_markdown(report: RunReport) -> str:
    """The same facts as Markdown (GitHub's tables)."""
    measured = [(name, curve, curve.measured) for name, curve in report.curves.items() if curve.measured]
    return (
        environment(html=False).get_template("report.md.j2").render(report=report, curves=measured, **_shared(report))
    )


def _shared(report: RunReport) -> dict[str, Any]:
    feedback = report.feedback
    return {
        "unmeasured": [name for name, curve in report.curves.items() if not curve.measured],
        "by_kind": _most_first(feedback.by_kind),
        "by_source": _most_first(feedback.by_source),
        "dropped": _most_first(feedback.dropped),
        "profile_columns": COLUMNS,
        "config": json.dumps(report.config, indent=2, ensure_ascii=False, default=str),
    }


def _most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def environment(*, html: bool) -> Environment:
    """Templates in which every value is made visible, and for HTML escaped, without the template asking for it."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("plaudit.evaluation", "report"),
        autoescape=html,  # noqa: S701 - Markdown is escaped by the filters inline and block
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        keep_trailing_newline=True,
    )
    made.filters["inline"] = markdown_inline
    made.filters["block"] = markdown_block
    made.filters["first_capital"] = lambda text: text[:1].upper() + text[1:]
    return made


def _finalize(value: object) -> object:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def write_whole(path: Path, text: str) -> None:
    """Write beside the path, flush to the disk, and rename, so that a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
