"""KTO and BCO: values at the reference, gradient formulas, baselines and weights as the papers have them, and TRL's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal
from objectives.trl_peer import token_pairs, trl_kto
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.pairwise_anchored import apo_zero, bco_pair
from plaudit.objectives.preferences.pointwise import bco, kto, kto_baseline, kto_weights, running_reward

DESIRABLE = torch.tensor([True, False, False, True, False])
NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]
NEGATIVE = [-0.1, math.nan, math.inf]


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def labelled(rows, **settings):
    return {"log_ratio": normal(5, seed=1)[:rows], "desirable": DESIRABLE[:rows], "beta": 0.3, **settings}


def running(rows, **settings):
    return {"log_ratio": normal(5, seed=1)[:rows], "mean": scalar(0.7), "seen": scalar(4.0), "beta": 0.3, **settings}


CASES = [
    Case(
        kto,
        lambda rows: labelled(rows, baseline=scalar(0.4)),
        differentiable=("log_ratio",),
        extreme=("log_ratio",),
        invalid={"beta": NOT_POSITIVE, "desirable_weight": NEGATIVE, "undesirable_weight": NEGATIVE},
    ),
    Case(
        kto,
        lambda rows: labelled(rows, baseline=scalar(0.4), desirable_weight=1.3, undesirable_weight=0.6),
        name="weighted",
        differentiable=("log_ratio",),
        extreme=("log_ratio",),
    ),
    Case(
        kto_baseline,
        lambda rows: {"log_ratio_mismatched": normal(5, seed=1)[:rows].abs(), "mask": DESIRABLE[:rows]},
        extreme=("log_ratio_mismatched",),
        masks={"mask": ("log_ratio_mismatched",)},
        batch_statistics=True,
    ),
    Case(
        kto_baseline,
        lambda rows: {"log_ratio_mismatched": normal(5, seed=1)[:rows].abs()},
        name="everywhere",
        extreme=("log_ratio_mismatched",),
        batch_statistics=True,
    ),
    Case(
        bco,
        lambda rows: labelled(rows, shift=scalar(0.4)),
        differentiable=("log_ratio",),
        extreme=("log_ratio",),
        invalid={"beta": NOT_POSITIVE},
    ),
    Case(
        running_reward,
        running,
        extreme=("log_ratio",),
        invalid={"beta": NOT_POSITIVE},
        batch_statistics=True,
    ),
    Case(
        running_reward,
        lambda rows: running(rows, mask=DESIRABLE[:rows]),
        name="masked",
        masks={"mask": ("log_ratio",)},
        batch_statistics=True,
    ),
]

log_ratios = st.floats(-20, 20)
strengths = st.floats(0.05, 5)
YES, NO = torch.tensor([True]), torch.tensor([False])


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_docstrings_examples():
    zero = scalar(0)
    assert kto(number(math.log(3)), YES, zero, beta=1).item() == pytest.approx(0.25)
    assert kto(number(math.log(3)), NO, zero, beta=1).item() == pytest.approx(0.75)
    assert kto_baseline(torch.tensor([1.0, 2.0, -0.5])).item() == pytest.approx(2.5 / 3)
    assert kto_baseline(torch.tensor([-1.0, -2.0])).item() == 0
    assert kto_weights(1, 10) == (10, 1)
    assert kto_weights(1, 10, ratio=4 / 3) == pytest.approx((40 / 3, 1))
    assert bco(number(1), YES, zero, beta=1).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert bco(number(1), NO, zero, beta=1).item() == pytest.approx(math.log1p(math.e))
    mean, seen = running_reward(torch.tensor([1.0, 3.0]), torch.tensor(5.0), torch.tensor(2.0), beta=1)
    assert (mean.item(), seen.item()) == (3.5, 4)


def test_kto_where_the_policy_is_the_reference():
    """With z0 = 0 each term is half its weight."""
    zero, settings = torch.zeros(5), {"beta": 0.7, "desirable_weight": 1.4, "undesirable_weight": 0.6}
    expected = torch.where(DESIRABLE, 0.7, 0.3)
    torch.testing.assert_close(kto(zero, DESIRABLE, torch.tensor(0.0), **settings), expected)


@settings(max_examples=50, deadline=None)
@given(log_ratios, st.floats(0, 5), strengths)
def test_ktos_gradient(log_ratio, baseline, beta):
    """``-λ_D β σ(v) σ(-v)`` for a good output, ``+λ_U β σ(v) σ(-v)`` for a bad one, with ``v = β (u - z0)``."""
    v = beta * (log_ratio - baseline)
    expected = beta * sigmoid(v) * sigmoid(-v)
    for label, factor in ((YES, -1.4), (NO, 0.6)):
        u, z0 = number(log_ratio).requires_grad_(), scalar(baseline).requires_grad_()
        kto(u, label, z0, beta=beta, desirable_weight=1.4, undesirable_weight=0.6).sum().backward()
        assert u.grad.item() == pytest.approx(factor * expected, abs=1e-12)
        assert z0.grad is None


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths)
def test_kto_without_a_baseline_is_apo_zero_on_both_outputs(chosen, rejected, beta):
    sides = torch.tensor([chosen, rejected], dtype=torch.float64)
    ours = kto(sides, torch.tensor([True, False]), scalar(0), beta=beta).sum()
    assert ours.item() == pytest.approx(apo_zero(number(chosen), number(rejected), beta=beta).item())


def test_a_rotation_by_one_pairs_no_context_with_its_own_output():
    """And a reversal does, in the middle of an odd batch: what the docstring warns of."""
    for size in range(2, 8):
        index = torch.arange(size)
        assert (index.roll(1) != index).all()
        assert ((index.flip(0) == index).any().item()) == (size % 2 == 1)


def test_the_baseline_is_a_constant_and_needs_a_batch():
    log_ratio = torch.ones(3, requires_grad=True)
    assert not kto_baseline(log_ratio).requires_grad
    with pytest.raises(ValueError, match=r"^log_ratio_mismatched: expected"):
        kto_baseline(torch.zeros(0))
    assert kto_baseline(torch.ones(2), torch.tensor([False, False])).item() == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(1, 4 / 3))
def test_ktos_weights_balance_the_two_kinds(good, bad, ratio):
    weights = kto_weights(good, bad, ratio=ratio)
    assert weights.desirable_weight * good / (weights.undesirable_weight * bad) == pytest.approx(ratio)
    assert min(weights) == pytest.approx(1)


def test_ktos_weights_refuse_what_is_out_of_range():
    for ratio in (0.9, 1.4, math.nan):
        with pytest.raises(ValueError, match=r"^ratio: expected a number in \[1, 4/3\], got"):
            kto_weights(3, 4, ratio=ratio)
    with pytest.raises(ValueError, match=r"^desirable_count: expected a number >= 1, got 0"):
        kto_weights(0, 4)
    with pytest.raises(ValueError, match=r"^undesirable_count: expected a number >= 1, got 0"):
        kto_weights(3, 0)


@settings(max_examples=50, deadline=None)
@given(log_ratios, st.floats(-3, 3), strengths)
def test_bcos_slope(log_ratio, shift, beta):
    logit = beta * log_ratio - shift
    for label, expected in ((YES, -beta * sigmoid(-logit)), (NO, beta * sigmoid(logit))):
        u, delta = number(log_ratio).requires_grad_(), scalar(shift).requires_grad_()
        bco(u, label, delta, beta=beta).sum().backward()
        assert u.grad.item() == pytest.approx(expected, abs=1e-12)
        assert delta.grad is None


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, st.floats(-3, 3), strengths)
def test_bco_on_a_pair(chosen, rejected, shift, beta):
    """Theorem 1: for any shift, the two losses together are at least DPO's; without one they are `bco_pair`."""
    sides, labels = torch.tensor([chosen, rejected], dtype=torch.float64), torch.tensor([True, False])
    pair = number(chosen), number(rejected)
    assert bco(sides, labels, scalar(shift), beta=beta).sum().item() >= dpo(*pair, beta=beta).item() - 1e-12
    unshifted = bco(sides, labels, scalar(0), beta=beta).sum().item()
    assert unshifted == pytest.approx(bco_pair(*pair, beta=beta).item())


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, strengths)
def test_the_papers_shift_makes_bcos_bound_tightest_on_a_pair(chosen, rejected, beta):
    """The mean of the two rewards: any other shift gives a larger sum."""
    sides, labels = torch.tensor([chosen, rejected], dtype=torch.float64), torch.tensor([True, False])
    best = beta * (chosen + rejected) / 2
    least = bco(sides, labels, scalar(best), beta=beta).sum().item()
    for other in (-1.0, 0.3):
        assert bco(sides, labels, scalar(best + other), beta=beta).sum().item() >= least - 1e-12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(log_ratios, max_size=4), min_size=1, max_size=5))
def test_the_running_mean_is_the_mean_of_all_batches(batches):
    mean, seen = scalar(0), scalar(0)
    for batch in batches:
        mean, seen = running_reward(torch.tensor(batch, dtype=torch.float64), mean, seen, beta=0.5)
    values = [0.5 * value for batch in batches for value in batch]
    assert seen.item() == len(values)
    assert mean.item() == pytest.approx(sum(values) / max(len(values), 1), abs=1e-9)


def test_the_papers_shift_does_not_mind_how_many_there_are_of_each_kind():
    log_ratio, desirable = torch.tensor([4.0, 1.0, 2.0, 3.0]).double(), torch.tensor([True, False, False, False])
    kinds = [running_reward(log_ratio, scalar(0), scalar(0), beta=0.5, mask=m).mean for m in (desirable, ~desirable)]
    assert (sum(kinds) / 2).item() == pytest.approx((0.5 * 4 + 0.5 * 2) / 2)
    assert running_reward(log_ratio, scalar(0), scalar(0), beta=0.5).mean.item() == pytest.approx(0.5 * 2.5)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_trl_agrees(loss_type):
    policy, ref, mask = token_pairs()
    desirable = torch.arange(10) % 3 == 0
    ref_sum = torch.where(mask, ref, 0).sum(-1)
    log_ratio = torch.where(mask, policy, 0).sum(-1) - ref_sum
    mismatched = -normal(2, 10, seed=8).exp() * torch.tensor([[0.5], [2.0]]).double()
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    theirs = trl_kto(policy, ref_sum, mask, desirable, *mismatched, beta=0.3, loss_type=loss_type, **weights)
    baseline = kto_baseline(mismatched[0] - mismatched[1])
    assert baseline > 0
    baseline = baseline if loss_type == "kto" else torch.zeros_like(baseline)
    ours = kto(log_ratio, desirable, baseline, beta=0.3, **weights)
    torch.testing.assert_close(ours.mean(), theirs)
