"""The container JSON array (`.json`, also `.json.gz`): rows between brackets, read one at a time.

    [{"chosen": "...", "rejected": "..."},
     {"chosen": "...", "rejected": "..."}]

Only brackets, braces and quotation marks are looked at to find where a row ends, so the file is never in memory as a
whole, and a broken row becomes a reject without hiding those behind it, as long as its own brackets close. Rows are
counted from 1, whatever lines they are on. A `.json` file that begins with a brace is read as JSON Lines.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from plaudit.feedback.formats import lines
from plaudit.feedback.formats.lines import Numbered, create_bytes, open_bytes, to_line
from plaudit.feedback.formats.rows import Row
from plaudit.feedback.ingest import Reject

_CHUNK_BYTES = 2**16
_OUTSIDE = re.compile(rb'["{}\[\],]')
_INSIDE = re.compile(rb'["\\]')


def is_array(path: Path) -> bool:
    """Whether the first character that is not blank opens an array."""
    with open_bytes(path) as file:
        while piece := file.read(_CHUNK_BYTES):
            start = piece.removeprefix(b"\xef\xbb\xbf").lstrip()
            if start:
                return start.startswith(b"[")
    return False


def read_array(path: Path) -> Iterator[Numbered]:
    """The rows of a JSON array with their numbers."""
    with open_bytes(path) as file:
        scanner = _Scanner()
        number = 0
        try:
            for raw, size in scanner.elements(_pieces(file)):
                if not raw.strip():
                    continue
                number += 1
                too_long = size > lines.LIMIT_BYTES
                yield number, lines.too_long(number, size, raw) if too_long else lines.parse(number, raw, "row")
        except (EOFError, OSError, zlib.error) as error:
            reason = f"reading broke off; the file is cut off or damaged: {error}"
            yield number + 1, Reject(number + 1, "file", path.name, reason)
            return
        if not scanner.closed:
            reason = (
                "the array is not closed: was the file cut off, or does a row not close a bracket or a quotation mark?"
            )
            yield number + 1, Reject(number + 1, "file", path.name, reason)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_CHUNK_BYTES):
        yield piece


class _Scanner:
    """Cuts an array's bytes into its elements."""

    def __init__(self) -> None:
        self.closed = False
        self._depth = 0
        self._in_text = False
        self._kept = bytearray()
        self._size = 0

    def elements(self, pieces: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
        """Each element's bytes (at most the limit) and its size; blanks between rows come as elements too."""
        escaped = False
        for piece in pieces:
            position = start = 0
            if escaped:
                position, escaped = 1, False
            while match := (_INSIDE if self._in_text else _OUTSIDE).search(piece, position):
                position = match.end()
                if match[0] == b"\\":
                    escaped = position == len(piece)
                    position += 1
                elif self._ends_element(match[0]):
                    self._keep(piece[start : position - 1])
                    yield self._take()
                    start = position
                elif self._depth == 1 and match[0] == b"[" and not self._in_text:
                    start = position  # the array's own bracket, and a byte order mark before it
                    self._take()
            self._keep(piece[start:])
        if self._kept.strip():
            yield self._take()

    def _ends_element(self, mark: bytes) -> bool:
        if mark == b'"':
            self._in_text = not self._in_text
        elif mark in b"[{":
            self._depth += 1
        elif mark in b"]}" and (mark == b"]" or self._depth > 1):  # a brace too many does not close the array
            self._depth -= 1
            self.closed = self.closed or self._depth == 0
            return self._depth == 0
        return mark == b"," and self._depth == 1

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        room = lines.LIMIT_BYTES - len(self._kept)
        self._kept += piece[: max(room, 0)]

    def _take(self) -> tuple[bytes, int]:
        taken = bytes(self._kept), self._size
        self._kept.clear()
        self._size = 0
        return taken


def write_array(rows: Iterable[Row], temporary: Path, *, compressed: bool) -> None:
    """Write rows as one JSON array, a row a line."""
    with create_bytes(temporary, compressed=compressed) as file:
        before = b"[\n"
        for row in rows:
            file.write(before + to_line(row)[:-1])
            before = b",\n"
        file.write(b"[]\n" if before == b"[\n" else b"\n]\n")
