"""The table of methods is complete, and the documentation's is the code's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from plaudit import methods
from plaudit.methods import DPO, KTO, ORPO, SFT, OnlineDPO, RewardModelling, SimPO
from plaudit.methods.registry import ENTRIES, as_markdown, find_entries

from .test_on_policy import RECIPES
from .worlds import CASES

PPO = "ppo"  # named by its recipe
ON_DEMONSTRATIONS = {"feedme", "conditioning"}  # they end in SFT, under its name
STAGED = {"mpo"}  # made of others


def test_every_method_stands_in_the_table_once():
    classes = (DPO, KTO, ORPO, SFT, OnlineDPO, RewardModelling, SimPO)
    names = [row.name for row in ENTRIES]
    assert len(set(names)) == len(names)
    assert set(names) == {*RECIPES, *(kind.name for kind in classes), *ON_DEMONSTRATIONS, *STAGED, PPO}


def test_a_module_that_holds_entries_stands_in_the_table_without_being_named_anywhere(tmp_path, monkeypatch):
    (tmp_path / "found_by_itself.py").write_text(
        "from plaudit.methods.entry import PAIRS, POLICY, Entry\n"
        "ENTRIES = (Entry('found', PAIRS, 'preference', 'no', 'off-policy', POLICY, 'in this test', 'nobody'),)\n"
    )
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    rows = find_entries()
    assert {row.name for row in rows} == {row.name for row in ENTRIES} | {"found"}
    assert "| `found` | comparisons, rankings, ratings, edits | preference | no |" in as_markdown(rows)
    monkeypatch.delitem(sys.modules, "plaudit.methods.found_by_itself")
    monkeypatch.delattr(methods, "found_by_itself")


def test_what_stored_feedback_teaches_stands_first_and_each_part_by_name():
    names = [row.name for row in ENTRIES]
    data = [row.data for row in ENTRIES]
    border = data.index("on-policy")
    assert data == ["off-policy"] * border + ["on-policy"] * (len(data) - border)
    assert names == [*sorted(names[:border]), *sorted(names[border:])]


@pytest.mark.parametrize("row", [row for row in ENTRIES if row.making is not None], ids=lambda row: row.name)
def test_what_the_name_decides_is_what_the_recipe_is_called_after(row):
    config = row.making.settings(contexts_per_rollout=5)
    assert config.contexts_per_rollout == 5
    assert row.making.recipe(config).name == row.name


def test_every_method_in_the_table_is_in_the_invariance_suite():
    tested = {name.split("-token")[0].split("-sequence")[0] for name in CASES}
    assert {row.name for row in ENTRIES} - ON_DEMONSTRATIONS - STAGED <= tested


def test_what_is_on_policy_is_what_samples():
    assert {row.name for row in ENTRIES if row.data == "on-policy"} == {*RECIPES, OnlineDPO.name, *STAGED, PPO}


def test_the_documentations_table_is_the_codes():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page.rstrip().endswith(as_markdown()), "run: plaudit methods --form markdown, and put it into the page"
