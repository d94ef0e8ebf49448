"""Kill writers of a feedback store with SIGKILL at random moments, and look for what was acknowledged.

    python benchmarks/crash.py --kills 100

Every round starts two processes that store batches of all sorts - new records, corrections, files - and say over a pipe
which ids `add` has returned. They are killed a random time later. Then every acknowledged record must be there, every
batch whole or not at all, every record readable, and SQLite's own check must pass. In every fifth round the process forgets
a source instead: after the kill the source must be there as a whole or gone as a whole, and forgetting it again must work.

What this cannot show is a loss of power: a killed process loses nothing that it has given to the kernel.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import select
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from plaudit.feedback import records as fb
from plaudit.feedback.store import FeedbackStore

RESULTS = Path(__file__).parent / "results" / "crash.json"
# The child's connection to its parent is a file, not multiprocessing's: a killed child may leave half a line.
FORK = multiprocessing.get_context("fork")
FORGET_EVERY = 5


def batch_of(generator: random.Random, source: str, number: int, earlier: list[str], picture: fb.File) -> list[Any]:
    """A batch of 1 to 100 records, each marked with its batch and the batch's size."""
    size = generator.choice([1, 1, 3, 20, 100])
    batch: list[Any] = []
    for index in range(size):
        word = "x" * generator.randint(0, 3000)
        correctable = [*earlier, *(record.id for record in batch)]
        batch.append(
            fb.Comparison(
                source={"name": source},
                context={"content": picture if index % 10 == 5 else f"{number}-{index} {word}"},
                outputs=({"content": f"yes {number}-{index} {word}"}, {"content": "no"}),
                choice="a",
                client_id=f"{number}-{index}",
                supersedes=generator.choice(correctable) if correctable and index % 7 == 3 else None,
                attributes={"batch": f"{source}/{number}", "size": size},
            )
        )
    return batch


def write(location: str, source: str, seed: int, pipe: int) -> None:
    """Store batches without end, and acknowledge each over the pipe once `add` has returned."""
    generator = random.Random(seed)
    earlier: list[str] = []
    with FeedbackStore.open(location) as store:
        for number in range(1_000_000):
            picture = store.put_file(f"{source} {number}".encode(), "image/png")
            batch = batch_of(generator, source, number, earlier, picture)
            receipts = store.add(batch)
            os.write(pipe, "".join(f"{receipt.id}\n" for receipt in receipts).encode())
            earlier = [receipt.id for receipt in receipts]


def forget(location: str, source: str) -> None:
    with FeedbackStore.open(location) as store:
        store.forget(source)


def killed_after(seconds: float, processes: list[Any], pipes: list[int]) -> list[str]:
    """Let the processes run for a while, kill them, and return the ids that they acknowledged."""
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    heard = dict.fromkeys(pipes, b"")
    while (left := deadline - time.monotonic()) > 0:
        # Reading all the time: a child must not wait for a full pipe.
        for pipe in select.select(pipes, [], [], left)[0]:
            heard[pipe] += os.read(pipe, 1 << 16)
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    for pipe in pipes:
        os.set_blocking(pipe, False)
        while select.select([pipe], [], [], 0)[0] and (rest := os.read(pipe, 1 << 16)):
            heard[pipe] += rest
    # What follows the last line end is half an id, of which nothing was said.
    return [identifier for text in heard.values() for identifier in text.decode().split("\n")[:-1]]


def writing_round(location: str, number: int, generator: random.Random) -> dict[str, list[str]]:
    """One round of two writers; their acknowledged ids by source."""
    acknowledged = {}
    ends = [os.pipe() for _ in range(2)]
    sources = [f"writer-{number}-{index}" for index in range(2)]
    processes = [
        FORK.Process(target=write, args=(location, source, generator.getrandbits(32), end))
        for source, (_, end) in zip(sources, ends, strict=True)
    ]
    ids = killed_after(generator.uniform(0.0, 0.3), processes, [end for end, _ in ends])
    for end in (end for pair in ends for end in pair):
        os.close(end)
    with FeedbackStore.open(location) as store:
        for source in sources:
            there = {record.id for record in store.records(sources=source, current=False)}
            acknowledged[source] = [identifier for identifier in ids if identifier in there]
    lost = set(ids) - {identifier for found in acknowledged.values() for identifier in found}
    if lost:
        raise AssertionError(f"round {number}: {len(lost)} acknowledged records are lost, such as {min(lost)}")
    return acknowledged


def forgetting_round(location: str, number: int, source: str, generator: random.Random) -> None:
    """Kill a process that forgets a source; the source must be there or gone as a whole, and go when told again."""
    with FeedbackStore.open(location) as store:
        before = {record.id for record in store.records(sources=source, current=False)}
    killed_after(generator.uniform(0.0, 0.15), [FORK.Process(target=forget, args=(location, source))], [])
    with FeedbackStore.open(location) as store:
        after = {record.id for record in store.records(sources=source, current=False)}
        buried = store.forgotten(before)
        if (after, buried) not in ((before, set()), (set(), before)):
            raise AssertionError(f"round {number}: {len(after)} of {len(before)} stay, {len(buried)} are forgotten")
        store.forget(source)
        if store.forgotten(before) != before:
            raise AssertionError(f"round {number}: forgetting again did not finish")


def check(location: str, acknowledged: dict[str, list[str]]) -> dict[str, int]:
    """Every acknowledged record is there, every batch whole, every record readable, and SQLite finds nothing wrong."""
    with FeedbackStore.open(location) as store:
        # To be read at all, a record must be whole: it is validated with its context and both outputs.
        there, sizes, counts = set(), {}, Counter()
        for record in store.records(current=False):
            there.add(record.id)
            sizes[record.attributes["batch"]] = record.attributes["size"]
            counts[record.attributes["batch"]] += 1
            if isinstance(record.context.content, fb.File):
                store.open_file(record.context.content.sha256).close()
        halves = [name for name, size in sizes.items() if counts[name] != size]
        if halves:
            raise AssertionError(f"half a batch: {halves}")
        ids = {identifier for found in acknowledged.values() for identifier in found}
        if ids - there:
            raise AssertionError(f"{len(ids - there)} acknowledged records are lost")
    connection = sqlite3.connect(location)
    for pragma in ("integrity_check", "foreign_key_check"):
        found = connection.execute(f"PRAGMA {pragma}").fetchall()
        if found not in ([], [("ok",)]):
            raise AssertionError(f"{pragma}: {found[:3]}")
    connection.close()
    return {"acknowledged": len(ids), "stored": len(there), "stored_and_not_acknowledged": len(there - ids)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many rounds end in a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the counts go as JSON")
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    acknowledged: dict[str, list[str]] = {}
    forgettings, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        location = str(Path(folder) / "feedback.db")
        for number in range(arguments.kills):
            candidates = sorted(source for source, ids in acknowledged.items() if ids)
            if number % FORGET_EVERY == FORGET_EVERY - 1 and candidates:
                source = generator.choice(candidates)
                forgetting_round(location, number, source, generator)
                del acknowledged[source]
                forgettings += 1
            else:
                acknowledged |= writing_round(location, number, generator)
        counts = check(location, acknowledged)
    result = {
        "kills": arguments.kills,
        "of_which_while_forgetting": forgettings,
        **counts,
        "lost": 0,
        "seconds": round(time.monotonic() - started, 1),
        "seed": arguments.seed,
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        print(f"{name.replace('_', ' '):30} {value}")


if __name__ == "__main__":
    main()
