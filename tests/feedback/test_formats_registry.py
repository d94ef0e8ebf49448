"""Which format a row is of, what errors say, client ids, and what importing costs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plaudit.errors import InvalidFeedback, MissingExtra
from plaudit.feedback.formats import FORMATS, Parsed, Reject, detect, read, write
from plaudit.feedback.ingest import ingest
from plaudit.feedback.records import Source
from plaudit.feedback.store import FeedbackStore

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
THUMB = {"prompt": "p", "completion": "c", "thumb": "up"}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_and_recognises_its_own_example(name: str) -> None:
    format_ = FORMATS[name]
    assert format_.name == name
    assert format_.description
    assert "\n" not in format_.description
    row = dict(format_.example)
    assert detect(row, row).name == name
    found = list(read([row]))
    assert found
    assert all(isinstance(result, Parsed) for result in found)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_writes_its_own_example(name: str, tmp_path: Path) -> None:
    found = [result.record for result in read([dict(FORMATS[name].example)], name="x")]  # type: ignore[union-attr]
    assert write(found, tmp_path / "out.jsonl", format=name).written == len(found)
    back = [result.record for result in read(tmp_path / "out.jsonl", name="x")]  # type: ignore[union-attr]
    exclude = {"id", "client_id", "time"}
    assert [record.model_dump(exclude=exclude) for record in back] == [r.model_dump(exclude=exclude) for r in found]


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("prompt chosen rejected", "trl-preference"),
        ("chosen rejected", "trl-preference"),
        ("prompt chosen rejected messages score_chosen score_rejected prompt_id", "trl-preference"),
        ("prompt completion label", "trl-unpaired"),
        ("prompt completion", "trl-prompt-completion"),
        ("messages", "trl-language-modeling"),
        ("prompt completion thumb user", "thumbs"),
        ("prompt completions ranks", "ranked"),
        ("prompt completions scores models", "ranked"),
        ("source instruction models completions correct_answers incorrect_answers", "ultrafeedback"),
        ("id kind source context outputs choice", "plaudit"),
    ],
)
def test_columns_tell_the_format(columns: str, name: str) -> None:
    assert detect(columns.split()).name == name


def test_values_tell_transcripts_from_other_pairs() -> None:
    transcripts = {"chosen": "\n\nHuman: Hi\n\nAssistant: Yes", "rejected": "\n\nHuman: Hi\n\nAssistant: No"}
    assert detect(transcripts, transcripts).name == "hh-rlhf"
    texts = {"chosen": "Hi: Yes", "rejected": "Hi: No"}
    assert detect(texts, texts).name == "trl-preference"
    assert read([transcripts]).format.name == "hh-rlhf"


def test_unknown_columns_are_one_sentence_with_the_nearest_formats_and_what_to_give() -> None:
    with pytest.raises(InvalidFeedback) as error:
        detect(["Prompt", "completion", "stars"])
    assert str(error.value) == (
        "The columns are 'Prompt', 'completion', 'stars', which no format has. The nearest are "
        "trl-prompt-completion (lacks 'prompt'); thumbs (lacks 'prompt', 'thumb'); trl-unpaired (lacks 'prompt', 'label'). "
        "Rename columns with map={'theirs': 'ours'}, or name the format with format=, one of: plaudit, qa-feedback, "
        "ultrafeedback, ranked, thumbs, trl-unpaired, trl-prompt-completion, hh-rlhf, trl-preference, trl-language-modeling."
    )


def test_the_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "votes.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InvalidFeedback, match=r"votes\.jsonl: The columns are 'a', which no format has"):
        read(tmp_path / "votes.jsonl")


def test_an_unknown_format_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(
        InvalidFeedback, match=r"There is no format 'trl-pref'\. Did you mean 'trl-preference'\? The formats are"
    ):
        read([PAIR], format="trl-pref")
    with pytest.raises(InvalidFeedback, match=r"There is no format 'x'\. The formats are: plaudit, "):
        write([], "out.jsonl", format="x")


def test_a_damaged_first_row_does_not_hide_the_format() -> None:
    found = list(read([{"prompt": "p"}, "text", PAIR]))
    assert [type(result).__name__ for result in found] == ["Reject", "Reject", "Parsed"]


def test_columns_can_be_renamed() -> None:
    row = {"question": "p", "good": "a", "bad": "b"}
    (found,) = read([row], map={"question": "prompt", "good": "chosen", "bad": "rejected"})
    assert isinstance(found, Parsed)
    assert found.record.context.text == "p"
    swapped = {"prompt": "p", "chosen": "worse", "rejected": "better"}
    (found,) = read([swapped], map={"chosen": "rejected", "rejected": "chosen"})
    assert isinstance(found, Parsed)
    assert found.record.outputs[0].text == "better"


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"questoin": "prompt"}, "map names the column 'questoin', and the columns are 'chosen', 'prompt', 'rejected'"),
        ({"chosen": "prompt"}, "map renames 'chosen' to 'prompt', and there is a column 'prompt' already"),
    ],
)
def test_a_renaming_that_cannot_be_is_an_error(renames: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidFeedback, match=message):
        read([PAIR], map=renames)


def test_a_row_is_rejected_with_itself_so_that_it_can_be_mended() -> None:
    (found,) = read([PAIR | {"rejected": ""}])
    assert isinstance(found, Reject)
    assert json.loads(found.raw or "") == PAIR | {"rejected": ""}


# --- client ids ----------------------------------------------------------------------------------------------------


def ids(found: Any) -> list[str | None]:
    return [result.record.client_id for result in found]


def test_client_ids_come_from_the_imports_name_the_line_and_the_row(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    line = json.dumps(PAIR)
    path.write_text(
        f"{line}\n\n{line}\n" + json.dumps(dict(reversed(PAIR.items()))) + "\n" + json.dumps(PAIR | {"n": 1}) + "\n"
    )
    first, second, third, other = ids(read(path))
    hash_ = hashlib.sha256(b'{"chosen":"a","prompt":"p","rejected":"b"}').hexdigest()[:12]
    assert (first, second, third) == (f"votes.jsonl:1:{hash_}", f"votes.jsonl:3:{hash_}", f"votes.jsonl:4:{hash_}")
    assert other is not None
    assert hash_ not in other
    assert ids(read(path, name="spring"))[0] == f"spring:1:{hash_}"
    assert ids(read(path, name="a\nb" + "x" * 900))[0] == "a_b" + "x" * 397 + f":1:{hash_}"
    assert ids(read([PAIR | {"client_id": 17}])) == ["17"]


def test_a_second_import_adds_nothing_and_equal_lines_stay_two_statements(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text((json.dumps(THUMB) + "\n") * 2 + json.dumps(dict(FORMATS["ranked"].example)) + "\n")
    with FeedbackStore.open(tmp_path / "store.db") as store:
        first = ingest(store, read(path, format="thumbs"))
        assert (first.added, first.duplicates, first.rejected) == (2, 0, 1)
        second = ingest(store, read(path, format="thumbs"))
        assert (second.added, second.duplicates, second.rejected) == (0, 2, 1)
        assert len(store) == 2
        several = tmp_path / "scores.jsonl"
        several.write_text(
            json.dumps({"prompt": "p", "completions": ["a", "b"], "scores": [1, 2], "low": 0, "high": 5})
        )
        assert ingest(store, read(several)).added == 2
        assert ingest(store, read(several)).duplicates == 2


def test_an_exported_store_is_known_when_it_comes_back(tmp_path: Path) -> None:
    with FeedbackStore.open(tmp_path / "store.db") as store:
        ingest(
            store, read([PAIR, PAIR | {"topic": "sky", "time": "2026-01-31T12:00:00Z"}], source=Source(name="alice"))
        )
        for name in ("plaudit", "trl-preference"):
            write(store.records(), tmp_path / f"{name}.jsonl", format=name)
            report = ingest(store, read(tmp_path / f"{name}.jsonl"))
            assert (report.added, report.duplicates, report.rejected) == (0, 2, 0)


# --- what importing costs ------------------------------------------------------------------------------------------


def test_importing_the_formats_imports_no_heavy_library() -> None:
    program = (
        "import sys, plaudit.feedback.formats;"
        "print([name for name in ('torch', 'pyarrow', 'datasets', 'trl', 'pandas', 'transformers') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "module"), [("a.parquet", "pyarrow"), ("saved", "datasets")])
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_info.json").touch()
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(
        MissingExtra, match=rf"{module} is not installed\. Install it with: pip install 'plaudit\[data\]'"
    ):
        read(tmp_path / name)
