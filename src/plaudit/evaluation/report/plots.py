"""The report's plots as SVG for a page: text stays text, and colours are the page's, so that light and dark both work.

Matplotlib draws with placeholder colours, which are then replaced by CSS variables of the page. Differences never rest
on colour alone: before is filled and after is an outline, observed has markers and perfect is dashed.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from plaudit.evaluation.frontier import frontier
from plaudit.evaluation.lengths import LengthHistogram
from plaudit.evaluation.matched_divergence import MatchedDivergence
from plaudit.evaluation.preference import ReliabilityBin
from plaudit.evaluation.report.escaping import visible
from plaudit.evaluation.report.run_report import Climb, Curve

Points = tuple[Sequence[float], Sequence[float]]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _SERIES, _BEFORE = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)", _SERIES: "var(--series)", _BEFORE: "var(--before)"}
_SIZE_INCHES = (4.3, 2.6)  # about a phone's width at 1:1, so that text keeps its size there
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "plaudit",
    "font.size": 9,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "text.parse_math": False,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}


def curve_plot(name: str, curve: Curve) -> Markup | None:
    """A metric over steps with its interval as a band, or None where nothing was measured; shares are drawn in %."""
    if curve.unit == "share":
        values, low, high = (
            None if row is None else tuple(100 * value for value in row)
            for row in (curve.values, curve.low, curve.high)
        )
        curve = replace(curve, values=values or (), low=low, high=high, unit="%")
    points = curve.measured
    if not points:
        return None

    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.steps, curve.low, curve.high, color=_SERIES, alpha=0.2, linewidth=0)
        many = len(points) > 40
        axes.plot(curve.steps, curve.values, color=_SERIES, linewidth=1.6, marker=None if many else "o", markersize=3.5)
        if all(float(step).is_integer() for step in curve.steps):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
            axes.ticklabel_format(axis="x", style="plain")
        axes.set_xlabel("step")
        axes.set_ylabel(_label(curve.unit) or "value")

    first, last = points[0], points[-1]
    return _svg(
        draw,
        name,
        f"{name} over steps: {first[1]:.4g} at step {first[0]:g}, {last[1]:.4g} at step {last[0]:g}, "
        f"lowest {min(value for _, value in points):.4g}, highest {max(value for _, value in points):.4g}.",
    )


def reliability_plot(bins: Sequence[ReliabilityBin]) -> Markup:
    """Predicted confidence against how often it came true, with intervals; perfect calibration is the dashed line."""

    def draw(axes: Axes) -> None:
        axes.plot([50, 100], [50, 100], color=_INK, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        x = [100 * point.predicted for point in bins]
        y = [100 * point.observed.value for point in bins]
        below = [100 * (point.observed.value - point.observed.low) for point in bins]
        above = [100 * (point.observed.high - point.observed.value) for point in bins]
        axes.errorbar(x, y, [below, above], fmt="o", color=_SERIES, markersize=4.5, elinewidth=1.4, capsize=0)
        axes.set_xlabel("predicted chance that the preferred output wins, %")
        axes.set_ylabel("how often it won, %")
        axes.set_xlim(49, 101)
        lowest = min([50.0, *(100 * point.observed.low for point in bins)])
        axes.set_ylim(math.floor(lowest / 10) * 10, 103)
        axes.legend(loc="upper left", handlelength=2.2)

    told = "; ".join(f"{100 * point.predicted:.0f} % predicted, {point.observed} observed" for point in bins)
    return _svg(draw, "calibration", f"Calibration of the reward model: {told}.")


def climb_plot(climb: Climb) -> Markup:
    """Reward over divergence, look by look; what no other look beats is filled, a second reward is dashed."""
    kept = set(frontier(climb.divergence, climb.reward))
    beaten = [index for index in range(len(climb.steps)) if index not in kept]

    def draw(axes: Axes) -> None:
        axes.plot(climb.divergence, climb.reward, color=_SERIES, linewidth=1.2, label="reward")
        for indices, fill in ((sorted(kept), _SERIES), (beaten, "none")):
            x, y = [climb.divergence[i] for i in indices], [climb.reward[i] for i in indices]
            axes.scatter(x, y, s=22, facecolors=fill, edgecolors=_SERIES, linewidths=1.2, zorder=3)
        if climb.gold is not None:
            style: dict[str, Any] = {
                "color": _BEFORE,
                "linewidth": 1.2,
                "linestyle": (0, (4, 3)),
                "marker": "s",
                "markersize": 3.5,
            }
            axes.plot(climb.divergence, climb.gold, **style, label="second reward (gold)")
            axes.legend(loc="best", handlelength=2.2)
        axes.set_xlabel("KL to the model before, nats an answer")
        axes.set_ylabel("held-out reward")

    told = "; ".join(
        f"step {step}: {reward:.4g} at {nats:.3g} nats"
        for step, nats, reward in zip(climb.steps, climb.divergence, climb.reward, strict=True)
    )
    return _svg(draw, "climb", f"Reward against distance: {told}.")


def matched_plot(names: tuple[str, str], points: tuple[Points, Points], pair: MatchedDivergence | None) -> Markup:
    """Two runs' scores over KL: the first's looks filled, the second's open; curves with bands where they were matched."""
    styles: tuple[dict[str, Any], ...] = (
        {"color": _BEFORE, "marker": "s", "linestyle": (0, (4, 3)), "fill": _BEFORE},
        {"color": _SERIES, "marker": "o", "linestyle": "-", "fill": "none"},
    )

    def draw(axes: Axes) -> None:
        for index, style in enumerate(styles):
            color = style["color"]
            if pair is not None:
                band = (pair.a, pair.b)[index]
                axes.fill_between(pair.divergence, band.low, band.high, color=color, alpha=0.2, linewidth=0)
                axes.plot(pair.divergence, band.value, color=color, linewidth=1.6, linestyle=style["linestyle"])
            axes.scatter(*points[index], s=22, marker=style["marker"], facecolors=style["fill"], edgecolors=color,
                         linewidths=1.2, zorder=3, label=_label(names[index]))  # fmt: skip
        axes.set_xlabel("KL to the model before, nats an answer")
        axes.set_ylabel("held-out score")
        axes.legend(loc="best", handlelength=1.4)

    told = "; ".join(
        f"{name}: {min(score):.4g} to {max(score):.4g} at {min(nats):.3g} to {max(nats):.3g} nats"
        for name, (nats, score) in zip(names, points, strict=True)
    )
    return _svg(draw, f"matched-{names[0]}-{names[1]}", f"Score against distance. {told}.")


def length_plot(histogram: LengthHistogram) -> Markup:
    """Two histograms on the same bins: before filled, after as an outline."""

    def draw(axes: Axes) -> None:
        axes.stairs(
            histogram.before, histogram.edges, fill=True, color=_BEFORE, alpha=0.55, linewidth=0, label="before"
        )
        axes.stairs(histogram.after, histogram.edges, color=_SERIES, linewidth=1.8, label="after")
        axes.set_xlabel(f"length, {_label(histogram.unit)}")
        axes.set_ylabel("outputs")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right", handlelength=1.4)

    return _svg(
        draw,
        f"lengths-{histogram.unit}",
        f"Lengths in {histogram.unit}: {sum(histogram.before)} outputs before, most often "
        f"{_mode(histogram.edges, histogram.before)}; {sum(histogram.after)} after, most often "
        f"{_mode(histogram.edges, histogram.after)}.",
    )


def _label(text: str) -> str:
    """Text for an axis: visible, on one line, and short."""
    line = " ".join(visible(text).split())
    return line if len(line) <= 40 else line[:39] + "…"


def _mode(edges: Sequence[float], counts: Sequence[int]) -> str:
    place = max(range(len(counts)), key=counts.__getitem__)
    return f"{edges[place]:g} to {edges[place + 1]:g}"


def _svg(draw: Callable[[Axes], None], name: str, description: str) -> Markup:
    """Draw on one pair of axes and make the figure part of a page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE), warnings.catch_warnings():
        # The layout measures text with matplotlib's font; the page's own font draws it, and has the other scripts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y", alpha=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(length=3)
        draw(axes)
        return _inline(figure, name, description)


def _inline(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an SVG element for inside a page: named, described, without fixed size, with ids of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    head, body = text[text.index("<svg") :].split(">", 1)
    body = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    prefix = f"plot-{zlib.crc32(name.encode('utf-8', 'replace')):08x}-"
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", body)
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, variable)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--text)", body)
    box = head[head.index("viewBox=") :].split('"')[1]
    opening = Markup('<svg class="plot" viewBox="{}" role="img" aria-label="{}">').format(box, visible(description))
    return opening + Markup(body.replace("xlink:href", "href").strip())  # noqa: S704 - matplotlib escapes its text
