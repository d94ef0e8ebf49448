"""Several processes and threads use one store at once."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter

from plaudit.feedback.store import FeedbackStore

from .conftest import comparison


def _write(location: str, name: str, shared: int, own: int) -> None:
    """What one of several processes does: records of its own, and records that all of them try to store."""
    with FeedbackStore.open(location) as store:
        for number in range(max(shared, own)):
            batch = []
            if number < shared:
                batch.append(comparison(number, source={"name": "everyone"}, client_id=f"shared-{number}"))
            if number < own:
                batch.append(comparison(number, source={"name": name}, client_id=str(number)))
            store.add(batch)


def test_four_processes_write_at_once_from_the_first_moment(location: str) -> None:
    # The store does not exist yet, so they also race for making it. Fork keeps the start cheap; no thread runs here.
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(location, f"p{number}", 15, 25)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    with FeedbackStore.open(location, create=False) as store:
        assert store.stats().by_source == {"p0": 25, "p1": 25, "p2": 25, "p3": 25, "everyone": 15}
        assert len(list(store.records())) == 115
        assert store.position() == 115, "no number is skipped, so readers can follow"


def test_four_threads_share_one_store(store: FeedbackStore) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for number in range(10):
                store.add([comparison(number, source={"name": name}, client_id=str(number)), comparison(number)])
                assert len(list(store.records(sources=name))) == number + 1
        except BaseException as error:  # noqa: BLE001 - a thread has nobody else to tell
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert Counter(record.source.name for record in store.records()) == {"alice": 40, **{f"t{n}": 10 for n in range(4)}}


def test_a_store_opened_before_a_fork_works_on_both_sides(store: FeedbackStore) -> None:
    store.add([comparison(0)])

    def work(first: int) -> None:
        for number in range(first, first + 30):
            store.add([comparison(number)])
            assert len(list(store.records())) > 1

    process = multiprocessing.get_context("fork").Process(target=work, args=(100,))
    process.start()
    work(200)
    process.join(30)
    assert process.exitcode == 0
    assert len(list(store.records())) == 61
