"""How many records a second go into a feedback store, and how many plain SQLite would take of the same bytes.

    python benchmarks/ingestion.py

Four cases: one writer and four writers, records one at a time and a thousand at a time. Every `add` is on the disk when it
returns (synchronous=FULL). Three arms, run in turn in every repetition so that a busy moment of the machine hits all alike:

- plaudit: `FeedbackStore.add` of new comparisons, with encoding, digests, and the search for repetitions and conflicts;
- same rows: the rows that plaudit wrote, into the same tables with Python's sqlite3 and executemany: the floor of the schema;
- one column: each record as one JSON text in a table (id, json), the least that could keep the same records.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plaudit.feedback import records as fb
from plaudit.feedback import schema
from plaudit.feedback.database import SQLITE_SETTINGS
from plaudit.feedback.store import FeedbackStore

RESULTS = Path(__file__).parent / "results" / "ingestion.json"
FORK = multiprocessing.get_context("fork")


def comparison(writer: int, number: int) -> fb.Comparison:
    """A new record of the simplest kind: a question, two answers of a sentence each, and which is better."""
    answer = f"Answer {number} of {writer}: it depends on what you want to know."
    producer = {"model": "policy-1b"}
    return fb.Comparison(
        source={"name": f"rater-{number % 20}-{writer}", "kind": "person"},
        context={"content": f"Question {number} of {writer}: what is the difference between the two?"},
        outputs=({"content": f"A: {answer}", "producer": producer}, {"content": f"B: {answer}", "producer": producer}),
        choice="ab"[number % 2],
        client_id=str(number),
    )


def records_in_batches(writer: int, count: int, batch: int) -> list[list[fb.Comparison]]:
    made = [comparison(writer, number) for number in range(count)]
    return [made[start : start + batch] for start in range(0, count, batch)]


def rows_in_batches(writer: int, count: int, batch: int) -> list[list[list[tuple[Any, ...]]]]:
    """What plaudit writes for the same records, table by table; numbers are moved so that writers do not meet."""
    move = writer * 10**9
    everything = []
    with tempfile.TemporaryDirectory() as folder, FeedbackStore.open(Path(folder) / "made.db") as made:
        source = sqlite3.connect(Path(folder) / "made.db")
        for records in records_in_batches(writer, count, batch):
            mark = made.position()
            made.add(records)
            new = f"(SELECT seq FROM records WHERE seq > {mark})"
            queries = (
                "SELECT * FROM sources",
                f"SELECT * FROM contexts WHERE number IN (SELECT context FROM records WHERE seq IN {new})",
                f"SELECT * FROM outputs WHERE number IN (SELECT output FROM record_outputs WHERE record IN {new})",
                f"SELECT * FROM records WHERE seq IN {new}",
                f"SELECT * FROM record_outputs WHERE record IN {new} ORDER BY record, position",
            )
            sources, contexts, outputs, rows, links = (source.execute(query).fetchall() for query in queries)
            contexts, outputs = ([(row[0] + move, *row[1:]) for row in table] for table in (contexts, outputs))
            column = list(schema.RECORDS.c.keys()).index("context")
            rows = [(row[0] + move, *row[1:column], row[column] + move, *row[column + 1 :]) for row in rows]
            links = [(record + move, position, output + move) for record, position, output in links]
            everything.append([sources, contexts, outputs, rows, links])
        source.close()
    return everything


def texts_in_batches(writer: int, count: int, batch: int) -> list[list[tuple[str, str]]]:
    batches = records_in_batches(writer, count, batch)
    return [[(record.id, record.model_dump_json()) for record in records] for records in batches]


def raw_connection(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    for setting in (*SQLITE_SETTINGS, "PRAGMA journal_mode=WAL"):
        connection.execute(setting)
    return connection


def adding_records(path: str) -> Callable[[Any], Any]:
    return FeedbackStore.open(path).add


def adding_rows(path: str) -> Callable[[Any], Any]:
    FeedbackStore.open(path).close()
    connection = raw_connection(path)
    statements = []
    for table in (schema.SOURCES, schema.CONTEXTS, schema.OUTPUTS, schema.RECORDS, schema.RECORD_OUTPUTS):
        shared = " ON CONFLICT DO NOTHING" if table is schema.SOURCES else ""
        statements.append(f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(table.columns))}){shared}")

    def add(rows: list[list[tuple[Any, ...]]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement, values in zip(statements, rows, strict=True):
            connection.executemany(statement, values)
        connection.execute("COMMIT")

    return add


def adding_texts(path: str) -> Callable[[Any], Any]:
    connection = raw_connection(path)
    connection.execute("CREATE TABLE IF NOT EXISTS kept (seq INTEGER PRIMARY KEY, id TEXT UNIQUE, json TEXT)")

    def add(rows: list[tuple[str, str]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO kept (id, json) VALUES (?, ?)", rows)
        connection.execute("COMMIT")

    return add


ARMS = {
    "plaudit": (records_in_batches, adding_records),
    "same rows": (rows_in_batches, adding_rows),
    "one column": (texts_in_batches, adding_texts),
}


def write(arm: str, path: str, writer: int, count: int, batch: int, start: Any, times: Any) -> None:
    """One writer: make everything, wait for the others, write, and say when the writing began and ended."""
    prepare, open_for_adding = ARMS[arm]
    batches = prepare(writer, count, batch)
    add = open_for_adding(path)
    # An importer holds one batch at a time; the garbage collector must not walk over all of them again and again.
    gc.collect()
    gc.freeze()
    start.wait(120)
    began = time.monotonic()
    for made in batches:
        add(made)
    times.put((began, time.monotonic()))


def rate(arm: str, writers: int, count: int, batch: int, folder: Path) -> float:
    """Records a second that all writers together store, from the first one's beginning to the last one's end."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = str(Path(place) / "feedback.db")
        start, times = FORK.Barrier(writers), FORK.SimpleQueue()
        each = count // writers
        processes = [
            FORK.Process(target=write, args=(arm, path, writer, each, batch, start, times)) for writer in range(writers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
        if any(process.exitcode != 0 for process in processes):
            raise SystemExit(f"{arm}: a writer failed, see above")
        moments = [times.get() for _ in processes]
        stored = sqlite3.connect(path)
        table = "kept" if arm == "one column" else "records"
        found = stored.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        stored.close()
        if found != each * writers:
            raise SystemExit(f"{arm}: {found} of {each * writers} records are there")
    return each * writers / (max(end for _, end in moments) - min(begin for begin, _ in moments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    size = statistics.mean(len(comparison(0, number).model_dump_json()) for number in range(1000))
    print(f"new comparisons of {size:.0f} bytes as JSON, median of {arguments.repetitions} runs (lowest to highest)")
    rows = []
    for writers, batch, count in ((1, 1, 1000), (1, 1000, 20_000), (4, 1, 1000), (4, 1000, 20_000)):
        rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for _ in range(arguments.repetitions):
            for arm in ARMS:
                rates[arm].append(rate(arm, writers, count, batch, arguments.folder))
        ratios = [ours / floor for ours, floor in zip(rates["plaudit"], rates["same rows"], strict=True)]
        row = {"writers": writers, "batch": batch, "records": count, "ratio_to_same_rows": statistics.median(ratios)}
        rows.append(row | {arm: {"median": statistics.median(each), "all": each} for arm, each in rates.items()})
        described = "   ".join(
            f"{arm} {statistics.median(each):9,.0f} ({min(each):,.0f} to {max(each):,.0f})"
            for arm, each in rates.items()
        )
        print(
            f"writers {writers}  batch {batch:5}  records/s: {described}   plaudit/same rows {row['ratio_to_same_rows']:.2f}"
        )
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        json.dumps({"machine": machine, "bytes_a_record": size, "cases": rows}, indent=2) + "\n"
    )


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
