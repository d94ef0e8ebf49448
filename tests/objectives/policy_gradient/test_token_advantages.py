"""Advantages of steps: GAE's recursion and limits, holes as deletion, whitening, and ReMax's lack of bias."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal
from plaudit.objectives.policy_gradient.token_advantages import (
    gae,
    reinforce_plus_plus_advantage,
    remax_advantage,
    reward_to_go,
    whiten,
)

MASK = lengths_mask(5, 7, seed=2)
REWARD, VALUE, AFTER = normal(5, 7, seed=1), normal(5, 7, seed=2), normal(5, seed=3)
TIME = {"extreme": ("token_reward",), "masks": {"mask": ("token_reward",)}}


def steps(rows, **settings):
    return {"token_reward": REWARD[:rows], "mask": MASK[:rows], **settings}


def with_values(rows, **settings):
    return steps(rows, value=VALUE[:rows], discount=0.9, trace=0.8, **settings)


CASES = [
    Case(
        gae,
        with_values,
        extreme=("token_reward", "value"),
        masks={"mask": ("token_reward", "value")},
        invalid={"discount": [-0.1, 1.1], "trace": [-0.1, math.nan]},
    ),
    Case(
        gae,
        lambda rows: with_values(rows, value_after=AFTER[:rows]),
        name="cut off",
        extreme=("token_reward", "value", "value_after"),
        masks={"mask": ("token_reward", "value")},
    ),
    Case(reward_to_go, lambda rows: steps(rows, discount=0.7), invalid={"discount": [-0.1, 1.1, math.nan]}, **TIME),
    Case(
        whiten,
        lambda rows: {"values": REWARD[:rows], "mask": MASK[:rows]},
        extreme=("values",),
        masks={"mask": ("values",)},
        invalid={"ddof": [2], "epsilon": [0.0, -1.0]},
        batch_statistics=True,
    ),
    Case(
        whiten,
        lambda rows: {"values": REWARD[:rows], "mask": MASK[:rows], "shift_mean": False, "ddof": 0},
        name="mean kept",
        extreme=("values",),
        masks={"mask": ("values",)},
        batch_statistics=True,
    ),
    Case(remax_advantage, lambda rows: steps(rows, greedy_reward=AFTER[:rows]), **TIME),
    Case(
        reinforce_plus_plus_advantage,
        lambda rows: steps(rows, discount=0.7),
        invalid={"discount": [1.1], "ddof": [3], "epsilon": [0.0]},
        batch_statistics=True,
        **TIME,
    ),
]


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


ALL = torch.ones(1, 3, dtype=torch.bool)


def test_the_docstrings_examples():
    advantage, target = gae(row(0, 1), row(0.5, 0.25), ALL[:, :2], discount=1.0, trace=0.5)
    assert advantage.tolist() == [[0.125, 0.75]]
    assert target.tolist() == [[0.625, 1.0]]
    assert reward_to_go(row(1, 0, 4), ALL, discount=0.5).tolist() == [[2, 2, 4]]
    torch.testing.assert_close(whiten(row(1, 2, 3), ALL), row(-1, 0, 1), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(whiten(row(1, 2, 3), ALL, shift_mean=False), row(1, 2, 3), rtol=1e-7, atol=1e-12)
    assert remax_advantage(row(0, 0, 3), torch.tensor([1.0]).double(), ALL).tolist() == [[2, 2, 2]]
    whitened = reinforce_plus_plus_advantage(row(1, 3).T, ALL[:, :2].T)
    torch.testing.assert_close(whitened, row(-1, 1).T / math.sqrt(2), rtol=1e-7, atol=0)


shares = st.floats(0, 1)


@given(shares, shares)
def test_gae_is_the_definition_written_out(discount, trace):
    """The double sum over later errors of equation 16, on the steps that count, in NumPy."""
    advantage, target = gae(REWARD, VALUE, MASK, discount=discount, trace=trace, value_after=AFTER)
    for n in range(len(MASK)):
        kept = np.flatnonzero(MASK[n].numpy())
        reward, value = REWARD[n].numpy()[kept], np.append(VALUE[n].numpy()[kept], AFTER[n].item())
        error = reward + discount * value[1:] - value[:-1]
        for t, position in enumerate(kept):
            later = sum((discount * trace) ** (j - t) * error[j] for j in range(t, len(kept)))
            assert advantage[n, position].item() == pytest.approx(later, abs=1e-9)
            assert target[n, position].item() == pytest.approx(later + value[t], abs=1e-9)
    assert (advantage[~MASK] == 0).all()
    assert (target[~MASK] == 0).all()


def test_gae_by_the_peers_loop_over_time():
    """verl's backwards loop, holes skipped, before its whitening."""
    gamma, lam = 0.95, 0.9
    mask, next_value, last, reversed_advantages = MASK.double(), torch.zeros(5), torch.zeros(5), []
    for t in reversed(range(7)):
        present = mask[:, t]
        delta = REWARD[:, t] + gamma * next_value - VALUE[:, t]
        last = torch.where(present > 0, delta + gamma * lam * last, last)
        next_value = torch.where(present > 0, VALUE[:, t], next_value)
        reversed_advantages.append(last)
    theirs = torch.stack(reversed_advantages[::-1], 1)
    advantage = gae(REWARD, VALUE, MASK, discount=gamma, trace=lam).advantage
    torch.testing.assert_close(advantage[MASK], theirs[MASK])


def test_gae_with_full_discount_and_trace_is_the_return_minus_the_value():
    """γ = λ = 1 and one reward at the end: A_t = R - V_t."""
    last = MASK & (MASK.flip(-1).cumsum(-1).flip(-1) == 1)
    terminal = torch.where(last, AFTER[:, None], 0)
    advantage, target = gae(terminal, VALUE, MASK, discount=1.0, trace=1.0)
    torch.testing.assert_close(advantage, torch.where(MASK, AFTER[:, None] - VALUE, 0))
    torch.testing.assert_close(target, torch.where(MASK, AFTER[:, None], 0).double())


def test_gae_without_a_trace_is_the_one_step_error():
    advantage = gae(REWARD, VALUE, torch.ones_like(MASK), discount=0.9, trace=0.0).advantage
    following = torch.cat([VALUE[:, 1:], torch.zeros(5, 1)], -1)
    torch.testing.assert_close(advantage, REWARD + 0.9 * following - VALUE)


@given(shares)
def test_gae_of_no_values_is_reward_to_go(discount):
    zero = torch.zeros_like(VALUE)
    advantage = gae(REWARD, zero, MASK, discount=discount, trace=1.0).advantage
    torch.testing.assert_close(advantage, reward_to_go(REWARD, MASK, discount=discount))


@pytest.mark.parametrize("length", [1, 2, 3, 8, 33])
def test_reward_to_go_at_any_length(length):
    reward, every = normal(3, length, seed=4), torch.ones(3, length, dtype=torch.bool)
    returns = reward_to_go(reward, every, discount=0.8)
    for t in range(length):
        later = sum(0.8 ** (j - t) * reward[:, j] for j in range(t, length))
        torch.testing.assert_close(returns[:, t], later)


def test_holes_are_deleted():
    """The same steps without the masked ones between them give the same numbers."""
    returns = reward_to_go(REWARD, MASK, discount=0.9)
    advantage = gae(REWARD, VALUE, MASK, discount=0.9, trace=0.7).advantage
    for n in range(len(MASK)):
        kept = MASK[n]
        every = torch.ones(1, int(kept.sum()), dtype=torch.bool)
        torch.testing.assert_close(returns[n][kept], reward_to_go(REWARD[n][kept][None], every, discount=0.9)[0])
        alone = gae(REWARD[n][kept][None], VALUE[n][kept][None], every, discount=0.9, trace=0.7).advantage
        torch.testing.assert_close(advantage[n][kept], alone[0])


def test_whitened_values_have_mean_0_and_deviation_1():
    whitened = whiten(REWARD, MASK)[MASK].numpy()
    assert whitened.mean() == pytest.approx(0, abs=1e-12)
    assert whitened.std(ddof=1) == pytest.approx(1, abs=1e-7)
    kept = whiten(3 + REWARD, MASK, shift_mean=False, ddof=0)[MASK].numpy()
    assert kept.mean() == pytest.approx(3 + REWARD[MASK].mean().item())
    assert kept.std() == pytest.approx(1, abs=1e-7)


def test_whitening_in_numpy():
    """AlpacaFarm and verl: (x - mean) / sqrt(unbiased variance + 1e-8)."""
    values = REWARD[MASK].numpy()
    expected = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-8)
    torch.testing.assert_close(whiten(REWARD, MASK)[MASK], torch.from_numpy(expected))


def test_a_single_step_whitens_to_nothing():
    one = torch.tensor([[True, False, False]])
    assert whiten(row(5, 1, 2), one).tolist() == [[0, 0, 0]]


def test_reinforce_plus_plus_is_reward_to_go_whitened():
    expected = whiten(reward_to_go(REWARD, MASK, discount=0.9), MASK)
    torch.testing.assert_close(reinforce_plus_plus_advantage(REWARD, MASK, discount=0.9), expected)


def test_remax_is_unbiased():
    """Exact mean over the answers of a softmax policy; the greedy answer's reward is a constant of the prompt."""
    policy = torch.softmax(normal(4, seed=7), 0)
    worth = torch.tensor([0.0, 0.2, 1.0, 3.0], dtype=torch.float64)
    greedy = worth[policy.argmax()].expand(4)
    advantage = remax_advantage(worth[:, None], greedy, torch.ones(4, 1, dtype=torch.bool))
    scores = torch.eye(4, dtype=torch.float64) - policy
    gradient = (policy[:, None] * advantage * scores).sum(0)
    torch.testing.assert_close(gradient, policy * (worth - (policy * worth).sum()))


def test_remax_sees_only_rewards_to_come():
    advantage = remax_advantage(row(1, 2, 4), torch.tensor([0.5]).double(), ALL)
    assert advantage.tolist() == [[6.5, 5.5, 3.5]]


def test_no_gradient_reaches_the_value_function():
    value = VALUE.clone().requires_grad_()
    advantage, target = gae(REWARD, value, MASK, discount=0.9, trace=0.9)
    assert not advantage.requires_grad
    assert not target.requires_grad
