"""Losses on log-probabilities alone: ORPO's odds, CPO's and SimPO's reductions, AlphaPO's limits, and TRL's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, uniform
from objectives.trl_peer import trl_cpo, trl_orpo
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.pairwise import hinge
from plaudit.objectives.preferences.reference_free import alpha_po, cpo, log_odds, orpo, simpo, slic_hf

SUMS, MEANS = ("log_prob_chosen", "log_prob_rejected"), ("mean_log_prob_chosen", "mean_log_prob_rejected")
NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]
NEGATIVE = [-0.1, math.nan, math.inf]


def means(rows, **settings):
    return {name: uniform(5, seed=seed, low=0.05).log()[:rows] for seed, name in enumerate(MEANS)} | settings


def sums(rows, **settings):
    call = {name: 4 * uniform(5, seed=seed, low=0.05).log()[:rows] for seed, name in enumerate(SUMS)}
    return call | settings


def targets(rows, **settings):
    return sums(rows, log_prob_target=4 * uniform(5, seed=9, low=0.05).log()[:rows], **settings)


LENGTHS = torch.tensor([1, 7, 2, 3, 4])
CASES = [
    Case(orpo, lambda rows: means(rows, odds_weight=0.5), differentiable=MEANS, invalid={"odds_weight": NEGATIVE}),
    Case(
        cpo,
        lambda rows: sums(rows, beta=0.3),
        differentiable=SUMS,
        extreme=SUMS,
        invalid={"beta": NOT_POSITIVE, "likelihood_weight": NEGATIVE},
    ),
    Case(
        cpo,
        lambda rows: sums(rows, beta=0.3, likelihood_weight=0.5, length_chosen=LENGTHS[:rows]),
        name="per-step",
        differentiable=SUMS,
        extreme=SUMS,
    ),
    Case(
        simpo,
        lambda rows: means(rows, beta=2.0, margin=0.5),
        differentiable=MEANS,
        extreme=MEANS,
        invalid={"beta": NOT_POSITIVE, "margin": NEGATIVE},
    ),
    *(
        Case(
            alpha_po,
            lambda rows, alpha=alpha: means(rows, beta=2.0, margin=0.5, alpha=alpha),
            name=f"alpha{alpha}",
            differentiable=MEANS,
            extreme=MEANS,
            invalid={"beta": NOT_POSITIVE, "margin": NEGATIVE},
        )
        for alpha in (0.25, -0.5, 0.0)
    ),
    Case(
        slic_hf,
        lambda rows: targets(rows, margin=5.0, likelihood_weight=0.1),
        differentiable=(*SUMS, "log_prob_target"),
        extreme=(*SUMS, "log_prob_target"),
        invalid={"margin": NEGATIVE, "likelihood_weight": NEGATIVE},
    ),
]

probabilities = st.floats(1e-6, 1 - 1e-6)
log_probs = st.floats(-20, -0.01)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def logistic(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_the_docstrings_examples():
    half, quarter = number(math.log(0.5)), number(math.log(0.25))
    assert orpo(half, quarter, odds_weight=1).item() == pytest.approx(math.log(2) + logistic(math.log(3)))
    assert cpo(number(-1), number(-2), beta=1).item() == pytest.approx(logistic(1) + 1)
    per_step = cpo(number(-1), number(-2), beta=1, length_chosen=torch.tensor([2]))
    assert per_step.item() == pytest.approx(logistic(1) + 0.5)
    assert simpo(number(-0.5), number(-1), beta=2, margin=1).item() == pytest.approx(math.log(2))
    assert alpha_po(half, quarter, beta=1, margin=0, alpha=1).item() == pytest.approx(logistic(2))
    ours = slic_hf(number(-1), number(-1.5), number(-2), margin=1, likelihood_weight=0.1)
    assert ours.item() == pytest.approx(0.7)


@settings(max_examples=50, deadline=None)
@given(probabilities, probabilities, st.floats(0, 5))
def test_orpo_with_explicit_odds(p, q, weight):
    """Equations 4, 6 and 7 as printed."""
    odds_p, odds_q = p / (1 - p), q / (1 - q)
    expected = -math.log(p) - weight * math.log(1 / (1 + math.exp(-math.log(odds_p / odds_q))))
    ours = orpo(number(math.log(p)), number(math.log(q)), odds_weight=weight)
    assert ours.item() == pytest.approx(expected, rel=1e-6)


def test_orpos_slope_is_the_papers():
    """Section 4.4: the odds term's slope in the log-probabilities is ``σ(-log-odds ratio)`` over ``1 - p``, with both signs."""
    p, q = 0.7, 0.4
    sides = number(math.log(p)).requires_grad_(), number(math.log(q)).requires_grad_()
    orpo(*sides, odds_weight=1.0).sum().backward()
    wrong = 1 / (1 + (p / (1 - p)) / (q / (1 - q)))
    assert sides[0].grad.item() == pytest.approx(-1 - wrong / (1 - p))
    assert sides[1].grad.item() == pytest.approx(wrong / (1 - q))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sides", [(0.0, -1.0), (-1.0, 0.0), (0.0, 0.0), (-1e4, -1.0), (-1.0, -1e4), (-1e4, 0.0)])
def test_orpo_is_finite_at_certainty_and_at_impossibility(sides, dtype):
    chosen, rejected = (torch.tensor([side], dtype=dtype, requires_grad=True) for side in sides)
    loss = orpo(chosen, rejected, odds_weight=1.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad.isfinite().all()
    assert rejected.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, -1e-6))
def test_log_odds_of_small_and_large_probabilities(log_prob):
    expected = log_prob - math.log(-math.expm1(log_prob))
    assert log_odds(number(log_prob)).item() == pytest.approx(expected, abs=1e-12)
    assert log_odds(number(-1e4)).item() == -1e4


@settings(max_examples=50, deadline=None)
@given(log_probs, log_probs, st.floats(0.05, 5))
def test_cpo_is_dpo_with_a_uniform_reference_and_fine_tuning(chosen, rejected, beta):
    ours = cpo(number(chosen), number(rejected), beta=beta, likelihood_weight=0.7).item()
    uniform_reference = -12.3
    sides = number(chosen - uniform_reference), number(rejected - uniform_reference)
    assert ours == pytest.approx(dpo(*sides, beta=beta).item() - 0.7 * chosen)


@settings(max_examples=50, deadline=None)
@given(log_probs, log_probs, st.floats(0.05, 5), st.floats(0, 3))
def test_simpo_wants_its_margin(chosen, rejected, beta, margin):
    ours = simpo(number(chosen), number(rejected), beta=beta, margin=margin).item()
    assert ours == pytest.approx(dpo(number(chosen - margin / beta), number(rejected), beta=beta).item())
    met = simpo(number(rejected + margin / beta), number(rejected), beta=beta, margin=margin).item()
    assert met == pytest.approx(math.log(2))


@settings(max_examples=50, deadline=None)
@given(log_probs, log_probs)
def test_alpha_pos_limit_is_simpo(chosen, rejected):
    settings = {"beta": 0.5, "margin": 0.3}
    expected = simpo(number(chosen), number(rejected), **settings).item()
    assert alpha_po(number(chosen), number(rejected), alpha=0.0, **settings).item() == expected
    for alpha in (1e-8, -1e-8):
        near = alpha_po(number(chosen), number(rejected), alpha=alpha, **settings).item()
        assert near == pytest.approx(expected, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(log_probs, log_probs, st.floats(0, 5))
def test_slic_hf_is_a_hinge_and_fine_tuning(chosen, rejected, margin):
    ours = slic_hf(number(chosen), number(rejected), number(chosen), margin=margin, likelihood_weight=0.4).item()
    assert ours == pytest.approx(max(0, margin - chosen + rejected) - 0.4 * chosen)
    alone = slic_hf(number(chosen), number(rejected), number(0), margin=1.0, likelihood_weight=0.0)
    torch.testing.assert_close(alone, hinge(number(chosen), number(rejected), beta=1.0))


def test_slic_hfs_hinge_stops_beyond_its_margin():
    sides = [number(value).requires_grad_() for value in (-1.0, -3.0, -2.0)]
    slic_hf(*sides, margin=1.0, likelihood_weight=0.1).sum().backward()
    assert [side.grad.item() for side in sides] == pytest.approx([0, 0, -0.1])


@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        (lambda w, l: cpo(w, l, beta=0.3, likelihood_weight=0.0), {"loss_type": "sigmoid", "beta": 0.3}),
        (lambda w, l: simpo(w, l, beta=2.0, margin=0.5), {"loss_type": "simpo", "beta": 2.0, "margin": 0.5}),
        (
            lambda w, l: alpha_po(w, l, beta=2.0, margin=0.5, alpha=0.25),
            {"loss_type": "simpo", "beta": 2.0, "margin": 0.5, "alpha": 0.25},
        ),
        (
            lambda w, l: alpha_po(w, l, beta=2.0, margin=0.5, alpha=-0.5),
            {"loss_type": "simpo", "beta": 2.0, "margin": 0.5, "alpha": -0.5},
        ),
        (
            lambda w, l: slic_hf(w, l, w, margin=1.0, likelihood_weight=0.0),
            {"loss_type": "hinge", "beta": 1.0},
        ),
    ],
)
def test_trls_cpo_agrees(ours, settings):
    chosen, rejected = uniform(7, seed=1, low=0.05).log(), uniform(7, seed=2, low=0.05).log()
    torch.testing.assert_close(ours(chosen, rejected), trl_cpo(chosen, rejected, **settings), rtol=1e-6, atol=1e-6)


def test_trls_orpo_agrees():
    """In float32, which TRL's odds term is computed in; the likelihood it subtracts from is the mean over tokens."""
    chosen, rejected = uniform(7, seed=1, low=0.05).log().float(), uniform(7, seed=2, low=0.05).log().float()
    theirs = -chosen - trl_orpo(chosen, rejected, odds_weight=0.3)
    torch.testing.assert_close(orpo(chosen, rejected, odds_weight=0.3), theirs, rtol=1e-6, atol=1e-6)
