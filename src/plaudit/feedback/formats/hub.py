"""Hugging Face data sets: a `datasets` object, a folder written by `save_to_disk`, or a name on the Hub.

Rows are counted from 1. A name on the Hub is streamed, so nothing but the rows that are read is downloaded. Needs the
extra `data`; code that a data set brings along is never run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plaudit.errors import InvalidFeedback, require
from plaudit.feedback.formats.lines import Numbered
from plaudit.feedback.formats.parquet import plain, write_parquet
from plaudit.feedback.formats.rows import Row, shown, type_name
from plaudit.feedback.ingest import Reject

_SAVED = ("dataset_info.json", "dataset_dict.json")


def is_saved_folder(path: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return any((path / name).is_file() for name in _SAVED)


def open_saved(path: Path, split: str | None) -> Any:
    """The data set in a folder that `save_to_disk` wrote."""
    datasets = require("datasets", extra="data")
    try:
        found = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise InvalidFeedback(f"{path} cannot be read as a saved data set: {error}") from None
    return one_split(found, str(path), split)


def open_hub(name: str, split: str | None) -> Any:
    """A data set of the Hub, streamed; the split "train" unless another is named."""
    datasets = require("datasets", extra="data")
    try:
        return datasets.load_dataset(name, split=split or "train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InvalidFeedback(
            f"There is no file or folder {name}, and the Hugging Face Hub gave no data set of this name: {reason}"
        ) from None


def one_split(found: Any, label: str, split: str | None) -> Any:
    """A data set itself, or the split asked for of a dictionary of them."""
    if not isinstance(found, Mapping):
        return found
    if split is None and len(found) == 1:
        return next(iter(found.values()))
    if split is None or split not in found:
        asked = "" if split is None else f"no split {split!r} but "
        raise InvalidFeedback(f"{label} has {asked}the splits {', '.join(map(repr, found))}. Name one with split=.")
    return found[split]


def dataset_name(dataset: Any) -> str:
    """What a `datasets` object is called, for the client ids of its rows."""
    name = getattr(getattr(dataset, "info", None), "dataset_name", None) or "dataset"
    split = getattr(dataset, "split", None)
    return f"{name}:{split}" if split else str(name)


def read_dataset(dataset: Iterable[Any]) -> Iterator[Numbered]:
    """The rows of a data set, or of any iterable of mappings."""
    number = 0
    for number, row in enumerate(_guarded(dataset), start=1):
        if not isinstance(row, Mapping):
            yield number, Reject(number, "row", shown(row), f"expected an object, got {type_name(row)}")
        elif not all(isinstance(column, str) for column in row):
            yield number, Reject(number, "row", shown(list(row)), "expected names of columns that are text")
        else:
            yield number, plain(dict(row))


def _guarded(dataset: Iterable[Any]) -> Iterator[Any]:
    """The rows; a connection that breaks is the user's to mend, and no row is to blame for it."""
    number = 0
    try:
        for row in dataset:
            yield row
            number += 1
    except OSError as error:
        raise InvalidFeedback(f"Reading the data set broke off behind row {number}: {error}. Start it again.") from None


def write_dataset(rows: Iterable[Row], path: Path, *, json_cells: bool) -> None:
    """Write rows as a folder that `datasets.load_from_disk` reads; the folder appears when it is complete.

    Raises:
        InvalidFeedback: there is something at `path` already, or its parent does not exist.
    """
    datasets = require("datasets", extra="data")
    if path.exists():
        raise InvalidFeedback(f"{path} exists. Give the name of a new folder, or a file such as {path.name}.jsonl.")
    if not path.parent.is_dir():
        raise InvalidFeedback(f"Cannot write {path}: there is no folder {path.parent}.")
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent))
    try:
        write_parquet(rows, temporary / "rows.parquet", json_cells=json_cells)
        dataset = datasets.Dataset.from_parquet(str(temporary / "rows.parquet"), cache_dir=str(temporary / "cache"))
        dataset.save_to_disk(str(temporary / "saved"))
        (temporary / "saved").rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
