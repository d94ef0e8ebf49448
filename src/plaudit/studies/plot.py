"""The picture of a study: every arm's metric with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_plot(result: Mapping[str, Any], target: Path) -> None:
    """Draw the metric of every arm, best last, with its interval over seeds; an interval that nobody knows is left out."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    metric, unit = result["metric"]
    scale, printed = (100, ", %") if unit == "share" else (1, f", {unit}" if unit else "")
    arms = sorted(result["scores"][metric].items(), key=lambda item: item[1]["value"])
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 0.9 + 0.36 * len(arms)), layout="constrained")
        axes = figure.subplots()
        for row, (_, estimate) in enumerate(arms):
            low, value, high = estimate["low"], estimate["value"], estimate["high"]
            if low is not None and high is not None:
                axes.plot([scale * low, scale * high], [row, row], color="#0072B2", linewidth=1.6)
            axes.plot([scale * value], [row], "o", color="#0072B2", markersize=5)
        axes.set_yticks(range(len(arms)), [arm for arm, _ in arms])
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{metric}{printed} (95 % interval, {len(result['seeds'])} seeds)")
        quick = " (quick run: says nothing)" if result["quick"] else ""
        axes.set_title(
            f"{result['title'].partition(' — ')[0]}: the claim {_said(result['verdict'])}{quick}",
            fontsize=9,
            loc="left",
        )
        figure.savefig(target, dpi=150)


def _said(verdict: str) -> str:
    return "can be neither shown nor refuted here" if verdict == "inconclusive" else verdict
