"""Losses of the difference of log-ratios: equations, gradients, minima, symmetries, and what other libraries compute."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits

from objectives.contract import Case, normal
from objectives.trl_peer import summed_log_ratios, token_pairs, trl_dpo_each
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.pairwise import disco_pop, exo, hinge, ipo, robust_dpo
from plaudit.objectives.reward_models import bradley_terry


def log_ratio_pairs(rows, **settings):
    return {"log_ratio_chosen": normal(5, seed=1)[:rows], "log_ratio_rejected": normal(5, seed=2)[:rows], **settings}


NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]
LENGTHS = torch.tensor([1, 7, 2, 0, 4])
SIDES = ("log_ratio_chosen", "log_ratio_rejected")
CASES = [
    Case(
        dpo,
        lambda rows: log_ratio_pairs(rows, beta=0.3),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": [0.0, -1.0, math.nan, math.inf], "label_smoothing": [-0.1, 0.5, math.nan]},
    ),
    Case(
        dpo,
        lambda rows: log_ratio_pairs(rows, beta=0.3, label_smoothing=0.2),
        name="smoothed",
        differentiable=SIDES,
        extreme=SIDES,
    ),
    Case(
        robust_dpo,
        lambda rows: log_ratio_pairs(rows, beta=0.3, flip_share=0.2),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE, "flip_share": [-0.1, 0.5, math.nan]},
    ),
    Case(
        ipo,
        lambda rows: log_ratio_pairs(rows, beta=0.3),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE},
    ),
    Case(
        ipo,
        lambda rows: log_ratio_pairs(
            rows, beta=0.3, length_chosen=LENGTHS[:rows], length_rejected=LENGTHS.flip(0)[:rows]
        ),
        name="per-step",
        differentiable=SIDES,
        extreme=SIDES,
    ),
    Case(
        hinge,
        lambda rows: log_ratio_pairs(rows, beta=0.3),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE},
    ),
    Case(
        exo,
        lambda rows: log_ratio_pairs(rows, beta=0.3, label_smoothing=0.2),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE, "label_smoothing": [0.0, 0.5, math.nan]},
    ),
    Case(
        disco_pop,
        lambda rows: log_ratio_pairs(rows, beta=0.3),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE, "tau": [0.0, 1.1, math.nan]},
    ),
    Case(
        disco_pop,
        lambda rows: log_ratio_pairs(rows, beta=0.3, tau=1.0),
        name="softest-gate",
        differentiable=SIDES,
        extreme=SIDES,
    ),
]

CHOSEN = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
REJECTED = torch.tensor([-1.0, 3.0, 0.5, -4.0], dtype=torch.float64)
log_ratios = st.floats(-50, 50)
shares = st.floats(0, 0.49)
strengths = st.floats(1e-3, 10)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def slope(objective, gap: float, **settings) -> float:
    """The derivative in the preferred output's log-ratio, where the other's is 0."""
    chosen = number(gap).requires_grad_()
    objective(chosen, number(0), **settings).sum().backward()
    return chosen.grad.item()


def one(chosen: float, rejected: float, **settings: float) -> float:
    return dpo(
        torch.tensor([chosen], dtype=torch.float64), torch.tensor([rejected], dtype=torch.float64), **settings
    ).item()


def test_the_docstrings_example():
    assert one(1, -1, beta=0.5) == pytest.approx(math.log(1 + math.exp(-1)))


@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_value_is_equation_7(beta, smoothing):
    expected = []
    for chosen, rejected in zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True):
        h = beta * (chosen - rejected)
        expected.append(-(1 - smoothing) * math.log(sigmoid(h)) - smoothing * math.log(sigmoid(-h)))
    loss = dpo(CHOSEN, REJECTED, beta=beta, label_smoothing=smoothing)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64))


def test_a_policy_that_is_its_reference_has_loss_log_2():
    zero = torch.zeros(3)
    torch.testing.assert_close(dpo(zero, zero, beta=0.7), torch.full((3,), math.log(2)))
    torch.testing.assert_close(dpo(zero, zero, beta=0.7, label_smoothing=0.2), torch.full((3,), math.log(2)))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradient_is_the_papers(smoothing):
    """The paper's section 4: a pair weighs by how wrong the implicit reward is, ``β σ(-h)``; smoothed, ``β (σ(-h) - ε)``."""
    beta = 0.4
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    dpo(chosen, rejected, beta=beta, label_smoothing=smoothing).sum().backward()
    expected = -beta * (torch.sigmoid(-beta * (CHOSEN - REJECTED)) - smoothing)
    torch.testing.assert_close(chosen.grad, expected)
    torch.testing.assert_close(rejected.grad, -expected)


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths)
def test_swapping_the_labels_adds_the_difference_of_implicit_rewards(chosen, rejected, beta):
    """log σ(-h) = log σ(h) - h."""
    h = beta * (chosen - rejected)
    assert one(rejected, chosen, beta=beta) == pytest.approx(one(chosen, rejected, beta=beta) + h, abs=1e-9, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths, shares)
def test_smoothing_is_the_mean_over_right_and_wrong_labels(chosen, rejected, beta, share):
    mixed = (1 - share) * one(chosen, rejected, beta=beta) + share * one(rejected, chosen, beta=beta)
    assert one(chosen, rejected, beta=beta, label_smoothing=share) == pytest.approx(mixed, abs=1e-9, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, log_ratios, strengths)
def test_only_the_difference_of_log_ratios_matters(chosen, rejected, shift, beta):
    shifted = one(chosen + shift, rejected + shift, beta=beta)
    assert shifted == pytest.approx(one(chosen, rejected, beta=beta), abs=1e-9, rel=1e-9)


def test_dpo_is_bradley_terry_on_implicit_rewards():
    torch.testing.assert_close(dpo(CHOSEN, REJECTED, beta=0.3), bradley_terry(0.3 * CHOSEN, 0.3 * REJECTED))


def test_the_smoothed_loss_is_least_where_the_preference_has_the_assumed_share_of_right_labels():
    """A minimum at σ(h) = 1 - ε: conservative DPO does not push the gap to infinity."""
    smoothing, beta = 0.2, 0.5
    best = math.log((1 - smoothing) / smoothing) / beta
    gap = torch.tensor([best], dtype=torch.float64, requires_grad=True)
    dpo(gap, torch.zeros_like(gap), beta=beta, label_smoothing=smoothing).sum().backward()
    assert gap.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_torch_and_sklearn_agree(smoothing):
    logits = 0.7 * (CHOSEN - REJECTED)
    loss = dpo(CHOSEN, REJECTED, beta=0.7, label_smoothing=smoothing)
    target = torch.full_like(logits, 1 - smoothing)
    torch.testing.assert_close(loss, binary_cross_entropy_with_logits(logits, target, reduction="none"))
    right = log_loss([1] * 4, torch.sigmoid(logits).numpy(), labels=[0, 1])
    wrong = log_loss([0] * 4, torch.sigmoid(logits).numpy(), labels=[0, 1])
    assert loss.mean().item() == pytest.approx((1 - smoothing) * right + smoothing * wrong)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=f"beta: expected a number > 0, got {beta}"):
        one(0, 0, beta=beta)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, math.nan])
def test_smoothing_must_be_a_share_below_one_half(smoothing):
    with pytest.raises(ValueError, match=rf"label_smoothing: expected a share in \[0, 0.5\), got {smoothing}"):
        one(0, 0, beta=1.0, label_smoothing=smoothing)


def test_the_docstrings_examples():
    assert robust_dpo(number(0), number(0), beta=1, flip_share=0.3).item() == pytest.approx(math.log(2))
    expected = (0.75 * math.log(1 + math.exp(-1)) - 0.25 * math.log(1 + math.e)) / 0.5
    assert robust_dpo(number(1), number(0), beta=1, flip_share=0.25).item() == pytest.approx(expected)
    assert ipo(number(1), number(-1), beta=0.5).item() == pytest.approx(1)
    lengths = {"length_chosen": torch.tensor([2]), "length_rejected": torch.tensor([1])}
    assert ipo(number(1), number(-1), beta=0.5, **lengths).item() == pytest.approx(0.25)
    assert hinge(number(1), number(0), beta=0.25).item() == pytest.approx(0.75)
    assert hinge(number(1), number(0), beta=1).item() == 0
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert exo(number(0), number(0), beta=1, label_smoothing=0.25).item() == pytest.approx(expected)
    for tau in (0.05, 1.0):
        assert disco_pop(number(0), number(0), beta=1, tau=tau).item() == pytest.approx(0.5 * math.log(2) + 0.5)


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios)
def test_they_all_read_the_difference_only(chosen, rejected):
    losses = (partial(robust_dpo, flip_share=0.2), ipo, hinge, partial(exo, label_smoothing=0.2), disco_pop)
    for loss in losses:
        apart = loss(number(chosen), number(rejected), beta=0.3)
        torch.testing.assert_close(apart, loss(number(chosen - rejected), number(0), beta=0.3))


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths, shares)
def test_robust_dpo_is_unbiased_under_flips(chosen, rejected, beta, share):
    """With a share of the labels flipped, its expectation is the loss of the clean labels."""
    right = robust_dpo(number(chosen), number(rejected), beta=beta, flip_share=share).item()
    flipped = robust_dpo(number(rejected), number(chosen), beta=beta, flip_share=share).item()
    clean = one(chosen, rejected, beta=beta)
    scale = 1 + (abs(right) + abs(flipped))
    assert (1 - share) * right + share * flipped == pytest.approx(clean, abs=1e-12 * scale)


def test_conservative_dpo_is_biased_under_flips():
    smoothed = 0.8 * one(2, 0, beta=1, label_smoothing=0.2) + 0.2 * one(0, 2, beta=1, label_smoothing=0.2)
    assert smoothed > one(2, 0, beta=1) + 0.1


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths)
def test_without_flips_robust_dpo_is_dpo(chosen, rejected, beta):
    robust = robust_dpo(number(chosen), number(rejected), beta=beta, flip_share=0.0).item()
    assert robust == pytest.approx(one(chosen, rejected, beta=beta))


def test_robust_dpo_falls_without_end():
    """Its slope goes to ``-β ε / (1 - 2ε)`` beyond every gap, where DPO's vanishes."""
    assert slope(robust_dpo, 1e3, beta=0.5, flip_share=0.2) == pytest.approx(-0.5 * 0.2 / 0.6)
    assert slope(dpo, 1e3, beta=0.5) == pytest.approx(0)


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 20), strengths)
def test_dpos_slope(gap, beta):
    assert slope(dpo, gap, beta=beta) == pytest.approx(-beta * sigmoid(-beta * gap))


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 20), strengths)
def test_ipos_slope_vanishes_at_its_gap(gap, beta):
    assert slope(ipo, gap, beta=beta) == pytest.approx(2 * (gap - 1 / (2 * beta)))
    assert slope(ipo, 1 / (2 * beta), beta=beta) == pytest.approx(0)
    assert ipo(number(1 / (2 * beta)), number(0), beta=beta).item() == pytest.approx(0)


def test_ipos_lengths_come_together():
    with pytest.raises(ValueError, match=r"^length_rejected: expected beside length_chosen, got None"):
        ipo(number(1), number(0), beta=1, length_chosen=torch.tensor([2]))
    with pytest.raises(ValueError, match=r"^length_chosen: expected beside length_rejected, got None"):
        ipo(number(1), number(0), beta=1, length_rejected=torch.tensor([2]))


@settings(max_examples=50, deadline=None)
@given(strengths)
def test_hinge_is_satisfied_beyond_its_gap(beta):
    assert slope(hinge, 0.99 / beta, beta=beta) == pytest.approx(-beta)
    assert slope(hinge, 1.01 / beta, beta=beta) == 0
    assert hinge(number(1.01 / beta), number(0), beta=beta).item() == 0


@settings(max_examples=50, deadline=None)
@given(st.floats(-20, 20), strengths, st.floats(0.01, 0.49))
def test_exo_is_the_reverse_kl(gap, beta, smoothing):
    """And the smoothed DPO loss the forward one, up to the label's entropy; both are least at the same gap."""
    policy = (sigmoid(beta * gap), sigmoid(-beta * gap))
    label = (1 - smoothing, smoothing)
    reverse = sum(q * math.log(q / p) for q, p in zip(policy, label, strict=True) if q > 0)
    value = exo(number(gap), number(0), beta=beta, label_smoothing=smoothing).item()
    assert value == pytest.approx(reverse, abs=1e-9)
    best = math.log((1 - smoothing) / smoothing) / beta
    assert slope(exo, best, beta=beta, label_smoothing=smoothing) == pytest.approx(0, abs=1e-9)
    assert exo(number(best), number(0), beta=beta, label_smoothing=smoothing).item() == pytest.approx(0, abs=1e-9)
    assert slope(dpo, best, beta=beta, label_smoothing=smoothing) == pytest.approx(0, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.floats(-8, 8), st.floats(0.05, 1))
def test_disco_pop_is_equation_5(h, tau):
    gate = sigmoid(h / tau)
    expected = (1 - gate) * math.log(1 + math.exp(-h)) + gate * math.exp(-h)
    assert disco_pop(number(h), number(0), beta=1, tau=tau).item() == pytest.approx(expected)


def test_disco_pop_has_a_bump_and_dpos_tail():
    assert slope(disco_pop, -0.02, beta=1) > 0
    assert slope(disco_pop, -3.0, beta=1) == pytest.approx(slope(dpo, -3.0, beta=1), rel=1e-6)


@pytest.mark.parametrize(
    ("loss_type", "ours", "settings"),
    [
        ("sigmoid", lambda c, r: dpo(c, r, beta=0.3), {}),
        ("robust", lambda c, r: robust_dpo(c, r, beta=0.3, flip_share=0.2), {"label_smoothing": 0.2}),
        ("hinge", lambda c, r: hinge(c, r, beta=0.3), {}),
        ("exo_pair", lambda c, r: exo(c, r, beta=0.3, label_smoothing=0.2), {"label_smoothing": 0.2}),
        ("exo_pair", lambda c, r: exo(c, r, beta=0.3), {"label_smoothing": 1e-3}),
        ("discopop", lambda c, r: disco_pop(c, r, beta=0.3), {}),
        ("discopop", lambda c, r: disco_pop(c, r, beta=0.3, tau=0.5), {"discopop_tau": 0.5}),
    ],
)
def test_trl_agrees(loss_type, ours, settings):
    tokens = token_pairs()
    theirs = trl_dpo_each(loss_type, *tokens, beta=0.3, **settings)
    # TRL holds exo_pair's smoothing in float32, whatever the type of the log-probabilities.
    torch.testing.assert_close(ours(*summed_log_ratios(*tokens)), theirs, rtol=1e-6, atol=1e-6)


def test_trls_ipo_is_per_step():
    tokens = token_pairs()
    length_chosen, length_rejected = tokens[-1].sum(-1).chunk(2)
    ours = ipo(*summed_log_ratios(*tokens), beta=0.3, length_chosen=length_chosen, length_rejected=length_rejected)
    torch.testing.assert_close(ours, trl_dpo_each("ipo", *tokens, beta=0.3))


def test_the_papers_ipo_is_trls_where_outputs_have_one_step():
    tokens = token_pairs(steps=1)
    torch.testing.assert_close(ipo(*summed_log_ratios(*tokens), beta=0.3), trl_dpo_each("ipo", *tokens, beta=0.3))


def test_disco_pop_is_finite_where_trls_product_is_not():
    """Zero times infinity is NaN there."""
    assert (
        trl_dpo_each(
            "discopop",
            number(-2000)[None].expand(2, 1) * torch.tensor([[1.0], [0.0]]),
            torch.zeros(2, 1).double(),
            torch.ones(2, 1).bool(),
            beta=1.0,
        )
        .isnan()
        .all()
    )
    assert disco_pop(number(-2000), number(0), beta=1).item() == pytest.approx(2000)
