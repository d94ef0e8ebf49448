"""How rows lie in files: JSON Lines, JSON arrays, CSV, Parquet and data sets, read and written."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats import ExportReport, Parsed, Reject, arrays, hub, lines, read, write
from plaudit.feedback.formats.arrays import read_array
from plaudit.feedback.formats.containers import write_rows
from plaudit.feedback.formats.lines import read_lines
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


def said(record: Any) -> tuple[Any, ...]:
    return record.context.content, record.outputs, record.sentiment


def as_jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def demonstration(text: str = "Paris", **fields: Any) -> Demonstration:
    output = Output(content=Text(text=text))
    context = Context(content=Text(text="Capital of France?"))
    return Demonstration(source=Source(name="alice"), context=context, outputs=(output,), **fields)


# --- JSON Lines ----------------------------------------------------------------------------------------------------


def test_lines_are_numbered_and_blank_ones_and_a_byte_order_mark_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + as_jsonl(ROWS[:1]) + b"\n  \r\n" + as_jsonl(ROWS[1:]).replace(b"\n", b"\r\n"))
    assert [(number, row["prompt"]) for number, row in read_lines(path) if isinstance(row, dict)] == [
        (1, ROWS[0]["prompt"]),
        (4, ROWS[1]["prompt"]),
        (5, ROWS[2]["prompt"]),
    ]


def test_a_broken_last_line_is_a_reject_that_says_what_may_have_happened(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(as_jsonl(ROWS) + b'{"prompt": "Capital of Sp')
    *good, bad = read(path)
    assert len(good) == 3
    assert isinstance(bad, Reject)
    assert (bad.line, bad.field, bad.value) == (4, "line", 'at byte 25: {"prompt": "Capital of Sp')
    assert bad.reason == (
        "not valid JSON: EOF while parsing a string; the last line has no line end: was the file cut off?"
    )


def test_gzip_is_read_and_a_cut_off_one_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl.gz"
    whole = gzip.compress(as_jsonl([{**ROWS[0], "prompt": str(index)} for index in range(3000)]))
    path.write_bytes(whole)
    assert len(records(read(path))) == 3000
    path.write_bytes(whole[:-500])
    *good, bad = read(path)
    assert 0 < len(good) < 3000
    assert isinstance(bad, Reject)
    assert bad.reason.startswith("the compressed file is cut off or damaged")


def test_a_line_beyond_the_limit_is_rejected_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LIMIT_BYTES", 200)
    path = tmp_path / "votes.jsonl"
    path.write_bytes(as_jsonl([ROWS[0], {**ROWS[0], "completion": "x" * 70_000}, ROWS[1]]))
    first, long, last = read(path)
    assert isinstance(first, Parsed)
    assert isinstance(last, Parsed)
    assert isinstance(long, Reject)
    assert (long.line, last.line) == (2, 3)
    assert long.value == f"{len(as_jsonl([{**ROWS[0], 'completion': 'x' * 70_000}])):,} bytes"
    assert long.reason == "longer than 200 bytes; a row of feedback is not"


def test_reading_takes_little_memory_whatever_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.write(as_jsonl(ROWS[:1]))
        file.write(b'{"prompt": "' + b"x" * 60_000_000 + b'"}\n')
        file.write(as_jsonl(ROWS[:1]))
    program = (
        "import sys, tracemalloc; from plaudit.feedback.formats import read; tracemalloc.start();"
        "print([type(found).__name__ for found in read(sys.argv[1])], tracemalloc.get_traced_memory()[1])"
    )
    output = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    kinds, peak = output.stdout.rsplit(" ", 1)
    assert kinds == "['Parsed', 'Reject', 'Parsed']"
    assert int(peak) < 30_000_000


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[1]", "expected a JSON object, got a list"),
        (b"null", "expected a JSON object, got null"),
        (b'{"a": NaN}', "NaN and Infinity are not JSON values"),
        (b'{"a": "\xff"}', "the bytes are not UTF-8; save the file as UTF-8"),
        (b'{"a": ' + b"[" * 5000, "nested too deeply"),
        (b"{'a': 1}", "not valid JSON: key must be a string"),
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_rejected_with_the_place(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(as_jsonl(ROWS[:1]) + raw + b"\n" + as_jsonl(ROWS[:1]))
    good, bad, last = read(path)
    assert isinstance(good, Parsed)
    assert isinstance(last, Parsed)
    assert isinstance(bad, Reject)
    assert (bad.line, bad.reason) == (2, reason)


def test_half_a_surrogate_pair_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_bytes(as_jsonl(ROWS[:1]) + b'{"prompt": "\\ud800", "completion": "x", "label": true}\n')
    bad = list(read(path))[1]
    assert isinstance(bad, Reject)
    assert bad.value == 'at byte 19: {"prompt": "\\ud800", "completion": "x",'
    assert bad.reason == "half of a surrogate pair (\\ud800 to \\udfff) is not a character"


# --- JSON arrays ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_an_array_is_read_row_by_row(tmp_path: Path, indent: int | None, suffix: str) -> None:
    path = tmp_path / f"votes{suffix}"
    whole = json.dumps(ROWS, indent=indent).encode()
    path.write_bytes(gzip.compress(whole) if suffix.endswith("gz") else b"\xef\xbb\xbf \n" + whole)
    found = list(read(path))
    assert [result.line for result in found] == [1, 2, 3]
    assert list(map(said, records(found))) == list(map(said, records(read(ROWS))))


def test_json_that_begins_with_a_brace_is_read_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "votes.json"
    path.write_bytes(as_jsonl(ROWS))
    assert len(records(read(path))) == 3


def test_a_broken_row_of_an_array_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "votes.json"
    good = json.dumps(ROWS[0])
    path.write_text(f'[{good}, {{"prompt": }}, {good}, 17, {{"a": 1}}}}, {good}]')
    assert [type(found).__name__ for found in read(path)] == [
        "Parsed",
        "Reject",
        "Parsed",
        "Reject",
        "Reject",
        "Parsed",
    ]


@pytest.mark.parametrize("cut", ["[{}, {}", '[{}, {}, {"prompt": "x', "[{}, {}, {]"])
def test_an_array_that_is_not_closed_says_so_behind_the_rows_before(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "votes.json"
    path.write_text(cut.replace("{}", json.dumps(ROWS[0])))
    found = list(read(path))
    assert [type(result).__name__ for result in found[:2]] == ["Parsed", "Parsed"]
    assert isinstance(found[-1], Reject)
    assert all(isinstance(result, Reject) for result in found[2:])
    assert "the array is not closed" in found[-1].reason


json_rows = st.lists(
    st.dictionaries(
        st.text(max_size=3),
        st.recursive(st.text('a"\\{}[], \n', max_size=6) | st.integers(), lambda inner: st.lists(inner, max_size=2)),
        max_size=3,
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(rows=json_rows, chunk=st.integers(1, 9), indent=st.none() | st.integers(0, 2))
def test_an_array_is_cut_at_the_same_places_whatever_the_size_of_the_pieces(
    rows: list[Any], chunk: int, indent: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "pieces.json"
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_CHUNK_BYTES", chunk)
        assert [row for _, row in read_array(path)] == rows


# --- CSV -----------------------------------------------------------------------------------------------------------


def test_csv_is_read_with_the_lines_on_which_rows_begin(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(b'\xef\xbb\xbfprompt,completion,label\r\na,"two\nlines",true\r\n\r\nb,c,0\r\n')
    found = list(read(path))
    assert [result.line for result in found] == [2, 5]
    assert [(record.outputs[0].text, record.sentiment) for record in records(found)] == [("two\nlines", 1), ("c", -1)]


@pytest.mark.parametrize(
    ("raw", "field", "reason"),
    [
        (b"a,b", "line", "expected 3 cells, as the first line has, got 2"),
        (b"a,b,true,d", "line", "expected 3 cells, as the first line has, got 4"),
        (b'a,"b"c,true', "line", "not valid CSV: ',' expected after '\"'"),
        (b"a,\xff,true", "completion", "the bytes are not UTF-8; save the file as UTF-8"),
        (b"a,b,maybe", "label", "expected true (good) or false (bad)"),
        (b"a,,true", "completion", "an output must not be empty"),
    ],
)
def test_a_bad_row_of_a_table_is_rejected(tmp_path: Path, raw: bytes, field: str, reason: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(b"prompt,completion,label\nx,y,true\n" + raw + b"\nx,y,false\n")
    first, bad, last = read(path)
    assert isinstance(first, Parsed)
    assert isinstance(last, Parsed)
    assert isinstance(bad, Reject)
    assert (bad.line, bad.field, bad.reason) == (3, field, reason)


def test_a_quotation_mark_that_is_never_closed_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text('prompt,label,completion\nx,true,y\na,true,"b\nx,true,z\n')
    first, bad = read(path)
    assert isinstance(first, Parsed)
    assert isinstance(bad, Reject)
    assert (bad.line, bad.reason) == (3, "not valid CSV: unexpected end of data")


@pytest.mark.parametrize("header", ["a,a", "a,,b", "a,\xa0\x01"])
def test_a_table_must_name_its_columns(tmp_path: Path, header: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_text(header + "\n1,2\n")
    with pytest.raises(InvalidFeedback, match="must name each column once in its first line"):
        read(path)


# --- Parquet and data sets -----------------------------------------------------------------------------------------


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
