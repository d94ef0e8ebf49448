"""What goes out comes back: every kind through `plaudit`, and through the others whatever they can hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.feedback.strategies import contexts, names, producers, record_of, records, texts

from plaudit.feedback.formats import FORMATS, Parsed, read, write
from plaudit.feedback.records import KINDS, Chat, Comparison, Output, Ranking, Text

CONTAINERS = [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz"]
FLAT = ["trl-preference", "trl-unpaired", "trl-prompt-completion", "trl-language-modeling", "ranked", "thumbs"]
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roundtrip")


def through(written: list[Any], path: Path, format_: str) -> tuple[list[Any], int]:
    """The records that come back, and how many were written."""
    path.unlink(missing_ok=True)
    report = write(written, path, format=format_)
    assert report.written + report.dropped.total() == len(written)
    if not report.written:
        return [], 0
    found = list(read(path, format=format_))
    assert all(isinstance(result, Parsed) for result in found), found
    return [result.record for result in found], report.written  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", CONTAINERS)
@few
@given(written=st.lists(records(), min_size=1, max_size=4))
def test_native_records_come_back_equal_through_every_container(suffix: str, written: list[Any], folder: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    found, _ = through(written, folder / f"native{suffix}", "plaudit")
    assert found == written


@pytest.mark.parametrize("kind", KINDS)
@few
@given(data=st.data())
def test_every_kind_comes_back_equal_from_native_rows(kind: str, data: st.DataObject, folder: Path) -> None:
    record = data.draw(record_of(kind))
    found, _ = through([record], folder / "kind.jsonl", "plaudit")
    assert found == [record]
    assert type(found[0]) is type(record)


# Contents that libraries for text have: one form throughout, nothing empty.
said = st.builds(Text, text=texts(min_size=1))
turns = st.builds(
    lambda contents: Chat(messages=[{"role": "assistant", "content": content} for content in contents]),  # type: ignore[arg-type]
    st.lists(texts(min_size=1), min_size=1, max_size=2),
)
asked = st.builds(
    lambda contents: Chat(messages=[{"role": "user", "content": content} for content in contents]),  # type: ignore[arg-type]
    st.lists(texts(), min_size=1, max_size=2),
)


@st.composite
def plain_records(draw: st.DrawFn, kind: str) -> Any:
    """A record whose contents are all text or all chats, with producers of which a model's name is known."""
    chat = draw(st.booleans())
    count = {"comparison": 2, "ranking": draw(st.integers(1, 4))}.get(kind, 1)
    makers = st.none() | producers().map(lambda maker: maker.model_copy(update={"prompt": None, "sampler": {}}))
    outputs = tuple(Output(content=draw(turns if chat else said), producer=draw(makers)) for _ in range(count))
    context = draw(contexts()).model_copy(update={"content": draw(asked if chat else st.builds(Text, text=texts()))})
    context = context.model_copy(update={"attributes": {}})
    return draw(record_of(kind, context=context, outputs=outputs, shown=None, client_id=draw(names())))


def with_chats(record: Any) -> Any:
    """The record, with a message for each text: of the user in the context, of the assistant in an output."""

    def chat(content: Any, role: str) -> Any:
        return {"messages": [{"role": role, "content": content.text}]} if isinstance(content, Text) else content

    return type(record)(
        **dict(record)
        | {
            "context": {"content": {"type": "chat", **dict(chat(record.context.content, "user"))}},
            "outputs": [
                {"content": {"type": "chat", **dict(chat(output.content, "assistant"))}, "producer": output.producer}
                for output in record.outputs
            ],
        }
    )


def canonical(record: Any, format_: str) -> dict[str, Any]:
    """A record without what flat rows do not say: its id, the order of equals, and the spelling of a thumb."""
    fields: dict[str, Any] = record.model_dump(exclude={"id", "supersedes"})
    if isinstance(record, Comparison) and record.choice == "b":
        fields["outputs"], fields["choice"] = fields["outputs"][::-1], "a"
    if isinstance(record, Ranking):
        fields["tiers"] = tuple(tuple(sorted(tier)) for tier in record.tiers)
    if format_ == "thumbs" and fields["symbol"] in ("👍", "+1", "👎", "-1"):
        fields["symbol"] = "thumb_up" if fields["sentiment"] == 1 else "thumb_down"
    return fields


@pytest.mark.parametrize("format_", FLAT)
@few
@given(data=st.data())
def test_flat_formats_give_back_what_they_hold(format_: str, data: st.DataObject, folder: Path) -> None:
    kinds = ["comparison", "reaction", "demonstration", "ranking", "rating"]
    record = data.draw(st.sampled_from(kinds).flatmap(plain_records))
    found, _ = through([record], folder / "flat.jsonl", format_)
    if format_ == "trl-language-modeling":  # which has nothing but messages
        record = with_chats(record)
    for back in found:
        assert canonical(back, format_) == canonical(record, format_)


@pytest.mark.parametrize("format_", FORMATS)
@few
@given(written=st.lists(records() | st.sampled_from(sorted(KINDS)).flatmap(record_of), min_size=1, max_size=3))
def test_what_a_format_writes_it_reads_and_recognises(format_: str, written: list[Any], folder: Path) -> None:
    """Any record at all: it is dropped for a reason, or it is in the file and the file's rows are rows of the format."""
    found, count = through(written, folder / "any.jsonl", format_)
    assert len(found) == count
    if count:
        assert read(folder / "any.jsonl").format.name == format_


@pytest.mark.parametrize("format_", [*FLAT, "hh-rlhf", "ultrafeedback"])
@few
@given(data=st.data())
def test_text_records_survive_csv(format_: str, data: st.DataObject, folder: Path) -> None:
    kinds = ["comparison", "reaction", "demonstration", "ranking", "rating", "critique"]
    record = data.draw(st.sampled_from(kinds).flatmap(plain_records)).model_copy(update={"attributes": {}})
    found, count = through([record], folder / "text.csv", format_)
    assert len(found) == count
    for back in found:
        assert [output.text for output in back.outputs] in (
            [output.text for output in record.outputs],
            [output.text for output in reversed(record.outputs)],
        )
        assert back.context.text == record.context.text


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def malformed() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "malformed.py"
    spec = importlib.util.spec_from_file_location("malformed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_thousand_broken_rows_are_told_from_two_hundred_sound_ones(malformed: ModuleType, tmp_path: Path) -> None:
    damages = malformed.write_file(tmp_path / "broken.jsonl", 2000, seed=1)
    assert len(damages) == 2200
    assert {damage for damage in damages.values() if damage} == set(malformed.DAMAGE)
    assert list(malformed.check(tmp_path / "broken.jsonl", damages)) == []


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "Rating", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_value_in_any_column_is_a_crash(format_: str, data: st.DataObject) -> None:
    row = dict(FORMATS[format_].example)
    columns = [
        *row,
        "source",
        "time",
        "client_id",
        "strength",
        "aspect",
        "attributes",
        "models",
        "symbol",
        "low",
        "high",
    ]
    for column in data.draw(st.lists(st.sampled_from(columns), min_size=1, max_size=3)):
        row[column] = data.draw(anything)
    for found in read([row], format=format_):
        assert isinstance(found, Parsed) or (found.field and found.reason and found.line == 1)
