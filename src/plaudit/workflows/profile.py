"""A run's profile: begun where its configuration asks for it, shown at its end, kept in its metrics and its report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from rich.table import Table

from plaudit.evaluation.report import RunReport
from plaudit.policies.loading import DType, fast_dtype
from plaudit.profile_figures import COLUMNS
from plaudit.profiling import Profile, active, matrix_rate, profiled
from plaudit.progress import console
from plaudit.training import RunFolder


@contextlib.contextmanager
def profiled_run(wanted: bool, *, dtype: DType, device: str | None) -> Iterator[None]:
    """Profile what happens inside, where that is wanted; a run inside a profiled one belongs to its profile."""
    if not wanted or active() is not None:
        yield
        return
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precision = fast_dtype(place) if dtype == "auto" else getattr(torch, dtype)
    ceiling = matrix_rate(place, precision)
    with profiled(Profile(ceiling_flop_per_s=ceiling, device=place, dtype=precision)):
        yield


def keep_profile(report: RunReport, run: RunFolder) -> None:
    """Log the figures of a report's profile and print them; a report without one changes nothing."""
    if report.profile is None:
        return
    last = max((row["step"] for row in run.metrics()), default=0)
    run.log(last, "profile", report.profile.metrics())
    table = Table(title="Where the time went", title_justify="left", box=None, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "phase" else "right")
    for row in report.profile.rows():
        table.add_row(*row)
    console.print(table)
    console.print(report.profile.sentence())
