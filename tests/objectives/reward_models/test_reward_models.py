"""Reward models: the papers' probabilities, their sum, their limits, their best fit to counts, and what TRL computes."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.reward_models import bradley_terry, rao_kupper
from plaudit.objectives.reward_models.reward_models import (
    bradley_terry_group,
    noisy_bradley_terry,
    outcome_cross_entropy,
    reward_centering,
    reward_magnitude,
    reward_regression,
)

A, B, MARGIN = normal(5, seed=1), normal(5, seed=2), torch.arange(5, dtype=torch.float64)
TIES = torch.tensor([True, False, False, True, False])


def pairs(rows, margin=False):
    call = {"reward_chosen": A[:rows], "reward_rejected": B[:rows]}
    return {**call, "margin": MARGIN[:rows]} if margin else call


def with_ties(rows, margin=False):
    call = {"reward_a": A[:rows], "reward_b": B[:rows], "tie": TIES[:rows], "tie_width": 0.7}
    return {**call, "margin": MARGIN[:rows]} if margin else call


def groups(rows, mask=False):
    rating = torch.tensor([[3, 1, 2, 2], [1, 2, 3, 4], [2, 2, 2, 2], [4, 3, 2, 1], [1, 1, 2, 3]], dtype=torch.float64)
    call = {"reward": normal(5, 4, seed=3)[:rows], "rating": rating[:rows]}
    return {**call, "mask": lengths_mask(5, 4)[:rows]} if mask else call


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
    Case(
        noisy_bradley_terry,
        lambda rows: {**pairs(rows), "error_share": 0.1},
        differentiable=DECIDED,
        extreme=DECIDED,
        invalid={"error_share": [-0.1, 0.5, math.nan]},
    ),
    Case(
        bradley_terry_group,
        groups,
        differentiable=("reward",),
        extreme=("reward",),
        exchangeable="K",
    ),
    Case(
        bradley_terry_group,
        lambda rows: groups(rows, mask=True),
        name="masked",
        differentiable=("reward",),
        extreme=("reward", "rating"),
        masks={"mask": ("reward", "rating")},
        exchangeable="K",
    ),
    Case(
        reward_centering,
        lambda rows: {**pairs(rows), "strength": 0.01},
        differentiable=DECIDED,
        extreme=DECIDED,
        invalid={"strength": [0.0, -1.0, math.inf]},
    ),
    Case(
        reward_magnitude,
        lambda rows: {**pairs(rows), "strength": 0.01},
        differentiable=DECIDED,
        extreme=DECIDED,
        invalid={"strength": [0.0, -1.0, math.inf]},
    ),
    Case(
        outcome_cross_entropy,
        lambda rows: {"logit": A[:rows], "label": uniform(5, seed=4)[:rows]},
        differentiable=("logit",),
        extreme=("logit",),
    ),
    Case(
        reward_regression,
        lambda rows: {"reward": A[:rows], "target": B[:rows]},
        differentiable=("reward",),
        extreme=("reward", "target"),
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


@settings(max_examples=50, deadline=None)
@given(rewards, rewards)
def test_bradley_terry_is_a_ratio_of_worths(a, b):
    """Bradley and Terry's own form: P(a better) = e^a / (e^a + e^b)."""
    loss = bradley_terry(number(a), number(b)).item()
    assert math.exp(-loss) == pytest.approx(math.exp(a) / (math.exp(a) + math.exp(b)))
    assert math.exp(-loss) + math.exp(-bradley_terry(number(b), number(a)).item()) == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(rewards, rewards, widths)
def test_rao_kupper_is_the_papers_ratio_of_worths(a, b, width):
    """Equations 2.3 to 2.5 with worths e^a, e^b and θ = e^α."""
    worth_a, worth_b, theta = math.exp(a), math.exp(b), math.exp(width)
    wins_a = worth_a / (worth_a + theta * worth_b)
    wins_b = worth_b / (theta * worth_a + worth_b)
    tie = (theta**2 - 1) * worth_a * worth_b / ((worth_a + theta * worth_b) * (theta * worth_a + worth_b))
    assert probabilities(a, b, width) == pytest.approx((wins_a, wins_b, tie))


@settings(max_examples=50, deadline=None)
@given(rewards, rewards, widths)
def test_the_three_probabilities_add_up_to_one(a, b, width):
    assert sum(probabilities(a, b, width)) == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(rewards, rewards, widths)
def test_a_tie_has_no_sides(a, b, width):
    assert probabilities(a, b, width)[2] == pytest.approx(probabilities(b, a, width)[2])


@settings(max_examples=50, deadline=None)
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


def trl_loss(chosen, rejected, margin=None, coefficient=None):
    """The number that TRL's RewardTrainer computes, with a model that returns these rewards."""
    from trl import RewardTrainer

    trainer = object.__new__(RewardTrainer)
    trainer.model = SimpleNamespace(training=False)
    trainer.args = SimpleNamespace(center_rewards_coefficient=coefficient)
    trainer.accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer._metrics, trainer._total_train_tokens, trainer._tp_size = {"eval": defaultdict(list)}, 0, 1
    inputs = {"attention_mask": torch.ones(2 * len(chosen), 1)} | ({} if margin is None else {"margin": margin})
    logits = torch.cat([chosen, rejected])[:, None]
    return trainer.compute_loss(lambda **_: SimpleNamespace(logits=logits), inputs)


@pytest.mark.parametrize("margin", [None, MARGIN])
@pytest.mark.parametrize("coefficient", [None, 0.01, 0.3])
def test_trls_reward_trainer_agrees(margin, coefficient):
    ours = bradley_terry(A, B, margin=margin)
    if coefficient is not None:
        ours = ours + reward_centering(A, B, strength=coefficient)
    torch.testing.assert_close(ours.mean(), trl_loss(A, B, margin, coefficient), rtol=1e-9, atol=1e-12)


def test_openrlhfs_log_exp_form_is_the_same_function():
    """Its LogExpLoss is log(1 + exp(r_l - r_w)), which is a softplus."""
    torch.testing.assert_close(bradley_terry(A, B), torch.log(1 + torch.exp(B - A)))
    torch.testing.assert_close(bradley_terry(A, B), softplus(B - A))


def test_examples_of_the_other_reward_models():
    assert noisy_bradley_terry(number(5), number(5), error_share=0.3).item() == pytest.approx(math.log(2))
    quarter = math.log(1 / 3)  # σ(log 1/3) = 1/4
    loss = noisy_bradley_terry(number(quarter), number(0), error_share=0.25).item()
    assert loss == pytest.approx(math.log(8 / 3))
    group = bradley_terry_group(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[3.0, 2.0, 2.0]])).item()
    assert group == pytest.approx(math.log(1 + math.exp(-1)))
    assert reward_centering(number(2), number(1), strength=0.01).item() == pytest.approx(0.09)
    assert reward_magnitude(number(2), number(1), strength=0.1).item() == pytest.approx(0.25)
    assert outcome_cross_entropy(number(0), number(0.3)).item() == pytest.approx(math.log(2))
    assert outcome_cross_entropy(number(math.log(3)), number(1)).item() == pytest.approx(math.log(4 / 3))
    assert reward_regression(number(1.5), number(4)).item() == 6.25


@settings(max_examples=50, deadline=None)
@given(rewards, rewards, st.floats(0.01, 0.49))
def test_noisy_labels_mix_the_two_orders(a, b, share):
    """P(called better) = (1 - ε) P(better) + ε P(worse), so the two calls still add up to one."""
    right = math.exp(-bradley_terry(number(a), number(b)).item())
    called = math.exp(-noisy_bradley_terry(number(a), number(b), error_share=share).item())
    other = math.exp(-noisy_bradley_terry(number(b), number(a), error_share=share).item())
    assert called == pytest.approx((1 - share) * right + share * (1 - right))
    assert called + other == pytest.approx(1)


def test_without_errors_noisy_labels_are_bradley_terry():
    assert torch.equal(noisy_bradley_terry(A, B, error_share=0.0), bradley_terry(A, B))
    torch.testing.assert_close(noisy_bradley_terry(A, B, error_share=1e-12), bradley_terry(A, B))


@pytest.mark.parametrize("margin", [1.0, 5.0])
def test_flipped_labels_compress_bradley_terry_but_not_the_noisy_likelihood(margin):
    """A quarter of flips: true margins 1 and 5 are fitted as 0.47 and 1.08, never above log 3 (AlpacaFarm's noise)."""
    flips = 0.25
    wins = 1 / (1 + math.exp(-margin)) * (1 - 2 * flips) + flips
    fitted = math.log(wins / (1 - wins))
    assert fitted == pytest.approx({1.0: 0.47, 5.0: 1.08}[margin], abs=0.005)
    assert fitted < math.log(3)
    for loss, best in (
        (bradley_terry, fitted),
        (lambda a, b: noisy_bradley_terry(a, b, error_share=flips), margin),
    ):
        gap = number(best).requires_grad_()
        (wins * loss(gap, number(0)) + (1 - wins) * loss(number(0), gap)).sum().backward()
        assert gap.grad.item() == pytest.approx(0, abs=1e-12)


def test_groups_are_means_over_their_pairs():
    """Against loops over the pairs, with ties left out and outputs missing."""
    call = groups(5, mask=True)
    reward, rating, mask = (call[name].numpy() for name in ("reward", "rating", "mask"))
    expected = []
    for row in range(5):
        losses = [
            np.log1p(np.exp(reward[row, j] - reward[row, i]))
            for i in range(4)
            for j in range(4)
            if mask[row, i] and mask[row, j] and rating[row, i] > rating[row, j]
        ]
        expected.append(np.mean(losses) if losses else 0.0)
    torch.testing.assert_close(bradley_terry_group(**call), torch.tensor(expected, dtype=torch.float64))


def test_a_group_of_two_is_one_pair():
    group = bradley_terry_group(torch.stack([A, B], -1), torch.tensor([[1.0, 0.0]] * 5))
    torch.testing.assert_close(group, bradley_terry(A, B))


@settings(max_examples=50, deadline=None)
@given(st.lists(rewards, min_size=3, max_size=5), rewards)
def test_a_group_minds_neither_a_constant_nor_the_ratings_scale(values, shift):
    reward = torch.tensor([values], dtype=torch.float64)
    rating = torch.arange(len(values), dtype=torch.float64)[None]
    moved = bradley_terry_group(reward + shift, rating.exp() * 3)
    torch.testing.assert_close(moved, bradley_terry_group(reward, rating), rtol=1e-9, atol=1e-9)


def test_a_group_with_nothing_to_compare_has_no_loss():
    reward = torch.ones(1, 3, requires_grad=True)
    loss = bradley_terry_group(reward, torch.zeros(1, 3))
    loss.sum().backward()
    assert loss.item() == 0
    assert (reward.grad == 0).all()
    with pytest.raises(ValueError, match="reward: expected groups of at least 2 outputs, got 1"):
        bradley_terry_group(torch.ones(2, 1), torch.ones(2, 1))


@settings(max_examples=50, deadline=None)
@given(rewards, rewards, rewards)
def test_centering_picks_the_shift_and_leaves_the_difference(a, b, shift):
    """Of all rewards with the same difference, the penalty is least at the ones that add up to 0."""
    a, b = number(a), number(b)
    centred = a - (a + b) / 2, b - (a + b) / 2
    assert reward_centering(*centred, strength=1.0).item() == pytest.approx(0, abs=1e-9)
    assert reward_centering(a + shift, b + shift, strength=1.0) >= 0
    torch.testing.assert_close(bradley_terry(*centred), bradley_terry(a, b))


def test_magnitude_is_safe_rlhfs_mean_square_over_both_sides():
    ours = reward_magnitude(A, B, strength=0.001).mean()
    torch.testing.assert_close(ours, 0.001 * torch.stack([A, B]).square().mean())


def test_torch_and_sklearn_agree_on_outcomes_and_ratings():
    label = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    ours = outcome_cross_entropy(A, label)
    torch.testing.assert_close(ours, binary_cross_entropy_with_logits(A, label, reduction="none"))
    assert ours.mean().item() == pytest.approx(log_loss(label.numpy(), torch.sigmoid(A).numpy()))
    soft = uniform(5, seed=4)
    torch.testing.assert_close(
        outcome_cross_entropy(A, soft), binary_cross_entropy_with_logits(A, soft, reduction="none")
    )
    torch.testing.assert_close(reward_regression(A, B), mse_loss(A, B, reduction="none"))


def test_outcomes_gradient_is_probability_less_label():
    logit, label = A.clone().requires_grad_(), uniform(5, seed=4)
    outcome_cross_entropy(logit, label).sum().backward()
    torch.testing.assert_close(logit.grad, torch.sigmoid(A) - label)
