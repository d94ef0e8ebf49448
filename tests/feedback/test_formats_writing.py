"""Writing is atomic and comes back; files that are wrong as a whole are one error."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats import ExportReport, Parsed, read, write
from plaudit.feedback.formats.containers import write_rows
from plaudit.feedback.records import Context, Demonstration, Output, Source, Text

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


def as_jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def demonstration(text: str = "Paris", **fields: Any) -> Demonstration:
    output = Output(content=Text(text=text))
    context = Context(content=Text(text="Capital of France?"))
    return Demonstration(source=Source(name="alice"), context=context, outputs=(output,), **fields)


# --- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["out.jsonl", "out.ndjson.gz", "out.json", "out.json.gz", "out.csv", "out.csv.gz", "out.parquet", "out"]
)
def test_every_container_gives_back_what_was_written(tmp_path: Path, name: str) -> None:
    if name in ("out.parquet", "out"):
        pytest.importorskip("datasets")
    rows = PLAIN if name in ("out.parquet", "out") else ROWS
    wrote = records(read(rows, source=Source(name="alice", kind="person")))
    assert write(wrote, tmp_path / name, format="trl-unpaired") == ExportReport(len(rows), rows=len(rows))
    came_back = records(read(tmp_path / name))
    assert [record.model_dump(exclude={"id"}) for record in came_back] == [r.model_dump(exclude={"id"}) for r in wrote]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "out.csv", "out.parquet"])
def test_no_records_make_an_empty_file_that_is_read_as_one(tmp_path: Path, name: str) -> None:
    pytest.importorskip("pyarrow")
    assert write([], tmp_path / name) == ExportReport(0)
    with pytest.raises(InvalidFeedback, match=r"is empty|no readable first line|must name each column"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet", "out.json.gz"])
def test_a_file_is_whole_or_not_there(tmp_path: Path, name: str) -> None:
    def failing() -> Any:
        yield demonstration()
        raise RuntimeError("the disk caught fire")

    if name == "out.parquet":
        pytest.importorskip("pyarrow")
    with pytest.raises(RuntimeError, match="fire"):
        write(failing(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    write([demonstration("before")], tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(RuntimeError, match="fire"):
        write(failing(), tmp_path / name)
    assert (tmp_path / name).read_bytes() == before


def test_equal_records_make_equal_compressed_files(tmp_path: Path) -> None:
    record = demonstration()
    write([record], tmp_path / "a.jsonl.gz")
    write([record], tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.xlsx", r"cannot write '\.xlsx'\. Use one of \.jsonl"),
        ("none/out.jsonl", "Is there a folder"),
        ("none/out", "there is no folder"),
    ],
)
def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(InvalidFeedback, match=message):
        write([demonstration()], tmp_path / name)


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "out").mkdir()
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(InvalidFeedback, match=r"exists\. Give the name of a new folder, or a file such as out\.jsonl"):
        write([demonstration()], tmp_path / "out")
    with pytest.raises(InvalidFeedback, match=r"a\.jsonl is a folder"):
        write([demonstration()], tmp_path / "a.jsonl")


def test_a_table_has_the_columns_of_all_rows_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_rows([{"a": 1}, {"b": None, "a": [1, "x"]}, {"c": "é"}], path, json_cells=False)
    assert path.read_bytes().decode() == 'a,b,c\r\n1,,\r\n"[1, ""x""]",,\r\n,,é\r\n'


def test_parquet_unites_the_fields_of_all_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet as arrow_parquet

    from plaudit.feedback.formats import parquet

    monkeypatch.setattr(parquet, "_GROUP_ROWS", 1)
    path = tmp_path / "out.parquet"
    rows = [{"a": {"x": 1}, "e": {}}, {"a": {"y": "z"}, "n": None}, {"l": [{"p": 1.5}]}, {"l": [{"q": "r"}]}]
    write_rows(rows, path, json_cells=False)
    table = arrow_parquet.read_table(path).to_pylist()
    assert [row["a"] for row in table] == [{"x": 1, "y": None}, {"x": None, "y": "z"}, None, None]
    assert table[3]["l"] == [{"p": None, "q": "r"}]


# --- files as a whole ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", r"empty\.jsonl is empty: it has no rows"),
        ("blank.jsonl", b"\n \n", "is empty"),
        ("empty.json", b"[ ]", "is empty"),
        ("empty.csv", b"prompt,completion,label\n", "is empty"),
        ("nothing.csv", b"", "is empty"),
        ("wide.jsonl", '{"a": 1}'.encode("utf-16"), r"is UTF-16\. Save it as UTF-8"),
        ("plain.jsonl.gz", b"{}", r"ends in \.gz and cannot be unpacked"),
        ("table.xlsx", b"PK", r"the suffix tells how to read a file, and '\.xlsx' is not one of \.jsonl"),
        ("none", b"{}", "and 'none' is not one of"),
        ("broken.jsonl", b"one\ntwo\n", r"none of the first 2 rows can be read\. Row 1: line: not valid JSON"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_one_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidFeedback, match=message):
        read(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InvalidFeedback, match=r"There is no file .*none\.jsonl"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(
        InvalidFeedback, match=r"is a folder\. Give a file, or a folder that datasets' save_to_disk wrote"
    ):
        read(tmp_path)
    with pytest.raises(InvalidFeedback, match="a list of rows that can be read twice, got generator"):
        read(row for row in ROWS)


def test_an_abandoned_reading_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(as_jsonl(ROWS))
    read(path)
    reading = read(path)
    next(reading)
    del reading  # a file left open would be a ResourceWarning, which is an error in these tests


def test_two_files_are_read_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(as_jsonl(ROWS))
    found = [pair for both in zip(read(path), read(path), strict=True) for pair in pairwise(both)]
    assert all(first.record.client_id == second.record.client_id for first, second in found)  # type: ignore[union-attr]
