"""Several runs side by side: what their settings differ in, what they reached, and what they reached at equal distance."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import TypeAdapter

import plaudit
from plaudit.evaluation.intervals import Estimate
from plaudit.evaluation.matched_divergence import MatchedDivergence
from plaudit.evaluation.report.forest import forest
from plaudit.evaluation.report.plots import matched_plot
from plaudit.evaluation.report.run_report import Row, RunWarning, storable
from plaudit.evaluation.report.write import CLASSES, SIGNS, environment, stylesheet, write_whole


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run at its looks.

    Attributes:
        name: that tells it from the others.
        method: the training procedure's name.
        steps: of the looks.
        divergence: KL to the model before at each, in nats an answer, mean over contexts.
        score: mean over contexts at each.
        last_score: at the last look.
        last_divergence: at the last look.
    """

    name: str
    method: str
    steps: tuple[int, ...]
    divergence: tuple[float, ...]
    score: tuple[float, ...]
    last_score: Estimate
    last_divergence: Estimate


@dataclass(frozen=True, slots=True)
class AgainstFirst:
    """A run against the first one, on the same contexts.

    Attributes:
        name: of the run.
        last: its score minus the first's, at their last looks.
        matched: the same at matched KL; None where they cannot be matched.
        why_not: then why.
    """

    name: str
    last: Estimate
    matched: MatchedDivergence | None
    why_not: str = ""

    def rows(self, first: str, score_name: str) -> tuple[Row, ...]:
        """The figures for a page."""
        last = Row(
            f"{self.name}: {score_name} at the last look, minus {first}'s", self.last, "up", 0.0,
            f"Paired over {self.last.n} held-out contexts; the runs may have moved unequally far.",
        )  # fmt: skip
        if self.matched is None:
            return (last,)
        nats = self.matched.divergence
        matched = Row(
            f"{self.name}: {score_name} at matched KL, minus {first}'s", self.matched.difference, "up", 0.0,
            f"Mean distance of the curves from {nats[0]:.3g} to {nats[-1]:.3g} nats, which both runs reach, over the same "
            f"{self.matched.difference.n} contexts.",
        )  # fmt: skip
        return matched, last


@dataclass(frozen=True, slots=True)
class RunComparison:
    """What `plaudit compare` writes.

    Attributes:
        created: when, with a time zone.
        score_name: what the runs are compared by.
        contexts: held-out contexts that every run was measured on at every look.
        runs: the first is what the others are compared with.
        settings: those that differ, as text, one value a run.
        against_first: one for each other run.
        warnings: to know before the figures are believed.
    """

    created: datetime
    score_name: str
    contexts: int
    runs: tuple[ComparedRun, ...]
    settings: dict[str, tuple[str, ...]]
    against_first: tuple[AgainstFirst, ...]
    warnings: tuple[RunWarning, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """All figures against the first run."""
        return tuple(row for one in self.against_first for row in one.rows(self.runs[0].name, self.score_name))

    @property
    def title(self) -> str:
        """The runs' names."""
        return f"{self.runs[0].name} against {', '.join(run.name for run in self.runs[1:])}"

    def to_json(self) -> str:
        """All of it as JSON, the curves included."""
        values = TypeAdapter(dict[str, Any]).dump_python(_plain(self), mode="json")
        return json.dumps(storable(values), ensure_ascii=False, indent=2)


def write_comparison(comparison: RunComparison, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write `compare.html`, `compare.md` and `compare.json` into a folder, which is made where it is missing.

    As of a report, the page needs nothing but itself, and all text of people and models is escaped.

    Returns:
        The paths of the page and of the Markdown file.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    html, markdown = place / "compare.html", place / "compare.md"
    write_whole(place / "compare.json", comparison.to_json() + "\n")
    write_whole(markdown, environment(html=False).get_template("compare.md.j2").render(comparison=comparison))
    write_whole(html, render_comparison(comparison))
    return html, markdown


def render_comparison(comparison: RunComparison) -> str:
    """The comparison as one self-contained HTML page."""
    created = comparison.created
    return (
        environment(html=True)
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            version=plaudit.__version__,
            css=stylesheet(),
            strips_shown=forest(comparison.rows),
            plots=_plots(comparison),
            created=f"{created.day} {created:%B %Y, %H:%M %Z}",
            classes=CLASSES,
            signs=SIGNS,
        )
    )


def _plots(comparison: RunComparison) -> list[tuple[AgainstFirst, Markup]]:
    first, *others = comparison.runs

    def plot(run: ComparedRun, one: AgainstFirst) -> Markup:
        points = ((run.divergence, run.score), (first.divergence, first.score))
        return matched_plot((run.name, first.name), points, one.matched)

    return [(one, plot(run, one)) for run, one in zip(others, comparison.against_first, strict=True)]


def _plain(comparison: RunComparison) -> dict[str, Any]:
    """As nested dictionaries; arrays become lists."""
    import dataclasses

    def factory(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in items}

    return dataclasses.asdict(comparison, dict_factory=factory)
