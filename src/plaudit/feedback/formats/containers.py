"""Which container a path names, to read and to write: the suffix says it, or it is a folder or a Hub name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plaudit.errors import InvalidFeedback
from plaudit.feedback.formats import hub
from plaudit.feedback.formats.arrays import is_array, read_array, write_array
from plaudit.feedback.formats.atomic import replacing
from plaudit.feedback.formats.lines import Numbered, check_encoding, read_lines, write_lines
from plaudit.feedback.formats.parquet import read_parquet, write_parquet
from plaudit.feedback.formats.rows import Row
from plaudit.feedback.formats.tables import read_table, write_table

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Container:
    """Rows that can be read more than once.

    Attributes:
        label: what messages call it.
        name: the import's name, of which client ids are made.
        rows: the rows with their numbers, from the beginning.
        flat: every value is text.
    """

    label: str
    name: str
    rows: Callable[[], Iterator[Numbered]]
    flat: bool = False


def open_container(source: str | Path | Iterable[Any], split: str | None = None) -> Container:
    """The container at a path, or around a `datasets` object or a list of rows.

    Raises:
        InvalidFeedback: there is none, its suffix is unknown, or it is not what its suffix says.
    """
    if not isinstance(source, str | Path):
        return _around(source, split)
    path = Path(source)
    if path.is_dir():
        if not hub.is_saved_folder(path):
            raise InvalidFeedback(f"{path} is a folder. Give a file, or a folder that datasets' save_to_disk wrote.")
        dataset = hub.open_saved(path, split)
        return Container(str(path), path.resolve().name, lambda: hub.read_dataset(dataset))
    suffix, _ = _suffixes(path)
    if not path.exists():
        if suffix is None and isinstance(source, str) and _HUB_NAME.fullmatch(source):
            dataset = hub.open_hub(source, split)
            return Container(source, f"{source}:{split or 'train'}", lambda: hub.read_dataset(dataset))
        raise InvalidFeedback(f"There is no file {path}.")
    if suffix is None:
        raise InvalidFeedback(
            f"{path}: the suffix tells how to read a file, and {path.suffix or 'none'!r} is not one of "
            f"{', '.join(SUFFIXES)} (the text ones also with .gz)."
        )
    return _file(path, suffix)


def _around(rows: Iterable[Any], split: str | None) -> Container:
    dataset = hub.one_split(rows, "The data set", split)
    if not isinstance(dataset, Iterable) or isinstance(dataset, Iterator | bytes):
        raise InvalidFeedback(
            f"Expected a path, a data set, or a list of rows that can be read twice, got {type(dataset).__name__}."
        )
    return Container("The data set", hub.dataset_name(dataset), lambda: hub.read_dataset(dataset))


def _file(path: Path, suffix: str) -> Container:
    if suffix == ".parquet":
        return Container(str(path), path.name, lambda: read_parquet(path))
    check_encoding(path)
    if suffix == ".csv":
        return Container(str(path), path.name, lambda: read_table(path), flat=True)
    read = read_array if suffix == ".json" and is_array(path) else read_lines
    return Container(str(path), path.name, lambda: read(path))


def _suffixes(path: Path) -> tuple[str | None, bool]:
    """The suffix that names a container, if any, and whether the file is compressed."""
    compressed = path.suffix.lower() == ".gz"
    suffix = (path.with_suffix("") if compressed else path).suffix.lower()
    known = suffix in SUFFIXES and not (compressed and suffix == ".parquet")
    return (suffix if known else None), compressed


def write_rows(rows: Iterable[Row], path: Path, *, json_cells: bool) -> None:
    """Write rows into the container that the path's suffix names; without a suffix, a `datasets` folder.

    Raises:
        InvalidFeedback: the suffix is unknown, or the place cannot be written.
    """
    suffix, compressed = _suffixes(path)
    if not path.suffix:
        return hub.write_dataset(rows, path, json_cells=json_cells)
    if suffix is None:
        raise InvalidFeedback(
            f"{path}: cannot write {path.suffix!r}. Use one of {', '.join(SUFFIXES)} (the text ones also with .gz), "
            "or no suffix for a datasets folder."
        )
    with replacing(path) as temporary:
        if suffix == ".parquet":
            return write_parquet(rows, temporary, json_cells=json_cells)
        write = {".csv": write_table, ".json": write_array}.get(suffix, write_lines)
        return write(rows, temporary, compressed=compressed)
