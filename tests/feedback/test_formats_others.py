"""Rows as others have them: native records, rankings and scores, HH-RLHF transcripts, thumbs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from plaudit.feedback.formats import FORMATS, NotHeld, Parsed, Reject, read
from plaudit.feedback.records import (
    Chat,
    Comparison,
    Context,
    Message,
    Output,
    Producer,
    Ranking,
    Rating,
    Reaction,
    Source,
    Text,
)

ALICE = Source(name="alice", kind="person")


def parsed(rows: list[Any], form: str | None = None, **options: Any) -> list[Any]:
    found = list(read(rows, format=form, source=ALICE, **options))
    assert all(isinstance(result, Parsed) for result in found), found
    return [result.record for result in found]  # type: ignore[union-attr]


def rejected(row: dict[str, Any], name: str | None = None) -> tuple[str, str]:
    (found,) = read([row], format=name)
    assert isinstance(found, Reject), found
    return found.field, found.reason


def texts(record: Any) -> list[str]:
    return [output.text for output in record.outputs]


# --- native --------------------------------------------------------------------------------------------------------

RATING = {
    "kind": "rating",
    "source": {"name": "eve", "kind": "person"},
    "context": {"content": "Capital of France?"},
    "outputs": [{"content": [{"role": "assistant", "content": "Paris"}]}],
    "value": 5,
    "low": 1,
    "high": 5,
}


def test_a_native_row_is_a_record() -> None:
    (record,) = parsed([RATING | {"id": "r-1"}])
    assert isinstance(record, Rating)
    assert (record.id, record.client_id, record.source.name, record.value) == ("r-1", None, "eve", 5.0)
    assert record.context.content == Text(text="Capital of France?")


def test_a_native_row_without_an_id_or_a_source_gets_the_imports() -> None:
    (record,) = parsed([{name: value for name, value in RATING.items() if name != "source"}], "plaudit", name="x")
    assert record.source == ALICE
    assert record.client_id.startswith("x:1:")
    (record,) = parsed([RATING | {"client_id": "form-17"}])
    assert record.client_id == "form-17"


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"value": 6}, "rating", "value: expected a value from 1.0 to 5.0, got 6.0"),
        ({"valeu": 6}, "rating.valeu", "Extra inputs are not permitted"),
        (
            {"kind": "ratings"},
            "record",
            "Input tag 'ratings' found using 'kind' does not match any of the expected tags",
        ),
        ({"outputs": []}, "rating.outputs", "Tuple should have at least 1 item after validation, not 0"),
        ({"value": "high", "low": None}, "rating.value", "Input should be a valid number"),
    ],
)
def test_a_native_row_with_a_mistake_is_rejected(change: dict[str, Any], field: str, reason: str) -> None:
    found_field, found_reason = rejected(RATING | change, "plaudit")
    assert found_field == field
    assert found_reason.startswith(reason)


def test_several_mistakes_of_a_row_are_one_reject() -> None:
    _, reason = rejected(RATING | {"value": "high", "low": None}, "plaudit")
    assert reason.endswith("(and 1 more: rating.low)")


# --- ranked --------------------------------------------------------------------------------------------------------

THREE: dict[str, Any] = {"prompt": "Capital of France?", "completions": ["Paris", "Lyon", "Rome"]}


def test_ranks_are_tiers_with_ties_and_unranked_outputs() -> None:
    (record,) = parsed([THREE | {"ranks": [2, 1, 2], "models": ["a", None, "b"], "aspect": "truth"}])
    assert isinstance(record, Ranking)
    assert (record.tiers, record.aspect) == (((1,), (0, 2)), "truth")
    assert [output.producer for output in record.outputs] == [Producer(model="a"), None, Producer(model="b")]
    (record,) = parsed([THREE | {"ranks": [7, None, 3]}])
    assert record.tiers == ((2,), (0,))


def test_scores_on_a_scale_are_ratings() -> None:
    found = parsed([THREE | {"scores": [9, None, 1], "low": 1, "high": 10}], name="x")
    assert [type(record) for record in found] == [Rating, Rating]
    assert [(record.value, record.low, record.high, texts(record)) for record in found] == [
        (9.0, 1.0, 10.0, ["Paris"]),
        (1.0, 1.0, 10.0, ["Rome"]),
    ]
    assert [record.client_id[-2:] for record in found] == ["#1", "#2"]


def test_scores_without_a_scale_are_a_ranking_and_kept() -> None:
    (record,) = parsed([THREE | {"scores": [-0.5, 2.25, -0.5]}])
    assert record.tiers == ((1,), (0, 2))
    assert record.attributes == {"scores": [-0.5, 2.25, -0.5]}


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"ranks": [1, 2]}, "ranks", "expected one value for each of the 3 completions, got 2"),
        ({"ranks": [1, 2, "x"]}, "ranks[2]", "expected a number, got text"),
        ({"ranks": [None] * 3}, "ranks", "expected at least one value that is not null"),
        ({"ranks": [1, 2, 3], "models": ["a", 7, "b"]}, "models[1]", "expected text, got a number"),
        ({"ranks": [1, 2, 3], "completions": ["a", "", "b"]}, "completions[1]", "an output must not be empty"),
        ({"ranks": None}, "ranks", "expected `ranks` or `scores`, and both are missing"),
        ({"scores": [1, 2, 11], "low": 1, "high": 10}, "scores[2]", "expected a score from 1.0 to 10.0"),
        ({"scores": [1, 2, 3], "low": 5, "high": 1}, "low", "expected less than `high`, which is 1.0"),
        ({"scores": [None] * 3, "low": 1, "high": 5}, "scores", "expected at least one value that is not null"),
        ({"ranks": [1, 2, 3], "completions": "Paris"}, "completions", "expected a list, got text"),
    ],
)
def test_a_bad_ranking_is_rejected(change: dict[str, Any], field: str, reason: str) -> None:
    assert rejected(THREE | change, "ranked") == (field, reason)


def test_a_ranked_table_spells_its_lists_as_json(tmp_path: Path) -> None:
    path = tmp_path / "ranked.csv"
    path.write_text('prompt,completions,ranks\nCapital?,"[""Paris"", ""[1, 2]""]","[2, 1]"\n')
    (record,) = (found.record for found in read(path))  # type: ignore[union-attr]
    assert texts(record) == ["Paris", "[1, 2]"]
    assert record.tiers == ((1,), (0,))


# --- HH-RLHF -------------------------------------------------------------------------------------------------------

PIE = "\n\nHuman: What kind of pie?\n\nAssistant: Any: apple\n\nor cherry. \n\nHuman: Cherry?\n\nAssistant:"


def test_transcripts_are_divided_into_turns_and_share_their_context() -> None:
    (record,) = parsed([{"chosen": PIE + " Yes.", "rejected": PIE + " No\n\nway. "}])
    assert isinstance(record, Comparison)
    assert record.context.content == Chat(
        messages=(
            Message(role="user", content="What kind of pie?"),
            Message(role="assistant", content="Any: apple\n\nor cherry. "),
            Message(role="user", content="Cherry?"),
        )
    )
    assert [output.content.messages for output in record.outputs] == [  # type: ignore[union-attr]
        (Message(role="assistant", content="Yes."),),
        (Message(role="assistant", content="No\n\nway. "),),
    ]


def test_a_transcript_that_goes_on_keeps_its_turns() -> None:
    more = " Yes.\n\nHuman: Thanks\n\nAssistant: Welcome."
    (record,) = parsed([{"chosen": PIE + more, "rejected": PIE + " No."}])
    assert texts(record) == ["Yes.\nThanks\nWelcome.", "No."]
    assert FORMATS["hh-rlhf"].dump(record) == {"chosen": PIE + more, "rejected": PIE + " No."}


@pytest.mark.parametrize(
    ("chosen", "rejected_", "field", "reason"),
    [
        (PIE + " Yes.", PIE, "rejected", "an output must not be empty"),
        (
            PIE + " Yes.",
            PIE + " Yes.",
            "rejected",
            "`chosen` and `rejected` are the same, so there is no telling where answers begin",
        ),
        (
            PIE + " Yes.",
            "\n\nHuman: Hi\n\nAssistant: Hi",
            "rejected",
            "`chosen` and `rejected` are answers to different dialogues",
        ),
        (
            PIE + " Yes.",
            PIE.replace("Cherry?", "Apple?") + " No.",
            "chosen",
            "the transcripts part at a turn of the human; expected them to part at an answer",
        ),
        ("Yes.", PIE, "chosen", r'expected a transcript that begins with "\n\nHuman:"'),
        (17, PIE, "chosen", "expected text, got a number"),
    ],
)
def test_transcripts_that_do_not_part_at_an_answer_are_rejected(
    chosen: Any, rejected_: str, field: str, reason: str
) -> None:
    assert rejected({"chosen": chosen, "rejected": rejected_}, "hh-rlhf") == (field, reason)


def test_what_a_transcript_would_divide_otherwise_is_not_written() -> None:
    def dump(context: Any, a: Any, b: Any) -> Any:
        outputs = (Output(content=a), Output(content=b))
        return FORMATS["hh-rlhf"].dump(
            Comparison(source=ALICE, context=Context(content=context), outputs=outputs, choice="a")
        )

    assert dump("Hi", "a", "b") == {
        "chosen": "\n\nHuman: Hi\n\nAssistant: a",
        "rejected": "\n\nHuman: Hi\n\nAssistant: b",
    }
    otherwise = NotHeld("a chat that a transcript would divide otherwise")
    assert dump("Hi", "a\n\nHuman: b", "b") == otherwise
    assert dump("Hi", "same", "same") == otherwise
    system = Chat(messages=(Message(role="system", content="s"),))
    assert dump(system, "a", "b") == NotHeld("a chat with other roles than user and assistant")


# --- thumbs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thumb", "sentiment"),
    [
        *((thumb, 1) for thumb in ("up", "UP ", "1", 1, "+1", "true", True, "👍", "yes", "thumb_up")),
        *((thumb, -1) for thumb in ("down", "0", 0, "-1", -1, "False", False, "👎", "no")),
    ],
)
def test_thumbs_are_spelt_in_many_ways(thumb: Any, sentiment: int) -> None:
    (record,) = parsed([{"prompt": "p", "completion": "c", "thumb": thumb}])
    assert (record.kind, record.sentiment) == ("reaction", sentiment)


def test_thumbs_in_a_table_say_who_when_and_which_model(tmp_path: Path) -> None:
    path = tmp_path / "thumbs.csv"
    path.write_text(
        "prompt,completion,thumb,user,time,model,page\nq,a,👍,bob,2026-01-31T12:00:00,demo-7b,7\nq,b,down,,,,\n"
    )
    up, down = (found.record for found in read(path))  # type: ignore[union-attr]
    assert (up.source, up.time) == (Source(name="bob", kind="user"), datetime(2026, 1, 31, 12, tzinfo=UTC))
    assert (up.outputs[0].producer, up.attributes) == (Producer(model="demo-7b"), {"page": "7"})
    assert (down.source, down.outputs[0].producer, down.attributes) == (Source(name="thumbs.csv"), None, {})


@pytest.mark.parametrize("thumb", ["sideways", "", None, 2, 1.0, ["up"]])
def test_a_thumb_is_up_or_down(thumb: Any) -> None:
    assert rejected({"prompt": "p", "completion": "c", "thumb": thumb}) == ("thumb", "expected up or down")


def test_a_reaction_that_is_no_thumb_is_not_written() -> None:
    fields: dict[str, Any] = {"source": ALICE, "context": Context(content="p"), "outputs": (Output(content="c"),)}
    assert FORMATS["thumbs"].dump(Reaction(**fields, symbol="❤️")) == NotHeld("a reaction that is not a thumb")
    assert FORMATS["thumbs"].dump(Reaction(**fields, symbol="👎"))["thumb"] == "down"  # type: ignore[index]
