"""TRL's preferences with explicit and implicit prompts, read as TRL reads them, and written for TRL."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plaudit.feedback.formats import FORMATS, NotHeld, Parsed, Reject, read, write
from plaudit.feedback.records import (
    Chat,
    Comparison,
    Context,
    Demonstration,
    Item,
    Message,
    Output,
    Producer,
    Source,
    Text,
    Tokens,
)

ALICE = Source(name="alice", kind="person")
SKY = [{"role": "user", "content": "What color is the sky?"}]
BLUE = [{"role": "assistant", "content": "It is blue."}]
GREEN = [{"role": "assistant", "content": "It is green."}]


def one(row: dict[str, Any], name: str | None = None, **options: Any) -> Any:
    (found,) = read([row], format=name, source=ALICE, **options)
    assert isinstance(found, Parsed), found
    return found.record


def rejected(row: dict[str, Any], name: str | None = None) -> tuple[str, str]:
    (found,) = read([row], format=name)
    assert isinstance(found, Reject), found
    return found.field, found.reason


def sides(record: Any) -> tuple[Any, ...]:
    """A record's contents as TRL writes them."""
    contents = [record.context.content, *(output.content for output in record.outputs)]
    return tuple(
        content.text if isinstance(content, Text) else [message.model_dump() for message in content.messages]
        for content in contents
    )


def comparison(context: Any, a: Any, b: Any, **fields: Any) -> Comparison:
    fields = {"choice": "a"} | fields
    outputs = (Output(content=a), Output(content=b))
    return Comparison(source=ALICE, context=Context(content=context), outputs=outputs, **fields)


# --- preferences: reading ------------------------------------------------------------------------------------------


def test_an_explicit_plain_prompt() -> None:
    record = one({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."})
    assert isinstance(record, Comparison)
    assert (record.choice, record.strength, record.source) == ("a", None, ALICE)
    assert sides(record) == ("The sky is", " blue.", " green.")


def test_an_explicit_conversational_prompt() -> None:
    record = one({"prompt": SKY, "chosen": BLUE, "rejected": GREEN})
    assert sides(record) == (SKY, BLUE, GREEN)


def test_an_implicit_plain_prompt_gives_back_its_last_space() -> None:
    record = one({"chosen": "The sky is blue.", "rejected": "The sky is green."})
    assert sides(record) == ("The sky is", " blue.", " green.")


def test_an_implicit_conversational_prompt() -> None:
    assert sides(one({"chosen": SKY + BLUE, "rejected": SKY + GREEN})) == (SKY, BLUE, GREEN)


def test_a_prompt_as_text_beside_chats_is_read_from_the_chats() -> None:
    """HuggingFaceH4/ultrafeedback_binarized and others repeat the prompt; what is not repeated is kept."""
    row = {"prompt": SKY[0]["content"], "chosen": SKY + BLUE, "rejected": SKY + GREEN}
    assert sides(one(row)) == (SKY, BLUE, GREEN)
    assert one(row).attributes == {}
    assert one(row | {"prompt": "sky-17"}).attributes == {"prompt": "sky-17"}
    assert sides(one({"prompt": "sky?", "chosen": BLUE, "rejected": GREEN})) == ("sky?", BLUE, GREEN)


def test_scores_and_other_columns_are_kept_as_attributes() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 8.5, "score_rejected": 3, "topic": "sky"}
    record = one(row | {"unsaid": None, "empty": ""})
    assert record.attributes == {"score_chosen": 8.5, "score_rejected": 3, "topic": "sky"}
    assert record.strength is None


def test_the_margin_says_who_when_and_how_clearly() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "strength": 0.7, "aspect": "tone", "source": "bob"}
    row |= {"source_kind": "judge", "time": "2026-01-31T12:00:00Z", "client_id": "form-17", "chosen_model": "m-7b"}
    record = one(row)
    assert (record.strength, record.aspect, record.client_id) == (0.7, "tone", "form-17")
    assert record.source == Source(name="bob", kind="judge")
    assert record.time == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert record.outputs[0].producer == Producer(model="m-7b")
    assert record.outputs[1].producer is None


@pytest.mark.parametrize(
    ("columns", "source"),
    [
        ({"annotator": "eve"}, Source(name="eve", kind="person")),
        ({"user": 17}, Source(name="17", kind="user")),
        ({"source": {"name": "gpt", "kind": "judge"}, "user": "u"}, Source(name="gpt", kind="judge")),
        ({"source": "bob"}, Source(name="bob", kind="person")),
        ({"source": None, "user": ""}, ALICE),
    ],
)
def test_who_said_it_is_read_from_the_row_where_it_says(columns: dict[str, Any], source: Source) -> None:
    assert one({"prompt": "p", "chosen": "a", "rejected": "b"} | columns).source == source


@pytest.mark.parametrize(
    "time", ["2026-01-31 12:00:00", 1769860800, 1769860800.0, "1769860800", "2026-01-31T13:00:00+01:00"]
)
def test_times_are_iso_8601_or_unix_seconds_and_utc_without_a_zone(time: Any) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "time": time}
    assert one(row).time == datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"prompt": "p", "chosen": "a"}, "rejected", "the column is missing"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, "rejected", "expected text or a list of messages, got null"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "rejected", "an output must not be empty"),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "prompt", "expected text or a list of messages, got null"),
        (
            {"prompt": SKY, "chosen": BLUE, "rejected": "b"},
            "rejected",
            "expected text or messages alike in `chosen` and `rejected`",
        ),
        (
            {"prompt": SKY, "chosen": [{"role": "assistant"}], "rejected": GREEN},
            "chosen[0].content",
            "expected text, got null",
        ),
        (
            {"prompt": SKY, "chosen": [{"content": "x"}], "rejected": GREEN},
            "chosen[0].role",
            "expected the name of a role, got null",
        ),
        (
            {"prompt": SKY, "chosen": ["x"], "rejected": GREEN},
            "chosen[0]",
            "expected a message with `role` and `content`, got text",
        ),
        (
            {"prompt": SKY, "chosen": [BLUE[0] | {"tool_calls": [1]}], "rejected": GREEN},
            "chosen[0].tool_calls",
            "a message has `role` and `content`; anything else would be lost",
        ),
        (
            {"chosen": BLUE, "rejected": GREEN},
            "chosen",
            "`chosen` and `rejected` begin with different messages, and there is no `prompt`",
        ),
        (
            {"chosen": "same", "rejected": "same"},
            "rejected",
            "`chosen` and `rejected` are the same, so there is no telling where answers begin",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "strength": 2},
            "strength",
            "Input should be less than or equal to 1",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": "8"},
            "score_chosen",
            "expected a number, got text",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "time": "noon"},
            "time",
            "expected an ISO 8601 time such as 2026-01-31T12:00:00Z, or Unix seconds",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "source": "a", "source_kind": "cat"},
            "source_kind",
            "expected one of person, user, judge, program, simulated, unknown",
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "client_id": 1.5}, "client_id", "expected text, got a number"),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "attributes": "x"},
            "attributes",
            "expected an object, got text",
        ),
    ],
)
def test_a_bad_row_is_rejected_with_the_column_and_the_reason(row: dict[str, Any], field: str, reason: str) -> None:
    assert rejected(row, "trl-preference") == (field, reason)


def test_a_lost_prompt_is_not_taken_for_an_implicit_one() -> None:
    whole = {"prompt": "The sky is", "chosen": " blue.", "rejected": " brown."}
    found = list(read([{"chosen": " blue.", "rejected": " brown."}, whole]))
    assert isinstance(found[0], Reject)
    assert (found[0].field, found[0].reason) == ("prompt", "the column is missing")


def test_null_keys_of_messages_which_tables_fill_in_are_no_loss() -> None:
    filled = [{**BLUE[0], "tool_calls": None, "name": None}]
    assert sides(one({"prompt": SKY, "chosen": filled, "rejected": GREEN})) == (SKY, BLUE, GREEN)


# --- preferences: the same as TRL ----------------------------------------------------------------------------------

messages = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "assistant"]),
    st.sampled_from(["a", "b", "c d"]),
)
chats = st.lists(messages, min_size=1, max_size=4)
plain = st.text("ab c", min_size=1, max_size=8)


def trl_sides(row: dict[str, Any]) -> tuple[Any, ...]:
    trl = pytest.importorskip("trl.data_utils")
    found = trl.maybe_extract_prompt(copy.deepcopy(row))
    return found["prompt"], found["chosen"], found["rejected"]


@settings(max_examples=300, deadline=None)
@given(prefix=plain | st.just(""), chosen=plain, rejected=plain)
def test_plain_texts_are_divided_as_trl_divides_them(prefix: str, chosen: str, rejected: str) -> None:
    row = {"chosen": prefix + chosen, "rejected": prefix + rejected}
    if row["chosen"] == row["rejected"]:
        assert rejected_field(row) == "rejected"
        return
    if row["chosen"][0] != row["rejected"][0]:  # the one deviation: TRL then takes the last character for the first
        assert sides(one(row)) == ("", row["chosen"], row["rejected"])
        return
    assert sides(one(row)) == trl_sides(row)


def rejected_field(row: dict[str, Any]) -> str:
    return rejected(row, "trl-preference")[0]


@settings(max_examples=200, deadline=None)
@given(prefix=st.lists(messages, max_size=3), chosen=chats, rejected=chats)
def test_chats_are_divided_as_trl_divides_them(prefix: list[Any], chosen: list[Any], rejected: list[Any]) -> None:
    row = {"chosen": prefix + chosen, "rejected": prefix + rejected}
    if row["chosen"] == row["rejected"]:
        assert rejected_field(row) == "rejected"
    elif not trl_sides(row)[0]:
        assert rejected_field(row) == "chosen"
    else:
        assert sides(one(row)) == trl_sides(row)


@settings(max_examples=100, deadline=None)
@given(prompt=chats, chosen=chats, rejected=chats, text=plain)
def test_explicit_prompts_are_taken_as_trl_takes_them(prompt: Any, chosen: Any, rejected: Any, text: str) -> None:
    chat_row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert sides(one(chat_row)) == trl_sides(chat_row)
    text_row = {"prompt": text, "chosen": text + "x", "rejected": text + "y"}
    assert sides(one(text_row)) == trl_sides(text_row)
    assume(prompt + chosen != prompt + rejected)
    mixed = {"prompt": text, "chosen": prompt + chosen, "rejected": prompt + rejected}
    assert sides(one(mixed)) == trl_sides(mixed)


def test_rows_that_were_written_are_what_trl_takes(tmp_path: Path) -> None:
    """A chat beside a text is written as chats, because TRL takes no mixture."""
    trl = pytest.importorskip("trl.data_utils")
    record = comparison("sky?", Chat(messages=(Message(role="assistant", content="blue"),)), "green")
    row: Any = FORMATS["trl-preference"].dump(record)
    assert row["prompt"] == [{"role": "user", "content": "sky?"}]
    assert row["rejected"] == [{"role": "assistant", "content": "green"}]
    assert all(trl.is_conversational({column: row[column]}) for column in ("prompt", "chosen", "rejected"))
    assert trl.maybe_extract_prompt(dict(row)) == row


# --- preferences: writing ------------------------------------------------------------------------------------------


def test_the_better_output_is_written_as_chosen() -> None:
    record = comparison(
        "p", "bad", "good", choice="b", strength=0.5, aspect="tone", attributes={"score_chosen": 2, "x": 1}
    )
    row: Any = FORMATS["trl-preference"].dump(record)
    time = record.time.isoformat()
    assert row == {
        "prompt": "p", "chosen": "good", "rejected": "bad", "strength": 0.5, "aspect": "tone", "score_chosen": 2, "x": 1,
        "source": "alice", "source_kind": "person", "time": time,
    }  # fmt: skip


def test_attributes_that_no_column_can_have_travel_in_one() -> None:
    attributes = {
        "prompt": "clash",
        "label": 1,
        "time": 3,
        "score_chosen": "high",
        "none": None,
        " x": 1,
        "": 2,
        "ok": [1],
    }
    record = comparison("p", "a", "b", attributes=attributes)
    row: Any = FORMATS["trl-preference"].dump(record)
    assert row["ok"] == [1]
    assert row["attributes"] == {name: value for name, value in attributes.items() if name != "ok"}
    assert one(row).attributes == attributes


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (comparison("p", "a", "b", choice="tie"), "a comparison that is a tie"),
        (comparison("p", "a", "b", choice="cannot_judge"), "a comparison nobody could judge"),
        (comparison("p", "a", ""), "an empty output"),
        (comparison("p", "a", Item(id="film-1")), "neither text nor chat"),
        (Demonstration(source=ALICE, context=Context(content="p"), outputs=(Output(content="a"),)), "a demonstration"),
    ],
)
def test_what_the_format_cannot_hold_is_dropped_by_reason(record: Any, reason: str, tmp_path: Path) -> None:
    assert FORMATS["trl-preference"].dump(record) == NotHeld(reason)
    report = write([record, comparison("p", "a", "b"), record], tmp_path / "out.jsonl", format="trl-preference")
    assert (report.written, report.rows, report.dropped) == (1, 1, {reason: 2})


def test_tokens_are_written_as_their_text() -> None:
    record = comparison("p", Tokens(ids=(1, 2), tokenizer="t", text="blue"), "green")
    assert FORMATS["trl-preference"].dump(record)["chosen"] == "blue"  # type: ignore[index]
