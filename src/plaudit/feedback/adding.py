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
from sqlalchemy import Column, Connection, Dialect, Table, bindparam, insert, select, update

from plaudit.errors import InvalidFeedback
from plaudit.feedback import schema
from plaudit.feedback.records import Edit, FeedbackBase, File, explain, parse_feedback_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# One statement carries at most 32,766 values to SQLite and 65,535 to PostgreSQL.
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
        # The three as arguments, not the sentence, so that it can be pickled and reach another process.
        super().__init__(field, value, reason)
        self.field, self.value, self.reason = field, value, reason

    def __str__(self) -> str:
        return f"{self.field} {self.value!r}: {self.reason}"


class ConflictingFeedback(RefusedFeedback):
    """The record's id, or its source and client id, stand for another statement already."""


class Content(NamedTuple):
    """A context or an output as it is stored."""

    digest: bytes
    json: str
    file: str | None


class Encoded(NamedTuple):
    """A record as it is stored. The digests are those of the record's own properties, made from one dump, not four."""

    record: FeedbackBase
    client_key: str | None
    payload: str
    statement_digest: bytes
    context: Content
    outputs: tuple[Content, ...]


class _Known(NamedTuple):
    """What deciding about a new record takes to know of one that is there."""

    id: str
    source: str
    statement_digest: bytes
    seq: int
    original: int | None


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _address(canonical: str) -> bytes:
    return hashlib.sha256(canonical.encode()).digest()[:16]


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
    return Encoded(record, _client_key(record), payload, _address(statement), context, outputs)


def _client_key(record: FeedbackBase) -> str | None:
    """The source with its client id; a unit separator keeps them apart, for names have no control characters."""
    return None if record.client_id is None else f"{record.source.name}\x1f{record.client_id}"


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

    def __init__(self, connection: Connection, counters: dict[str, int], records: Sequence[Encoded]) -> None:
        self._connection = connection
        self._counters = counters
        self._new: list[tuple[Encoded, _Known]] = []
        self._by_id: dict[str, _Known] = {}
        self._by_client: dict[str, _Known] = {}
        self._read_known(records)
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
        known = self._by_id.get(record.id) or self._by_client.get(row.client_key or "")
        if known is not None:
            if known.statement_digest != row.statement_digest:
                raise _conflict(record, known)
            return Receipt(known.id, duplicate=True)
        original = self._original(record)
        entry = _Known(record.id, source, row.statement_digest, self._next(schema.RECORDS), original)
        self._by_id[record.id] = entry
        if row.client_key is not None:
            self._by_client[row.client_key] = entry
        self._new.append((row, entry))
        return Receipt(record.id, duplicate=False)

    def write(self) -> None:
        """Write what was taken in."""
        if not self._new:
            return
        rows = [row for row, _ in self._new]
        # A later record of a source may give another kind; the first one counts.
        sources = {row.record.source.name: row.record.source.kind for row in reversed(rows)}
        known = {name for (name,) in self._rows((schema.SOURCES.c.name,), schema.SOURCES.c.name, sources)}
        self._insert(schema.SOURCES, [item for item in sources.items() if item[0] not in known])
        contexts = self._numbers(schema.CONTEXTS, {row.context.digest: row.context for row in rows})
        outputs = self._numbers(schema.OUTPUTS, {output.digest: output for row in rows for output in row.outputs})
        self._insert(schema.RECORDS, [_columns(row, entry, contexts[row.context.digest]) for row, entry in self._new])
        self._insert(
            schema.RECORD_OUTPUTS,
            [
                (entry.seq, position, outputs[output.digest])
                for row, entry in self._new
                for position, output in enumerate(row.outputs)
            ],
        )
        counters = [{"counter": table.name, "last": self._counters[table.name]} for table in schema.COUNTED]
        self._connection.execute(_COUNT, counters)

    def _numbers(self, table: Table, contents: Mapping[bytes, Content]) -> dict[bytes, int]:
        """The numbers of contexts or outputs, after those that are not there yet were stored."""
        columns = table.c
        numbers = dict(self._rows((columns.digest, columns.number), columns.digest, contents))
        new = [(self._next(table), *content) for digest, content in contents.items() if digest not in numbers]
        self._insert(table, new)
        return numbers | {digest: number for number, digest, *_ in new}

    def _next(self, table: Table) -> int:
        self._counters[table.name] += 1
        return self._counters[table.name]

    def _insert(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        # As text, because SQLAlchemy would build a dictionary for every row: a third of the time that a batch takes.
        if rows:
            self._connection.exec_driver_sql(_insertion(table, self._connection.dialect), rows)

    def _read_known(self, rows: Sequence[Encoded]) -> None:
        table = schema.RECORDS.c
        columns = (table.id, table.source, table.statement_digest, table.seq, table.original)
        ids = {row.record.id for row in rows}
        # PostgreSQL takes no NUL in a value, and no id has one.
        ids.update(id_ for row in rows if (id_ := row.record.supersedes) is not None and "\0" not in id_)
        client_keys = {row.client_key for row in rows if row.client_key is not None}
        for found in self._rows(columns, table.id, ids):
            self._by_id[found[0]] = _Known(*found)
        for client_key, *found in self._rows((table.client_key, *columns), table.client_key, client_keys):
            self._by_client[client_key] = _Known(*found)

    def _read_forgotten(self, records: Sequence[FeedbackBase]) -> None:
        stones, ids = schema.TOMBSTONES.c, schema.FORGOTTEN.c
        self._forgotten_sources: dict[str, datetime] = {}
        self._forgotten_ids: set[str] = set()
        if self._connection.execute(_ANY_TOMBSTONE).first() is None:
            return
        names = {sha256_of(name): name for name in {record.source.name for record in records}}
        for sha256, time in self._rows((stones.source_sha256, stones.time), stones.source_sha256, names):
            self._forgotten_sources[names[sha256]] = from_microseconds(time)
        record_ids = {record.id for record in records}
        self._forgotten_ids.update(found[0] for found in self._rows((ids.record,), ids.record, record_ids))

    def _rows(self, columns: Sequence[Column[Any]], key: Column[Any], values: Iterable[Any]) -> Iterator[Any]:
        """The columns of the rows whose key is one of the values."""
        # As text, like the insertions, for the same reason.
        dialect = self._connection.dialect
        selection = _selection(tuple(columns), key, dialect)
        mark = "?" if dialect.paramstyle == "qmark" else "%s"
        for chunk in chunks(values):
            marks = ", ".join([mark] * len(chunk))
            yield from self._connection.exec_driver_sql(f"{selection}({marks})", tuple(chunk))

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


# Built once: a service adds one record at a time.
_ANY_TOMBSTONE = select(schema.TOMBSTONES.c.id).limit(1)
_COUNT = update(schema.META).where(schema.META.c.key == bindparam("counter")).values(value=bindparam("last"))


@cache
def _insertion(table: Table, dialect: Dialect) -> str:
    return str(insert(table).compile(dialect=dialect))


@cache
def _selection(columns: Sequence[Column[Any]], key: Column[Any], dialect: Dialect) -> str:
    return f"{select(*columns).compile(dialect=dialect)} WHERE {key.name} IN "


def _columns(row: Encoded, entry: _Known, context: int) -> tuple[Any, ...]:
    """The values of a row of `schema.RECORDS`, in the order of its columns."""
    record: Any = row.record
    file = record.edited.sha256 if isinstance(record, Edit) and isinstance(record.edited, File) else None
    return (
        entry.seq,
        entry.id,
        record.kind,
        entry.source,
        row.client_key,
        context,
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
