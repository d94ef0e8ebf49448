"""What goes in comes out, once, in order, and stays as it was."""

from __future__ import annotations

import itertools
import pickle
import sqlite3
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plaudit.errors import ConfigError, InvalidFeedback, StoreError
from plaudit.feedback import records as fb
from plaudit.feedback import store as store_module
from plaudit.feedback.adding import encode
from plaudit.feedback.store import ConflictingFeedback, FeedbackStore, Receipt, RefusedFeedback

from .conftest import comparison
from .strategies import record_of, records

# The store is shared by all examples on purpose: each must live with what the earlier ones left there.
SHARED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def without_client_id(record: Any) -> Any:
    """Client ids drawn from few names would collide between examples, which is another test."""
    return record.model_copy(update={"client_id": None})


# --- round trip ----------------------------------------------------------------------------------------------------


@SHARED
@given(drawn=st.lists(records().map(without_client_id), min_size=1, max_size=4))
def test_records_of_every_kind_come_back_as_they_went_in(store: FeedbackStore, drawn: list[Any]) -> None:
    mark = store.position()
    receipts = store.add(drawn)
    assert receipts == [Receipt(record.id, duplicate=False) for record in drawn]
    assert list(store.records(after=mark)) == drawn
    assert [store.get(record.id) for record in drawn] == drawn


@pytest.mark.parametrize("kind", fb.KINDS)
def test_each_kind_comes_back(store: FeedbackStore, kind: str) -> None:
    @settings(max_examples=5, deadline=None)
    @given(record_of(kind, client_id=None))
    def check(record: Any) -> None:
        store.add([record])
        found = store.get(record.id)
        assert found == record
        assert found.time.utcoffset() == record.time.utcoffset()

    check()


@settings(max_examples=100, deadline=None)
@given(records())
def test_the_stored_digests_are_those_of_the_record(record: Any) -> None:
    row = encode(record)
    assert not isinstance(row, RefusedFeedback)
    assert row.statement_digest.hex() == record.statement_digest
    assert row.context.digest.hex() == record.context.digest
    assert [output.digest.hex() for output in row.outputs] == [output.digest for output in record.outputs]


def test_equal_contexts_and_outputs_are_stored_once(store: FeedbackStore) -> None:
    store.add([comparison(1, client_id=str(number)) for number in range(5)])
    stats = store.stats()
    assert (stats.records, stats.contexts, stats.outputs) == (5, 1, 2)


def test_the_order_of_outputs_is_kept_also_where_one_appears_twice(store: FeedbackStore) -> None:
    outputs = tuple({"content": text} for text in ("b", "a", "b"))
    ranking = fb.Ranking(source={"name": "x"}, context={"content": "?"}, outputs=outputs, tiers=((2,), (0, 1)))
    store.add([ranking])
    assert [output.text for output in store.get(ranking.id).outputs] == ["b", "a", "b"]


# --- idempotency and conflicts -------------------------------------------------------------------------------------


def test_the_same_client_id_and_statement_is_stored_once(store: FeedbackStore) -> None:
    first, retry = comparison(client_id="c1"), comparison(client_id="c1")
    assert first.id != retry.id
    assert store.add([first]) == [Receipt(first.id, duplicate=False)]
    assert store.add([retry]) == [Receipt(first.id, duplicate=True)]
    assert list(store.records()) == [first]


def test_a_repetition_within_one_call_is_recognised(store: FeedbackStore) -> None:
    first, retry, other = comparison(client_id="c1"), comparison(client_id="c1"), comparison(client_id="c2")
    assert store.add([first, retry, first, other]) == [
        Receipt(first.id, duplicate=False),
        Receipt(first.id, duplicate=True),
        Receipt(first.id, duplicate=True),
        Receipt(other.id, duplicate=False),
    ]
    assert len(store) == 2


def test_the_same_record_again_is_a_repetition_without_a_client_id_too(store: FeedbackStore) -> None:
    record = comparison()
    store.add([record])
    assert store.add([record.model_copy()]) == [Receipt(record.id, duplicate=True)]


def test_two_sources_may_use_the_same_client_id(store: FeedbackStore) -> None:
    # The second pair shows that joining the names is no confusion: "a" + "bc" is not "ab" + "c".
    pairs = [("alice", "1"), ("bob", "1"), ("a", "bc"), ("ab", "c")]
    made = [comparison(source={"name": source}, client_id=client_id) for source, client_id in pairs]
    assert not any(receipt.duplicate for receipt in store.add(made))


def test_a_client_id_with_another_statement_is_a_conflict_and_nothing_of_the_call_is_stored(
    store: FeedbackStore,
) -> None:
    first = comparison(client_id="c1", choice="a")
    store.add([first])
    with pytest.raises(ConflictingFeedback) as caught:
        store.add([comparison(7), comparison(client_id="c1", choice="b"), comparison(8)])
    assert str(caught.value) == (
        f"client_id 'c1': source 'alice' has used it for another statement, stored as {first.id}; "
        f"give the new statement its own, or correct the stored one with supersedes"
    )
    assert isinstance(caught.value, InvalidFeedback)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert list(store.records()) == [first]


def test_a_record_id_with_another_statement_is_a_conflict(store: FeedbackStore) -> None:
    first = comparison(1)
    store.add([first])
    with pytest.raises(ConflictingFeedback, match=rf"id '{first.id}': is stored with another statement"):
        store.add([comparison(2, id=first.id)])


def test_add_each_keeps_the_good_records_and_answers_the_others_one_by_one(store: FeedbackStore) -> None:
    first, second, third = comparison(1, client_id="c1"), comparison(2), comparison(3)
    answers = store.add_each(
        [
            first,
            comparison(9, client_id="c1"),
            second,
            comparison(4, supersedes="nothing"),
            first,
            comparison(5, supersedes=third.id),
            third,
        ]
    )
    assert [answers[0], answers[2], answers[4], answers[6]] == [
        Receipt(first.id, duplicate=False),
        Receipt(second.id, duplicate=False),
        Receipt(first.id, duplicate=True),
        Receipt(third.id, duplicate=False),
    ]
    conflict, unknown, too_early = answers[1], answers[3], answers[5]
    assert isinstance(conflict, ConflictingFeedback)
    assert (unknown.field, unknown.value) == ("supersedes", "nothing")
    assert too_early.value == third.id, "a record can correct earlier ones only"
    assert list(store.records()) == [first, second, third]


def test_nothing_to_add_is_no_transaction(store: FeedbackStore) -> None:
    assert store.add([]) == []
    assert store.position() == 0


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (
            {"kind": "comparison"},
            "record 'dict': expected a feedback record; make one from a mapping with parse_feedback",
        ),
        (comparison(attributes={"x": "\ud800"}), "cannot be kept as JSON"),
        (comparison(attributes={"x": 10**5000}), "cannot be kept as JSON"),
    ],
)
def test_what_would_not_come_back_is_refused(store: FeedbackStore, thing: Any, said: str) -> None:
    with pytest.raises(RefusedFeedback, match=said):
        store.add([comparison(), thing])
    assert len(store) == 0


def test_a_structure_too_deep_to_be_read_again_is_refused_and_a_long_one_is_not(store: FeedbackStore) -> None:
    deep: Any = 1
    for _ in range(220):
        deep = [deep]
    with pytest.raises(RefusedFeedback, match="recursion limit"):
        store.add([comparison(attributes={"x": deep})])
    long = comparison(attributes={"x": [[] for _ in range(5000)]})
    store.add([long])
    assert store.get(long.id) == long


# --- corrections ---------------------------------------------------------------------------------------------------


def test_of_a_chain_of_corrections_the_last_one_holds(store: FeedbackStore) -> None:
    first = comparison(choice="a")
    second = comparison(choice="b", supersedes=first.id)
    third = comparison(choice="tie", supersedes=second.id)
    store.add([first, second])
    assert list(store.records()) == [second]
    store.add([third])
    assert list(store.records()) == [third]
    assert list(store.records(current=False)) == [first, second, third]
    assert store.get(first.id) == first
    assert store.stats().superseded == 2


def test_two_corrections_of_one_record_do_not_count_twice(store: FeedbackStore) -> None:
    first = comparison(choice="a")
    corrections = [comparison(choice=choice, supersedes=first.id) for choice in ("b", "tie", "cannot_judge")]
    store.add([first, *corrections])
    # Then a correction of the first one of them: it is the last word all the same.
    last = comparison(choice="a", supersedes=corrections[0].id)
    store.add([comparison(5), last])
    assert list(store.records())[1:] == [last]


def test_superseding_what_is_not_there_says_so(store: FeedbackStore) -> None:
    with pytest.raises(RefusedFeedback, match="supersedes 'no-such': names no record of this store; store the record"):
        store.add([comparison(supersedes="no-such")])
    with pytest.raises(RefusedFeedback, match="names no record"):
        store.add([comparison(supersedes="\0")])


def test_only_the_same_source_corrects_its_record(store: FeedbackStore) -> None:
    first = comparison()
    store.add([first])
    with pytest.raises(RefusedFeedback, match="is a record of source 'alice', and only the same source can correct it"):
        store.add([comparison(source={"name": "bob"}, supersedes=first.id)])


# --- reading -------------------------------------------------------------------------------------------------------


def test_filters(store: FeedbackStore) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    made = [
        comparison(number, source={"name": source}, time=start + timedelta(hours=number))
        for number, source in enumerate(["alice", "bob", "alice", "carol"])
    ]
    rating = fb.Rating(
        source={"name": "bob"},
        context={"content": "?"},
        outputs=({"content": "!"},),
        value=1,
        low=0,
        high=1,
        time=start,
    )
    store.add([*made, rating])
    assert list(store.records(kinds="rating")) == [rating]
    assert list(store.records(kinds=["rating", "comparison"])) == [*made, rating]
    assert list(store.records(sources="alice")) == [made[0], made[2]]
    assert list(store.records(sources={"carol", "bob"})) == [made[1], made[3], rating]
    assert list(store.records(sources=[])) == []
    assert list(store.records(since=start + timedelta(hours=1))) == made[1:], "from the time on"
    assert list(store.records(until=start + timedelta(hours=1))) == [made[0], rating], "before the time"
    east = timezone(timedelta(hours=9))
    assert list(store.records(since=(start + timedelta(hours=3)).astimezone(east))) == [made[3]]
    assert list(store.records(sources="bob", kinds="comparison", since=start)) == [made[1]]


def test_wrong_filters_are_errors_at_once(store: FeedbackStore) -> None:
    with pytest.raises(ConfigError, match=r"kinds: expected some of comparison, ranking, .*; got 'compare'"):
        store.records(kinds="compare")
    with pytest.raises(ConfigError, match=r"since: expected a time with a zone, such as .*; got 2026-01-01 00:00:00"):
        store.records(since=datetime(2026, 1, 1))


def test_reading_goes_page_by_page_and_leaves_out_what_is_stored_meanwhile(
    store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_PAGE", 3)
    made = [comparison(number) for number in range(8)]
    store.add(made)
    reading = store.records()
    seen = list(itertools.islice(reading, 4))
    store.add([comparison(100)])
    assert seen + list(reading) == made
    assert len(list(store.records(after=6))) == 3


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_a_full_last_page_is_the_last(store: FeedbackStore, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(store_module, "_PAGE", 3)
    store.add([comparison(number) for number in range(count)])
    assert len(list(store.records())) == count


def test_an_unfinished_reader_does_not_block_a_writer(store: FeedbackStore) -> None:
    store.add([comparison(number) for number in range(3)])
    reading = store.records()
    next(reading)
    store.add([comparison(9)])
    assert len(list(reading)) == 2


def test_a_position_marks_what_comes_after(store: FeedbackStore) -> None:
    store.add([comparison(1)])
    mark = store.position()
    later = comparison(2)
    store.add([later])
    assert list(store.records(after=mark)) == [later]


def test_stats(store: FeedbackStore) -> None:
    empty = store.stats()
    assert (empty.records, empty.first, empty.last, empty.ties, empty.by_kind) == (0, None, None, 0, {})
    start = datetime(2026, 1, 1, tzinfo=UTC)
    asked = {"context": {"content": "?"}, "outputs": ({"content": "!"},)}
    bob = {"name": "bob", "kind": "judge"}
    store.add(
        [
            *(comparison(1, choice=choice, time=start) for choice in ("a", "tie", "tie", "cannot_judge")),
            fb.Verdict(source=bob, **asked, outcome="could_not_judge", time=start + timedelta(days=2, microseconds=1)),
            fb.Reaction(source=bob, **asked, symbol="👍", time=start),
            fb.Reaction(source=bob, **asked, symbol="🦆", time=start),
        ]
    )
    stats = store.stats()
    assert stats.by_kind == {"comparison": 4, "reaction": 2, "verdict": 1}
    assert stats.by_source == {"alice": 4, "bob": 3}
    assert stats.ties == 2
    assert stats.answers == {
        "comparison": {"a": 1, "cannot_judge": 1, "tie": 2},
        "reaction": {"positive": 1, "unknown": 1},
        "verdict": {"could_not_judge": 1},
    }
    assert (stats.contexts, stats.outputs) == (2, 3)
    assert (stats.first, stats.last) == (start, start + timedelta(days=2, microseconds=1))
    assert store.sources() == [fb.Source(name="alice", kind="person"), fb.Source(name="bob", kind="judge")]


def test_get_of_an_unknown_record_is_none_and_an_empty_store_is_true(store: FeedbackStore) -> None:
    assert store.get("unknown") is None
    assert len(store) == 0
    assert store


def test_reading_a_source_goes_by_an_index_and_never_sorts(tmp_path: Path) -> None:
    FeedbackStore.open(tmp_path / "feedback.db").close()
    with sqlite3.connect(tmp_path / "feedback.db") as connection:
        query = "EXPLAIN QUERY PLAN SELECT seq, payload FROM records WHERE {} AND seq > 5 ORDER BY seq LIMIT 500"
        one = str(connection.execute(query.format("source = 'a'")).fetchall())
        several = str(connection.execute(query.format("source || '' IN ('a', 'b')")).fetchall())
    connection.close()
    assert "records_source (source=? AND seq>?)" in one
    assert "USING INTEGER PRIMARY KEY" in several
    assert "TEMP B-TREE" not in one + several


def test_a_source_is_one_under_whatever_kind_its_records_give(store: FeedbackStore) -> None:
    store.add([comparison(source={"name": "alice", "kind": "unknown"})])
    store.add([comparison(5)])
    assert [found.source.kind for found in store.records(sources="alice")] == ["unknown", "person"]
    assert store.sources() == [fb.Source(name="alice", kind="unknown")]


def test_a_record_that_this_version_cannot_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore.open(path) as store:
        record = comparison()
        store.add([record])
        connection = sqlite3.connect(path)
        connection.execute("DROP TRIGGER records_update")
        connection.execute("UPDATE records SET payload = replace(payload, '\"strength\"', '\"force\"')")
        connection.commit()
        connection.close()
        for read in (lambda: store.get(record.id), lambda: list(store.records())):
            with pytest.raises(
                StoreError, match=rf"record {record.id} in {path} cannot be read \(.*force: Extra inputs"
            ):
                read()


def test_a_closed_store_says_so(store: FeedbackStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="is closed; open it again"):
        store.add([comparison()])
