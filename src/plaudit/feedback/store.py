"""The feedback store: append-only, durable, and able to forget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, func, select

from plaudit.errors import ConfigError, StoreError
from plaudit.feedback import schema
from plaudit.feedback.adding import (
    Batch,
    ConflictingFeedback,
    Encoded,
    Receipt,
    RefusedFeedback,
    chunks,
    decode,
    encode,
    from_microseconds,
    microseconds,
)
from plaudit.feedback.database import Database
from plaudit.feedback.files import FileFolder
from plaudit.feedback.forgetting import Tombstone, forget, read_tombstones
from plaudit.feedback.records import KINDS, Feedback, File, Source, explain

__all__ = ["ConflictingFeedback", "FeedbackStore", "Receipt", "RefusedFeedback", "StoreStats", "Tombstone"]

# Small enough that a page of records with long outputs fits into memory, large enough that queries cost little.
_PAGE = 500


@dataclass(frozen=True)
class StoreStats:
    """What a store holds. `answers` counts, for the kinds whose statements are one of a few words, each word."""

    records: int
    superseded: int
    by_kind: dict[str, int]
    by_source: dict[str, int]
    answers: dict[str, dict[str, int]]
    contexts: int
    outputs: int
    first: datetime | None
    last: datetime | None
    forgotten: int

    @property
    def ties(self) -> int:
        """How many comparisons say that both outputs are as good."""
        return self.answers.get("comparison", {}).get("tie", 0)


class FeedbackStore:
    """Feedback records in SQLite or PostgreSQL; one store may be used by many threads and processes at once.

    Records are added, never changed: a correction is a new record that supersedes. Of a chain of corrections the last
    one holds, whichever record of the chain it names. The only way out is `forget`, which takes all that a source said.
    """

    def __init__(self, database: Database, files: FileFolder | None) -> None:
        self._database = database
        self._files = files

    @classmethod
    def open(cls, location: str | Path, *, create: bool = True, files: str | Path | None = None) -> FeedbackStore:
        """Open a store, and make it where there is none.

        Args:
            location: the path of a SQLite file, or postgresql://USER:PASSWORD@HOST/DATABASE.
            create: False says that a missing store is an error.
            files: the folder of the files that feedback is about; `LOCATION.files` for SQLite, must be given for
                PostgreSQL where files are used.

        Raises:
            StoreError: the place cannot be read and written, or holds something else or a newer plaudit's store.
            MissingExtra: PostgreSQL is asked for and psycopg is not installed.
        """
        database = Database(location, create=create)
        if files is None and database.path is not None:
            files = database.path.with_name(database.path.name + ".files")
        return cls(database, None if files is None else FileFolder(Path(files).expanduser().absolute()))

    @property
    def location(self) -> str:
        """The path, or the URL without its password."""
        return self._database.location

    def close(self) -> None:
        """Close the store; every later call is an error."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- adding ----------------------------------------------------------------------------------------------------

    def add(self, records: Iterable[Feedback]) -> list[Receipt]:
        """Store records, all of them or none; when this returns they are on the disk.

        A record that is there already - the same id, or the same source and client id, with the same statement - is not
        stored again; its receipt has the stored record's id and `duplicate` set.

        Raises:
            ConflictingFeedback: an id or client id stands for another statement already.
            RefusedFeedback: a record corrects what is not there or another source's, or its source was forgotten.
            StoreError: the database could not store them: no space, locked, unreachable.
        """
        return [answer for answer in self._add(records, all_or_none=True) if isinstance(answer, Receipt)]

    def add_each(self, records: Iterable[Feedback]) -> list[Receipt | RefusedFeedback]:
        """Store the records that can be stored, in one transaction, and say for each, in order, what became of it.

        Like `add`, but a record that cannot be taken is answered by the error that `add` would raise.
        """
        return self._add(records, all_or_none=False)

    def _add(self, records: Iterable[Feedback], *, all_or_none: bool) -> list[Receipt | RefusedFeedback]:
        # Encoding is most of the work and needs no lock.
        encoded = [encode(record) for record in records]
        if not encoded:
            return []
        with self._database.writing() as (connection, counters):
            batch = Batch(connection, counters, [row for row in encoded if isinstance(row, Encoded)])
            answers = [batch.decide(row) if isinstance(row, Encoded) else row for row in encoded]
            refusal = next((answer for answer in answers if isinstance(answer, RefusedFeedback)), None)
            if all_or_none and refusal is not None:
                raise refusal
            batch.write()
        return answers

    # --- reading ---------------------------------------------------------------------------------------------------

    def records(
        self,
        *,
        kinds: str | Iterable[str] | None = None,
        sources: str | Iterable[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        after: int | None = None,
        current: bool = True,
    ) -> Iterator[Feedback]:
        """The records in the order in which they were stored, a page at a time; those stored meanwhile are left out.

        Args:
            kinds: only these kinds.
            sources: only what these sources said.
            since: only from this time on.
            until: only before this time.
            after: only what was stored after this `position()`.
            current: leave out what a later record supersedes.

        Raises:
            ConfigError: a kind is unknown, or a time has no zone.
        """
        table = schema.RECORDS.c
        chosen: list[ColumnElement[bool]] = []
        if kinds is not None:
            wanted = _listed(kinds)
            for kind in wanted:
                if kind not in KINDS:
                    raise ConfigError(f"kinds: expected some of {', '.join(KINDS)}; got {kind!r}")
            chosen.append(table.kind.in_(wanted))
        if sources is not None:
            names = _listed(sources)
            # Of one source the index gives the records in order. Of several it does not: the expression keeps the
            # database from using it all the same, and collecting and sorting all their records for every page.
            chosen.append(table.source == names[0] if len(names) == 1 else table.source.concat("").in_(names))
        if since is not None:
            chosen.append(table.time >= _instant("since", since))
        if until is not None:
            chosen.append(table.time < _instant("until", until))
        if current:
            later = schema.RECORDS.alias()
            chain = func.coalesce(table.original, table.seq)
            corrected = select(later.c.seq).where(later.c.original == chain, later.c.seq > table.seq)
            chosen.append(~corrected.exists())
        return self._pages(chosen, 0 if after is None else after)

    def _pages(self, chosen: list[ColumnElement[bool]], after: int) -> Iterator[Feedback]:
        seq = schema.RECORDS.c.seq
        end = self.position()
        while after < end:
            with self._database.reading() as connection:
                query = _ROWS.where(seq > after, seq <= end, *chosen).order_by(seq).limit(_PAGE)
                rows = connection.execute(query).all()
                outputs = _outputs(connection, [row.seq for row in rows])
            yield from (self._decoded(row, outputs) for row in rows)
            after = rows[-1].seq if len(rows) == _PAGE else end

    def _decoded(self, row: Any, outputs: dict[int, list[str]]) -> Any:
        try:
            return decode(row.payload, row.context, outputs.get(row.seq, ()))
        except ValidationError as error:
            field, _, reason = explain(error)[0]
            raise StoreError(
                f"record {row.id} in {self.location} cannot be read ({field}: {reason}): either a newer plaudit wrote it, "
                f"and upgrading helps, or it is damaged, and a backup does"
            ) from error

    def position(self) -> int:
        """A mark for `records(after=...)`: what is stored from now on comes after it."""
        counter = select(schema.META.c.value).where(schema.META.c.key == schema.RECORDS.name)
        with self._database.reading() as connection:
            return int(connection.execute(counter).scalar_one())

    def get(self, record_id: str) -> Feedback | None:
        """The record with this id, superseded or not; None where there is none."""
        with self._database.reading() as connection:
            row = connection.execute(_ROWS.where(schema.RECORDS.c.id == record_id)).one_or_none()
            return None if row is None else self._decoded(row, _outputs(connection, [row.seq]))

    def sources(self) -> list[Source]:
        """Who has said something, by name, with the kind that was given first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(schema.SOURCES).order_by(schema.SOURCES.c.name)).all()
        return [Source(name=row.name, kind=row.kind) for row in rows]

    def __len__(self) -> int:
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(schema.RECORDS)).scalar_one())

    def __bool__(self) -> bool:
        # An empty store is a store: `store or other` must not depend on what is in it.
        return True

    def stats(self) -> StoreStats:
        """What the store holds, counted in one state of it."""
        table = schema.RECORDS.c

        def counted(connection: Connection, column: ColumnElement[Any]) -> dict[str, int]:
            query = select(column, func.count()).group_by(column).order_by(func.count().desc(), column)
            return {row[0]: row[1] for row in connection.execute(query)}

        with self._database.reading() as connection:
            by_kind = counted(connection, table.kind)
            by_source = counted(connection, table.source)
            query = select(table.kind, table.answer, func.count()).where(table.answer.is_not(None))
            answers: dict[str, dict[str, int]] = {}
            for kind, answer, count in connection.execute(
                query.group_by(table.kind, table.answer).order_by(table.kind, table.answer)
            ):
                answers.setdefault(kind, {})[answer] = count
            # Of a chain of corrections one record holds, so as many are superseded as there are corrections.
            superseded, first, last = connection.execute(
                select(func.count(table.original), func.min(table.time), func.max(table.time))
            ).one()
            contexts, outputs, forgotten = (
                connection.execute(select(func.count()).select_from(counted_table)).scalar_one()
                for counted_table in (schema.CONTEXTS, schema.OUTPUTS, schema.FORGOTTEN)
            )
        return StoreStats(
            records=sum(by_kind.values()),
            superseded=superseded,
            by_kind=by_kind,
            by_source=by_source,
            answers=answers,
            contexts=contexts,
            outputs=outputs,
            first=None if first is None else from_microseconds(first),
            last=None if last is None else from_microseconds(last),
            forgotten=forgotten,
        )

    # --- forgetting ------------------------------------------------------------------------------------------------

    def forget(self, source: str, *, reason: str | None = None) -> Tombstone:
        """Delete all that a source said, off the disk too, and refuse what comes of it from now on.

        Contexts, outputs and files that another source speaks of as well stay. The whole database is rewritten, which
        needs free space of its size. If it is interrupted, or another process reads on for too long, call it again.

        Args:
            source: the name of the source; the store keeps its SHA-256 only.
            reason: why, in words that do not name the source.

        Raises:
            StoreError: the store has nothing of that source, or could not take the bytes off the disk; it says which.
        """
        return forget(self._database, self._files, source, reason)

    def tombstones(self) -> list[Tombstone]:
        """What was forgotten, oldest first."""
        with self._database.reading() as connection:
            return read_tombstones(connection)

    def forgotten(self, ids: Iterable[str]) -> set[str]:
        """Which of these records were forgotten; a run that learned from one of them has learned from that source."""
        found: set[str] = set()
        record = schema.FORGOTTEN.c.record
        with self._database.reading() as connection:
            for chunk in chunks(ids):
                found.update(connection.execute(select(record).where(record.in_(chunk))).scalars())
        return found

    # --- files -----------------------------------------------------------------------------------------------------

    def put_file(self, data: str | Path | bytes, media_type: str, name: str | None = None) -> File:
        """Keep a file's bytes, given as such or by a path, and return the content that records can name it by.

        Put a file in before the records about it, and again if its source was forgotten in between.
        """
        if name is None and not isinstance(data, bytes):
            name = Path(data).name
        file = File(sha256="0" * 64, media_type=media_type, name=name)
        return file.model_copy(update={"sha256": self._folder().put(data)})

    def open_file(self, sha256: str) -> BinaryIO:
        """The file with this SHA-256, opened for reading after its bytes were checked; the caller closes it."""
        return self._folder().open(sha256)

    def _folder(self) -> FileFolder:
        if self._files is None:
            raise StoreError(f"{self.location} has no folder for files; open it with files=FOLDER")
        return self._files


_ROWS = select(
    schema.RECORDS.c.seq, schema.RECORDS.c.id, schema.RECORDS.c.payload, schema.CONTEXTS.c.json.label("context")
).join(schema.CONTEXTS, schema.RECORDS.c.context == schema.CONTEXTS.c.number)


def _outputs(connection: Connection, seqs: list[int]) -> dict[int, list[str]]:
    link, content = schema.RECORD_OUTPUTS.c, schema.OUTPUTS.c
    query = select(link.record, content.json).join(schema.OUTPUTS, link.output == content.number)
    found: dict[int, list[str]] = {}
    for seq, text in connection.execute(query.where(link.record.in_(seqs)).order_by(link.record, link.position)):
        found.setdefault(seq, []).append(text)
    return found


def _listed(names: str | Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _instant(field: str, time: datetime) -> int:
    if time.tzinfo is None:
        raise ConfigError(f"{field}: expected a time with a zone, such as 2026-03-01T12:00+00:00; got {time}")
    return microseconds(time)
