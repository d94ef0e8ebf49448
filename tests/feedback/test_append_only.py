"""What is stored cannot be changed, not even by somebody who opens the database by hand."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from plaudit.feedback.store import FeedbackStore

from .conftest import comparison

REWRITES = [
    "UPDATE records SET payload = '{}'",
    "UPDATE records SET original = NULL",
    "UPDATE contexts SET json = '{}'",
    "UPDATE outputs SET json = '{}'",
    "UPDATE record_outputs SET position = position + 10",
    "DELETE FROM records",
]
_FORGED = "kind, source, {key}, context, 'x', original, 0, 'b', file, '{{}}' FROM records"
REPLACEMENTS = [
    "REPLACE INTO contexts SELECT number, x'00', '{}', NULL FROM contexts",
    "REPLACE INTO outputs SELECT number + 9, digest, '{}', NULL FROM outputs",
    "INSERT INTO contexts SELECT *  FROM contexts WHERE true ON CONFLICT (number) DO UPDATE SET json = '{}'",
    f"REPLACE INTO records SELECT seq, 'x', {_FORGED.format(key='NULL')}",
    f"REPLACE INTO records SELECT seq + 9, id, {_FORGED.format(key='NULL')}",
    f"REPLACE INTO records SELECT seq + 9, 'x', {_FORGED.format(key='client_key')}",
]


@pytest.mark.parametrize("statement", REWRITES)
def test_the_database_refuses_to_rewrite(store: FeedbackStore, location: str, statement: str) -> None:
    record = comparison(client_id="c1")
    store.add([record])
    url = location.replace("postgresql://", "postgresql+psycopg://") if "://" in location else f"sqlite:///{location}"
    engine = create_engine(url)
    with engine.connect() as connection:
        if "://" in location:
            connection.execute(text("SET search_path = plaudit"))
        with pytest.raises(Exception, match=r"plaudit: .* is append-only"):
            connection.execute(text(statement))
    engine.dispose()
    assert list(store.records()) == [record]


@pytest.mark.parametrize("statement", REPLACEMENTS)
def test_sqlite_refuses_to_replace(tmp_path: Path, statement: str) -> None:
    with FeedbackStore.open(tmp_path / "feedback.db") as store:
        record = comparison(client_id="c1")
        store.add([record])
        connection = sqlite3.connect(tmp_path / "feedback.db")
        with pytest.raises(sqlite3.IntegrityError, match="is append-only"):
            connection.execute(statement)
        connection.close()
        assert list(store.records()) == [record]


def test_postgresql_refuses_to_truncate(postgresql: str) -> None:
    import psycopg

    with FeedbackStore.open(postgresql) as store:
        store.add([comparison()])
        with psycopg.connect(postgresql) as connection, pytest.raises(psycopg.Error, match="is append-only"):
            connection.execute("TRUNCATE plaudit.records CASCADE")
        assert len(store) == 1
