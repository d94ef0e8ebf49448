"""Values of steps: shares, any success, cautious bounds, PROPA's boost, and progress that adds up."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, uniform
from plaudit.objectives.reward_models.step_values import (
    boosted_value,
    step_progress,
    step_value,
    step_value_hard,
    step_value_lower,
)

MASK = lengths_mask(5, 6)
VISITS = torch.randint(0, 9, (5, 6), generator=torch.Generator().manual_seed(1)).double()
SUCCESSES = (VISITS * uniform(5, 6, seed=2)).round()
VALUE, ROOT = uniform(5, 6, seed=3, low=0.1), uniform(5, seed=4)


def counts(rows, **settings):
    return {"value_sum": SUCCESSES[:rows], "visits": VISITS[:rows], **settings}


CASES = [
    Case(step_value, counts),
    Case(step_value_hard, lambda rows: {"value_sum": SUCCESSES[:rows]}),
    Case(step_value_lower, lambda rows: counts(rows, deviations=1.5), invalid={"deviations": [-1.0, math.nan]}),
    Case(
        boosted_value,
        lambda rows: {"value": VALUE[:rows]},
        differentiable=("value",),
        invalid={"gain": [0.0, -1.0]},
    ),
    Case(
        step_progress,
        lambda rows: {"value": VALUE[:rows], "root_value": ROOT[:rows], "mask": MASK[:rows]},
        differentiable=("value", "root_value"),
        extreme=("value", "root_value"),
        masks={"mask": ("value",)},
    ),
]


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def test_the_docstrings_examples():
    assert step_value(row(3), row(8)).item() == 0.375
    assert step_value_hard(row(3)).item() == 1
    assert step_value_lower(row(2), row(4), deviations=1.0).item() == pytest.approx(0.25)
    assert boosted_value(row(0.1)).item() == pytest.approx(math.log(2) / math.log(11))
    progress = step_progress(row(0.5, 0.25, 1), torch.tensor([0.25]).double(), torch.ones(1, 3, dtype=torch.bool))
    assert progress.tolist() == [[0.25, -0.25, 0.75]]


def test_values_are_shares_between_0_and_1_and_0_where_nobody_went():
    value = step_value(SUCCESSES, VISITS)
    assert (VISITS == 0).any()
    assert (value[VISITS == 0] == 0).all()
    visited = VISITS > 0
    torch.testing.assert_close(value[visited], SUCCESSES[visited] / VISITS[visited])
    assert value.min() >= 0
    assert value.max() <= 1


def test_a_hard_label_is_a_soft_one_above_zero():
    assert torch.equal(step_value_hard(SUCCESSES), (step_value(SUCCESSES, VISITS) > 0).double())


def test_the_lower_bound_is_the_mean_less_binomial_standard_errors():
    lower = step_value_lower(SUCCESSES, VISITS, deviations=1.5)
    for w, n, bound in zip(
        SUCCESSES.flatten().tolist(), VISITS.flatten().tolist(), lower.flatten().tolist(), strict=True
    ):
        share = w / n if n else 0.0
        assert bound == pytest.approx(share - 1.5 * math.sqrt(share * (1 - share) / max(n, 1)))
    torch.testing.assert_close(step_value_lower(SUCCESSES, VISITS, deviations=0.0), step_value(SUCCESSES, VISITS))


def test_more_visits_at_the_same_share_raise_the_lower_bound():
    bounds = step_value_lower(row(1, 4, 16), row(2, 8, 32), deviations=1.0)
    assert (bounds.diff() > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_the_boost_keeps_the_ends_and_the_order_and_lifts_what_is_between(low, high):
    low, high = sorted((low, high))
    boosted = boosted_value(row(0, low, high, 1))[0]
    assert boosted[0] == 0
    assert boosted[3].item() == pytest.approx(1)
    assert boosted[1] <= boosted[2]
    assert boosted[1] >= low - 1e-12


def test_a_weak_boost_is_none():
    torch.testing.assert_close(boosted_value(VALUE, gain=1e-9), VALUE, rtol=1e-6, atol=1e-6)


def test_progress_adds_up_from_the_root_to_the_last_step():
    progress = step_progress(VALUE, ROOT, MASK)
    last = torch.stack([VALUE[i][MASK[i]][-1] for i in range(5)])
    torch.testing.assert_close(progress.sum(-1), last - ROOT)


def test_progress_skips_steps_that_do_not_exist():
    """A hole deletes the step: what comes after is compared with what came before."""
    for i in range(5):
        kept = torch.cat([ROOT[i : i + 1], VALUE[i][MASK[i]]])
        torch.testing.assert_close(step_progress(VALUE, ROOT, MASK)[i][MASK[i]], kept.diff())
