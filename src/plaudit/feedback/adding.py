"""How records enter the store: encoded, compared with what is there, and written, a whole batch in one transaction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import Column, Connection, Dialect, Select, Table, bindparam, insert, select, update

from plaudit.errors import InvalidFeedback
from plaudit.feedback import schema
from plaudit.feedback.records import Edit, FeedbackBase, File, explain, parse_feedback_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# One statement carries at most 32,766 values to SQLite and 65,535 to PostgreSQL; a client id goes with its source.
_CHUNK = 2000
# The JSON parser gives up at 200 levels; what has fewer brackets than this cannot be that deep.
_BRACKETS_ALWAYS_READ = 150


class Receipt(NamedTuple):
    """What the store answers for a record: the id under which it lies there, and whether it was there before."""

    id: str
    duplicate: bool


class RefusedFeedback(InvalidFeedback):
    """A valid record that this store cannot take: the field at fault, its value, and the reason."""

    def __init__(self, field: str, value: str, reason: str) -> None:
        self.field, self.value, self.reason = field, value, reason
        super().__init__(f"{field} {value!r}: {reason}")


class ConflictingFeedback(RefusedFeedback):
    """The record's id, or its source and client id, stand for another statement already."""


class Content(NamedTuple):
    """A context or an output as it is stored."""

    digest: str
    json: str
    file: str | None


class Encoded(NamedTuple):
    """A record as it is stored. The digests are those of the record's own properties, made from one dump, not four."""

    record: FeedbackBase
    payload: str
    statement_digest: str
    context: Content
    outputs: tuple[Content, ...]


class _Known(NamedTuple):
    """What deciding about a new record takes to know of one that is there."""

    id: str
    source: str
    statement_digest: str
    seq: int
    original: int | None


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _address(canonical: str) -> str:
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def _content(dumped: dict[str, Any]) -> Content:
    text = _canonical(dumped)
    content = dumped["content"]
    return Content(_address(text), text, content["sha256"] if content["type"] == "file" else None)


def encode(record: Any) -> Encoded | RefusedFeedback:
    """A record as it is stored, or why it cannot be: it holds half a character, say, and would not come back."""
    if not isinstance(record, FeedbackBase):
        return RefusedFeedback(
            "record", type(record).__name__, "expected a feedback record; make one from a mapping with parse_feedback"
        )
    try:
        dumped = record.model_dump(mode="json")
        payload = record.model_dump_json(exclude={"context", "outputs"})
        context, outputs = _content(dumped["context"]), tuple(_content(output) for output in dumped["outputs"])
        del dumped["id"], dumped["time"]
        statement = _canonical(dumped)
        if statement.count("{") + statement.count("[") > _BRACKETS_ALWAYS_READ:
            decode(payload, context.json, [output.json for output in outputs])
    except ValidationError as error:
        return RefusedFeedback("id", record.id, f"cannot be kept as JSON: {explain(error)[0][2]}")
    except (PydanticSerializationError, ValueError) as error:
        return RefusedFeedback("id", record.id, f"cannot be kept as JSON: {error}")
    return Encoded(record, payload, _address(statement), context, outputs)


def decode(payload: str, context: str, outputs: Sequence[str]) -> Any:
    """The record that was stored as these texts."""
    return parse_feedback_json(f'{payload[:-1]},"context":{context},"outputs":[{",".join(outputs)}]}}')


def microseconds(time: datetime) -> int:
    """A time as the store compares it: microseconds since 1970 UTC, exactly."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """The time, in UTC, that `microseconds` counted."""
    return _EPOCH + count * _MICROSECOND


def sha256_of(name: str) -> str:
    """The SHA-256 under which a forgotten source is remembered."""
    return hashlib.sha256(name.encode()).hexdigest()


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """The values in lists short enough for one statement."""
    rest = iter(values)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


class Batch:
    """Decides about records one after the other, as if each were stored before the next is looked at; then writes them.

    Everything that deciding needs is read beforehand, with a few queries for the whole batch.
    """

    def __init__(self, connection: Connection, last_seq: int, records: Sequence[Encoded]) -> None:
        self._connection = connection
        self._last_seq = last_seq
        self._new: list[tuple[Encoded, _Known]] = []
        self._by_id: dict[str, _Known] = {}
        self._by_client: dict[str, _Known] = {}
        self._read_known([row.record for row in records])
        self._read_forgotten([row.record for row in records])

    def decide(self, row: Encoded) -> Receipt | RefusedFeedback:
        """Take a record in, or recognise it as a repetition, or say why it cannot be taken."""
        try:
            return self._take(row)
        except RefusedFeedback as refusal:
            return refusal

    def _take(self, row: Encoded) -> Receipt:
        record, source = row.record, row.record.source.name
        self._refuse_forgotten(record)
        client_key = _client_key(record)
        known = self._by_id.get(record.id) or self._by_client.get(client_key or "")
        if known is not None:
            if known.statement_digest != row.statement_digest:
                raise _conflict(record, known)
            return Receipt(known.id, duplicate=True)
        original = self._original(record)
        self._last_seq += 1
        entry = _Known(record.id, source, row.statement_digest, self._last_seq, original)
        self._by_id[record.id] = entry
        if client_key is not None:
            self._by_client[client_key] = entry
        self._new.append((row, entry))
        return Receipt(record.id, duplicate=False)

    def write(self) -> None:
        """Write what was taken in."""
        if not self._new:
            return
        rows = [row for row, _ in self._new]
        sources = {row.record.source.name: row.record.source.kind for row in reversed(rows)}
        contexts = {row.context.digest: row.context for row in rows}
        outputs = {output.digest: output for row in rows for output in row.outputs}
        self._insert(schema.SOURCES, list(sources.items()))
        self._insert(schema.CONTEXTS, list(contexts.values()))
        self._insert(schema.OUTPUTS, list(outputs.values()))
        self._insert(schema.RECORDS, [_columns(row, entry) for row, entry in self._new])
        self._insert(
            schema.RECORD_OUTPUTS,
            [
                (entry.seq, position, output.digest)
                for row, entry in self._new
                for position, output in enumerate(row.outputs)
            ],
        )
        counter = update(schema.META).where(schema.META.c.key == "last_seq").values(value=self._last_seq)
        self._connection.execute(counter)

    def _insert(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        # As text, because SQLAlchemy would build a dictionary for every row: a third of the time that a batch takes.
        self._connection.exec_driver_sql(_insertion(table, self._connection.dialect), rows)

    def _read_known(self, records: Sequence[FeedbackBase]) -> None:
        table = schema.RECORDS.c
        columns = (table.id, table.source, table.statement_digest, table.seq, table.original)
        ids = {record.id for record in records}
        # PostgreSQL takes no NUL in a value, and no id has one.
        ids.update(record.supersedes for record in records if record.supersedes and "\0" not in record.supersedes)
        client_keys = {key for record in records if (key := _client_key(record)) is not None}
        for row in self._rows(select(*columns), table.id, ids):
            self._by_id[row[0]] = _Known(*row)
        for key, *row in self._rows(select(table.client_key, *columns), table.client_key, client_keys):
            self._by_client[key] = _Known(*row)

    def _read_forgotten(self, records: Sequence[FeedbackBase]) -> None:
        stones, ids = schema.TOMBSTONES.c, schema.FORGOTTEN.c
        self._forgotten_sources: dict[str, datetime] = {}
        self._forgotten_ids: set[str] = set()
        if self._connection.execute(select(stones.id).limit(1)).first() is None:
            return
        names = {sha256_of(name): name for name in {record.source.name for record in records}}
        for sha256, time in self._rows(select(stones.source_sha256, stones.time), stones.source_sha256, names):
            self._forgotten_sources[names[sha256]] = from_microseconds(time)
        records_ids = {record.id for record in records}
        self._forgotten_ids.update(row[0] for row in self._rows(select(ids.record), ids.record, records_ids))

    def _rows(self, query: Select[Any], column: Column[str], values: Iterable[str]) -> Iterator[Sequence[Any]]:
        """The rows of a query whose column has one of the values."""
        # One parameter that stands for a list: SQLAlchemy looks at each value of a list that is given in the query.
        query = query.where(column.in_(bindparam("chunk", expanding=True)))
        for chunk in chunks(values):
            yield from self._connection.execute(query, {"chunk": chunk})

    def _refuse_forgotten(self, record: FeedbackBase) -> None:
        forgotten = self._forgotten_sources.get(record.source.name)
        if forgotten is not None:
            reason = f"this source was forgotten on {forgotten:%Y-%m-%d}, so nothing of it is stored any more"
            raise RefusedFeedback("source", record.source.name, reason)
        if record.id in self._forgotten_ids:
            raise RefusedFeedback("id", record.id, "this record was forgotten together with its source")

    def _original(self, record: FeedbackBase) -> int | None:
        """The first record of the chain that a correction continues."""
        if record.supersedes is None:
            return None
        corrected = self._by_id.get(record.supersedes)
        if corrected is None:
            raise RefusedFeedback(
                "supersedes",
                record.supersedes,
                "names no record of this store; store the record that it corrects first",
            )
        if corrected.source != record.source.name:
            raise RefusedFeedback(
                "supersedes",
                record.supersedes,
                f"is a record of source {corrected.source!r}, and only the same source can correct it, "
                f"not {record.source.name!r}",
            )
        return corrected.seq if corrected.original is None else corrected.original


def _client_key(record: FeedbackBase) -> str | None:
    """The source with its client id; a unit separator keeps them apart, for names have no control characters."""
    return None if record.client_id is None else f"{record.source.name}\x1f{record.client_id}"


@cache
def _insertion(table: Table, dialect: Dialect) -> str:
    statement = str(insert(table).compile(dialect=dialect))
    # A source, a context or an output that is there is the same one; a record that is there would be a bug.
    shared = table in (schema.SOURCES, schema.CONTEXTS, schema.OUTPUTS)
    return statement + " ON CONFLICT DO NOTHING" if shared else statement


def _columns(row: Encoded, entry: _Known) -> tuple[Any, ...]:
    """The values of a row of `schema.RECORDS`, in the order of its columns."""
    record: Any = row.record
    file = record.edited.sha256 if isinstance(record, Edit) and isinstance(record.edited, File) else None
    return (
        entry.seq,
        entry.id,
        record.kind,
        entry.source,
        _client_key(record),
        row.context.digest,
        entry.statement_digest,
        entry.original,
        microseconds(record.time),
        _answer(record),
        file,
        row.payload,
    )


def _answer(record: Any) -> str | None:
    """The statement in one word, for the kinds whose statements are one of a few."""
    match record.kind:
        case "comparison":
            return str(record.choice)
        case "verdict":
            return str(record.outcome)
        case "reaction":
            return _SENTIMENT_WORDS[record.sentiment]
    return None


_SENTIMENT_WORDS: Mapping[int | None, str] = {1: "positive", 0: "neutral", -1: "negative", None: "unknown"}


def _conflict(record: FeedbackBase, known: _Known) -> ConflictingFeedback:
    advice = "give the new statement its own, or correct the stored one with supersedes"
    if record.id == known.id:
        return ConflictingFeedback("id", record.id, f"is stored with another statement; {advice}")
    return ConflictingFeedback(
        "client_id",
        str(record.client_id),
        f"source {record.source.name!r} has used it for another statement, stored as {known.id}; {advice}",
    )
