"""How rows lie in text files: JSON Lines, JSON arrays and CSV."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats import Parsed, Reject, arrays, lines, read
from plaudit.feedback.formats.arrays import read_array
from plaudit.feedback.formats.lines import read_lines

ROWS: list[dict[str, Any]] = [
    {"prompt": "Capital of France?", "completion": "Paris", "label": True},
    {"prompt": "Capital of Italy? 🇮🇹", "completion": 'Milan,\nsays\r\n"he"\u2028', "label": False},
    {
        "prompt": [{"role": "user", "content": "hé"}],
        "completion": [{"role": "assistant", "content": "x"}],
        "label": True,
    },
]


def records(found: Any) -> list[Any]:
    results = list(found)
    assert all(isinstance(result, Parsed) for result in results), results
    return [result.record for result in results]


def said(record: Any) -> tuple[Any, ...]:
    return record.context.content, record.outputs, record.sentiment


def as_jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


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
    assert bad.reason.startswith("reading broke off; the file is cut off or damaged")


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
