"""Text rewards: the official functions as loops, what anchors prevent, and scipy's Canberra distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import canberra

from objectives.contract import Case, normal, uniform
from plaudit.objectives.reward_terms.text_rewards import (
    canberra_distance,
    comment_reward,
    grade_drop_reward,
    log_product_reward,
    readability_target,
    shift_reward,
    simplification_reward,
)

GRADE = uniform(6, seed=1, low=2, high=16)
ACCURATE = torch.tensor([True, False, True, True, False, True])
RELEVANT = torch.tensor([True, True, False, True, False, False])
VIOLATION = torch.tensor([[True, False], [False, False], [True, True], [False, True], [False, False], [True, False]])
MOTIVATION = torch.tensor([1.0, 1.0, -1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
ANCHORS = ("simplicity", "similarity", "length_ratio", "new_entities")


def rewritten(rows, **more):
    return {
        "simplicity": normal(6, seed=1)[:rows],
        "similarity": uniform(6, seed=2, low=0.4)[:rows],
        "length_ratio": uniform(6, seed=3, high=2)[:rows],
        "new_entities": torch.arange(6).double()[:rows],
        **more,
    }


quick = settings(max_examples=40, deadline=None)  # the first example pays for imports
CASES = [
    Case(
        grade_drop_reward,
        lambda rows: {"grade": GRADE[:rows], "target_grade": uniform(6, seed=2, low=4, high=12)[:rows]},
        differentiable=("grade", "target_grade"),
        extreme=("grade",),
    ),
    Case(
        shift_reward,
        lambda rows: {
            "shift": uniform(6, seed=1, low=-1, high=8)[:rows],
            "target_shift": uniform(6, seed=2, low=0.5, high=4)[:rows],
        },
        differentiable=("shift", "target_shift"),
        extreme=("shift",),
        invalid={"overshoot_slope": [-0.1, math.nan], "least": [-0.1, 1.1], "base": [-0.1, 1.1]},
        low_precision=64.0,  # a difference of shifts over a target
    ),
    Case(readability_target, lambda rows: {"grade": GRADE[:rows]}, differentiable=("grade",), extreme=("grade",)),
    Case(
        log_product_reward,
        lambda rows: {
            "score": uniform(6, 3, seed=1, low=0.01)[:rows],
            "weight": torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64),
            "violation": VIOLATION[:rows],
        },
        differentiable=("score",),
        extreme=("score",),
        low_precision=64.0,  # logarithms of scores near 1
    ),
    Case(
        simplification_reward,
        rewritten,
        differentiable=ANCHORS,
        extreme=ANCHORS,
        invalid={
            "similarity_weight": [-0.1],
            "similarity_floor": [-0.1, 1.0, math.nan],
            "length_weight": [-0.1],
            "shortest": [-0.1],
            "longest": [0.0],
            "entity_weight": [-0.1],
        },
        low_precision=64.0,  # a cosine's distance from the floor
    ),
    Case(
        comment_reward,
        lambda rows: {"accurate": ACCURATE[:rows], "relevant": RELEVANT[:rows], "motivation": MOTIVATION[:rows]},
        differentiable=("motivation",),
        extreme=("motivation",),
        invalid={name: [-0.1, math.nan] for name in ("accuracy_weight", "relevance_weight", "motivation_weight")},
    ),
    Case(
        canberra_distance,
        lambda rows: {"a": normal(6, 4, seed=1)[:rows], "b": normal(6, 4, seed=2)[:rows]},
        differentiable=("a", "b"),
        extreme=("a", "b"),
        exchangeable="D",
    ),
]


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    yes, no = torch.tensor([True]), torch.tensor([False])
    assert grade_drop_reward(one(6), one(8)).item() == pytest.approx(1 / 4)
    assert shift_reward(one(4), one(4)).item() == pytest.approx(0.05 + 0.95 * 4 / 4.001)
    assert shift_reward(one(8), one(4)).item() == pytest.approx(0.05 + 0.95 * (1 - 0.25 * 4 / 4.001))
    assert readability_target(one(12)).item() == pytest.approx(4.5)
    halves = torch.tensor([[0.5, 0.5]])
    joint = log_product_reward(halves, torch.tensor([2.0, 1.0]), torch.zeros(1, 0, dtype=torch.bool))
    assert joint.item() == pytest.approx(-3 * math.log(2))
    anchored = simplification_reward(one(1), one(0.85), one(0.5), one(1))
    assert anchored.item() == pytest.approx(1 + 0.15 / 0.3 - 0.1 - 1)
    assert comment_reward(yes, no, one(-1)).item() == pytest.approx(0)
    assert comment_reward(yes, yes, one(1)).item() == pytest.approx(3)
    a, b = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[3.0, 0.0, -1.0]])
    assert canberra_distance(a, b).item() == pytest.approx(1.5)


def official_shift_reward(shift, target, least, base, slope=0.25):
    """model_simplicity.py: shift_to_score, then the reward's base and floor."""
    score = shift / (target + 0.001) if shift <= target else 1 - slope * (shift - target) / (target + 0.001)
    return base + np.clip(np.clip(score, 0, 1), least, 1) * (1 - base)


@quick
@given(st.floats(-10, 10), st.floats(0, 8))
def test_keep_it_simples_shift_rewards(shift, target):
    syntactic = shift_reward(one(shift), one(target)).item()
    assert syntactic == pytest.approx(official_shift_reward(shift, target, 0.02, 0.05))
    lexical = shift_reward(one(shift), one(0.4), least=0.05, base=0.3).item()
    assert lexical == pytest.approx(official_shift_reward(shift, 0.4, 0.05, 0.3))


def test_the_shift_reward_is_greatest_at_the_target():
    target = one(3.0)
    values = [shift_reward(target + step, target).item() for step in (-1, -0.5, 0, 0.5, 1)]
    assert values[2] == max(values)
    assert values[2] - values[1] > values[2] - values[3]  # falling short costs more than going beyond


def test_readability_targets_are_the_official_pieces():
    for grade in (0.0, 3.9, 4.0, 4.1, 8.0, 12.0, 12.1, 20.0):
        expected = 0 if grade <= 4 else (grade - 3) * 0.5 if grade <= 12 else 4.5 + (grade - 12) * 0.83
        assert readability_target(one(grade)).item() == pytest.approx(expected)


def official_logsum(scores, weights, penalties):
    total = 0.0
    for score, weight in zip(scores, weights, strict=True):
        total += weight * np.log(np.clip(score, 0.0001, 0.9999))
    for penalty in penalties:
        total += np.log(1 - np.clip(float(penalty), 0.0001, 0.9999))
    return total


def test_keep_it_simples_joint_reward():
    scores, weights = uniform(6, 3, seed=1), torch.tensor([2.0, 4.0, 1.0], dtype=torch.float64)
    scores[0, 0], scores[1, 1] = 0.0, 1.0
    ours = log_product_reward(scores, weights, VIOLATION)
    expected = [
        official_logsum(s, weights.tolist(), v) for s, v in zip(scores.tolist(), VIOLATION.tolist(), strict=True)
    ]
    np.testing.assert_allclose(ours.numpy(), expected)


def test_anchors_hold():
    """Inside the anchors the reward is the simplicity plus a constant; each breach costs its weight."""
    fine = simplification_reward(one(2), one(0.7), one(1.0), one(0)).item()
    assert fine == pytest.approx(2)
    for similarity in (0.0, 0.5, 0.7):
        assert simplification_reward(one(2), one(similarity), one(1), one(0)).item() == pytest.approx(fine)
    assert simplification_reward(one(2), one(1.0), one(1), one(0)).item() == pytest.approx(fine + 1)
    assert simplification_reward(one(2), one(0.7), one(0.1), one(0)).item() == pytest.approx(fine - 0.5)
    assert simplification_reward(one(2), one(0.7), one(1.5), one(0)).item() == pytest.approx(fine - 0.2)
    assert simplification_reward(one(2), one(0.7), one(1), one(3), entity_weight=0.5).item() == pytest.approx(
        fine - 1.5
    )


def test_a_wrong_comment_earns_nothing_and_a_right_one_never_less():
    reward = comment_reward(ACCURATE, RELEVANT, MOTIVATION)
    assert (reward[~ACCURATE] == 0).all()
    assert (reward[ACCURATE] >= 0).all()


@quick
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=6), st.floats(0.1, 10))
def test_canberra_is_scipys(pairs, scale):
    a, b = (torch.tensor([column], dtype=torch.float64) for column in zip(*pairs, strict=True))
    ours = canberra_distance(a, b)
    assert ours.item() == pytest.approx(canberra(a[0].numpy(), b[0].numpy()), abs=1e-12)
    torch.testing.assert_close(canberra_distance(b, a), ours)
    assert 0 <= ours.item() <= len(pairs) + 1e-12
