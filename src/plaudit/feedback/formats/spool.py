"""Rows kept on the disk while what a table must know beforehand, its columns, is learned from all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from pydantic_core import from_json

from plaudit.feedback.formats.lines import to_line
from plaudit.feedback.formats.rows import Row


class Spool:
    """Rows in a temporary file, read as often as needed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def add(self, row: Row) -> None:
        """Keep one row."""
        self._file.write(to_line(row))

    def __iter__(self) -> Iterator[Row]:
        self._file.seek(0)
        for line in self._file:
            yield from_json(line)


@contextmanager
def spooled(rows: Iterable[Row]) -> Iterator[tuple[Spool, list[str]]]:
    """All rows on the disk, and the names of their columns in the order in which they first came."""
    with tempfile.TemporaryFile() as file:
        spool, columns = Spool(file), dict[str, Any]()
        for row in rows:
            spool.add(row)
            columns |= dict.fromkeys(row)
        yield spool, list(columns)
