"""Progress of long work: a live bar on a terminal, a line every quarter of the way elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)


class Tracker:
    """Counts finished units of one piece of work and shows them with a rate and a note."""

    def __init__(self, description: str, total: int | None, bar: Progress | None) -> None:
        self._description, self._total, self._bar = description, total, bar
        self._task = bar.add_task(description, total=total, note="") if bar else None
        self._note = ""
        self._done = 0
        self._start = time.perf_counter()
        self._reported = 0

    def advance(self, count: int = 1, *, note: str = "") -> None:
        """Say that `count` more units are finished; `note` stands beside the bar."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._note = note or self._note
            self._bar.update(self._task, advance=count, note=self._note)
            return
        quarter = 4 * self._done // self._total if self._total else 0
        if quarter > self._reported:
            self._reported = quarter
            elapsed = time.perf_counter() - self._start
            suffix = f"  {note}" if note else ""
            console.print(f"{self._description}: {self._done}/{self._total} in {elapsed:.0f} s{suffix}")


@contextlib.contextmanager
def track(description: str, total: int | None, *, quiet: bool = False) -> Iterator[Tracker]:
    """Show the progress of `total` units of work; inside, call `advance` on what is given."""
    if quiet or not console.is_terminal:
        yield Tracker(description, None if quiet else total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console) as bar:
        yield Tracker(description, total, bar)
