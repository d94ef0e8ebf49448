"""The QA feedback of FineGrainedRLHF: the real file where it lies beside the checkout, and rows like its own."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plaudit.feedback.formats import FORMATS, NotHeld, Parsed, Reject, read, write
from plaudit.feedback.formats.qa_feedback import qa_context
from plaudit.feedback.records import Comparison, Context, Critique, Edit, Output, Source, Spans, Verdict

REAL = Path(__file__).parents[3] / "shared" / "data" / "qa_feedback" / "dev_feedback.json"
ROW: dict[str, Any] = {
    "question": "Who led the British at Princeton?",
    "passages": [
        ["Battle of Princeton", "It was fought in 1777.", "Mawhood led the British."],
        ["Charles Mawhood", "He was a colonel."],
    ],
    "gold": "Charles Mawhood did.",
    "prediction 1": "It was fought in 1777 by Cornwallis.",
    "prediction 2": "Cornwallis.",
    "prediction 3": "Mawhood.",
    "prediction 4": "Washington 🇺🇸.",
    "feedback": {
        "errors": [
            {"error type": "Irrelevant", "explanation": "", "start": 0, "end": 21},
            {"error type": "Wrong-Grounding", "explanation": "It was Mawhood.", "start": 25, "end": 36},
        ],
        "missing-info": [{"error type": "Missing-Answer", "passage_id": 1, "sentence_id": [1, 2]}],
        "corrected-prediction": "Mawhood led them.",
    },
    "preference": [0, 2, 1, 2, 1, 1],
}


def records(row: dict[str, Any], **options: Any) -> list[Any]:
    found = list(read([row], **options))
    assert all(isinstance(result, Parsed) for result in found), found
    return [result.record for result in found]  # type: ignore[union-attr]


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The row with one value changed."""
    row = copy.deepcopy(ROW)
    place: Any = row
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return row


def test_a_row_gives_its_comparisons_spans_critiques_edit_and_demonstration() -> None:
    found = records(ROW, name="qa", source=Source(name="turkers", kind="person"))
    assert [record.kind for record in found] == [*["comparison"] * 6, "spans", "critique", "edit", "demonstration"]
    assert [(r.attributes["predictions"], r.choice) for r in found[:6]] == [
        ([1, 2], "tie"), ([1, 3], "b"), ([1, 4], "a"), ([2, 3], "b"), ([2, 4], "a"), ([3, 4], "a"),
    ]  # fmt: skip
    assert [[output.text for output in record.outputs] for record in found[:2]] == [
        [ROW["prediction 1"], ROW["prediction 2"]],
        [ROW["prediction 1"], ROW["prediction 3"]],
    ]
    spans, critique, edit, gold = found[6:]
    marked = [(spans.outputs[0].text[s.start : s.end], s.type, s.comment) for s in spans.spans]
    assert marked == [
        ("It was fought in 1777", "Irrelevant", None),
        ("Cornwallis.", "Wrong-Grounding", "It was Mawhood."),
    ]
    assert critique.critique == "Missing-Answer: It was fought in 1777. Mawhood led the British."
    assert critique.aspect == "missing-info"
    assert critique.attributes == {"missing-info": ROW["feedback"]["missing-info"][0]}
    assert (edit.outputs[0].text, edit.edited.text) == (ROW["prediction 1"], "Mawhood led them.")
    assert gold.outputs[0].text == "Charles Mawhood did."
    assert len({record.context.digest for record in found}) == 1
    assert [record.client_id.rpartition("#")[2] for record in found] == [str(number) for number in range(1, 11)]


def test_the_context_is_the_passages_and_then_the_question() -> None:
    context = records(ROW)[0].context
    assert context.text == (
        "Passage 1: Battle of Princeton\nIt was fought in 1777. Mawhood led the British.\n\n"
        "Passage 2: Charles Mawhood\nHe was a colonel.\n\n"
        "Question: Who led the British at Princeton?"
    )
    assert context.attributes == {"question": ROW["question"], "passages": ROW["passages"]}
    assert context.digest == "f7a5080b887f07989955daf5c7ad877b"  # frozen: stored contexts have this address
    assert records(changed("passages", to=[]) | {"feedback": ROW["feedback"] | {"missing-info": []}})[
        0
    ].context.text == ("Question: Who led the British at Princeton?")


def test_what_was_not_said_is_not_made_up() -> None:
    """No error found is a statement; no correction given, and null, are none."""
    found = records(ROW | {"feedback": {"errors": [], "missing-info": [], "corrected-prediction": ""}, "gold": None})
    assert [record.kind for record in found] == [*["comparison"] * 6, "spans"]
    assert found[6].spans == ()
    found = records(
        ROW | {"feedback": {"errors": None, "missing-info": [], "corrected-prediction": ""}, "preference": [None] * 6}
    )
    assert [record.kind for record in found] == ["demonstration"]


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (changed("question", to=None), "question", "expected text, got null"),
        (changed("passages", 0, to="text"), "passages[0]", "expected a list of texts: the title, then the sentences"),
        (changed("prediction 3", to=""), "prediction 3", "an output must not be empty"),
        (
            changed("prediction 1", to=None),
            "prediction 1",
            "there is feedback on this prediction, so it must not be null",
        ),
        (changed("preference", to=[1, 2]), "preference", "expected 6 choices, for the pairs 1-2 to 3-4, got 2"),
        (changed("preference", 3, to=3), "preference[3]", "expected 1 (the first), 2 (the second) or 0 (a tie)"),
        (changed("preference", 3, to=[1]), "preference[3]", "expected 1 (the first), 2 (the second) or 0 (a tie)"),
        (changed("preference", 3, to=True), "preference[3]", "expected 1 (the first), 2 (the second) or 0 (a tie)"),
        (changed("feedback", to=[]), "feedback", "expected an object, got a list"),
        (changed("feedback", to={}), "feedback.errors", "expected a list, got null"),
        (changed("feedback", "errors", 0, to=7), "feedback.errors[0]", "expected an object, got a number"),
        (
            changed("feedback", "errors", 0, "start", to=-1),
            "feedback.errors[0].start",
            "expected a number of characters",
        ),
        (
            changed("feedback", "errors", 0, "end", to=0),
            "feedback.errors[0].end",
            "expected more than `start`, which is 0",
        ),
        (
            changed("feedback", "errors", 1, "end", to=99),
            "record",
            "spans[1]: expected 0 <= start < end <= 36, the output's length in characters, got start 25 and end 99",
        ),
        (
            changed("feedback", "missing-info", 0, "passage_id", to=3),
            "feedback.missing-info[0].passage_id",
            "expected the number of a passage, from 1 to 2",
        ),
        (
            changed("feedback", "missing-info", 0, "sentence_id", to=[3]),
            "feedback.missing-info[0].sentence_id",
            "expected numbers of sentences, from 0 to 2",
        ),
        (
            changed("feedback", "corrected-prediction", to=7),
            "feedback.corrected-prediction",
            "expected text, got a number",
        ),
    ],
)
def test_a_bad_row_is_rejected_as_a_whole(row: dict[str, Any], field: str, reason: str) -> None:
    (found,) = read([row])
    assert isinstance(found, Reject)
    assert (found.field, found.reason) == (field, reason)


def without_ids(found: list[Any]) -> list[Any]:
    return [record.model_dump(exclude={"id", "time"}) for record in found]


@pytest.mark.parametrize("name", ["qa.json", "qa.jsonl", "qa.csv", "qa.parquet"])
def test_a_row_comes_back_from_its_records_in_any_container(tmp_path: Path, name: str) -> None:
    if name == "qa.parquet":
        pytest.importorskip("pyarrow")
    found = records(ROW, name="qa")
    report = write(found, tmp_path / name, format="qa-feedback")
    assert (report.written, report.rows, report.dropped) == (10, 1, {})
    came_back = [result.record for result in read(tmp_path / name, name="qa")]  # type: ignore[union-attr]
    exclude = {"id", "time"} if name in ("qa.json", "qa.jsonl") else {"id", "time", "client_id"}  # CSV hashes text
    assert [r.model_dump(exclude=exclude) for r in came_back] == [r.model_dump(exclude=exclude) for r in found]


def test_a_part_of_a_rows_feedback_makes_a_row_with_nulls(tmp_path: Path) -> None:
    found = records(ROW, name="qa")
    some = [found[3], found[8]]
    write(some, tmp_path / "qa.json", format="qa-feedback")
    (row,) = json.loads((tmp_path / "qa.json").read_text())
    assert row == ROW | {
        "gold": None,
        "prediction 4": None,
        "feedback": {"errors": None, "missing-info": [], "corrected-prediction": "Mawhood led them."},
        "preference": [None, None, None, 2, None, None],
    }
    assert [record.kind for record in records(row)] == ["comparison", "edit"]


def test_statements_of_other_contexts_and_kinds_are_not_written() -> None:
    source = Source(name="alice")
    context = qa_context("Who?", [["Title", "He did."]])
    one: dict[str, Any] = {"source": source, "context": context, "outputs": (Output(content="He."),)}
    two: dict[str, Any] = one | {"outputs": (Output(content="He."), Output(content="She."))}
    dump = FORMATS["qa-feedback"].dump
    assert dump(Spans(**one | {"context": Context(content="Who?")}, spans=())) == NotHeld(
        "a context that is not a question with passages"
    )
    assert dump(Verdict(**one, outcome="pass")) == NotHeld("a verdict")
    assert dump(Comparison(**two, choice="cannot_judge")) == NotHeld("a comparison nobody could judge")
    assert dump(Comparison(**two, choice="a", aspect="tone")) == NotHeld("a comparison by one aspect")
    assert dump(Critique(**one, critique="Short.")) == NotHeld("a critique that is not of missing information")
    assert dump(Edit(**one, edited="")) == NotHeld("an edit that is not text, or empty")
    assert dump(Spans(**one | {"outputs": (Output(content=""),)}, spans=())) == NotHeld(
        "an output that is not text, or empty"
    )
    assert dump(Comparison(**two, choice="tie"))["preference"] == [0, None, None, None, None, None]  # type: ignore[index]


@pytest.mark.skipif(
    not REAL.is_file(), reason=f"{REAL} is not there: it is data beside the checkout, not of the project"
)
def test_the_real_file_gives_what_its_description_counts_and_comes_back_whole(tmp_path: Path) -> None:
    found = [result.record for result in read(REAL)]  # type: ignore[union-attr]
    kinds = Counter(record.kind for record in found)
    assert kinds == {"comparison": 3000, "spans": 500, "critique": 842, "edit": 487, "demonstration": 500}
    choices = Counter(record.choice for record in found if isinstance(record, Comparison))
    assert choices == {"a": 1577, "b": 1039, "tie": 384}
    types = Counter(span.type for record in found if isinstance(record, Spans) for span in record.spans)
    assert types.total() == 1373
    assert types == {"Irrelevant": 909, "Wrong-Grounding": 163, "Unverifiable": 152, "Redundant": 133, "Incoherent": 16}
    assert len({record.context.digest for record in found}) == 500
    report = write(found, tmp_path / REAL.name, format="qa-feedback")
    assert (report.written, report.rows, report.dropped) == (len(found), 500, {})
    assert json.loads((tmp_path / REAL.name).read_text()) == json.loads(REAL.read_text())
    came_back = [result.record for result in read(tmp_path / REAL.name)]  # type: ignore[union-attr]
    assert without_ids(came_back) == without_ids(found)
