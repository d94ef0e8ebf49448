"""`plaudit study` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from plaudit.cli import main
from plaudit.studies import STUDIES
from plaudit.studies.table import BEGIN, END

from . import toy


def said(capsys) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_without_a_name_the_studies_are_listed(capsys):
    assert main(["study"]) == 0
    text = said(capsys)
    assert all(name in text for name in STUDIES)
    assert "arXiv 2505.18116" in text


def test_an_unknown_study_is_one_sentence(capsys):
    assert main(["study", "ntf"]) == 2
    assert "There is no study 'ntf'. Did you mean nft?" in said(capsys)


@pytest.mark.slow
def test_a_whole_study_goes_into_the_documentation_and_a_part_of_it_does_not(tmp_path, monkeypatch, capsys):
    """Ten processes that import torch, 1 to 2 s each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOY_FOLDER", str(tmp_path))
    monkeypatch.setitem(STUDIES, "toy", toy.__name__)
    table = Path("docs/systems.md")
    table.parent.mkdir()
    table.write_text(f"{BEGIN}\n{END}\n")
    assert main(["study", "toy", "--seeds", "1"]) == 0
    assert "With 1 of 3 seeds this is not the study as declared." in said(capsys)
    assert table.read_text() == f"{BEGIN}\n{END}\n"
    assert main(["study", "toy"]) == 0
    text = said(capsys)
    assert "Criterion: Within 0.05." in text
    assert "new is like old: holds, 0.0210 [" in text
    assert "Written into docs/systems.md." in text
    assert "| Toy (0000.00000) | new is like old | **holds** |" in table.read_text()
    assert Path("docs/studies/toy.png").read_bytes() == Path("runs/study-toy/plot.png").read_bytes()
