"""A row of a file, and how a format reads its columns: a check names the column, what came and what was expected."""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

from plaudit.feedback.records import Chat, Feedback, FeedbackBase, Message, Producer, Source, Text

Row = dict[str, Any]

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = 120


class RowError(ValueError):
    """A row that cannot become feedback: the column at fault, its value (shortened) and the reason."""

    def __init__(self, column: str, value: object, reason: str) -> None:
        super().__init__(f"{column}: {reason}")
        self.column, self.value, self.reason = column, shown(value), reason


@dataclass(frozen=True, slots=True)
class RowContext:
    """What a format is told besides the row.

    Attributes:
        client_id: the id for the row's record; a row that yields several numbers them (`numbered`).
        source: who said it, where the row does not say.
        flat: every cell is text (CSV), so that lists, numbers and truth values must be read from text.
        columns: the columns of the file's first rows, where what a row means depends on an optional one.
        skipped: where a format counts, by reason, what it leaves out of a row that is otherwise good.
    """

    client_id: str
    source: Source
    flat: bool = False
    columns: frozenset[str] = frozenset()
    skipped: Counter[str] = field(default_factory=Counter)


def shown(value: object) -> str:
    """A value for a message: its `repr`, at most 120 characters of it."""
    text = _SHOWN.repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def type_name(value: object) -> str:
    """The JSON name of a value's type: null, text, number, list, object, true or false."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
    return type(value).__name__


def fingerprint(row: Row) -> str:
    """12 hexadecimal digits of the SHA-256 of the row's canonical JSON.

    Raises:
        RowError: a value is not JSON: NaN, a lone surrogate, an image, or nested too deeply.
    """
    try:
        return hashlib.sha256(_canonical(row).encode()).hexdigest()[:12]
    except (ValueError, TypeError, RecursionError):  # UnicodeEncodeError is a ValueError
        raise _not_json(row) from None


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _not_json(row: Row) -> RowError:
    """Find the column that `fingerprint` could not write."""
    for column, value in row.items():
        try:
            _canonical([column, value]).encode()
        except RecursionError:
            return RowError(column, "...", "nested too deeply")
        except UnicodeEncodeError as error:
            return RowError(column, ascii(error.object[error.start : error.start + 1]), _surrogate_reason(error))
        except (ValueError, TypeError) as error:
            reason = "NaN and Infinity are not values" if isinstance(error, ValueError) else str(error)
            return RowError(column, value, f"expected JSON values only: {reason}")
    return RowError("row", row, "expected a row of JSON values, nested less deeply")


def _surrogate_reason(error: UnicodeEncodeError) -> str:
    if "\udc80" <= error.object[error.start] <= "\udcff":  # what errors="surrogateescape" makes of a bad byte
        return "the bytes are not UTF-8; save the file as UTF-8"
    return "half of a surrogate pair (\\ud800 to \\udfff) is not a character"


def text(row: Row, column: str) -> str:
    """A column that must hold text, which may be empty."""
    value = row.get(column)
    if not isinstance(value, str):
        raise RowError(column, value, _expected(row, column, "text"))
    return value


def optional_text(row: Row, column: str) -> str | None:
    """A column that may be absent, null or empty, and else holds text."""
    value = row.get(column)
    if value is None or value == "":
        return None
    return text(row, column)


def number(value: object, column: str, *, flat: bool = False) -> float:
    """A finite number; in a flat file, text that spells one."""
    if isinstance(value, str) and flat:
        try:
            value = float(value)
        except ValueError:
            raise RowError(column, value, "expected a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(column, value, f"expected a number, got {type_name(value)}")
    try:
        value = float(value)
    except OverflowError:
        raise RowError(column, value, "expected a number below 1.8e308") from None
    if not math.isfinite(value):
        raise RowError(column, value, "expected a finite number")
    return value


def listed(row: Row, column: str, *, flat: bool = False) -> Sequence[Any]:
    """A column that must hold a list of at least one value; in a flat file, the list as JSON."""
    value = row.get(column)
    if flat and isinstance(value, str):
        value = from_cell(value)
    if not isinstance(value, list | tuple):
        raise RowError(column, value, _expected(row, column, "a list"))
    if not value:
        raise RowError(column, value, "expected at least one value, got an empty list")
    return value


def mapping(value: object, column: str) -> Mapping[str, Any]:
    """A value that must be an object."""
    if not isinstance(value, Mapping):
        raise RowError(column, value, f"expected an object, got {type_name(value)}")
    return value


def from_cell(value: str) -> Any:
    """The JSON that a flat cell holds, or the cell's text where it holds none."""
    if value[:1] not in ("[", "{"):
        return value
    try:
        return from_json(value, allow_inf_nan=False)
    except ValueError:
        return value


def prompt(row: Row, column: str, *, flat: bool = False) -> Text | Chat:
    """A column with a context: text (which may be empty) or a list of messages."""
    return content(row.get(column), column, flat=flat, missing=column not in row)


def completion(row: Row, column: str, *, flat: bool = False) -> Text | Chat:
    """A column with an output: text or a list of messages, neither of them empty."""
    return not_empty(prompt(row, column, flat=flat), column)


def content(value: object, column: str, *, flat: bool = False, missing: bool = False) -> Text | Chat:
    """Text, or a list of messages with `role` and `content`."""
    if isinstance(value, str):
        decoded = from_cell(value) if flat and value[:1] == "[" else value
        if isinstance(decoded, str) or not is_chat(decoded):
            return Text(text=value)
        value = decoded
    if isinstance(value, list | tuple):
        return chat(value, column)
    if missing:
        raise RowError(column, None, "the column is missing")
    raise RowError(column, value, f"expected text or a list of messages, got {type_name(value)}")


def is_chat(value: object) -> bool:
    """Whether a value is a list of messages, judged as TRL judges it: by its first element's `role`."""
    return isinstance(value, list | tuple) and len(value) > 0 and isinstance(value[0], Mapping) and "role" in value[0]


def chat(value: Sequence[Any], column: str) -> Chat:
    """A list of messages. Only `role` and `content` are kept, so any other key must be null."""
    if not value:
        raise RowError(column, value, "expected at least one message, got an empty list")
    return Chat(messages=tuple(_message(message, f"{column}[{number}]") for number, message in enumerate(value)))


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(place, value, f"expected a message with `role` and `content`, got {type_name(value)}")
    role, said = value.get("role"), value.get("content")
    if not isinstance(role, str) or not role:
        raise RowError(f"{place}.role", role, f"expected the name of a role, got {type_name(role)}")
    if not isinstance(said, str):
        raise RowError(f"{place}.content", said, f"expected text, got {type_name(said)}")
    for key, other in value.items():
        if key not in ("role", "content") and other is not None:
            raise RowError(f"{place}.{key}", other, "a message has `role` and `content`; anything else would be lost")
    return Message(role=role, content=said)


def not_empty(value: Text | Chat, column: str) -> Text | Chat:
    """Refuse an output in which nothing was said."""
    if is_empty(value):
        raise RowError(column, "", "an output must not be empty")
    return value


def is_empty(value: Text | Chat) -> bool:
    """Whether a content says nothing at all."""
    if isinstance(value, Text):
        return not value.text
    return not any(message.content for message in value.messages)


def producer(model: str | None) -> Producer | None:
    """The maker of an output, where the row names a model."""
    return None if model is None else Producer(model=model)


def numbered(context: RowContext, statements: Sequence[tuple[type[FeedbackBase], dict[str, Any]]]) -> list[Feedback]:
    """Make the records of one row: each statement is a kind and its own fields; several are numbered from #1."""
    several = len(statements) > 1
    made: list[Any] = []
    for count, (kind, fields) in enumerate(statements, start=1):
        shared: dict[str, Any] = {"source": context.source, "client_id": context.client_id} | fields
        if several:
            shared["client_id"] = f"{shared['client_id']}#{count}"
        made.append(kind(**shared))
    return made


def _expected(row: Row, column: str, what: str) -> str:
    return f"expected {what}, got {type_name(row[column])}" if column in row else "the column is missing"
