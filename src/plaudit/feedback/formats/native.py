"""The format `plaudit`: a record as it is. Every kind goes out and comes back without loss.

    {"id": "0198f0...", "kind": "comparison", "source": {"name": "alice", "kind": "person"},
     "context": {"content": {"type": "text", "text": "Capital of France?"}},
     "outputs": [{"content": {"type": "text", "text": "Paris"}}, {"content": {"type": "text", "text": "Lyon"}}],
     "choice": "a", "time": "2026-01-31T12:00:00Z"}

In CSV and Parquet, whose rows have one shape, nested fields are JSON in their cells.

A string may stand for a text and a list of messages for a chat. A row with neither `id` nor `client_id` gets a client
id from its place in the file, as the rows of all formats do; a row with an `id` is known by it. A missing `source` is
the import's.
"""

from __future__ import annotations

from typing import Any

from plaudit.feedback.formats.format import Format
from plaudit.feedback.formats.rows import Row, RowContext, from_cell
from plaudit.feedback.records import Feedback, parse_feedback

# Fields whose text may look like JSON and is not: a cell of theirs stays text.
_TEXT_FIELDS = frozenset(
    {"id", "kind", "time", "client_id", "supersedes", "choice", "aspect", "symbol", "critique", "outcome", "stage"}
)


def _parse(row: Row, context: RowContext) -> list[Feedback]:
    if context.flat or isinstance(row.get("context"), str):
        row = {column: _from_cell(column, value) for column, value in row.items() if value is not None and value != ""}
    given: dict[str, Any] = {"source": context.source} if row.get("source") is None else {}
    if row.get("id") is None and row.get("client_id") is None:
        row = {column: value for column, value in row.items() if column != "id"}
        given["client_id"] = context.client_id
    return [parse_feedback(row | given)]


def _from_cell(column: str, value: Any) -> Any:
    if not isinstance(value, str) or column in _TEXT_FIELDS:
        return value
    return int(value) if column == "sentiment" and value in ("1", "0", "-1") else from_cell(value)


def _dump(record: Feedback) -> Row:
    return record.model_dump(mode="json")


FORMAT = Format(
    name="plaudit",
    description="plaudit's own records, every kind, without loss",
    example={
        "kind": "rating",
        "source": {"name": "alice", "kind": "person"},
        "context": {"content": {"type": "text", "text": "Capital of France?"}},
        "outputs": [{"content": {"type": "text", "text": "Paris"}}],
        "value": 5,
        "low": 1,
        "high": 5,
    },
    columns=(("kind", "context", "outputs"),),
    parse=_parse,
    dump=_dump,
    json_cells=True,
)
