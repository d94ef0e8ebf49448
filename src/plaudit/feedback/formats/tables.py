"""The container CSV (`.csv`, also `.csv.gz`): a table with the names of its columns in the first line.

    prompt,completion,label
    Capital of France?,Paris,true

Every cell is text: a format reads numbers and truth values from it, and lists (messages, `completions`, `ranks`) from
JSON. A text that is a JSON list of messages is read as messages; no other text is taken for JSON where text is
expected. An extra column comes back as text. A row is known by the line on which it begins; rows with a stray
quotation mark or another number of cells than the header are rejects.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats import lines
from plaudit.feedback.formats.lines import Numbered, create_bytes, open_bytes
from plaudit.feedback.formats.rows import Row, shown
from plaudit.feedback.formats.spool import spooled
from plaudit.feedback.ingest import Reject


def read_table(path: Path) -> Iterator[Numbered]:
    """The rows of a CSV file with the numbers of the lines on which they begin."""
    csv.field_size_limit(max(csv.field_size_limit(), lines.LIMIT_BYTES))
    with open_bytes(path) as packed:
        file = io.TextIOWrapper(packed, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(_pieces(file), strict=True)
        header = _header(path, reader)
        while True:
            begin = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield begin, Reject(begin, "line", "", f"not valid CSV: {error}")
                continue
            except (EOFError, OSError, zlib.error) as error:
                yield (
                    begin,
                    Reject(begin, "file", path.name, f"reading broke off; the file is cut off or damaged: {error}"),
                )
                return
            if cells is None:
                return
            if cells:
                yield begin, _row(begin, header, cells)


def _pieces(file: IO[str]) -> Iterator[str]:
    """The file's lines, the overlong ones in pieces, so that none is in memory as a whole."""
    while piece := file.readline(lines.LIMIT_BYTES):
        yield piece


def _header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), [])
    except (csv.Error, EOFError, OSError, zlib.error) as error:
        raise InvalidFeedback(f"{path} has no readable first line with the names of the columns: {error}.") from None
    names = [name.strip() for name in header]
    for name in names:
        if not name or names.count(name) > 1 or not name.isprintable():
            raise InvalidFeedback(
                f"{path} must name each column once in its first line; the names are {', '.join(map(ascii, names))}."
            )
    return names


def _row(number: int, header: list[str], cells: list[str]) -> Row | Reject:
    if len(cells) != len(header):
        reason = f"expected {len(header)} cells, as the first line has, got {len(cells)}"
        raw = ",".join(cells).encode("utf-8", errors="surrogateescape")
        return Reject(number, "line", shown(cells), reason, lines.as_raw(raw))
    return dict(zip(header, cells, strict=True))


def write_table(rows: Iterable[Row], temporary: Path, *, compressed: bool) -> None:
    """Write rows as CSV; lists and objects become JSON, null an empty cell."""
    with spooled(rows) as (kept, columns), create_bytes(temporary, compressed=compressed) as packed:
        file = io.TextIOWrapper(packed, encoding="utf-8", newline="")
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_cell(row.get(column)) for column in columns] for row in kept)
        file.flush()
        file.detach()


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
