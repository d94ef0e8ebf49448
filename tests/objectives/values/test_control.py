"""Contrastive preference learning: the paper's equations, DPO as its special case, what it ignores, and what the bias adds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, uniform
from plaudit.objectives.preferences import dpo
from plaudit.objectives.values.control import cpl, cpl_bc, cpl_kl, cpl_ranked

CHOSEN, REJECTED = uniform(6, 5, seed=1, low=0.05).log(), uniform(6, 7, seed=2, low=0.05).log()
MASK_CHOSEN, MASK_REJECTED = lengths_mask(6, 5, seed=2), lengths_mask(6, 7, seed=3)
TIE = torch.tensor([False, True, False, False, True, False])
GROUP = uniform(4, 3, 5, seed=4, low=0.05).log()
GROUP_MASK = lengths_mask(12, 5, seed=5).reshape(4, 3, 5)
SCORE = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.5, -1.0], [3.0, 1.0, 2.0], [0.0, 1.0, 1.0]]).double()


def segments(rows, suffix="log_prob", tie=False, **settings):
    call = {
        f"token_{suffix}_chosen": CHOSEN[:rows],
        "mask_chosen": MASK_CHOSEN[:rows],
        f"token_{suffix}_rejected": REJECTED[:rows],
        "mask_rejected": MASK_REJECTED[:rows],
        "beta": 0.4,
        "discount": 0.9,
        **settings,
    }
    return {**call, "tie": TIE[:rows]} if tie else call


def hides(suffix="log_prob"):
    return {"mask_chosen": (f"token_{suffix}_chosen",), "mask_rejected": (f"token_{suffix}_rejected",)}


SIDES = ("token_log_prob_chosen", "token_log_prob_rejected")
RATIOS = ("token_log_ratio_chosen", "token_log_ratio_rejected")
INVALID = {
    "beta": [0.0, -1.0, math.nan, math.inf],
    "discount": [0.0, 1.1, math.nan],
    "bias": [0.0, 1.1, -1.0, math.nan],
}
CASES = [
    Case(cpl, segments, differentiable=SIDES, extreme=SIDES, masks=hides(), invalid=INVALID),
    Case(
        cpl,
        lambda rows: segments(rows, tie=True, bias=0.5),
        name="biased with ties",
        differentiable=SIDES,
        extreme=SIDES,
        masks=hides(),
    ),
    Case(
        cpl_kl,
        lambda rows: segments(rows, "log_ratio", bias=0.5),
        differentiable=RATIOS,
        extreme=RATIOS,
        masks=hides("log_ratio"),
        invalid=INVALID,
    ),
    Case(
        cpl_bc,
        lambda rows: segments(rows, cloning_weight=0.7),
        differentiable=SIDES,
        extreme=SIDES,
        masks=hides(),
        invalid={**INVALID, "cloning_weight": [-1.0, math.nan], "cloned": ["all"]},
    ),
    Case(
        cpl_bc,
        lambda rows: segments(rows, tie=True, cloned="chosen"),
        name="chosen with ties",
        differentiable=SIDES,
        extreme=SIDES,
        masks=hides(),
    ),
    Case(
        cpl_ranked,
        lambda rows: {
            "token_log_prob": GROUP.repeat(2, 1, 1)[:rows],
            "mask": GROUP_MASK.repeat(2, 1, 1)[:rows],
            "score": SCORE.repeat(2, 1)[:rows],
            "beta": 0.4,
            "discount": 0.9,
            "bias": 0.5,
        },
        differentiable=("token_log_prob",),
        extreme=("token_log_prob",),
        masks={"mask": ("token_log_prob",)},
        exchangeable="K",
        invalid=INVALID,
    ),
]

log_probs = st.floats(-20, 2)  # densities may exceed 1
strengths = st.floats(0.01, 3)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def yes(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def by_hand(i: int, beta: float, discount: float, bias: float, tie: bool = False) -> float:
    """Equations 5 and 6 on the steps that a segment has, as a ratio of exponentials."""
    sums = []
    for log_prob, mask in ((CHOSEN, MASK_CHOSEN), (REJECTED, MASK_REJECTED)):
        steps = log_prob[i][mask[i]].tolist()
        sums.append(sum(discount**t * beta * step for t, step in enumerate(steps)))
    won, lost = sums
    loss = -math.log(math.exp(won) / (math.exp(won) + math.exp(bias * lost)))
    if not tie:
        return loss
    return (loss - math.log(math.exp(lost) / (math.exp(lost) + math.exp(bias * won)))) / 2


def test_the_docstrings_examples():
    half, quarter = math.log(1 / 2), math.log(1 / 4)
    call = (row(half, half), yes(2), row(quarter), yes(1))
    assert cpl(*call, beta=1.0).item() == pytest.approx(math.log(2))
    assert cpl(*call, beta=1.0, bias=0.5).item() == pytest.approx(math.log(3))
    assert cpl_kl(row(1), yes(1), row(-1), yes(1), beta=0.5).item() == pytest.approx(math.log(1 + math.exp(-1)))
    cloned = cpl_bc(row(half), yes(1), row(half), yes(1), beta=1.0)
    assert cloned.item() == pytest.approx(2 * math.log(2))
    ranked = cpl_ranked(
        torch.full((1, 3, 1), half), torch.ones(1, 3, 1).bool(), torch.tensor([[0.0, 1.0, 2.0]]), beta=1.0
    )
    assert ranked.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("discount", [0.9, 1.0])
@pytest.mark.parametrize("bias", [0.5, 1.0])
@pytest.mark.parametrize("tie", [False, True])
def test_value_is_the_papers_equation(discount, bias, tie):
    ties = TIE if tie else None
    loss = cpl(CHOSEN, MASK_CHOSEN, REJECTED, MASK_REJECTED, ties, beta=0.4, discount=discount, bias=bias)
    expected = [by_hand(i, 0.4, discount, bias, tie and TIE[i].item()) for i in range(6)]
    assert loss.tolist() == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(log_probs, log_probs, strengths)
def test_one_step_is_dpo_with_a_uniform_reference(chosen, rejected, beta):
    """A uniform reference's log-probability is a constant that cancels, whatever the number of actions."""
    uniform_log_prob = -math.log(7)
    ours = cpl(row(chosen), yes(1), row(rejected), yes(1), beta=beta)
    ratios = (torch.tensor([side - uniform_log_prob], dtype=torch.float64) for side in (chosen, rejected))
    torch.testing.assert_close(ours, dpo(*ratios, beta=beta))


def test_undiscounted_kl_variant_is_dpo_on_summed_log_ratios():
    ratios = [torch.where(mask, side, 0).sum(-1) for side, mask in ((CHOSEN, MASK_CHOSEN), (REJECTED, MASK_REJECTED))]
    ours = cpl_kl(CHOSEN, MASK_CHOSEN, REJECTED, MASK_REJECTED, beta=0.4)
    torch.testing.assert_close(ours, dpo(*ratios, beta=0.4))


@settings(deadline=None, max_examples=50)
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.3, 1))
def test_a_shift_of_both_segments_cancels_only_without_bias(shift, gap, bias):
    """Proposition of the paper: with λ < 1 the likelier pair of the same difference has the smaller loss."""

    def loss(offset: float, share: float) -> float:
        return cpl(row(offset + gap), yes(1), row(offset), yes(1), beta=1.0, bias=share).item()

    assert loss(shift, 1.0) == pytest.approx(loss(0, 1.0), abs=1e-9)
    expected = math.log1p(math.exp(-(gap + (1 - bias) * shift)))
    assert loss(shift, bias) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(log_probs, log_probs, strengths)
def test_the_two_orders_have_probabilities_that_add_up_to_one(a, b, beta):
    won = cpl(row(a), yes(1), row(b), yes(1), beta=beta).item()
    lost = cpl(row(b), yes(1), row(a), yes(1), beta=beta).item()
    assert math.exp(-won) + math.exp(-lost) == pytest.approx(1)


@settings(deadline=None, max_examples=50)
@given(log_probs, log_probs)
def test_a_tie_has_no_sides_and_is_least_at_equality(a, b):
    tie = torch.tensor([True])
    one = cpl(row(a), yes(1), row(b), yes(1), tie, beta=1.0).item()
    other = cpl(row(b), yes(1), row(a), yes(1), tie, beta=1.0).item()
    assert one == pytest.approx(other)
    assert one >= math.log(2) - 1e-12


def test_holes_take_no_discount():
    """A step that a mask hides is not there: the one after it takes its place in time."""
    with_hole = torch.tensor([[True, False, True]])
    ours = cpl(row(-1, math.nan, -2), with_hole, row(-3), yes(1), beta=1.0, discount=0.5)
    torch.testing.assert_close(ours, cpl(row(-1, -2), yes(2), row(-3), yes(1), beta=1.0, discount=0.5))


@pytest.mark.parametrize("bias", [0.5, 1.0])
def test_gradients_are_closed(bias):
    """``-β γ^t σ(-z)`` on the preferred steps, ``+λ β γ^t σ(-z)`` on the others, z the biased difference."""
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    loss = cpl(chosen, MASK_CHOSEN, rejected, MASK_REJECTED, beta=0.4, discount=0.9, bias=bias)
    loss.sum().backward()
    wrong = 1 - torch.exp(-loss.detach())[:, None]  # σ(-z)
    for leaf, mask, factor in ((chosen, MASK_CHOSEN, -1.0), (rejected, MASK_REJECTED, bias)):
        time = (mask.cumsum(-1) - 1).double()
        torch.testing.assert_close(leaf.grad, torch.where(mask, factor * 0.4 * 0.9**time * wrong, 0))


@pytest.mark.parametrize("cloned", ["both", "chosen"])
def test_cloning_is_a_mean_over_the_segments_steps(cloned):
    settings = {"beta": 0.4, "discount": 0.9}
    loss = cpl_bc(CHOSEN, MASK_CHOSEN, REJECTED, MASK_REJECTED, TIE, cloning_weight=0.7, cloned=cloned, **settings)
    plain = cpl(CHOSEN, MASK_CHOSEN, REJECTED, MASK_REJECTED, TIE, **settings)
    for i in range(6):
        steps = CHOSEN[i][MASK_CHOSEN[i]].tolist()
        if cloned == "both" or TIE[i]:
            steps += REJECTED[i][MASK_REJECTED[i]].tolist()
        assert loss[i].item() == pytest.approx(plain[i].item() - 0.7 * np.mean(steps))


def test_no_cloning_is_cpl():
    settings = {"beta": 0.4, "discount": 0.9, "bias": 0.5}
    ours = cpl_bc(CHOSEN, MASK_CHOSEN, REJECTED, MASK_REJECTED, cloning_weight=0.0, **settings)
    torch.testing.assert_close(ours, cpl(CHOSEN, MASK_CHOSEN, REJECTED, MASK_REJECTED, **settings))


def test_a_ranking_is_the_mean_over_its_decided_pairs():
    loss = cpl_ranked(GROUP, GROUP_MASK, SCORE, beta=0.4, discount=0.9, bias=0.5)
    for i in range(4):
        pairs = [
            cpl(
                GROUP[i, j][None],
                GROUP_MASK[i, j][None],
                GROUP[i, k][None],
                GROUP_MASK[i, k][None],
                beta=0.4,
                discount=0.9,
                bias=0.5,
            ).item()
            for j in range(3)
            for k in range(3)
            if SCORE[i, j] > SCORE[i, k]
        ]
        assert loss[i].item() == pytest.approx(np.mean(pairs))


def test_equal_scores_say_nothing():
    assert cpl_ranked(GROUP, GROUP_MASK, torch.ones(4, 3)).tolist() == [0] * 4


def test_the_best_policy_of_regret_preferences_is_the_maximum_entropy_policy():
    """With labels as the regret model says, the gradient of the expected loss vanishes at ``β log π* = A*``."""
    beta, reward = 0.5, torch.tensor([0.3, -0.4, 1.0]).double()
    best = (reward / beta).log_softmax(-1)
    logits = best.clone().requires_grad_()
    log_policy = logits.log_softmax(-1)
    total = torch.zeros(1).double()
    for a in range(3):
        for b in range(3):
            wins = torch.sigmoid(beta * (best[a] - best[b]))
            total = total + wins * cpl(
                log_policy[a].reshape(1, 1), yes(1), log_policy[b].reshape(1, 1), yes(1), beta=beta
            )
    total.sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3).double(), atol=1e-12, rtol=0)
