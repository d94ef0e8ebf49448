"""DPO with lengths: per step, with a price per step, and with a lighter tail; reductions to DPO, and TRL's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal
from objectives.trl_peer import summed_log_ratios, token_pairs, trl_dpo_each
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.pairwise_lengths import (
    length_desensitised_dpo,
    length_normalised_dpo,
    length_regularised_dpo,
)


def pairs(rows, **settings):
    return {
        "log_ratio_chosen": normal(5, seed=1)[:rows],
        "log_ratio_rejected": normal(5, seed=2)[:rows],
        "length_chosen": torch.tensor([3, 1, 8, 0, 2])[:rows],
        "length_rejected": torch.tensor([1, 1, 2, 5, 9])[:rows],
        "beta": 0.3,
        **settings,
    }


def token_call(rows, tail_weight):
    return {
        "token_log_ratio_chosen": normal(5, 6, seed=1)[:rows],
        "token_log_ratio_rejected": normal(5, 6, seed=2)[:rows],
        "mask_chosen": lengths_mask(5, 6, seed=1)[:rows],
        "mask_rejected": lengths_mask(5, 6, seed=2)[:rows],
        "beta": 0.3,
        "tail_weight": tail_weight,
    }


SIDES = ("log_ratio_chosen", "log_ratio_rejected")
TOKEN_SIDES = ("token_log_ratio_chosen", "token_log_ratio_rejected")
MASKS = {"mask_chosen": ("token_log_ratio_chosen",), "mask_rejected": ("token_log_ratio_rejected",)}
NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]
CASES = [
    Case(length_normalised_dpo, pairs, differentiable=SIDES, extreme=SIDES, invalid={"beta": NOT_POSITIVE}),
    Case(
        length_regularised_dpo,
        lambda rows: pairs(rows, alpha=0.2),
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE, "alpha": [-0.1, math.nan]},
    ),
    *(
        Case(
            length_desensitised_dpo,
            lambda rows, tail_weight=tail_weight: token_call(rows, tail_weight),
            name=f"tail-{tail_weight}",
            differentiable=TOKEN_SIDES,
            extreme=TOKEN_SIDES,
            masks=MASKS,
            invalid={"beta": NOT_POSITIVE, "tail_weight": [-0.1, 1.1, math.nan]},
        )
        for tail_weight in (0.0, 0.4)
    ),
]

log_ratios = st.floats(-20, 20)
lengths = st.integers(1, 50)


def logistic(x: float) -> float:
    return math.log1p(math.exp(-x))


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def whole(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_the_docstrings_examples():
    ours = length_normalised_dpo(numbers(4), numbers(-2), whole(8), whole(4), beta=1)
    assert ours.item() == pytest.approx(logistic(1))
    ours = length_regularised_dpo(numbers(1), numbers(0), whole(3), whole(5), beta=1, alpha=0.5)
    assert ours.item() == pytest.approx(math.log(2))
    ones, three, first = torch.ones(1, 3).double(), torch.tensor([[True] * 3]), torch.tensor([[True, False, False]])
    for tail_weight, gap in ((1, 2), (0.5, 1), (0, 0)):
        ours = length_desensitised_dpo(ones, ones, three, first, beta=1, tail_weight=tail_weight)
        assert ours.item() == pytest.approx(logistic(gap))


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, lengths)
def test_outputs_of_equal_length_are_compared_as_by_dpo(chosen, rejected, length):
    """Per step, with β times the length; with a price, without any."""
    sides, n = (numbers(chosen), numbers(rejected)), whole(length)
    torch.testing.assert_close(length_normalised_dpo(*sides, n, n, beta=0.2), dpo(*sides, beta=0.2 / length))
    torch.testing.assert_close(length_regularised_dpo(*sides, n, n, beta=0.2, alpha=3.0), dpo(*sides, beta=0.2))


@settings(max_examples=50, deadline=None)
@given(log_ratios, log_ratios, lengths, lengths)
def test_a_price_of_zero_is_dpo(chosen, rejected, longer, shorter):
    sides = numbers(chosen), numbers(rejected)
    ours = length_regularised_dpo(*sides, whole(longer), whole(shorter), beta=0.2, alpha=0.0)
    torch.testing.assert_close(ours, dpo(*sides, beta=0.2))


def test_the_best_policy_under_a_price_per_step_has_the_rewards_gaps():
    """The derivation: ``π = π_ref exp((r - α n) / β) / Z`` implies the reward ``β u + α n``, up to a constant."""
    reward, n, beta, alpha = numbers(1.0, 0.3, -0.4), whole(2, 7, 4), 0.6, 0.15
    reference = numbers(0.2, 0.5, 0.3)
    policy = (reference.log() + (reward - alpha * n) / beta).softmax(-1)
    u = policy.log() - reference.log()
    ours = length_regularised_dpo(u[:1], u[1:2], n[:1], n[1:2], beta=beta, alpha=alpha)
    assert ours.item() == pytest.approx(logistic(reward[0].item() - reward[1].item()))


def test_a_full_tail_is_dpo_and_no_tail_is_the_shared_part():
    call = token_call(5, 1.0)
    sides = ((call[f"token_log_ratio_{side}"], call[f"mask_{side}"]) for side in ("chosen", "rejected"))
    (chosen, own), (rejected, other) = sides
    sums = torch.where(own, chosen, 0).sum(-1), torch.where(other, rejected, 0).sum(-1)
    torch.testing.assert_close(length_desensitised_dpo(**call), dpo(*sums, beta=0.3))
    shared = []
    for row in range(5):
        a, b = chosen[row][own[row]].tolist(), rejected[row][other[row]].tolist()
        m = min(len(a), len(b))
        shared.append(logistic(0.3 * (sum(a[:m]) - sum(b[:m]))))
    torch.testing.assert_close(length_desensitised_dpo(**token_call(5, 0.0)), numbers(*shared))


def test_trl_agrees_per_step():
    tokens = token_pairs()
    ours = length_normalised_dpo(*summed_log_ratios(*tokens), *tokens[-1].sum(-1).chunk(2), beta=0.3)
    torch.testing.assert_close(ours, trl_dpo_each("sigmoid_norm", *tokens, beta=0.3))


@pytest.mark.parametrize("tail_weight", [0.0, 0.4, 1.0])
def test_trl_agrees_with_a_lighter_tail(tail_weight):
    policy, ref, mask = token_pairs()
    (chosen, rejected), (own, other) = (policy - ref).chunk(2), mask.chunk(2)
    ours = length_desensitised_dpo(chosen, rejected, own, other, beta=0.3, tail_weight=tail_weight)
    theirs = trl_dpo_each("sigmoid", policy, torch.where(mask, ref, 0), mask, beta=0.3, tail_weight=tail_weight)
    torch.testing.assert_close(ours, theirs)
