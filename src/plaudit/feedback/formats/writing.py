"""From records to a file that other tools read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from plaudit.feedback.formats.containers import write_rows
from plaudit.feedback.formats.format import Format, Gathering, NotHeld
from plaudit.feedback.formats.registry import format_named
from plaudit.feedback.formats.rows import Row
from plaudit.feedback.records import Feedback

_FROM_ROW = re.compile(r"(.+:\d+:[0-9a-f]{12})(#\d+)?")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did.

    Attributes:
        written: the records that are in the file.
        dropped: the records that are not, counted by the reason why the format cannot hold them.
        rows: the rows of the file; fewer than `written` where a row holds several statements.
    """

    written: int
    dropped: Counter[str] = field(default_factory=Counter)
    rows: int = 0


def write(records: Iterable[Feedback], path: str | Path, *, format: str = "plaudit") -> ExportReport:  # noqa: A002
    """Write records in a format, into the container that the path's suffix names.

    The file appears when it is complete; one that was there before is replaced then, and stays as it is if anything
    fails. What the format cannot hold is left out and counted.

    Args:
        records: feedback of any kind; read once, in order. path: a path that ends in `.jsonl`, `.ndjson`, `.json` or
            `.csv` (each perhaps with `.gz`) or `.parquet`; without a suffix, a new folder for
            `datasets.load_from_disk`.
        format: a name of `FORMATS`; only `plaudit` loses nothing.

    Returns:
        How many records were written, and how many were dropped for which reason.

    Raises:
        InvalidFeedback: the format or the suffix is unknown, or the place cannot be written.
        MissingExtra: Parquet and data sets need the extra `data`.
    """
    count = _Count()
    chosen = format_named(format)
    write_rows(_rows(records, chosen, count), Path(path), json_cells=chosen.json_cells)
    return ExportReport(count.written, count.dropped, count.rows)


@dataclass(slots=True)
class _Count:
    written: int = 0
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def _rows(records: Iterable[Feedback], format_: Format, count: _Count) -> Iterator[Row]:
    kept = _kept(records, format_, count)
    rows = (row for _, row in kept) if format_.gathering is None else _gathered(kept, format_.gathering)
    for row in rows:
        count.rows += 1
        yield row


def _kept(records: Iterable[Feedback], format_: Format, count: _Count) -> Iterator[tuple[Feedback, Row]]:
    for record in records:
        row = format_.dump(record)
        if isinstance(row, NotHeld):
            count.dropped[row.reason] += 1
        else:
            count.written += 1
            yield record, row


def _gathered(kept: Iterable[tuple[Feedback, Row]], gathering: Gathering) -> Iterator[Row]:
    """The records of one row, or else of one context and source, together in a row, or in several where one is full."""
    rows: dict[Hashable, list[Row]] = {}
    for record, _ in kept:
        match = _FROM_ROW.fullmatch(record.client_id or "")
        key = (record.source.name, record.context.digest, match[1] if match else None)
        found = rows.setdefault(key, [])
        if not any(gathering.place(row, record) for row in found):
            found.append(gathering.begin(record))
            gathering.place(found[-1], record)
    for found in rows.values():
        yield from map(gathering.finish, found)
