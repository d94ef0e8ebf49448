"""RefCritic's two rewards and their gate; SRPO's table, in the paper and in the released code."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, uniform
from plaudit.objectives.reward_terms.reflection_rewards import (
    refcritic_judgement_reward,
    refcritic_refinement_reward,
    refcritic_reward,
    srpo_effect_reward,
    srpo_length_score,
    srpo_released_reward,
    srpo_reward,
)

A, B, C, D, E = (uniform(5, seed=seed) < 0.6 for seed in (1, 2, 3, 4, 5))
REFINED, DRAWN = uniform(5, 4, seed=6) < 0.5, uniform(5, 4, seed=7) < 0.7
JUDGED = torch.tensor([1, 0, 1, 0, 1], dtype=torch.bool)
VERDICT = torch.tensor([1, 1, 0, 0, 1], dtype=torch.bool)
SHARE = uniform(5, seed=8)
LENGTH, FIRST = torch.tensor([80, 100, 60, 33, 50]), torch.tensor([40, 40, 40, 0, 17])
TWICE = torch.tensor([1, 1, 0, 1, 1], dtype=torch.bool)
examples = settings(deadline=None, max_examples=30)


def responses(rows, *names):
    return {**dict(zip(names, (x[:rows] for x in (A, B, C)), strict=False))}


CASES = [
    Case(
        refcritic_judgement_reward,
        lambda rows: {"says_correct": A[:rows], "solution_correct": B[:rows], "parsed": C[:rows]},
    ),
    Case(refcritic_refinement_reward, lambda rows: {"refined_correct": REFINED[:rows]}),
    Case(
        refcritic_refinement_reward,
        lambda rows: {"refined_correct": REFINED[:rows], "judged": DRAWN[:rows]},
        name="judged",
    ),
    Case(
        refcritic_reward,
        lambda rows: {"verdict_right": VERDICT[:rows], "refinement": SHARE[:rows], "refinement_weight": 0.7},
        differentiable=("refinement",),
        extreme=("refinement",),
        invalid={"refinement_weight": [-1.0, math.nan]},
    ),
    Case(
        refcritic_reward,
        lambda rows: {"verdict_right": VERDICT[:rows], "refinement": SHARE[:rows], "judged": JUDGED[:rows]},
        name="judged",
        differentiable=("refinement",),
        extreme=("refinement",),
        masks={"judged": ("refinement",)},
    ),
    Case(srpo_effect_reward, lambda rows: {"first_correct": A[:rows], "second_correct": B[:rows]}),
    Case(
        srpo_length_score,
        lambda rows: {"length": LENGTH[:rows], "first_length": FIRST[:rows]},
        invalid={"target": [0.0, -1.0], "maximum": [2.0, 1.0, math.nan]},
    ),
    Case(
        srpo_reward,
        lambda rows: {
            "well_formed": A[:rows],
            "reflected": B[:rows],
            "answered_twice": TWICE[:rows],
            "first_correct": D[:rows],
            "second_correct": E[:rows],
            "length_score": SHARE[:rows],
        },
        differentiable=("length_score",),
        extreme=("length_score",),
        masks={"answered_twice": ("length_score",)},
        invalid={"length_weight": [-0.1, math.nan]},
    ),
    Case(
        srpo_released_reward,
        lambda rows: {
            "well_formed": A[:rows],
            "answered_twice": TWICE[:rows],
            "first_correct": D[:rows],
            "second_correct": E[:rows],
            "length_score": SHARE[:rows],
        },
        differentiable=("length_score",),
        extreme=("length_score",),
        masks={"answered_twice": ("length_score",)},
        invalid={"length_weight": [-0.1, math.inf]},
    ),
]


def yes(value=True):
    return torch.tensor([value])


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    assert refcritic_judgement_reward(yes(), yes(False), yes()).item() == 0
    assert refcritic_judgement_reward(yes(False), yes(False), yes()).item() == 1
    assert refcritic_judgement_reward(yes(False), yes(False), yes(False)).item() == 0
    refined = torch.tensor([[True, False, False, True]])
    share = refcritic_refinement_reward(refined, torch.tensor([[True, True, True, False]]))
    assert share.reward.item() == pytest.approx(1 / 3)
    assert refcritic_reward(yes(), one(0.5)).reward.item() == 1.5
    assert refcritic_reward(yes(False), one(1.0)).reward.item() == 0
    assert srpo_effect_reward(yes(False), yes()).item() == 0.5
    assert srpo_effect_reward(yes(), yes(False)).item() == -0.25
    score = srpo_length_score(torch.tensor([80, 100, 60]), torch.tensor([40, 40, 40]))
    assert score.tolist() == [1, pytest.approx(math.exp(-1)), pytest.approx(math.exp(-1))]
    all_right = srpo_reward(yes(), yes(), yes(), yes(), yes(), one(1.0))
    assert all_right.item() == pytest.approx(0.5 + 0.5 + 0.25 + 0.25 + 0.1)
    assert srpo_reward(yes(), yes(), yes(), yes(False), yes(), one(1.0)).item() == pytest.approx(1.35)
    assert srpo_released_reward(yes(), yes(), yes(False), yes(), one(1.0)).item() == pytest.approx(1 + 0.5 + 0.1)
    assert srpo_released_reward(yes(), yes(), yes(), yes(), one(1.0)).item() == pytest.approx(1.35)


def test_the_verdict_by_hand():
    for says, is_right, parsed in product([True, False], repeat=3):
        expected = 1 if parsed and says == is_right else 0
        assert refcritic_judgement_reward(yes(says), yes(is_right), yes(parsed)).item() == expected


@examples
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8))
def test_the_share_of_refinements_by_loops(refinements):
    correct, judged = (torch.tensor([column]) for column in zip(*refinements, strict=True))
    ours = refcritic_refinement_reward(correct, judged)
    known = [right for right, there in refinements if there]
    assert ours.judged.item() == bool(known)
    assert ours.reward.item() == pytest.approx(np.mean(known) if known else 0)


@examples
@given(st.booleans(), st.floats(0, 1), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_gate_and_the_third_verdict(right, share, judged, weight):
    """R = R_judge + λ 1[v = z] R_refine; unknown refinements only matter where the verdict was right and λ > 0."""
    result = refcritic_reward(yes(right), one(share if judged else math.nan), yes(judged), refinement_weight=weight)
    known = judged or not right or weight == 0
    assert result.judged.item() == known
    assert result.reward.item() == pytest.approx((right + weight * right * (share if judged else 0)) if known else 0)


def test_a_lucky_refinement_under_a_wrong_verdict_earns_nothing_and_is_not_needed():
    assert refcritic_reward(yes(False), one(math.nan)).reward.item() == 0


def test_a_reward_of_refinements_has_m_plus_one_values():
    """{0, 1/M, ..., 1}: groups with equal verdicts still differ."""
    shares = {refcritic_refinement_reward(torch.arange(8)[None] < right).reward.item() for right in range(9)}
    assert shares == {m / 8 for m in range(9)}


# first, second: the paper's accuracy and effect, the OpenRLHF code's, the verl code's intention
TABLE = [
    (False, True, 0 + 0.5, 1.0, 1.0),
    (True, True, 0.5 + 0.25, 0.75, 0.75),
    (True, False, 0.5 - 0.25, 0.25, -0.25),
    (False, False, 0, 0, 0),
]


@pytest.mark.parametrize(("first", "second", "paper", "openrlhf", "verl"), TABLE)
def test_the_table_of_first_and_second_answers(first, second, paper, openrlhf, verl):
    nothing_else = (yes(False), yes(False), yes(), yes(first), yes(second), one(0.0))
    assert srpo_reward(*nothing_else).item() == paper
    assert srpo_released_reward(yes(False), yes(), yes(first), yes(second), one(0.0)).item() == openrlhf
    in_verl = srpo_effect_reward(yes(first), yes(second), kept=0.75, repaired=1.0, failed=0.0, spoiled=-0.25)
    assert in_verl.item() == verl


@pytest.mark.parametrize("first", [True, False])
def test_a_single_answer_has_no_effect_and_no_length(first):
    """One answer, right: 0.5 in both; its second answer and its length are not there to be read."""
    paper = srpo_reward(yes(False), yes(False), yes(False), yes(first), yes(), one(math.nan))
    assert paper.item() == 0.5 * first
    released = srpo_released_reward(yes(False), yes(False), yes(first), yes(), one(math.nan))
    assert released.item() == 0.5 * first


def test_the_sum_by_hand():
    """R = 0.5 format + 0.5 accuracy + I_eff + 0.25 I_ref + 0.1 f."""
    effect = {(True, True): 0.25, (False, True): 0.5, (False, False): 0.0, (True, False): -0.25}
    for well_formed, reflected, first, second in product([True, False], repeat=4):
        for f in (0.0, 0.3, 1.0):
            ours = srpo_reward(yes(well_formed), yes(reflected), yes(), yes(first), yes(second), one(f))
            expected = 0.5 * well_formed + 0.5 * first + effect[first, second] + 0.25 * reflected + 0.1 * f
            assert ours.item() == pytest.approx(expected)


@examples
@given(st.integers(0, 400), st.integers(1, 100))
def test_the_length_score_is_equation_7(length, first):
    target, maximum = 2 * first, 2.5 * first
    expected = math.exp(-((abs(length - target) / (maximum - target)) ** 2))
    ours = srpo_length_score(torch.tensor([length]), torch.tensor([first])).item()
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-30)


def test_a_response_without_a_first_part_scores_zero():
    """The official code raises inside, and gives the whole response 0."""
    assert srpo_length_score(torch.tensor([50, 0]), torch.tensor([0, 0])).tolist() == [0, 0]


def test_lengthening_the_first_part_raises_the_allowance():
    """The trap: a response of 200 tokens is overlong after a first part of 50, and at its target after one of 100."""
    scores = srpo_length_score(torch.tensor([200, 200]), torch.tensor([50, 100]))
    assert scores[0] < 0.001
    assert scores[1] == 1
