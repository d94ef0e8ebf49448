"""Bradley-Terry and Rao-Kupper: the papers' probabilities, their sum, their limits, and their best fit to counts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case, normal
from plaudit.objectives import bradley_terry, rao_kupper

A, B, MARGIN = normal(5, seed=1), normal(5, seed=2), torch.arange(5, dtype=torch.float64)
TIES = torch.tensor([True, False, False, True, False])


def pairs(rows, margin=False):
    call = {"reward_chosen": A[:rows], "reward_rejected": B[:rows]}
    return {**call, "margin": MARGIN[:rows]} if margin else call


def with_ties(rows, margin=False):
    call = {"reward_a": A[:rows], "reward_b": B[:rows], "tie": TIES[:rows], "tie_width": 0.7}
    return {**call, "margin": MARGIN[:rows]} if margin else call


DECIDED, EITHER = ("reward_chosen", "reward_rejected"), ("reward_a", "reward_b")
CASES = [
    Case(bradley_terry, pairs, differentiable=DECIDED, extreme=DECIDED),
    Case(
        bradley_terry,
        lambda rows: pairs(rows, margin=True),
        name="margin",
        differentiable=(*DECIDED, "margin"),
        extreme=DECIDED,
    ),
    Case(
        rao_kupper,
        with_ties,
        differentiable=EITHER,
        extreme=EITHER,
        invalid={"tie_width": [0.0, -1.0, math.nan]},
    ),
    Case(
        rao_kupper,
        lambda rows: with_ties(rows, margin=True),
        name="margin",
        differentiable=(*EITHER, "margin"),
        extreme=EITHER,
    ),
]

rewards = st.floats(-20, 20)
widths = st.floats(1e-3, 5)
NO, YES = torch.tensor([False]), torch.tensor([True])


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def probabilities(a: float, b: float, width: float) -> tuple[float, float, float]:
    """P(a better), P(b better), P(tie)."""
    wins_a = rao_kupper(number(a), number(b), NO, tie_width=width)
    wins_b = rao_kupper(number(b), number(a), NO, tie_width=width)
    tie = rao_kupper(number(a), number(b), YES, tie_width=width)
    return tuple(math.exp(-loss.item()) for loss in (wins_a, wins_b, tie))


def test_the_docstrings_examples():
    assert bradley_terry(number(2), number(1)).item() == pytest.approx(math.log(1 + math.exp(-1)))
    assert bradley_terry(number(2), number(1), margin=number(1)).item() == pytest.approx(math.log(2))
    assert probabilities(0, 0, math.log(2)) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


@given(rewards, rewards)
def test_bradley_terry_is_a_ratio_of_worths(a, b):
    """Bradley and Terry's own form: P(a better) = e^a / (e^a + e^b)."""
    loss = bradley_terry(number(a), number(b)).item()
    assert math.exp(-loss) == pytest.approx(math.exp(a) / (math.exp(a) + math.exp(b)))
    assert math.exp(-loss) + math.exp(-bradley_terry(number(b), number(a)).item()) == pytest.approx(1)


@given(rewards, rewards, widths)
def test_rao_kupper_is_the_papers_ratio_of_worths(a, b, width):
    """Equations 2.3 to 2.5 with worths e^a, e^b and θ = e^α."""
    worth_a, worth_b, theta = math.exp(a), math.exp(b), math.exp(width)
    wins_a = worth_a / (worth_a + theta * worth_b)
    wins_b = worth_b / (theta * worth_a + worth_b)
    tie = (theta**2 - 1) * worth_a * worth_b / ((worth_a + theta * worth_b) * (theta * worth_a + worth_b))
    assert probabilities(a, b, width) == pytest.approx((wins_a, wins_b, tie))


@given(rewards, rewards, widths)
def test_the_three_probabilities_add_up_to_one(a, b, width):
    assert sum(probabilities(a, b, width)) == pytest.approx(1)


@given(rewards, rewards, widths)
def test_a_tie_has_no_sides(a, b, width):
    assert probabilities(a, b, width)[2] == pytest.approx(probabilities(b, a, width)[2])


@given(rewards, rewards)
def test_without_a_width_it_is_bradley_terry(a, b):
    narrow = rao_kupper(number(a), number(b), NO, tie_width=1e-9)
    torch.testing.assert_close(narrow, bradley_terry(number(a), number(b)), rtol=1e-6, atol=1e-8)


def test_margin_counts_for_decisions_and_not_for_ties():
    a, b, tie = torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([False, True])
    with_margin = rao_kupper(a, b, tie, tie_width=0.3, margin=torch.tensor([2.0, 2.0]))
    without = rao_kupper(a - torch.tensor([2.0, 0.0]), b, tie, tie_width=0.3)
    torch.testing.assert_close(with_margin, without)


@pytest.mark.parametrize("hidden", [math.nan, math.inf, -math.inf])
def test_a_ties_margin_is_not_read(hidden):
    """Nobody says by how much a tie was won: whatever stands there changes neither value nor gradient."""
    tie = torch.tensor([False, True])
    results = []
    for margin in (0.0, hidden):
        a, b = (torch.tensor(values, requires_grad=True) for values in ([1.0, 2.0], [0.5, 1.0]))
        loss = rao_kupper(a, b, tie, tie_width=0.3, margin=torch.tensor([1.0, margin]))
        loss.sum().backward()
        results.append((loss.detach(), a.grad, b.grad))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("width", [1e-12, 400.0, 1e4])
def test_extreme_widths_have_finite_losses(width):
    """P(tie) at equal rewards is (θ - 1) / (θ + 1) = tanh(α / 2)."""
    loss = rao_kupper(number(0), number(0), YES, tie_width=width).item()
    assert loss == pytest.approx(-math.log(math.tanh(width / 2)), abs=1e-12)
    assert math.isfinite(rao_kupper(number(0), number(0), NO, tie_width=width).item())


def test_best_fit_to_counts_is_their_log_odds():
    """7 wins against 3: the likelihood is greatest at the difference log(7 / 3)."""
    wins, losses = 7, 3
    difference = number(math.log(wins / losses)).requires_grad_()
    zero = number(0)
    (wins * bradley_terry(difference, zero) + losses * bradley_terry(zero, difference)).sum().backward()
    assert difference.grad.item() == pytest.approx(0, abs=1e-12)


def test_best_fit_of_rao_kupper_is_the_truth():
    """With frequencies as the model says, the expected gradient vanishes at the true difference (the score identity)."""
    truth, width = 0.8, 0.4
    shares = probabilities(truth, 0, width)
    difference, zero = number(truth).requires_grad_(), number(0)
    losses = (
        rao_kupper(difference, zero, NO, tie_width=width),
        rao_kupper(zero, difference, NO, tie_width=width),
        rao_kupper(difference, zero, YES, tie_width=width),
    )
    sum(share * loss for share, loss in zip(shares, losses, strict=True)).sum().backward()
    assert difference.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_ties_need_a_width(width):
    with pytest.raises(ValueError, match=f"tie_width: expected a number > 0, got {width}"):
        rao_kupper(number(0), number(0), YES, tie_width=width)
