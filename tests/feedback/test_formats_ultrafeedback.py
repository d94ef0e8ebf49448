"""UltraFeedback: ratings by aspect, overall scores and critiques, and the way back into rows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.feedback.strategies import attributes, names, texts

from plaudit.feedback.formats import FORMATS, NotHeld, Parsed, Reject, read, write
from plaudit.feedback.records import (
    Context,
    Critique,
    Output,
    Producer,
    Rating,
    Reaction,
    Source,
    Text,
)

ALICE = Source(name="alice", kind="person")
CAIRO: dict[str, Any] = {
    "source": "sharegpt",
    "instruction": "I am going to Cairo in June. What are the best things I could do?",
    "models": ["falcon-40b-instruct", "gpt-4"],
    "completions": [
        {
            "annotations": {
                "helpfulness": {
                    "Rating": "3",
                    "Rationale": "Clear and relevant.",
                    "Rationale For Rating": "Does not address the family's needs.",
                    "Type": ["1", "2"],
                },
                "honesty": {"Rating": "N/A", "Rationale": "No claims are made."},
                "instruction_following": {"Rating": "2", "Rationale": "Addresses the goal only partially."},
                "truthfulness": {
                    "Rating": "3",
                    "Rationale": "No rafting on the Nile.",
                    "Rationale For Rating": "Partly made up.",
                    "Type": ["1"],
                },
            },
            "critique": "Consider the walking ability of the grandparents.",
            "custom_system_prompt": "As an AI assistant, be accurate and positive.",
            "fine-grained_score": 2.67,
            "model": "falcon-40b-instruct",
            "overall_score": 6.5,
            "principle": "helpfulness",
            "response": "See the pyramids, and go rafting on the Nile!",
        },
        {
            "annotations": {"honesty": {"Rating": "5", "Rationale": "Confident and right."}},
            "critique": "Excellent.",
            "custom_system_prompt": "Be truthful.",
            "fine-grained_score": 5.0,
            "model": "gpt-4",
            "overall_score": 9.0,
            "principle": "truthfulness",
            "response": "With grandparents: a felucca at sunset.",
        },
    ],
    "correct_answers": ["None"],
    "incorrect_answers": ["None"],
}


def parsed(rows: list[Any], form: str | None = None, **options: Any) -> list[Any]:
    found = list(read(rows, format=form, source=ALICE, **options))
    assert all(isinstance(result, Parsed) for result in found), found
    return [result.record for result in found]  # type: ignore[union-attr]


def rejected(row: dict[str, Any], name: str | None = None) -> tuple[str, str]:
    (found,) = read([row], format=name)
    assert isinstance(found, Reject), found
    return found.field, found.reason


def test_a_row_gives_ratings_by_aspect_overall_ratings_and_critiques_with_their_producers() -> None:
    reading = read([CAIRO], source=Source(name="gpt-4", kind="judge"), name="uf")
    found = [result.record for result in reading]  # type: ignore[union-attr]
    assert [
        (record.kind, getattr(record, "value", None), record.aspect, record.attributes["completion"])
        for record in found
    ] == [
        ("rating", 3.0, "helpfulness", 0),
        ("rating", 2.0, "instruction_following", 0),
        ("rating", 3.0, "truthfulness", 0),
        ("rating", 6.5, "overall", 0),
        ("critique", None, "overall", 0),
        ("rating", 5.0, "honesty", 1),
        ("rating", 9.0, "overall", 1),
        ("critique", None, "overall", 1),
    ]
    assert reading.skipped == {"rating of honesty is N/A": 1}
    aspect, overall = found[0], found[3]
    assert (aspect.low, aspect.high, overall.low, overall.high) == (1, 5, 1, 10)
    assert aspect.attributes["annotation"]["Rationale For Rating"] == "Does not address the family's needs."
    assert overall.attributes == {"completion": 0, "fine-grained_score": 2.67}
    assert aspect.outputs[0].producer == Producer(
        model="falcon-40b-instruct",
        prompt="As an AI assistant, be accurate and positive.",
        sampler={"principle": "helpfulness"},
    )
    assert aspect.context.attributes == {
        "source": "sharegpt", "correct_answers": ["None"], "incorrect_answers": ["None"],
    }  # fmt: skip
    assert aspect.source == Source(name="gpt-4", kind="judge")
    assert found[4].critique == "Consider the walking ability of the grandparents."


def test_ultrafeedback_goes_back_into_one_row_each(tmp_path: Path) -> None:
    known = copy.deepcopy(CAIRO)
    del known["completions"][0]["annotations"]["honesty"]  # N/A: nobody said anything that could be kept
    rows = [known, known, known | {"instruction": "Which food?"}]
    found = parsed(rows)
    report = write(reversed(found), tmp_path / "out.jsonl", format="ultrafeedback")
    assert (report.written, report.rows, report.dropped) == (len(found), 3, {})
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(written, key=str) == sorted(rows, key=str)


def test_an_annotation_may_be_a_list_of_one_as_in_the_first_version() -> None:
    first = copy.deepcopy(CAIRO)
    first["completions"][1]["annotations"] = {"honesty": [{"Rating": "4"}], "truthfulness": None}
    found = parsed([first])
    assert [record.value for record in found if record.aspect == "honesty"] == [4.0]


@pytest.mark.parametrize(
    ("place", "value", "field", "reason"),
    [
        ("response", "", "completions[0].response", "an output must not be empty"),
        ("response", 7, "completions[0].response", "expected text, got a number"),
        ("overall_score", 85, "completions[0].overall_score", "expected a rating from 1 to 10"),
        (
            "annotations",
            {"honesty": {"Rating": "six"}},
            "completions[0].annotations.honesty.Rating",
            "expected a number",
        ),
        ("annotations", {"honesty": "5"}, "completions[0].annotations.honesty", "expected an object, got text"),
        ("annotations", ["5"], "completions[0].annotations", "expected an object, got a list"),
        ("critique", ["x"], "completions[0].critique", "expected text, got a list"),
        ("model", None, "completions[0].model", "expected the model that was given this system prompt"),
    ],
)
def test_a_bad_completion_is_rejected(place: str, value: Any, field: str, reason: str) -> None:
    row = copy.deepcopy(CAIRO)
    row["completions"][0][place] = value
    assert rejected(row) == (field, reason)


def test_statements_that_ultrafeedback_has_no_place_for_are_not_written() -> None:
    context, output = Context(content="p"), Output(content="c")
    fields: dict[str, Any] = {"source": ALICE, "context": context, "outputs": (output,)}
    dump = FORMATS["ultrafeedback"].dump
    assert dump(Rating(**fields, value=1, low=0, high=1)) == NotHeld("a rating that is not from 1 to 10")
    assert dump(Rating(**fields, value=1, low=1, high=10, aspect="tone")) == NotHeld("a rating that is not from 1 to 5")
    assert dump(Critique(**fields, critique="x", aspect="tone")) == NotHeld("a critique of one aspect")
    assert dump(Reaction(**fields, symbol="👍")) == NotHeld("a reaction")
    row: Any = dump(Critique(**fields, critique="x"))
    assert row["completions"][0]["critique"] == "x"
    assert row["models"] == [None]


def test_two_ratings_of_one_completion_by_one_source_make_two_rows(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"source": ALICE, "context": Context(content="p"), "low": 1, "high": 10}
    ratings = [
        Rating(**fields, outputs=(Output(content=text),), value=value) for text, value in (("a", 3), ("b", 4), ("a", 5))
    ]
    report = write(ratings, tmp_path / "out.jsonl", format="ultrafeedback")
    assert (report.written, report.rows) == (3, 2)
    assert sorted(record.value for record in (found.record for found in read(tmp_path / "out.jsonl"))) == [3, 4, 5]  # type: ignore[union-attr]


@st.composite
def judged(draw: st.DrawFn) -> Any:
    """A rating or critique that UltraFeedback has a place for."""
    makers = st.none() | st.builds(Producer, model=names(), prompt=st.none() | texts(min_size=1))
    output = Output(content=Text(text=draw(texts(min_size=1))), producer=draw(makers))
    aspect = draw(st.sampled_from(["overall", "honesty"]))
    extra = draw(st.just({}) | attributes().map(lambda found: {k: v for k, v in found.items() if v is not None}))
    fields: dict[str, Any] = {
        "context": Context(content=draw(texts(max_size=3)), attributes=draw(st.just({}) | st.just({"topic": [1]}))),
        "outputs": (output,),
        "source": draw(st.sampled_from([ALICE, Source(name="bob")])),
        "attributes": extra | {"completion": draw(st.integers(0, 3))},
    }
    if draw(st.booleans()):
        return Critique(**fields, critique=draw(texts(min_size=1)))
    high = 10 if aspect == "overall" else 5
    value = draw(st.floats(1, high) | st.integers(1, high))
    return Rating(**fields, value=value, low=1, high=high, aspect=aspect)


@settings(max_examples=60, deadline=None)
@given(written=st.lists(judged(), min_size=1, max_size=8))
def test_whatever_the_format_can_hold_comes_back(written: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also records that no import made: of several judges, on the same place of a row, with attributes of their own."""
    path = tmp_path_factory.getbasetemp() / "judged.jsonl"
    report = write(written, path, format="ultrafeedback")
    assert report.written == len(written)
    back = [found.record for found in read(path)]  # type: ignore[union-attr]

    def statement(record: Any) -> str:
        said = record.critique if isinstance(record, Critique) else record.value
        return repr((record.context, record.outputs, record.kind, record.aspect, said))

    assert sorted(map(statement, back)) == sorted(map(statement, written))
