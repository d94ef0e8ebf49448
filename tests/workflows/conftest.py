"""A feedback file whose lesson a tiny model can learn: answers with the letter a are preferred."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def preference_rows(count: int) -> list[dict]:
    return [
        {"prompt": f"Question {index}?", "chosen": "aaa" + "a" * (index % 5), "rejected": "zz" + "z" * (index % 4)}
        for index in range(count)
    ]


@pytest.fixture
def preferences(tmp_path: Path) -> Path:
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(60)))
    return file


@pytest.fixture(scope="module")
def preferences_for_two(tmp_path_factory) -> Path:
    """The same file for tests that share what two processes made of it."""
    file = tmp_path_factory.mktemp("preferences") / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in preference_rows(40)))
    return file
