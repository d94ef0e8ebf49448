"""VeriReason's formulas, the two that disagree and the levels, and a testbench that cannot be cut short."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, uniform
from plaudit.objectives.reward_terms.verilog_rewards import (
    passes_testbench,
    verireason_class_structure_score,
    verireason_reward,
    verireason_structure_score,
)

SIMILARITY, COVERAGE, REDUNDANCY = (uniform(5, seed=seed, low=0.2, high=0.8) for seed in (1, 2, 3))
CLASSES = [uniform(5, 3, seed=seed) for seed in (4, 5, 6)]
COMPILED = torch.tensor([1, 1, 1, 0, 1], dtype=torch.bool)
FUNCTIONAL = torch.tensor([0, 1, 0, 0, 0], dtype=torch.bool)
JUDGED = torch.tensor([1, 1, 0, 1, 1], dtype=torch.bool)
examples = settings(deadline=None, max_examples=30)
PARTS = ("similarity", "coverage", "redundancy")

CASES = [
    Case(
        verireason_structure_score,
        lambda rows: dict(zip(PARTS, (x[:rows] for x in (SIMILARITY, COVERAGE, REDUNDANCY)), strict=True)),
        differentiable=PARTS,
        extreme=PARTS,
    ),
    Case(
        verireason_class_structure_score,
        lambda rows: {**dict(zip(PARTS, (x[:rows] for x in CLASSES), strict=True)), "weights": (0.5, 0.3, 0.2)},
        differentiable=PARTS,
        extreme=PARTS,
        invalid={"weights": [(1.0, 1.0), (1.0, 1.0, math.inf)]},
    ),
    Case(
        verireason_reward,
        lambda rows: {
            "compiled": COMPILED[:rows],
            "functional": FUNCTIONAL[:rows],
            "structure": SIMILARITY[:rows],
            "judged": JUDGED[:rows],
        },
        differentiable=("structure",),
        extreme=("structure",),
        masks={"compiled": ("structure",), "judged": ("structure",)},
        invalid={
            "functional_reward": [0.0, -1.0],
            "compile_reward": [-0.1, math.nan],
            "structure_weight": [-1.0, math.inf],
        },
    ),
    Case(
        passes_testbench,
        lambda rows: {
            "equal": torch.tensor([256, 254, 253, 1, 0])[:rows],
            "produced": torch.tensor([256, 256, 256, 1, 0])[:rows],
            "expected": torch.tensor([256, 256, 256, 256, 0])[:rows],
        },
        invalid={"threshold": [-0.1, 1.1, math.nan]},
    ),
]


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def level(compiled, functional, structure, **settings):
    result = verireason_reward(torch.tensor([compiled]), torch.tensor([functional]), one(structure), **settings)
    assert result.judged.item()
    return result.reward.item()


def test_the_docstrings_examples():
    assert verireason_structure_score(one(1.0), one(1.0), one(0.0)).item() == pytest.approx(0.7 + 0.3)
    assert verireason_structure_score(one(0.0), one(0.0), one(1.0)).item() == 0
    whole = torch.ones(1, 1, dtype=torch.float64)
    assert verireason_class_structure_score(whole, whole, 0 * whole, weights=(1.0,)).item() == pytest.approx(0.6 + 0.5)
    assert level(True, True, 0.5) == 2
    assert level(True, False, 0.9) == pytest.approx(0.1 + 0.9)
    assert level(False, False, 0.9) == 0
    equal, produced = torch.tensor([254, 253, 1]), torch.tensor([256, 256, 1])
    assert passes_testbench(equal, produced, torch.full((3,), 256)).reward.tolist() == [1, 0, 0]


def test_the_codes_structure_by_numpy():
    expected = np.clip(0.7 * SIMILARITY.numpy() + 0.3 * COVERAGE.numpy() - 0.2 * REDUNDANCY.numpy(), 0, 1)
    np.testing.assert_allclose(verireason_structure_score(SIMILARITY, COVERAGE, REDUNDANCY).numpy(), expected)


def test_the_pages_structure_by_loops():
    weights = (0.5, 0.3, 0.2)
    ours = verireason_class_structure_score(*CLASSES, weights=weights)
    for i in range(5):
        expected = 0.0
        for c, weight in enumerate(weights):
            sim, cov, red = (part[i, c].item() for part in CLASSES)
            expected += weight * (0.6 * sim + 0.5 * cov - 0.3 * red)
        assert ours[i].item() == pytest.approx(expected)


def test_page_and_code_disagree_on_a_perfect_copy():
    """1.1 Σ w on the page, 1 in the code."""
    whole = torch.ones(1, 2, dtype=torch.float64)
    assert verireason_class_structure_score(whole, whole, 0 * whole, weights=(0.5, 0.5)).item() == pytest.approx(1.1)
    assert verireason_structure_score(whole[:, 0], whole[:, 0], 0 * whole[:, 0]).item() == pytest.approx(1.0)


@pytest.mark.parametrize("functional_reward", [2.0, 2.1])
def test_the_levels_by_hand(functional_reward):
    """Page: 2.0, 0.1 + AST, 0; the code has 2.1 at the top. With the format's 0.1 the range is [0, 2.2] and [0, 2.1]."""
    for compiled in (True, False):
        for functional in (True, False):
            for structure in (0.0, 0.7, 1.0):
                works = compiled and functional
                expected = functional_reward if works else 0.1 + structure if compiled else 0.0
                ours = level(compiled, functional, structure, functional_reward=functional_reward)
                assert ours == pytest.approx(expected)


def test_what_is_not_needed_is_not_read():
    assert level(True, True, math.nan) == 2
    assert level(False, True, math.nan) == 0
    assert level(False, False, math.nan) == 0


@examples
@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300))
def test_the_testbench_by_hand(equal, produced, expected):
    equal = min(equal, produced, expected)
    reward, judged = passes_testbench(*(torch.tensor([x]) for x in (equal, produced, expected)))
    assert judged.item() == (expected > 0)
    assert reward.item() == (expected > 0 and produced == expected and equal / expected >= 0.99)


def test_an_early_finish_passes_the_official_rule_and_not_ours():
    """One right line and $finish: min(len) lines are compared, and all of them are equal."""
    equal, produced, expected = 1, 1, 256
    assert equal / min(produced, expected) >= 0.99
    assert passes_testbench(*(torch.tensor([x]) for x in (equal, produced, expected))).reward.item() == 0


def test_the_threshold_is_met_exactly():
    """99 of 100, where float32 would fall short."""
    for hundred in (100, 200, 1000):
        lines = torch.tensor([hundred])
        assert passes_testbench(lines * 99 // 100, lines, lines).reward.item() == 1
        assert passes_testbench(lines * 99 // 100 - 1, lines, lines).reward.item() == 0
