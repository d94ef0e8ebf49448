"""Weights for what another policy sampled: unbiased without bounds, TRL's modes, and the bound on log-ratios."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case, normal
from objectives.policy_batches import MASK, token_batch
from plaudit.objectives.policy_gradient.importance import (
    masked_importance_weight,
    off_policy_sequence_weight,
    sequence_masked_importance_weight,
    sequence_truncated_importance_weight,
    truncated_importance_weight,
)
from plaudit.objectives.policy_gradient.policy_gradient import policy_gradient

BOTH = ("old_token_log_prob", "sampler_token_log_prob")
RANGE = {"minimum": [-0.1, math.nan], "maximum": [-1.0, math.nan]}
TOKEN = (truncated_importance_weight, masked_importance_weight)
SEQUENCE = (sequence_truncated_importance_weight, sequence_masked_importance_weight)


def mismatch(rows, **settings):
    call = token_batch(rows)
    return {
        "old_token_log_prob": call["token_log_prob"],
        "sampler_token_log_prob": call["old_token_log_prob"],
        "mask": call["mask"],
        **settings,
    }


def moved(rows, **settings):
    return token_batch(rows, threshold=0.05, **settings)


CASES = [
    *(
        Case(
            function,
            lambda rows: mismatch(rows, minimum=0.8, maximum=1.3),
            extreme=BOTH,
            masks={"mask": BOTH},
            invalid=RANGE,
        )
        for function in (*TOKEN, *SEQUENCE)
    ),
    Case(
        off_policy_sequence_weight,
        moved,
        extreme=("token_log_prob", "old_token_log_prob", "advantage"),
        masks={"mask": ("token_log_prob", "old_token_log_prob", "advantage")},
        invalid={"threshold": [-0.1, math.nan]},
    ),
    Case(
        off_policy_sequence_weight,
        lambda rows: moved(rows, per="output"),
        name="per output",
        extreme=("token_log_prob", "old_token_log_prob"),
        masks={"mask": ("token_log_prob", "old_token_log_prob")},
    ),
]


def log(*ratios):
    return torch.tensor([ratios], dtype=torch.float64).log()


PAIR = torch.ones(1, 2, dtype=torch.bool)


def test_the_docstrings_examples():
    half = log(1 / 2, 1 / 2)
    weights = truncated_importance_weight(half, log(1 / 4, 1 / 16), PAIR, maximum=3.0)
    torch.testing.assert_close(weights, torch.tensor([[2.0, 3.0]]).double())
    weights = masked_importance_weight(log(2, 8), log(1, 1), PAIR)
    torch.testing.assert_close(weights, torch.tensor([[2.0, 0.0]]).double())
    product = sequence_truncated_importance_weight(log(2, 1 / 4), log(1, 1), PAIR)
    torch.testing.assert_close(product, torch.tensor([1 / 2]).double())
    assert sequence_masked_importance_weight(log(2, 2), log(1, 1), PAIR).item() == 0
    assert sequence_masked_importance_weight(log(2, 1 / 4), log(1, 1), PAIR).item() == pytest.approx(1 / 2)
    for advantage, kept in ((-1.0, 0.0), (1.0, 1.0)):
        weight = off_policy_sequence_weight(half, log(1, 1), torch.tensor([[advantage]]), PAIR, threshold=0.5)
        assert weight.tolist() == [[kept, kept]]


def by_trl(level, bound, low, high):
    """TRL's four modes, written out: ratio of exp(difference), per token or per output, clipped or zeroed."""
    call = mismatch(5)
    difference = (call["old_token_log_prob"] - call["sampler_token_log_prob"]) * MASK
    ratio = (difference.sum(-1, keepdim=True) if level == "sequence" else difference).exp()
    if bound == "truncate":
        return ratio.clamp(low, high)
    return ratio.masked_fill((ratio < low) | (ratio > high), 0.0)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.2), (0.7, 1.5)])
def test_trls_modes(low, high):
    call = mismatch(5, minimum=low, maximum=high)
    for function, bound in zip(TOKEN, ("truncate", "mask"), strict=True):
        torch.testing.assert_close(function(**call)[MASK], by_trl("token", bound, low, high)[MASK])
    for function, bound in zip(SEQUENCE, ("truncate", "mask"), strict=True):
        torch.testing.assert_close(function(**call), by_trl("sequence", bound, low, high)[:, 0])


def test_trls_off_policy_mask():
    from trl.trainer.grpo_trainer import GRPOTrainer

    call = token_batch(5, per="output")
    for threshold in (0.0, 0.05, 0.2):
        theirs = GRPOTrainer.get_off_policy_mask(
            call["advantage"], call["token_log_prob"], call["old_token_log_prob"], MASK.double(), threshold
        )
        ours = off_policy_sequence_weight(**call, threshold=threshold)
        torch.testing.assert_close(ours, theirs * MASK)


def test_without_bounds_the_weighted_gradient_is_unbiased():
    """The exact mean over the sampler's answers of w R ∇ log π is ∇ E_π[R]."""
    logits, sampler = normal(4, seed=1).requires_grad_(), normal(4, seed=2).log_softmax(0)
    log_prob, worth = logits.log_softmax(0), torch.tensor([[0.0], [0.2], [1.0], [3.0]], dtype=torch.float64)
    one = torch.ones(4, 1, dtype=torch.bool)
    weight = truncated_importance_weight(log_prob[:, None].detach(), sampler[:, None], one, maximum=1e6)
    value, _ = policy_gradient(log_prob[:, None], weight * worth, one)
    ours = torch.autograd.grad((sampler.exp() * value).sum(), logits, retain_graph=True)[0]
    true = torch.autograd.grad((log_prob.exp() * worth[:, 0]).sum(), logits)[0]
    torch.testing.assert_close(ours, -true)


@given(st.floats(-1e4, 1e4))
def test_ratios_are_held_within_e_to_the_20(log_ratio):
    old = torch.tensor([[log_ratio]], dtype=torch.float64)
    weight = truncated_importance_weight(old, torch.zeros_like(old), PAIR[:, :1], maximum=1e30).item()
    assert weight == pytest.approx(math.exp(min(max(log_ratio, -20), 20)))


def test_a_range_must_not_be_empty():
    with pytest.raises(ValueError, match=r"^maximum: expected a number > 2.0, got 1.0$"):
        truncated_importance_weight(**mismatch(2), minimum=2.0, maximum=1.0)
