"""Rows in Parquet and in Hugging Face data sets, and rows that are no JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats import Parsed, hub, read, write

ROWS: list[dict[str, Any]] = [
    {"prompt": "Capital of France?", "completion": "Paris", "label": True},
    {"prompt": "Capital of Italy? 🇮🇹", "completion": 'Milan,\nsays\r\n"he"\u2028', "label": False},
    {
        "prompt": [{"role": "user", "content": "hé"}],
        "completion": [{"role": "assistant", "content": "x"}],
        "label": True,
    },
]
PLAIN = ROWS[:2]


def records(found: Any) -> list[Any]:
    results = list(found)
    assert all(isinstance(result, Parsed) for result in results), results
    return [result.record for result in results]


def said(record: Any) -> tuple[Any, ...]:
    return record.context.content, record.outputs, record.sentiment


def as_jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def test_parquet_is_read_group_by_group(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "votes.parquet"
    parquet.write_table(arrow.Table.from_pylist(PLAIN * 1500), path, row_group_size=700)
    found = list(read(path))
    assert [result.line for result in found] == list(range(1, 3001))
    assert said(records(found)[-1]) == said(records(read(PLAIN))[1])


def test_a_parquet_file_that_is_none_is_an_error_with_its_name(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "votes.parquet"
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(InvalidFeedback, match=r"votes\.parquet cannot be read as Parquet"):
        read(path)


def test_times_and_decimals_of_a_table_come_as_text_and_numbers(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from datetime import UTC, datetime
    from decimal import Decimal

    from pyarrow import parquet

    path = tmp_path / "votes.parquet"
    row = PLAIN[0] | {"time": datetime(2026, 1, 31, 12, tzinfo=UTC), "price": Decimal("1.25")}
    parquet.write_table(arrow.Table.from_pylist([row]), path)
    (record,) = records(read(path))
    assert record.time == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert record.attributes == {"price": 1.25}


def test_text_and_messages_in_one_column_make_no_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(InvalidFeedback, match=r"A column of Parquet has one type; write \.jsonl instead"):
        write(records(read(ROWS)), tmp_path / "votes.parquet", format="trl-unpaired")
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_read_as_an_object_a_saved_folder_and_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    dataset = datasets.Dataset.from_list(PLAIN)
    expected = list(map(said, records(read(PLAIN))))
    assert list(map(said, records(read(dataset)))) == expected
    assert list(map(said, records(read(dataset.to_iterable_dataset())))) == expected
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert list(map(said, records(read(tmp_path / "saved")))) == expected
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_bytes(as_jsonl(PLAIN))
    streamed = hub.open_hub(str(tmp_path / "hub"), None)  # load_dataset takes a folder where it takes a name
    assert isinstance(streamed, datasets.IterableDataset)
    assert list(map(said, records(read(streamed)))) == expected


def test_a_data_set_of_several_splits_asks_for_one(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(PLAIN), "test": datasets.Dataset.from_list(PLAIN[:1])}
    )
    splits.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(InvalidFeedback, match=r"has the splits 'train', 'test'\. Name one with split="):
        read(tmp_path / "saved")
    assert len(records(read(tmp_path / "saved", split="test"))) == 1
    with pytest.raises(InvalidFeedback, match="has no split 'dev' but the splits 'train', 'test'"):
        read(splits, split="dev")


def test_a_name_that_the_hub_does_not_answer_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def absent(*_: Any, **__: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'no/such' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(InvalidFeedback, match="There is no file or folder no/such, and the Hugging Face Hub"):
        read("no/such")


def test_a_connection_that_breaks_is_no_ones_row() -> None:
    class Broken:
        def __iter__(self) -> Any:
            yield from PLAIN
            raise ConnectionError("reset")

    with pytest.raises(InvalidFeedback, match="broke off behind row 2: reset"):
        list(hub.read_dataset(Broken()))


def test_rows_that_are_not_json_are_rejected() -> None:
    class Image:
        def __repr__(self) -> str:
            return "<an image>"

    bad: list[Any] = [
        PLAIN[0],
        PLAIN[0] | {"image": Image()},
        PLAIN[0] | {"score": float("nan")},
        PLAIN[0] | {"note": "\ud800"},
        {**PLAIN[0], 7: "seven"},
        "text",
    ]
    good, *rejected = read(bad)
    assert isinstance(good, Parsed)
    assert [(found.line, found.field) for found in rejected] == [
        (2, "image"),
        (3, "score"),
        (4, "note"),
        (5, "row"),
        (6, "row"),
    ]  # type: ignore[union-attr]
