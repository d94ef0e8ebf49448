"""TRL's thumbs (unpaired preference) and demonstrations (prompt-completion, language modelling)."""

from __future__ import annotations

from typing import Any

import pytest

from plaudit.feedback.formats import FORMATS, NotHeld, Parsed, Reject, read
from plaudit.feedback.records import (
    Chat,
    Context,
    Demonstration,
    Message,
    Output,
    Producer,
    Reaction,
    Source,
    Text,
)

ALICE = Source(name="alice", kind="person")
SKY = [{"role": "user", "content": "What color is the sky?"}]
BLUE = [{"role": "assistant", "content": "It is blue."}]


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


@pytest.mark.parametrize("chat", [False, True])
def test_unpaired_rows_are_thumbs(chat: bool) -> None:
    row: dict[str, Any] = {"prompt": SKY, "completion": BLUE} if chat else {"prompt": "sky", "completion": "blue"}
    up, down = one(row | {"label": True, "model": "m"}), one(row | {"label": False})
    assert isinstance(up, Reaction)
    assert (up.symbol, up.sentiment, up.outputs[0].producer) == ("thumb_up", 1, Producer(model="m"))
    assert (down.symbol, down.sentiment) == ("thumb_down", -1)
    assert sides(up) == (row["prompt"], row["completion"])


@pytest.mark.parametrize("label", ["true", "yes", 2, -1, None, 0.5, [True]])
def test_a_label_is_true_or_false(label: Any) -> None:
    assert rejected({"prompt": "p", "completion": "c", "label": label}) == (
        "label",
        "expected true (good) or false (bad)",
    )


def test_a_reaction_that_is_no_thumb_keeps_its_symbol() -> None:
    heart = Reaction(source=ALICE, context=Context(content="p"), outputs=(Output(content="c"),), symbol="❤️")
    row: Any = FORMATS["trl-unpaired"].dump(heart)
    assert (row["label"], row["symbol"]) == (True, "❤️")
    back = one(row)
    assert back.model_dump(exclude={"id", "client_id"}) == heart.model_dump(exclude={"id", "client_id"})
    duck = heart.model_copy(update={"symbol": "🦆", "sentiment": None})
    assert FORMATS["trl-unpaired"].dump(duck) == NotHeld("a reaction that is neither good nor bad")


def test_prompt_and_completion_are_a_demonstration() -> None:
    record = one({"prompt": "The sky is", "completion": " blue."})
    assert isinstance(record, Demonstration)
    assert sides(record) == ("The sky is", " blue.")


def test_messages_are_a_demonstration_whose_output_follows_the_last_turn_of_the_user() -> None:
    turns = [*SKY, *BLUE, {"role": "user", "content": "Sure?"}]
    answer = [{"role": "assistant", "content": "Let me look."}, {"role": "tool", "content": "blue"}, *BLUE]
    record = one({"messages": turns + answer, "topic": "sky"})
    assert sides(record) == (turns, answer)
    assert record.attributes == {"topic": "sky"}
    assert FORMATS["trl-language-modeling"].dump(record)["messages"] == turns + answer  # type: ignore[index]


@pytest.mark.parametrize(
    ("messages", "field", "reason"),
    [
        ([], "messages", "expected at least one value, got an empty list"),
        (BLUE, "messages", "expected a turn of the user or the system before the answer"),
        (SKY, "messages", "expected the assistant's turn last, which is the answer"),
        ([*SKY, {"role": "assistant", "content": ""}], "messages[1].content", "an output must not be empty"),
        ("text", "messages", "expected a list, got text"),
    ],
)
def test_messages_without_an_answer_are_rejected(messages: Any, field: str, reason: str) -> None:
    assert rejected({"messages": messages}) == (field, reason)


def test_an_answer_that_could_not_be_told_from_its_context_is_not_written() -> None:
    turns = tuple(Message(**message) for message in [*SKY, *BLUE])
    answer = Output(content=Chat(messages=(Message(role="user", content="?"),)))
    record = Demonstration(source=ALICE, context=Context(content=Chat(messages=turns)), outputs=(answer,))
    reason = "a chat in which the answer cannot be told from the context"
    assert FORMATS["trl-language-modeling"].dump(record) == NotHeld(reason)
