"""Forgetting a source: everything it said leaves the store and the disk, and a tombstone without its name stays.

The tombstone holds the ids of the records, so that every run which learned from them can be found.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Column, Connection, Table, delete, func, insert, literal, select, union

from plaudit.errors import StoreError
from plaudit.feedback import schema
from plaudit.feedback.adding import from_microseconds, microseconds, sha256_of
from plaudit.feedback.database import Database
from plaudit.feedback.files import FileFolder
from plaudit.feedback.records import new_record_id


@dataclass(frozen=True)
class Tombstone:
    """What remains of a forgotten source: a hash of its name, when and why, and which records there were."""

    id: str
    source_sha256: str
    time: datetime
    reason: str | None
    by_kind: dict[str, int]
    record_ids: tuple[str, ...]


def forget(database: Database, files: FileFolder | None, source: str, reason: str | None) -> Tombstone:
    """Forget a source. Doing it again finishes what was interrupted, and gives the same tombstone.

    Raises:
        StoreError: the store knows no such source, or the bytes could not be taken off the disk.
    """
    with database.writing() as (connection, _):
        known = select(schema.SOURCES.c.name).where(schema.SOURCES.c.name == source)
        if connection.execute(known).first() is not None:
            _bury(connection, source, reason)
            _delete(connection, source)
        found = read_tombstones(connection, sha256_of(source))
    if not found:
        raise StoreError(
            f"{database.location} holds nothing of a source {source!r}; `plaudit feedback stats` lists the sources"
        )
    _remove_files(database, files)
    database.scrub()
    return found[0]


def read_tombstones(connection: Connection, source_sha256: str | None = None) -> list[Tombstone]:
    """All tombstones, oldest first, or the one of a source."""
    stones, forgotten = schema.TOMBSTONES, schema.FORGOTTEN.c
    query = select(stones).order_by(stones.c.time, stones.c.id)
    if source_sha256 is not None:
        query = query.where(stones.c.source_sha256 == source_sha256)
    found = []
    for row in connection.execute(query).all():
        ids = select(forgotten.record).where(forgotten.tombstone == row.id).order_by(forgotten.record)
        found.append(
            Tombstone(
                id=row.id,
                source_sha256=row.source_sha256,
                time=from_microseconds(row.time),
                reason=row.reason,
                by_kind=json.loads(row.by_kind),
                record_ids=tuple(connection.execute(ids).scalars()),
            )
        )
    return found


def _bury(connection: Connection, source: str, reason: str | None) -> None:
    """Write the tombstone, the ids of the records and the files to look at."""
    records = schema.RECORDS.c
    counts = select(records.kind, func.count()).where(records.source == source).group_by(records.kind)
    tombstone = {
        "id": new_record_id(),
        "source_sha256": sha256_of(source),
        "time": microseconds(datetime.now(UTC)),
        "reason": reason,
        "by_kind": json.dumps({row[0]: row[1] for row in connection.execute(counts.order_by(records.kind))}),
    }
    connection.execute(insert(schema.TOMBSTONES), [tombstone])
    ids = select(records.id, literal(tombstone["id"])).where(records.source == source)
    connection.execute(insert(schema.FORGOTTEN).from_select(["record", "tombstone"], ids))
    link = schema.RECORD_OUTPUTS.c
    files = union(
        select(records.file).where(records.source == source),
        select(schema.CONTEXTS.c.file)
        .join(schema.RECORDS, records.context == schema.CONTEXTS.c.number)
        .where(records.source == source),
        select(schema.OUTPUTS.c.file)
        .join(schema.RECORD_OUTPUTS, link.output == schema.OUTPUTS.c.number)
        .join(schema.RECORDS, records.seq == link.record)
        .where(records.source == source),
    ).subquery()
    waiting = select(schema.FILES_TO_REMOVE.c.sha256)
    new = select(files.c.file).where(files.c.file.is_not(None), files.c.file.not_in(waiting))
    connection.execute(insert(schema.FILES_TO_REMOVE).from_select(["sha256"], new))


def _delete(connection: Connection, source: str) -> None:
    """Delete the records of a source, and the contexts and outputs that nobody else speaks of."""
    connection.execute(delete(schema.RECORDS).where(schema.RECORDS.c.source == source))
    connection.execute(delete(schema.SOURCES).where(schema.SOURCES.c.name == source))

    def unused(table: Table, user: Column[int]) -> None:
        used = select(user).where(user == table.c.number).correlate(table).exists()
        connection.execute(delete(table).where(~used))

    unused(schema.CONTEXTS, schema.RECORDS.c.context)
    unused(schema.OUTPUTS, schema.RECORD_OUTPUTS.c.output)


def _remove_files(database: Database, files: FileFolder | None) -> None:
    """Remove the files that only forgotten records named; done under the writers' lock, so that no record gains one."""
    waiting = schema.FILES_TO_REMOVE.c.sha256
    with database.writing() as (connection, _):
        sha256s = set(connection.execute(select(waiting)).scalars())
        used: set[str] = set()
        for table in (schema.RECORDS, schema.CONTEXTS, schema.OUTPUTS):
            query = select(table.c.file).where(table.c.file.in_(select(waiting)))
            used.update(connection.execute(query).scalars())
        if sha256s - used and files is None:
            raise StoreError(
                f"{database.location} has forgotten the records, but not their files: open it with files=FOLDER, "
                f"and forget the source once more"
            )
        if files is not None:
            for sha256 in sorted(sha256s - used):
                files.remove(sha256)
            files.remove_abandoned()
        connection.execute(delete(schema.FILES_TO_REMOVE))
