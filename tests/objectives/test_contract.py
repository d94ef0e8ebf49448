"""Every objective in the catalogue keeps the contract, and says on its own page what a reader needs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import objectives as here
from objectives.contract import CHECKS, Case
from plaudit.objectives.catalogue import as_markdown, entries

CASES: list[Case] = [
    case
    for module in pkgutil.walk_packages(here.__path__, f"{here.__name__}.")
    if ".test_" in module.name and not module.name.endswith("test_contract")
    for case in getattr(importlib.import_module(module.name), "CASES", ())
]
every_case = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])


@every_case
@pytest.mark.parametrize("check", CHECKS, ids=[check.__name__.removeprefix("check_") for check in CHECKS])
def test_contract(case, check):
    check(case)


def test_case_names_are_unique():
    names = [case.id for case in CASES]
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_every_objective_has_a_case_and_a_page(entry):
    assert any(case.objective is entry.function for case in CASES), "no case in the contract's suite"
    page = inspect.getdoc(entry.function) or ""
    for section in ("Args:", "Returns:", "Reference:", "Example:"):
        assert section in page, f"the docstring has no section {section}"
    source = inspect.getsource(inspect.unwrap(entry.function))
    body = re.sub(r'r?""".*?"""', "", source, count=1, flags=re.DOTALL)
    lines = [line for line in body.splitlines() if line.strip()]
    assert len(lines) <= 40, f"{len(lines)} lines of code; an objective is read at a glance"


def test_the_documentations_tables_are_the_catalogues():
    page = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
    tables = as_markdown(entries())
    assert page.rstrip().endswith(tables.rstrip()), "run: plaudit objectives --form markdown, and put it into the page"
