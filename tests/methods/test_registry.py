"""The table of methods is complete, and the documentation's is the code's."""

from __future__ import annotations

from pathlib import Path

from plaudit.methods import DPO, KTO, ORPO, SFT, OnlineDPO, RewardModelling, SimPO
from plaudit.methods.registry import ENTRIES, as_markdown

from .test_on_policy import RECIPES
from .worlds import CASES

PPO = "ppo"  # named by its recipe
ON_DEMONSTRATIONS = {"feedme", "conditioning"}  # they end in SFT, under its name


def test_every_method_stands_in_the_table_once():
    classes = (DPO, KTO, ORPO, SFT, OnlineDPO, RewardModelling, SimPO)
    names = [row.name for row in ENTRIES]
    assert len(set(names)) == len(names)
    assert set(names) == {*RECIPES, *(kind.name for kind in classes), *ON_DEMONSTRATIONS, PPO}


def test_every_method_in_the_table_is_in_the_invariance_suite():
    tested = {name.split("-token")[0].split("-sequence")[0] for name in CASES}
    assert {row.name for row in ENTRIES} - ON_DEMONSTRATIONS <= tested


def test_what_is_on_policy_is_what_samples():
    assert {row.name for row in ENTRIES if row.data == "on-policy"} == {*RECIPES, OnlineDPO.name, PPO}


def test_the_documentations_table_is_the_codes():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    assert page.rstrip().endswith(as_markdown()), "run: plaudit methods --form markdown, and put it into the page"
