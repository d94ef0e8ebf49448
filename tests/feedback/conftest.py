"""Stores to test on: SQLite, and PostgreSQL where PLAUDIT_TEST_POSTGRES names a server or is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plaudit.feedback import records as fb
from plaudit.feedback.store import FeedbackStore


def comparison(number: int = 0, **fields: Any) -> fb.Comparison:
    """A record like most records, different for every number."""
    return fb.Comparison(
        **{
            "source": {"name": "alice", "kind": "person"},
            "context": {"content": f"What is {number} + {number}?"},
            "outputs": ({"content": f"It is {2 * number}."}, {"content": f"Who asks? {number}"}),
            "choice": "a",
        }
        | fields
    )


def _server_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a database on a server that tests may fill: the one that is named, or a private one on a socket."""
    if url := os.environ.get("PLAUDIT_TEST_POSTGRES"):
        yield url
        return
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'plaudit[postgres]'")
    programs = _server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: set PLAUDIT_TEST_POSTGRES to a URL, or apt-get install postgresql")
    # A server does not run as root.
    as_user = {"user": "postgres"} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="plaudit-pg-"))
    if as_user:
        shutil.chown(folder, "postgres")
    control = [programs / "pg_ctl", "--pgdata", folder / "data", "--wait", "--timeout", "60"]
    # fsync stays off: these tests are of behaviour, and a crash of this server is no part of them.
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"

    def run(*command: Any) -> None:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=120, **as_user)

    try:
        run(programs / "initdb", "--pgdata", folder / "data", "--auth=trust", "--username=plaudit", "--no-sync")
        run(*control, "--log", folder / "log", "--options", options, "start")
        yield f"postgresql://plaudit@/postgres?host={folder}"
        run(*control, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def postgresql(postgresql_server: str) -> Iterator[str]:
    """The URL of an empty database, dropped afterwards."""
    import psycopg
    from sqlalchemy import make_url

    name = f"plaudit_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield make_url(postgresql_server).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store can be opened, on either database."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return str(tmp_path / "feedback.db")


@pytest.fixture
def store(location: str, tmp_path: Path) -> Iterator[FeedbackStore]:
    """An empty store on either database."""
    with FeedbackStore.open(location, files=tmp_path / "files") as opened:
        yield opened
