"""The tables of a feedback store, and the triggers that make them append-only in the database itself.

Contexts and outputs are stored once, known by the digest of their canonical JSON. A record's payload is the record without
them; the other columns repeat what queries need. Nothing is ever rewritten: a trigger refuses every UPDATE, and every
DELETE of a record whose id was not entered as forgotten first.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    insert,
)

VERSION = 1

METADATA = MetaData()
# SQLite makes only an INTEGER key the row's own address; PostgreSQL's INTEGER would end at 2**31.
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")

# The schema's version, and the last numbers given in the tables of `COUNTED`. Whoever holds these rows writes, so numbers
# appear in the order of commits and a reader that asks for what came after one misses nothing. No number is given twice,
# not even after forgetting.
META = Table(
    "meta",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

SOURCES = Table(
    "sources",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    sqlite_with_rowid=False,
)

# Numbered in the order of arrival, so that what refers to them by number goes to the end of its index. A digest goes to a
# random place, which costs a page written to the disk each time a large store grows: it is indexed once, and as bytes.
# `file` is the SHA-256 of the file that the content names, if it names one: forgetting must know who else uses it.
CONTEXTS = Table(
    "contexts",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("json", Text, nullable=False),
    Column("file", Text),
)

OUTPUTS = Table(
    "outputs",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("json", Text, nullable=False),
    Column("file", Text),
)

# `original` is the first record of the chain of corrections that this one continues; of a chain, the last record holds.
# `client_key` is the source with its client id, in one value because SQLite cannot look up many pairs by an index.
# `answer` is the statement where it is one of a few words: a comparison's choice, a verdict's outcome, a sentiment.
# `time` counts microseconds since 1970 UTC, so that both databases compare times alike.
RECORDS = Table(
    "records",
    METADATA,
    Column("seq", _NUMBER, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("source", Text, ForeignKey("sources.name"), nullable=False),
    Column("client_key", Text, unique=True),
    Column("context", _NUMBER, ForeignKey("contexts.number"), nullable=False, index=True),
    Column("statement_digest", LargeBinary, nullable=False),
    Column("original", _NUMBER, ForeignKey("records.seq")),
    Column("time", BigInteger, nullable=False),
    Column("answer", Text),
    Column("file", Text),
    Column("payload", Text, nullable=False),
    Index("records_source", "source", "seq"),
)
_CORRECTS = RECORDS.c.original.is_not(None)
Index("records_original", RECORDS.c.original, RECORDS.c.seq, sqlite_where=_CORRECTS, postgresql_where=_CORRECTS)

RECORD_OUTPUTS = Table(
    "record_outputs",
    METADATA,
    Column("record", _NUMBER, ForeignKey("records.seq", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("output", _NUMBER, ForeignKey("outputs.number"), nullable=False, index=True),
    sqlite_with_rowid=False,
)

TOMBSTONES = Table(
    "tombstones",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("source_sha256", Text, nullable=False, unique=True),
    Column("time", BigInteger, nullable=False),
    Column("reason", Text),
    Column("by_kind", Text, nullable=False),
)

FORGOTTEN = Table(
    "forgotten",
    METADATA,
    Column("record", Text, primary_key=True),
    Column("tombstone", Text, ForeignKey("tombstones.id"), nullable=False, index=True),
    sqlite_with_rowid=False,
)

# Files that a forgotten source used: written with the tombstone, emptied once the bytes are off the disk, so that a
# forgetting that was interrupted between the two can be finished.
FILES_TO_REMOVE = Table("files_to_remove", METADATA, Column("sha256", Text, primary_key=True))

COUNTED = (RECORDS, CONTEXTS, OUTPUTS)
_NEVER_REWRITTEN = (RECORDS, CONTEXTS, OUTPUTS, RECORD_OUTPUTS, TOMBSTONES, FORGOTTEN)
_NEVER_REMOVED = (TOMBSTONES, FORGOTTEN)
_ADVICE = "is append-only: store a correction that supersedes the record, or forget its source"


def create(connection: Connection) -> None:
    """Create the tables and triggers of an empty store, inside the caller's transaction."""
    METADATA.create_all(connection, checkfirst=False)
    statements = _sqlite_triggers() if connection.dialect.name == "sqlite" else _postgresql_triggers()
    for statement in statements:
        connection.exec_driver_sql(statement)
    counters = [{"key": table.name, "value": 0} for table in COUNTED]
    connection.execute(insert(META), [{"key": "schema_version", "value": VERSION}, *counters])


def _sqlite_triggers() -> list[str]:
    def refuse(event: str, table: Table, condition: str = "") -> str:
        name = f"{table.name}_{event.lower()}"
        return (
            f"CREATE TRIGGER {name} BEFORE {event} ON {table.name} {condition} "
            f"BEGIN SELECT RAISE(ABORT, 'plaudit: {table.name} {_ADVICE}'); END"
        )

    unforgotten = "WHEN NOT EXISTS (SELECT 1 FROM forgotten WHERE record = OLD.id)"
    # REPLACE deletes without firing DELETE triggers, so a row that is already there must stop the INSERT itself.
    there = "WHEN EXISTS (SELECT 1 FROM {} WHERE {})"
    same_content = "number = NEW.number OR digest = NEW.digest"
    same_record = "seq = NEW.seq OR id = NEW.id OR client_key = NEW.client_key"
    return [
        *(refuse("UPDATE", table) for table in _NEVER_REWRITTEN),
        *(refuse("DELETE", table) for table in _NEVER_REMOVED),
        *(refuse("INSERT", table, there.format(table.name, same_content)) for table in (CONTEXTS, OUTPUTS)),
        refuse("INSERT", RECORDS, there.format("records", same_record)),
        refuse("DELETE", RECORDS, unforgotten),
    ]


def _postgresql_triggers() -> list[str]:
    raising = f"RAISE EXCEPTION USING MESSAGE = 'plaudit: ' || TG_TABLE_NAME || ' {_ADVICE}';"
    function = "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    unforgotten = "IF NOT EXISTS (SELECT 1 FROM forgotten WHERE record = OLD.id) THEN {raising} END IF; RETURN OLD;"
    trigger = "CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH {each} EXECUTE FUNCTION {function}()"
    statements = [
        function.format(name="refuse", body=raising),
        function.format(name="refuse_unless_forgotten", body=unforgotten.format(raising=raising)),
        trigger.format(
            name="no_delete", event="DELETE", table="records", each="ROW", function="refuse_unless_forgotten"
        ),
    ]
    for table in _NEVER_REWRITTEN:
        named = {"table": table.name, "function": "refuse"}
        statements.append(trigger.format(name="no_update", event="UPDATE", each="ROW", **named))
        statements.append(trigger.format(name="no_truncate", event="TRUNCATE", each="STATEMENT", **named))
        if table in _NEVER_REMOVED:
            statements.append(trigger.format(name="no_delete", event="DELETE", each="ROW", **named))
    return statements
