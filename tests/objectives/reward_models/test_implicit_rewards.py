"""Implicit rewards: they add up to the log-ratio however it is cut, and PRIME's loss is a cross-entropy on that."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy

from objectives.contract import Case, lengths_mask, uniform
from plaudit.objectives.preferences import dpo
from plaudit.objectives.reward_models.implicit_rewards import implicit_step_reward, implicit_token_reward, prime

MASK = lengths_mask(5, 6)
LOG_PROB, REFERENCE = uniform(5, 6, seed=1, low=0.05).log(), uniform(5, 6, seed=2, low=0.05).log()
ENDS = torch.rand(5, 6, generator=torch.Generator().manual_seed(3)) < 0.4
LOG_RATIO = torch.where(MASK, LOG_PROB - REFERENCE, 0).sum(-1)


def tokens(rows, **settings):
    return {"token_log_prob": LOG_PROB[:rows], "ref_token_log_prob": REFERENCE[:rows], "mask": MASK[:rows], **settings}


BOTH = ("token_log_prob", "ref_token_log_prob")
CASES = [
    Case(
        implicit_token_reward,
        lambda rows: tokens(rows, beta=0.3),
        differentiable=BOTH,
        extreme=BOTH,
        masks={"mask": BOTH},
        invalid={"beta": [0.0, -1.0, math.inf]},
    ),
    Case(
        implicit_step_reward,
        lambda rows: tokens(rows, step_end=ENDS[:rows], beta=0.3),
        differentiable=BOTH,
        extreme=BOTH,
        masks={"mask": BOTH},
        invalid={"beta": [0.0, math.nan]},
    ),
    Case(
        prime,
        lambda rows: {"log_ratio": LOG_RATIO[:rows], "label": uniform(5, seed=4)[:rows], "beta": 0.3},
        differentiable=("log_ratio",),
        extreme=("log_ratio",),
        invalid={"beta": [0.0, math.nan]},
    ),
]


def test_the_docstrings_examples():
    log_prob, reference = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-2.0, -1.5]])
    reward = implicit_token_reward(log_prob, reference, torch.ones(1, 2, dtype=torch.bool), beta=2.0)
    assert reward.tolist() == [[2.0, -1.0]]
    log_ratio, end = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[False, True, False]])
    everything = torch.ones(1, 3, dtype=torch.bool)
    reward = implicit_step_reward(log_ratio, torch.zeros(1, 3), end, everything, beta=1.0)
    assert reward.tolist() == [[0.0, 3.0, 4.0]]
    log_ratio = torch.tensor([2 * math.log(3)] * 2)
    loss = prime(log_ratio, torch.tensor([1.0, 0.0]), beta=0.5)
    assert loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 63), st.floats(0.01, 10))
def test_the_steps_rewards_add_up_to_beta_times_the_log_ratio(pattern, beta):
    """PRIME's decomposition, wherever the steps end."""
    ends = torch.tensor([[bool(pattern >> t & 1) for t in range(6)]]).expand(5, 6)
    reward = implicit_step_reward(LOG_PROB, REFERENCE, ends, MASK, beta=beta)
    torch.testing.assert_close(reward.sum(-1), beta * LOG_RATIO)
    assert (reward[~MASK] == 0).all()


def test_every_token_a_step_is_the_token_reward_and_none_is_one_reward_at_the_end():
    token = implicit_token_reward(LOG_PROB, REFERENCE, MASK, beta=0.3)
    every = implicit_step_reward(LOG_PROB, REFERENCE, torch.ones_like(MASK), MASK, beta=0.3)
    torch.testing.assert_close(every, token)
    whole = implicit_step_reward(LOG_PROB, REFERENCE, torch.zeros_like(MASK), MASK, beta=0.3)
    last = (MASK * torch.arange(1, 7)).argmax(-1)
    torch.testing.assert_close(whole.gather(-1, last[:, None]).squeeze(-1), 0.3 * LOG_RATIO)
    assert (whole != 0).sum() == 5


def test_steps_are_primes_loop():
    """PRIME's compute_implicit_reward sums q over each range between ends, written out; it has no β."""
    reward = implicit_step_reward(LOG_PROB, REFERENCE, ENDS, MASK, beta=1.0)
    for row in range(5):
        positions = [t for t in range(6) if MASK[row, t]]
        expected, running = [0.0] * 6, 0.0
        for t in positions:
            running += (LOG_PROB[row, t] - REFERENCE[row, t]).item()
            if ENDS[row, t] or t == positions[-1]:
                expected[t], running = running, 0.0
        assert reward[row].tolist() == pytest.approx(expected)


def test_a_tokens_reward_is_a_difference_of_values():
    """r_t = q_t - q_{t-1} with q_t the reward so far."""
    reward = implicit_token_reward(LOG_PROB, REFERENCE, torch.ones_like(MASK), beta=0.3)
    value = 0.3 * (LOG_PROB - REFERENCE).cumsum(-1)
    torch.testing.assert_close(reward, value.diff(dim=-1, prepend=torch.zeros(5, 1, dtype=torch.float64)))


def test_the_sequences_reward_is_dpos():
    """DPO is Bradley-Terry on these rewards."""
    reward = implicit_token_reward(LOG_PROB, REFERENCE, MASK, beta=0.3).sum(-1)
    loss = dpo(LOG_RATIO[:2], LOG_RATIO[2:4], beta=0.3)
    torch.testing.assert_close(loss, torch.nn.functional.softplus(reward[2:4] - reward[:2]))


def test_primes_code_agrees():
    """compute_ce_dpo_loss_rm: the cross-entropy of a sigmoid of β times the summed log-ratios."""
    accuracy = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    theirs = binary_cross_entropy((((LOG_PROB - REFERENCE) * MASK).sum(1) * 0.05).sigmoid(), accuracy)
    torch.testing.assert_close(prime(LOG_RATIO, accuracy, beta=0.05).mean(), theirs)


def test_primes_loss_pulls_the_log_ratio_by_the_error_of_its_probability():
    log_ratio, label = LOG_RATIO.clone().requires_grad_(), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0]).double()
    prime(log_ratio, label, beta=0.3).sum().backward()
    torch.testing.assert_close(log_ratio.grad, 0.3 * (torch.sigmoid(0.3 * LOG_RATIO) - label))


def test_a_model_that_is_its_reference_rewards_nothing():
    assert (implicit_token_reward(LOG_PROB, LOG_PROB, MASK, beta=2.0) == 0).all()
    torch.testing.assert_close(prime(torch.zeros(2), torch.tensor([0.0, 1.0]), beta=2.0), torch.full((2,), math.log(2)))
