"""Losses that hold each output of a pair against the reference: values, targets, what they do near it, and TRL's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal
from objectives.trl_peer import summed_log_ratios, token_pairs, trl_dpo_each
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.pairwise_anchored import apo_down, apo_zero, bco_pair, dpop, nca, sppo_hard


def pairs(rows, **settings):
    return {
        "log_ratio_chosen": normal(5, seed=1)[:rows],
        "log_ratio_rejected": normal(5, seed=2)[:rows],
        "beta": 0.3,
        **settings,
    }


SIDES = ("log_ratio_chosen", "log_ratio_rejected")
NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]
CASES = [
    *(
        Case(objective, pairs, differentiable=SIDES, extreme=SIDES, invalid={"beta": NOT_POSITIVE})
        for objective in (nca, bco_pair, apo_zero, apo_down, sppo_hard)
    ),
    Case(
        dpop,
        pairs,
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE, "penalty": [-1.0, math.nan]},
    ),
    Case(dpop, lambda rows: pairs(rows, penalty=0.0), name="without-penalty", differentiable=SIDES, extreme=SIDES),
]

log_ratios = st.floats(-20, 20)
strengths = st.floats(0.05, 5)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logistic(x: float) -> float:
    return math.log1p(math.exp(-x))


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def value(objective, chosen: float, rejected: float, **settings) -> float:
    return objective(number(chosen), number(rejected), **settings).item()


def slopes(objective, chosen: float, rejected: float, **settings) -> tuple[float, float]:
    """The derivatives in both log-ratios."""
    sides = number(chosen).requires_grad_(), number(rejected).requires_grad_()
    objective(*sides, **settings).sum().backward()
    return sides[0].grad.item(), sides[1].grad.item()


def test_the_docstrings_examples():
    assert value(nca, 1, -1, beta=1) == pytest.approx(logistic(1) + 0.5 * logistic(-1) + 0.5 * logistic(1))
    assert value(bco_pair, 1, -1, beta=1) == pytest.approx(2 * logistic(1))
    assert value(apo_zero, math.log(3), -math.log(3), beta=1) == pytest.approx(0.5)
    assert value(apo_down, -math.log(3), -2 * math.log(3), beta=1) == pytest.approx(0.5)
    assert value(sppo_hard, 1, 0, beta=0.5) == pytest.approx(1)
    assert value(dpop, -1, -4, beta=1, penalty=2) == pytest.approx(logistic(1))


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (nca, 2 * math.log(2)),
        (bco_pair, 2 * math.log(2)),
        (apo_zero, 1),
        (apo_down, 1),
        (sppo_hard, 2 * (1 / (2 * 0.4)) ** 2),
        (dpop, math.log(2)),
    ],
)
def test_a_policy_that_is_its_reference(objective, expected):
    assert value(objective, 0, 0, beta=0.4) == pytest.approx(expected)


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths)
def test_slopes_are_the_formulas(chosen, rejected, beta):
    w, l = sigmoid(beta * chosen), sigmoid(beta * rejected)
    h = sigmoid(beta * (chosen - rejected))
    expected = {
        nca: (-beta * (1 - w) + 0.5 * beta * w, 0.5 * beta * l),
        bco_pair: (-beta * (1 - w), beta * l),
        apo_zero: (-beta * w * (1 - w), beta * l * (1 - l)),
        apo_down: (beta * w * (1 - w) - beta * h * (1 - h), beta * h * (1 - h)),
        sppo_hard: (2 * (chosen - 1 / (2 * beta)), 2 * (rejected + 1 / (2 * beta))),
    }
    for objective, slope in expected.items():
        assert slopes(objective, chosen, rejected, beta=beta) == pytest.approx(slope, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(log_ratios, strengths)
def test_ncas_preferred_reward_rests_at_log_2(rejected, beta):
    assert slopes(nca, math.log(2) / beta, rejected, beta=beta)[0] == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(strengths)
def test_sppos_targets(beta):
    """Plus and minus ``1 / (2β)``: the loss and its slopes are 0 there, and nowhere else."""
    target = 1 / (2 * beta)
    assert value(sppo_hard, target, -target, beta=beta) == pytest.approx(0)
    assert slopes(sppo_hard, target, -target, beta=beta) == pytest.approx((0, 0))


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths)
def test_bco_bounds_dpo_from_above(chosen, rejected, beta):
    assert value(bco_pair, chosen, rejected, beta=beta) >= value(dpo, chosen, rejected, beta=beta) - 1e-12


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), strengths)
def test_apo_down_pushes_the_preferred_output_down_once_the_gap_is_there(reward, beta):
    chosen, rejected = reward / beta, (reward - 30) / beta
    assert slopes(apo_down, chosen, rejected, beta=beta)[0] > 0
    assert slopes(apo_zero, chosen, rejected, beta=beta)[0] < 0


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 20), log_ratios, strengths, st.floats(0, 100))
def test_dpop_is_dpo_while_the_preferred_output_keeps_its_likelihood(chosen, rejected, beta, penalty):
    plain = value(dpo, chosen, rejected, beta=beta)
    assert value(dpop, chosen, rejected, beta=beta, penalty=penalty) == pytest.approx(plain)
    assert value(dpop, chosen, rejected, beta=beta, penalty=0) == pytest.approx(plain)


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, -0.01), log_ratios, st.floats(0, 100))
def test_dpop_is_equation_3_where_it_does_not(chosen, rejected, penalty):
    h = chosen - rejected - penalty * -chosen
    assert value(dpop, chosen, rejected, beta=0.1, penalty=penalty) == pytest.approx(
        -min(0, 0.1 * h) + math.log1p(math.exp(-abs(0.1 * h)))
    )


@pytest.mark.parametrize(
    ("loss_type", "ours"),
    [
        ("nca_pair", nca),
        ("bco_pair", bco_pair),
        ("apo_zero", apo_zero),
        ("apo_down", apo_down),
        ("sppo_hard", sppo_hard),
    ],
)
def test_trl_agrees(loss_type, ours):
    tokens = token_pairs()
    torch.testing.assert_close(ours(*summed_log_ratios(*tokens), beta=0.3), trl_dpo_each(loss_type, *tokens, beta=0.3))
