"""Readability rewards: the official constants by numpy, and anchors that stop the known hacks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal, uniform
from plaudit.objectives.readability_rewards import (
    anchored_simplicity_reward,
    grade_shift_score,
    relative_grade_drop,
    word_shift_score,
)

SOURCE = torch.tensor([3.0, 8.0, 11.0, 14.0, 15.4], dtype=torch.float64)
GRADE = SOURCE - torch.tensor([1.0, 1.5, 3.0, 4.0, 2.5], dtype=torch.float64)
NEW = torch.tensor([0, 1, 0, 0, 1], dtype=torch.bool)
SIMILARITY = torch.tensor([0.9, 0.8, 0.5, 0.95, 0.3], dtype=torch.float64)
examples = settings(deadline=None, max_examples=50)

CASES = [
    Case(
        relative_grade_drop,
        lambda rows: {"grade": GRADE[:rows], "target_grade": SOURCE[:rows]},
        differentiable=("grade", "target_grade"),
        extreme=("grade",),
    ),
    Case(
        grade_shift_score,
        lambda rows: (
            {"grade": GRADE[1:][:rows], "source_grade": SOURCE[1:][:rows]}
            if rows < 5
            else {"grade": GRADE, "source_grade": SOURCE}
        ),
        differentiable=("grade", "source_grade"),
        extreme=("grade", "source_grade"),
    ),
    Case(
        word_shift_score,
        lambda rows: {"frequency_gain": torch.tensor([0.1, 0.3, 0.7, 1.0, -0.2]).double()[:rows]},
        differentiable=("frequency_gain",),
        extreme=("frequency_gain",),
        invalid={"target": [0.0, -0.4, math.nan]},
    ),
    Case(
        anchored_simplicity_reward,
        lambda rows: {
            "simplicity": normal(5, seed=1)[:rows],
            "similarity": SIMILARITY[:rows],
            "length_penalty": uniform(5, seed=2)[:rows],
            "new_entity": NEW[:rows],
        },
        differentiable=("simplicity", "similarity", "length_penalty"),
        extreme=("simplicity", "similarity", "length_penalty"),
        invalid={name: [-1.0, math.nan] for name in ("similarity_weight", "length_weight", "entity_weight")},
    ),
]


def one(value):
    return torch.tensor([value], dtype=torch.float64)


def official_shift_score(shift, target):
    score = shift / (target + 0.001) if shift <= target else 1.0 - 0.25 * (shift - target) / (target + 0.001)
    return np.clip(score, 0, 1.0)


def official_grade_score(source, grade):
    target = 0 if source <= 4.0 else (source - 3) * 0.5 if source <= 12.0 else 4.5 + (source - 12) * 0.83
    return 0.05 + 0.95 * np.clip(official_shift_score(source - grade, target), 0.02, 1.0)


def test_the_docstrings_examples():
    assert relative_grade_drop(one(6.0), one(8.0)).item() == pytest.approx(1 / 4)
    assert grade_shift_score(one(7.0), one(11.0)).item() == pytest.approx(0.05 + 0.95 * 4 / 4.001)
    assert grade_shift_score(one(11.0), one(11.0)).item() == pytest.approx(0.05 + 0.95 * 0.02)
    assert word_shift_score(one(0.2)).item() == pytest.approx(0.3 + 0.7 * 0.2 / 0.401)
    assert word_shift_score(one(0.0)).item() == pytest.approx(0.3 + 0.7 * 0.05)
    none = torch.tensor([False])
    assert anchored_simplicity_reward(one(0.8), one(0.9), one(0.0), none).item() == pytest.approx(1.7)
    assert anchored_simplicity_reward(one(0.8), one(0.5), one(0.0), none).item() == pytest.approx(0.8)


@examples
@given(st.floats(-5, 25), st.floats(-5, 25))
def test_keep_it_simples_syntax_by_numpy(source, grade):
    ours = grade_shift_score(one(grade), one(source)).item()
    assert ours == pytest.approx(official_grade_score(source, grade), rel=1e-9, abs=1e-9)


@examples
@given(st.floats(-3, 3), st.sampled_from([0.2, 0.4, 1.0]))
def test_keep_it_simples_words_by_numpy(gain, target):
    expected = 0.3 + 0.7 * np.clip(official_shift_score(gain, target), 0.05, 1.0)
    assert word_shift_score(one(gain), target=target).item() == pytest.approx(expected, rel=1e-9)


def test_the_score_is_best_at_its_target_and_falls_slowly_beyond():
    grade = torch.linspace(0, 11, 111, dtype=torch.float64)
    score = grade_shift_score(grade, torch.full_like(grade, 11.0))
    best = grade[score.argmax()].item()
    assert best == pytest.approx(11 - (11 - 3) / 2, abs=0.11)
    below, above = grade_shift_score(one(best + 1), one(11.0)), grade_shift_score(one(best - 1), one(11.0))
    assert 0 < (1 - above).item() < (1 - below).item()


def test_teslea_has_no_bound_and_keep_it_simple_has():
    """A stock phrase of grade -3: the drop goes on, the score does not."""
    for grade in (2.0, -3.0, -10.0):
        assert relative_grade_drop(one(grade), one(8.0)).item() == pytest.approx((8 - grade) / 8)
        assert grade_shift_score(one(grade), one(12.0)).item() <= 1


def test_a_target_grade_of_zero_is_an_error():
    with pytest.raises(ValueError, match="target_grade: expected numbers other than 0, got 0"):
        relative_grade_drop(one(1.0), one(0.0))


def test_the_anchors_by_hand():
    simple, penalty = normal(5, seed=1), uniform(5, seed=2)
    ours = anchored_simplicity_reward(
        simple,
        SIMILARITY,
        penalty,
        NEW,
        similarity_weight=2.0,
        similarity_floor=0.6,
        length_weight=0.5,
        entity_weight=3.0,
    )
    for i in range(5):
        meaning = SIMILARITY[i].item() if SIMILARITY[i] >= 0.6 else 0
        expected = simple[i].item() + 2 * meaning - 0.5 * penalty[i].item() - 3 * NEW[i].item()
        assert ours[i].item() == pytest.approx(expected)


def test_at_the_floor_the_meaning_counts_and_all_weights_are_one():
    at, below = (anchored_simplicity_reward(one(0.0), one(m), one(0.0), torch.tensor([False])) for m in (0.7, 0.699))
    assert at.item() == 0.7
    assert below.item() == 0
    assert anchored_simplicity_reward(one(0.0), one(0.0), one(0.25), torch.tensor([True])).item() == -0.25 - 1


def test_the_hack_of_deleting_everything_loses_to_an_honest_rewriting():
    """Simpler by the classifier, but without the meaning, too short, or with an invented entity."""
    honest = anchored_simplicity_reward(one(0.8), one(0.9), one(0.0), torch.tensor([False]))
    shortened = anchored_simplicity_reward(one(0.99), one(0.4), one(1.0), torch.tensor([False]))
    invented = anchored_simplicity_reward(one(0.99), one(0.9), one(0.0), torch.tensor([True]))
    assert honest > max(shortened, invented)
