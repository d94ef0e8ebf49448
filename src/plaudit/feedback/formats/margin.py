"""The columns that any flat format can carry beside its own: who said it, when, under which id, and free attributes.

    {..., "source": "alice", "source_kind": "person", "time": "2026-01-31T12:00:00Z", "client_id": "form-17",
     "topic": "geography", "attributes": {"prompt": "clashes with a column"}}

Read: `source` (text, or an object with `name` and `kind`), else `user`, else `annotator` is who said it. `time` is ISO
8601 (without a zone: UTC) or Unix seconds. Any other column is kept in the record's attributes, unless it is null or
empty. `attributes` holds those whose names or values a column cannot have. Written: the same.

What no column holds is lost in a flat format: attributes of the context, a producer's prompt and sampler, `shown` and
`supersedes`. The format `plaudit` loses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, get_args

from pydantic import ValidationError

from plaudit.feedback.formats.format import NotHeld
from plaudit.feedback.formats.rows import (
    Row,
    RowContext,
    RowError,
    from_cell,
    is_empty,
    mapping,
    optional_text,
    producer,
    type_name,
)
from plaudit.feedback.records import Chat, Context, Feedback, Message, Output, Producer, Source, Text, Tokens

COLUMNS = frozenset({"source", "source_kind", "user", "annotator", "time", "client_id", "attributes"})
# Columns by which a format is recognised: an attribute of such a name does not become a column.
_TELLING = frozenset(
    {
        "prompt", "chosen", "rejected", "completion", "completions", "label", "thumb", "ranks", "scores", "messages",
        "instruction", "kind", "context", "outputs", "question", "passages", "feedback", "preference",
    }
)  # fmt: skip
_SOURCE_KINDS = get_args(Source.model_fields["kind"].annotation)


def read_margin(row: Row, context: RowContext, own: Collection[str]) -> dict[str, Any]:
    """The fields that every record has, from a row whose format reads the columns `own` itself."""
    fields: dict[str, Any] = {"source": context.source, "client_id": context.client_id}
    others = [column for column in row if column not in own]
    if not others:
        return fields
    fields["source"], used = _source(row, context)
    fields["client_id"] = _client_id(row) or context.client_id
    if row.get("time") not in (None, ""):
        fields["time"] = _time(row["time"])
    attributes = {
        column: row[column] for column in others if column not in used and row[column] is not None and row[column] != ""
    }
    packed = row.get("attributes")
    if packed not in (None, ""):
        attributes |= mapping(from_cell(packed) if isinstance(packed, str) else packed, "attributes")
    fields["attributes"] = attributes
    return fields


def _source(row: Row, context: RowContext) -> tuple[Source, set[str]]:
    """Who said it, and the columns that this and the other shared fields were read from."""
    used = {"time", "client_id", "attributes"}
    for column, kind in (("source", context.source.kind), ("user", "user"), ("annotator", "person")):
        value = row.get(column)
        if value is None or value == "":
            continue
        if isinstance(value, str) and context.flat:
            value = from_cell(value)
        if isinstance(value, Mapping):
            return _object_source(value, column), used | {column}
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowError(column, value, f"expected the name of a source, got {type_name(value)}")
        return _named_source(column, str(value), optional_text(row, "source_kind") or kind), used | {
            column,
            "source_kind",
        }
    return context.source, used


@lru_cache(maxsize=4096)
def _named_source(column: str, name: str, kind: str) -> Source:
    if kind not in _SOURCE_KINDS:
        raise RowError("source_kind", kind, f"expected one of {', '.join(_SOURCE_KINDS)}")
    return _object_source({"name": name, "kind": kind}, column)


def _object_source(value: Mapping[str, Any], column: str) -> Source:
    try:
        return Source.model_validate(value)
    except ValidationError as error:
        raise RowError(column, value, error.errors()[0]["msg"]) from None


def _client_id(row: Row) -> str | None:
    value = row.get("client_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return optional_text(row, "client_id")


def _time(value: object) -> datetime:
    expected = "expected an ISO 8601 time such as 2026-01-31T12:00:00Z, or Unix seconds"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError("time", value, expected)
    try:
        if not isinstance(value, str):
            return datetime.fromtimestamp(value, UTC)
        if _is_seconds(value):
            return datetime.fromtimestamp(float(value), UTC)
        moment = datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        raise RowError("time", value, expected) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_seconds(value: str) -> bool:
    return value.replace(".", "", 1).isdecimal() and len(value) > 8  # 20260131 is a date in ISO 8601


def write_margin(record: Feedback, row: Row, own: Collection[str] = ()) -> Row:
    """Add a record's shared fields to its row; `own` are columns of the format that this row does without."""
    row |= {"source": record.source.name, "source_kind": record.source.kind, "time": record.time.isoformat()}
    if record.client_id is not None:
        row["client_id"] = record.client_id
    packed = {}
    for name, value in record.attributes.items():
        taken = name in row or name in own or name in COLUMNS or name in _TELLING
        speakable = name and name.isprintable() and name == name.strip()
        if taken or not speakable or value is None or value == "":
            packed[name] = value
        else:
            row[name] = value
    if packed:
        row["attributes"] = packed
    return row


# --- contents, as the flat formats write them ----------------------------------------------------------------------

Said = Text | Chat


def written(context: Context, *outputs: Output) -> tuple[Any, ...] | NotHeld:
    """The context and the outputs as text, or, where one of them is a chat, all as lists of messages.

    Tokens are written as their text. Libraries expect one form throughout a row, so a text beside chats becomes a
    message: of the user in the context, of the assistant in an output.
    """
    contents = [_said(context.content), *(_said(output.content) for output in outputs)]
    said = [content for content in contents if content is not None]
    if len(said) < len(contents):
        return NotHeld("neither text nor chat")
    if any(is_empty(output) for output in said[1:]):
        return NotHeld("an empty output")
    if all(isinstance(content, Text) for content in said):
        return tuple(content.text for content in said if isinstance(content, Text))
    roles = ["user", *["assistant"] * len(outputs)]
    return tuple(messages(as_chat(content, role)) for content, role in zip(said, roles, strict=True))


def _said(content: Any) -> Said | None:
    match content:
        case Tokens():
            return Text(text=content.text)
        case Text() | Chat():
            return content
    return None


def as_chat(content: Said, role: str) -> Chat:
    """A chat as it is, and a text as one message of this role."""
    return content if isinstance(content, Chat) else Chat(messages=(Message(role=role, content=content.text),))


def messages(chat: Chat) -> list[dict[str, str]]:
    """A chat as rows write it."""
    return [{"role": message.role, "content": message.content} for message in chat.messages]


def model_column(row: Row, column: str) -> Producer | None:
    """The producer whose model a column names, if it names one."""
    model = optional_text(row, column)
    try:
        return producer(model)
    except ValidationError as error:
        raise RowError(column, model, error.errors()[0]["msg"]) from None
