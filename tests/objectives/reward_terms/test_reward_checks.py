"""The order of right and wrong in the rewards of the papers, and what comes in at the library's boundary."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal, uniform
from plaudit.objectives.reward_terms.execution_rewards import gated_reex_sql_reward, reex_sql_reward
from plaudit.objectives.reward_terms.reflection_rewards import srpo_released_reward, srpo_reward
from plaudit.objectives.reward_terms.reward_checks import (
    bounded_reward,
    judged_share,
    normalised_reward,
    reward_order_margin,
)
from plaudit.objectives.reward_terms.verilog_rewards import verireason_reward

REWARD = normal(5, 4, seed=1)
RIGHT = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]], dtype=torch.bool)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)

examples = settings(deadline=None, max_examples=30)

CASES = [
    Case(
        reward_order_margin,
        lambda rows: {"reward": REWARD[:rows], "right": RIGHT[:rows]},
        differentiable=("reward",),
        extreme=("reward",),
        exchangeable="K",
    ),
    Case(
        reward_order_margin,
        lambda rows: {"reward": REWARD[:rows], "right": RIGHT[:rows], "mask": MASK[:rows]},
        name="masked",
        differentiable=("reward",),
        extreme=("reward",),
        exchangeable="K",
        masks={"mask": ("reward",)},
    ),
    Case(
        bounded_reward,
        lambda rows: {"reward": uniform(5, seed=2, low=-0.9, high=0.9)[:rows], "minimum": -1.0, "maximum": 1.0},
        differentiable=("reward",),
        extreme=("reward",),
        invalid={"maximum": [-1.0, -2.0, math.inf, math.nan]},
    ),
    Case(
        normalised_reward,
        lambda rows: {"reward": normal(5, seed=3)[:rows], "mean": 0.5, "deviation": 2.0, "scale": 0.3, "bias": 0.1},
        differentiable=("reward",),
        extreme=("reward",),
        invalid={"deviation": [0.0, -1.0, math.nan]},
    ),
    Case(judged_share, lambda rows: {"judged": RIGHT[:rows]}, exchangeable="K"),
    Case(judged_share, lambda rows: {"judged": RIGHT[:rows], "mask": MASK[:rows]}, name="masked", exchangeable="K"),
]


def test_the_docstrings_examples():
    margin, defined = reward_order_margin(torch.tensor([[6, 5.5, 5]]), torch.tensor([[True, True, False]]))
    assert margin.item() == 5.5 - 5
    assert defined.item()
    reward, judged = bounded_reward(torch.tensor([1.5, math.nan, -0.5]), minimum=0.0, maximum=1.0)
    assert reward.tolist() == [1, 0, 0]
    assert judged.tolist() == [True, False, True]
    normal_score = normalised_reward(torch.tensor([3.0]), mean=1.0, deviation=2.0, scale=0.3, bias=0.1)
    assert normal_score.item() == pytest.approx(0.3 * 1 + 0.1)
    assert judged_share(torch.tensor([[True, True, False, True]])).item() == 3 / 4


def test_the_margin_by_loops():
    for mask in (None, MASK):
        margins, defined = reward_order_margin(REWARD, RIGHT, mask)
        for i in range(5):
            counts = [mask is None or bool(mask[i, k]) for k in range(4)]
            right = [REWARD[i, k].item() for k in range(4) if counts[k] and RIGHT[i, k]]
            wrong = [REWARD[i, k].item() for k in range(4) if counts[k] and not RIGHT[i, k]]
            assert defined[i].item() == bool(right and wrong)
            assert margins[i].item() == pytest.approx(min(right) - max(wrong) if right and wrong else 0)


def grid(*parts):
    """All combinations of the components' values, one tensor per component."""
    return [torch.tensor(column) for column in zip(*product(*parts), strict=True)]


def reex_grid():
    """Every combination that can occur: an exact match is right, and a badly formed output has no query to run."""
    columns = grid([False, True], [False, True], [0.0, 0.1, 1.0], [0.0, 0.5, 1.0], [0.0, 0.5, 1.0])
    well_formed, match, execution, _, _ = columns
    possible = (~match | (execution == 1)) & (well_formed | (execution == 0))
    columns = [column[possible] for column in columns]
    return columns, columns[2] == 1


def test_reex_sql_breaks_the_order_and_the_gate_restores_it():
    """wrong = 2 + 0 + 0 + 1 + 2 = 5 (a little more where a query that merely runs is paid 0.1) against right = 2 + 3 = 5."""
    columns, right = reex_grid()
    margin = reward_order_margin(reex_sql_reward(*columns).reward[None], right[None]).margin
    assert margin.item() == pytest.approx((2 + 3) - (2 + 3 * 0.1 + 1 + 2))
    gated = reward_order_margin(gated_reex_sql_reward(*columns).reward[None], right[None]).margin
    assert gated.item() == pytest.approx((2 + 3) - (2 + 3 * 0.1 + 1))


def test_reex_sql_wrong_5_right_6_is_too_close():
    """The specification's example: 5 for the best wrong answer, 6 for a right one that knows its tables, 5 + r_entity below."""
    no = torch.tensor([False])
    yes = torch.tensor([True])
    one, zero = torch.ones(1), torch.zeros(1)
    assert reex_sql_reward(yes, no, zero, one, one).reward.item() == 2 + 0 + 0 + 1 + 2
    assert reex_sql_reward(yes, no, one, one, zero).reward.item() == 2 + 0 + 3 + 1 + 0
    for entity in (0.0, 0.3, 0.9):
        right = reex_sql_reward(yes, no, one, torch.tensor([entity]), zero).reward
        assert right.item() == pytest.approx(5 + entity)


def test_verireason_keeps_the_order_of_its_levels_but_not_of_likeness():
    """A working design is above all others by 2 - 1.1; an empty module (0.986) is above a nearly right one (0.900)."""
    compiled, functional, structure = grid([False, True], [False, True], [0.0, 0.9, 0.986, 1.0])
    reward = verireason_reward(compiled, functional, structure).reward
    margin = reward_order_margin(reward[None], (compiled & functional)[None]).margin
    assert margin.item() == pytest.approx(2 - (0.1 + 1))
    yes, no = torch.tensor([True, True]), torch.tensor([False, False])
    empty, nearly = verireason_reward(yes, no, torch.tensor([0.986, 0.900])).reward
    assert empty > nearly


def test_srpo_pays_the_first_right_answer_and_its_released_code_the_sandbagger():
    yes, no, one = torch.tensor([True]), torch.tensor([False]), torch.ones(1)
    right_first, repaired = (srpo_reward(yes, yes, yes, first, yes, one) for first in (yes, no))
    assert (right_first - repaired).item() == pytest.approx(0.75 - 0.5)
    right_first, repaired = (srpo_released_reward(yes, yes, first, yes, one) for first in (yes, no))
    assert (right_first - repaired).item() == pytest.approx(0.75 - 1.0)


@examples
@given(st.floats(-5, 5))
def test_a_constant_for_all_does_not_change_the_margin(shift):
    ours = reward_order_margin(REWARD + shift, RIGHT).margin
    torch.testing.assert_close(ours, reward_order_margin(REWARD, RIGHT).margin)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_reward(value):
    """A clip alone lets NaN through and makes infinity the best reward there is."""
    raw = torch.tensor([0.5, value], requires_grad=True)
    reward, judged = bounded_reward(raw, minimum=0.0, maximum=1.0)
    assert judged.tolist() == [True, False]
    assert reward.tolist() == [0.5, 0]
    reward.sum().backward()
    assert raw.grad.tolist() == [1, 0]
    assert raw.detach().clamp(0, 1)[1].isnan() or raw.detach().clamp(0, 1)[1] in (0, 1)


def test_normalised_scores_have_the_scale_asked_for():
    raw = normal(400, seed=7, scale=3.0) + 5
    ours = normalised_reward(raw, mean=raw.mean().item(), deviation=raw.std().item(), scale=0.3, bias=0.1)
    assert ours.mean().item() == pytest.approx(0.1)
    assert ours.std().item() == pytest.approx(0.3)


def test_without_a_scale_scores_are_standard():
    raw = torch.tensor([3.0, 1.0])
    assert normalised_reward(raw, mean=1.0, deviation=2.0).tolist() == [1, 0]


def test_the_share_by_numpy():
    expected = [np.mean(RIGHT[i][MASK[i]].numpy()) for i in range(5)]
    np.testing.assert_allclose(judged_share(RIGHT, MASK).numpy(), expected, rtol=1e-6)
    assert judged_share(RIGHT, torch.zeros_like(MASK)).tolist() == [0] * 5


def test_messages():
    with pytest.raises(ValueError, match=r"maximum: expected a number above minimum = 0\.0, got -1\.0"):
        bounded_reward(torch.zeros(1), minimum=0.0, maximum=-1.0)
    with pytest.raises(ValueError, match="reward: expected groups of at least 1 outputs, got 0"):
        reward_order_margin(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))
