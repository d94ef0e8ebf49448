"""The container JSON Lines (`.jsonl`, `.ndjson`, also with `.gz`): one row a line, read and written one at a time.

    {"prompt": "Capital of France?", "completion": "Paris", "label": true}

Blank lines and a byte order mark are passed over; lines are counted from 1. A line that is no JSON object becomes a
reject and reading goes on behind it, so neither a broken line nor a file that was cut off hides the rest. A line of
more than `LIMIT_BYTES` is a reject too, and never in memory as a whole.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from pydantic_core import from_json

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats.rows import Row, type_name
from plaudit.feedback.ingest import Reject

LIMIT_BYTES = 4 * 2**20
_RAW_CHARACTERS = 10_000
_BOMS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}

Numbered = tuple[int, Row | Reject]


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked where its name ends in `.gz`.

    Raises:
        InvalidFeedback: the file cannot be opened or is UTF-16.
    """
    try:
        raw = path.open("rb")
    except OSError as error:
        raise InvalidFeedback(f"Cannot read {path}: {error.strerror}.") from None
    with raw:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if path.suffix.lower() == ".gz" else raw


def check_encoding(path: Path) -> None:
    """Refuse a file that is not what its name says before a single row is read.

    Raises:
        InvalidFeedback: the file is UTF-16, or ends in `.gz` and is not gzip.
    """
    with open_bytes(path) as file:
        try:
            start = file.read(2)
        except (EOFError, OSError, zlib.error) as error:
            raise InvalidFeedback(f"{path} ends in .gz and cannot be unpacked: {error}.") from None
    if start in _BOMS:
        raise InvalidFeedback(f"{path} is {_BOMS[start]}. Save it as UTF-8.")


def read_lines(path: Path) -> Iterator[Numbered]:
    """The rows of a JSON Lines file with their line numbers."""
    with open_bytes(path) as file:
        number = 0
        while True:
            number += 1
            try:
                raw = file.readline(LIMIT_BYTES + 1)
                size = len(raw) if len(raw) <= LIMIT_BYTES else len(raw) + _skip_line(file, raw)
            except (EOFError, OSError, zlib.error) as error:
                yield (
                    number,
                    Reject(number, "file", path.name, f"reading broke off; the file is cut off or damaged: {error}"),
                )
                return
            if not raw:
                return
            if size > LIMIT_BYTES:
                yield number, too_long(number, size, raw)
            elif not raw.isspace():
                yield number, parse(number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw, "line")


def _skip_line(file: IO[bytes], start: bytes) -> int:
    """Read to the end of a line that is too long; how many bytes that was."""
    skipped, piece = 0, start
    while piece and not piece.endswith(b"\n"):
        piece = file.readline(2**16)
        skipped += len(piece)
    return skipped


def too_long(number: int, size: int, raw: bytes) -> Reject:
    """The reject of a row that is longer than the limit."""
    reason = f"longer than {LIMIT_BYTES:,} bytes; a row of feedback is not"
    return Reject(number, "row", f"{size:,} bytes", reason, as_raw(raw[:_RAW_CHARACTERS]))


def parse(number: int, raw: bytes, what: str) -> Row | Reject:
    """The JSON object that bytes spell, or why they spell none."""
    try:
        row = from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        value, reason = _explained(str(error), raw, what)
        return Reject(number, what, value, reason, as_raw(raw.rstrip(b"\r\n")))
    if not isinstance(row, dict):
        reason = f"expected a JSON object, got {type_name(row)}"
        return Reject(number, what, as_raw(raw.strip())[:120], reason, as_raw(raw.rstrip(b"\r\n")))
    return cast("Row", row)


def _explained(message: str, raw: bytes, what: str) -> tuple[str, str]:
    """The bytes around the place of a JSON error, and the reason, without the place, so that reasons can be counted."""
    place = re.search(r" at line \d+ column (\d+)$", message)
    message, column = (message, 1) if place is None else (message[: place.start()], int(place[1]))
    around = as_raw(raw[max(column - 40, 0) : column + 20].strip())
    return f"at byte {column:,}: {around}", _json_reason(message, raw, what)


def _json_reason(message: str, raw: bytes, what: str) -> str:
    if "unicode code point" in message:
        return "the bytes are not UTF-8; save the file as UTF-8"
    if "hex escape" in message:
        return "half of a surrogate pair (\\ud800 to \\udfff) is not a character"
    if "recursion limit" in message:
        return "nested too deeply"
    if re.search(rb"[:\[,]\s*-?(NaN|Infinity)\b", raw):
        return "NaN and Infinity are not JSON values"
    if what == "line" and not raw.endswith((b"\n", b"}")):
        return f"not valid JSON: {message}; the last line has no line end: was the file cut off?"
    return f"not valid JSON: {message}"


def as_raw(raw: bytes) -> str:
    """Bytes as text for a reject, shortened, with what is not UTF-8 escaped."""
    return raw[:_RAW_CHARACTERS].decode("utf-8", errors="backslashreplace")


def to_line(row: Any) -> bytes:
    """A row as one line of JSON."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode() + b"\n"


@contextmanager
def create_bytes(temporary: Path, *, compressed: bool) -> Iterator[IO[bytes]]:
    """A new file to write bytes into; compressed ones carry neither name nor time, so equal rows make equal files."""
    with temporary.open("wb") as file:
        if not compressed:
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
            yield cast("IO[bytes]", packed)


def write_lines(rows: Iterable[Row], temporary: Path, *, compressed: bool) -> None:
    """Write rows as JSON Lines."""
    with create_bytes(temporary, compressed=compressed) as file:
        for row in rows:
            file.write(to_line(row))
