"""UBPR and UPL: exact expectations over clicks, reductions to BPR, the floor, and the official formulas."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal, uniform
from plaudit.objectives.recommendation.recommendation import bpr
from plaudit.objectives.recommendation.unbiased_pairs import ideal_pairwise, ubpr, upl

CLICKED = torch.tensor([True, False, True, False, True])
I, J = normal(5, seed=1), normal(5, seed=2)
THETA_I, THETA_J = uniform(5, seed=3, low=0.1), uniform(5, seed=4, low=0.1)
GAMMA = uniform(5, seed=5, high=0.9)


def pairs(rows, **more):
    return {
        "score_clicked": I[:rows],
        "score_other": J[:rows],
        "clicked_other": CLICKED[:rows],
        "propensity_clicked": THETA_I[:rows],
        "propensity_other": THETA_J[:rows],
        **more,
    }


SIDES = ("score_clicked", "score_other")
quick = settings(max_examples=40, deadline=None)  # the first example pays for imports
CASES = [
    Case(
        ideal_pairwise,
        lambda rows: {
            "score_i": I[:rows],
            "score_j": J[:rows],
            "relevance_i": GAMMA[:rows],
            "relevance_j": THETA_J[:rows],
        },
        differentiable=("score_i", "score_j"),
        extreme=("score_i", "score_j"),
    ),
    *(
        Case(
            ubpr,
            lambda rows, slack=slack: pairs(rows, slack=slack),
            name=name,
            differentiable=SIDES,
            extreme=SIDES,
            invalid={"slack": [-0.1, math.nan]},
            low_precision=64.0,  # 1 - 1/θ cancels
        )
        for name, slack in {"unbiased": None, "non-negative": 0.0, "slack": 0.5}.items()
    ),
    Case(
        upl,
        lambda rows: pairs(rows, relevance_other=GAMMA[:rows]),
        differentiable=SIDES,
        extreme=SIDES,
        low_precision=64.0,  # 1 - θγ cancels
    ),
]

scores = st.floats(-8, 8)
shares = st.floats(0.05, 1.0)


def number(value):
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    zero, half = number(0), number(0.5)
    no, yes = torch.tensor([False]), torch.tensor([True])
    assert ideal_pairwise(number(1), zero, number(1), zero).item() == pytest.approx(bpr(number(1), zero).item())
    assert ideal_pairwise(zero, zero, half, half).item() == pytest.approx(math.log(2) / 4)
    assert ubpr(zero, zero, no, half, half).item() == pytest.approx(2 * math.log(2))
    assert ubpr(zero, zero, yes, half, half, slack=None).item() == pytest.approx(-2 * math.log(2))
    assert ubpr(zero, zero, yes, half, half).item() == 0
    assert upl(zero, zero, no, half, half, half).item() == pytest.approx(4 / 3 * math.log(2))


@quick
@given(scores, scores, *[shares] * 2, *[st.floats(0.0, 0.95)] * 2)
def test_expectations_over_clicks_are_the_ideal_loss(si, sj, theta_i, theta_j, gamma_i, gamma_j):
    """Over all pairs, 0 where i has no click; the clicks on i and j are independent."""
    ideal = ideal_pairwise(number(si), number(sj), number(gamma_i), number(gamma_j)).item()
    expected_ubpr = expected_upl = 0.0
    for click_i, click_j in product((False, True), repeat=2):
        p_i, p_j = theta_i * gamma_i, theta_j * gamma_j
        chance = (p_i if click_i else 1 - p_i) * (p_j if click_j else 1 - p_j)
        call = (number(si), number(sj), torch.tensor([click_j]), number(theta_i), number(theta_j))
        expected_ubpr += click_i * chance * ubpr(*call, slack=None).item()
        expected_upl += click_i * chance * upl(*call, number(gamma_j)).item()
    assert expected_ubpr == pytest.approx(ideal, rel=1e-9, abs=1e-9)
    assert expected_upl == pytest.approx(ideal, rel=1e-9, abs=1e-9)


def test_the_official_formula():
    slow = []
    for si, sj, y, ti, tj in zip(I, J, CLICKED, THETA_I, THETA_J, strict=True):
        local = -(1 / ti.item()) * (1 - y.item() / tj.item()) * math.log(1 / (1 + math.exp(sj.item() - si.item())))
        slow.append(local)
    np.testing.assert_allclose(ubpr(**pairs(5, slack=None)).numpy(), slow, rtol=1e-10)
    np.testing.assert_allclose(ubpr(**pairs(5, slack=0.7)).numpy(), np.maximum(slow, -0.7), rtol=1e-10)
    np.testing.assert_allclose(ubpr(**pairs(5)).numpy(), np.maximum(slow, 0), rtol=1e-10)


def test_where_held_there_is_no_gradient():
    clicked, other = I.clone().requires_grad_(), J.clone().requires_grad_()
    ubpr(**{**pairs(5), "score_clicked": clicked, "score_other": other}).sum().backward()
    assert (clicked.grad[CLICKED] == 0).all()
    assert (other.grad[CLICKED] == 0).all()
    assert (clicked.grad[~CLICKED] < 0).all()


def test_with_everything_seen_both_are_bpr_on_items_without_a_click():
    ones = torch.ones(5).double()
    expected = torch.where(CLICKED, 0, bpr(I, J))
    call = {**pairs(5), "propensity_clicked": ones, "propensity_other": ones}
    torch.testing.assert_close(ubpr(**call), expected)
    torch.testing.assert_close(ubpr(**{**call, "slack": None}), expected)
    torch.testing.assert_close(upl(**call, relevance_other=GAMMA), expected)


def test_upl_without_relevance_is_bpr_weighted_by_the_clicked_items_propensity():
    loss = upl(**pairs(5), relevance_other=torch.zeros(5).double())
    torch.testing.assert_close(loss, torch.where(CLICKED, 0, bpr(I, J) / THETA_I))


def test_upl_varies_less_than_ubpr():
    """The paper's claim: same expectation, and no weight beyond [0, 1/θ_i]."""
    theta_i, theta_j, gamma_j = 0.5, 0.2, 0.6
    second = {}
    for click in (False, True):
        chance = theta_j * gamma_j if click else 1 - theta_j * gamma_j
        call = (number(0.3), number(-0.4), torch.tensor([click]), number(theta_i), number(theta_j))
        for name, loss in {"ubpr": ubpr(*call, slack=None), "upl": upl(*call, number(gamma_j))}.items():
            second[name] = second.get(name, 0) + chance * loss.item() ** 2
    assert second["upl"] < second["ubpr"]


@pytest.mark.parametrize("hidden", [0.0, math.nan])
def test_without_a_click_the_other_items_propensity_is_not_read(hidden):
    theta = torch.where(CLICKED, THETA_J, hidden)
    assert torch.equal(ubpr(**{**pairs(5), "propensity_other": theta}), ubpr(**pairs(5)))
