"""The table of methods is complete, and the documentation's is the code's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from plaudit import methods
from plaudit.methods import DPO, KTO, ORPO, SFT, BRAIn, LiPO, OnlineDPO, RewardModelling, SimPO
from plaudit.methods.preference_modelling import PreferenceModelling
from plaudit.methods.registry import ENTRIES, as_markdown, as_matrix, find_entries, matrix_as_markdown

from .test_on_policy import RECIPES
from .worlds import CASES, GAMES

PPO = "ppo"  # named by its recipe
ON_DEMONSTRATIONS = {"feedme", "conditioning"}  # they end in SFT, under its name
STAGED = {"mpo"}  # made of others


def test_every_method_stands_in_the_table_once():
    classes = (DPO, KTO, ORPO, SFT, BRAIn, LiPO, OnlineDPO, PreferenceModelling, RewardModelling, SimPO)
    names = [row.name for row in ENTRIES]
    assert len(set(names)) == len(names)
    assert set(names) == {*RECIPES, *(kind.name for kind in classes), *ON_DEMONSTRATIONS, *STAGED, *GAMES, PPO}


def test_a_module_that_holds_entries_stands_in_the_table_without_being_named_anywhere(tmp_path, monkeypatch):
    (tmp_path / "found_by_itself.py").write_text(
        "from plaudit.methods.entry import PAIRS, POLICY, Axes, Entry\n"
        "AXES = Axes('pairs', 'implicit', 'direct loss')\n"
        "ENTRIES = (Entry('found', PAIRS, 'preference', 'no', 'off-policy', POLICY, 'in this test', 'nobody', AXES),)\n"
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
    assert {row.name for row in ENTRIES if row.data == "on-policy"} == {
        *RECIPES,
        BRAIn.name,
        OnlineDPO.name,
        *STAGED,
        *GAMES,
        PPO,
    }


def test_the_documentations_table_is_the_codes():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    made = f"{matrix_as_markdown()}\n\n{as_markdown()}"
    assert page.rstrip().endswith(made), "run: plaudit methods --form markdown, and put it into the page"


def test_the_matrix_holds_every_method_once():
    head, *lines = as_matrix()
    named = [name for line in lines for cell in line[2:] for name in cell.split(", ") if name]
    assert sorted(named) == sorted(row.name for row in ENTRIES)
    assert head[2:] == ("imitation", "direct loss", "policy gradient")
    cells = {line[:2]: dict(zip(head[2:], line[2:], strict=True)) for line in lines}
    assert "dpo" in cells["pairs", "implicit"]["direct loss"]
    assert "grpo" in cells["scores", "outcome"]["policy gradient"]


def test_what_learns_from_stored_feedback_needs_no_outcome():
    """A reward of whole outputs is asked about samples; stored feedback has its own say."""
    assert {row.axes.reward for row in ENTRIES if row.data == "off-policy"} == {"none", "implicit", "model"}
