"""Returns, temporal-difference errors and critics' losses: worked sums, loops, and the general reduced to the special."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal
from plaudit.objectives.values.value import a2c_value, following, lambda_return, n_step_return, ppo_value, td_error

MASK = lengths_mask(6, 5)
REWARD, VALUE, BOOTSTRAP = normal(6, 5, seed=1), normal(6, 5, seed=2), normal(6, seed=3)
OLD, RETURNS = VALUE + normal(6, 5, seed=4), normal(6, 5, seed=5)


def episode(rows, bootstrap=False, **settings):
    call = {"reward": REWARD[:rows], "value": VALUE[:rows], "mask": MASK[:rows], **settings}
    return {**call, "bootstrap": BOOTSTRAP[:rows]} if bootstrap else call


def critic(rows, **settings):
    return {"value": VALUE[:rows], "returns": RETURNS[:rows], "mask": MASK[:rows], **settings}


def clipped_critic(rows, **settings):
    return critic(rows, old_value=OLD[:rows], **settings)


PATH = {"mask": ("reward", "value")}
NO_SHARE = [-0.1, 1.1, math.nan]
CASES = [
    Case(
        n_step_return,
        lambda rows: episode(rows, discount=0.9, steps=2),
        masks=PATH,
        extreme=("reward", "value"),
        invalid={"discount": NO_SHARE, "steps": [0, -1]},
    ),
    Case(
        n_step_return,
        lambda rows: episode(rows, bootstrap=True, discount=0.9, steps=None),
        name="monte-carlo",
        masks=PATH,
        extreme=("reward", "bootstrap"),
    ),
    Case(
        lambda_return,
        lambda rows: episode(rows, bootstrap=True, discount=0.9, trace=0.7),
        masks=PATH,
        extreme=("reward", "value", "bootstrap"),
        invalid={"discount": NO_SHARE, "trace": NO_SHARE},
    ),
    Case(
        td_error,
        lambda rows: episode(rows, bootstrap=True, discount=0.9),
        masks=PATH,
        extreme=("reward", "value", "bootstrap"),
        invalid={"discount": NO_SHARE},
    ),
    Case(
        a2c_value,
        critic,
        differentiable=("value",),
        extreme=("value", "returns"),
        masks={"mask": ("value", "returns")},
        invalid={"factor": [-1.0, math.nan], "aggregation": ["mean", 0.0]},
    ),
    Case(
        ppo_value,
        lambda rows: clipped_critic(rows, clip=0.5),
        differentiable=("value",),
        extreme=("value", "old_value", "returns"),
        masks={"mask": ("value", "old_value", "returns")},
        invalid={"clip": [0.0, -1.0, math.nan], "factor": [-1.0], "aggregation": ["mean", 0.0]},
    ),
]


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def yes(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def packed(row_index: int) -> tuple[list[float], list[float], list[int]]:
    """The rewards and values of a row's steps, and where they stand."""
    kept = MASK[row_index].nonzero().flatten().tolist()
    return [REWARD[row_index, t].item() for t in kept], [VALUE[row_index, t].item() for t in kept], kept


def n_step_by_hand(rewards, values, last, discount, steps):
    result = []
    for t in range(len(rewards)):
        end = min(t + steps, len(rewards))
        total = sum(discount ** (i - t) * rewards[i] for i in range(t, end))
        total += discount ** (end - t) * (values[end] if end < len(rewards) else last)
        result.append(total)
    return result


def test_the_docstrings_examples():
    returns = n_step_return(row(1, 1, 1), row(5, 6, 7), yes(3), discount=0.5, steps=1)
    assert returns.tolist() == [[4, 4.5, 1]]
    assert n_step_return(row(1, 1, 1), row(5, 6, 7), yes(3), discount=0.5, steps=2).tolist() == [[3.25, 1.5, 1]]
    assert lambda_return(row(0, 1), row(2, 4), yes(2), discount=1.0, trace=0.5).tolist() == [[2.5, 1]]
    assert td_error(row(0, 1), row(2, 4), yes(2), discount=0.5).tolist() == [[0, -3]]
    assert a2c_value(row(1, 2), row(3, 2), yes(2))[0].item() == 1
    assert ppo_value(row(2), row(0), row(3), yes(1), clip=0.5)[0].item() == 3.125


def test_following_steps_over_holes():
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    after = torch.tensor([9.0, 8.0])
    values = torch.tensor([[1.0, math.nan, 3.0, 4.0], [math.nan, 2.0, math.nan, math.nan]])
    expected = [[3, 3, 4, 9], [2, 8, 8, 8]]
    assert following(values, mask, after).tolist() == expected


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_n_step_return_is_the_sum_of_the_definition(steps, discount):
    ours = n_step_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=discount, steps=steps)
    for index in range(len(MASK)):
        rewards, values, kept = packed(index)
        expected = n_step_by_hand(rewards, values, BOOTSTRAP[index].item(), discount, steps)
        assert ours[index, kept].tolist() == pytest.approx(expected)
    assert (ours[~MASK] == 0).all()


def test_many_steps_are_monte_carlo():
    long = n_step_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=0.9, steps=50)
    torch.testing.assert_close(n_step_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=0.9, steps=None), long)


def test_lambda_return_is_the_geometric_mean_of_n_step_returns():
    """Sutton and Barto 12.2: ``(1 - λ) Σ_{n < T-t} λ^{n-1} G^{(n)} + λ^{T-t-1} G``."""
    trace, discount = 0.6, 0.9
    ours = lambda_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=discount, trace=trace)
    for index in range(len(MASK)):
        rewards, values, kept = packed(index)
        last, length = BOOTSTRAP[index].item(), len(rewards)
        by_n = [n_step_by_hand(rewards, values, last, discount, n) for n in range(1, length + 1)]
        for t in range(length):
            left = length - t
            mean = sum((1 - trace) * trace ** (n - 1) * by_n[n - 1][t] for n in range(1, left))
            mean += trace ** (left - 1) * by_n[left - 1][t]
            assert ours[index, kept[t]].item() == pytest.approx(mean)


def test_the_ends_of_lambda():
    one = n_step_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=0.9, steps=1)
    all_steps = n_step_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=0.9, steps=None)
    torch.testing.assert_close(lambda_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=0.9, trace=0.0), one)
    torch.testing.assert_close(lambda_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=0.9, trace=1.0), all_steps)


def test_lambda_return_is_gae_plus_value():
    """``A_t = Σ (γ λ)^l δ_{t+l}``, written out with `td_error`."""
    trace, discount = 0.6, 0.9
    delta = td_error(REWARD, VALUE, MASK, BOOTSTRAP, discount=discount)
    ours = lambda_return(REWARD, VALUE, MASK, BOOTSTRAP, discount=discount, trace=trace)
    for index in range(len(MASK)):
        _, values, kept = packed(index)
        for t, place in enumerate(kept):
            advantage = sum((discount * trace) ** (i - t) * delta[index, kept[i]].item() for i in range(t, len(kept)))
            assert ours[index, place].item() == pytest.approx(advantage + values[t])


def test_with_a_terminal_reward_and_no_discount_the_advantage_is_reward_less_value():
    reward = row(0, 0, 7)
    advantage = lambda_return(reward, row(1, 2, 3), yes(3), discount=1.0, trace=1.0) - row(1, 2, 3)
    assert advantage.tolist() == [[6, 5, 4]]


def test_targets_are_constants():
    leaves = [x.clone().requires_grad_() for x in (REWARD, VALUE, BOOTSTRAP)]
    for target in (
        n_step_return(leaves[0], leaves[1], MASK, leaves[2], discount=0.9, steps=None),
        lambda_return(leaves[0], leaves[1], MASK, leaves[2], discount=0.9, trace=0.5),
        td_error(leaves[0], leaves[1], MASK, leaves[2], discount=0.9),
    ):
        assert not target.requires_grad


def test_value_and_constants_gradient_of_the_critic():
    value = VALUE.clone().requires_grad_()
    loss, _ = a2c_value(value, RETURNS, MASK, aggregation="sequence-sum")
    loss.sum().backward()
    torch.testing.assert_close(value.grad, torch.where(MASK, VALUE - RETURNS, 0))


@pytest.mark.parametrize("clip", [0.1, 1.0])
def test_ppo_value_is_the_loop_of_the_formula(clip):
    loss, weight = ppo_value(VALUE, OLD, RETURNS, MASK, clip=clip)
    for index in range(len(MASK)):
        terms = []
        for t in MASK[index].nonzero().flatten().tolist():
            v, old, g = (x[index, t].item() for x in (VALUE, OLD, RETURNS))
            terms.append(0.5 * max((v - g) ** 2, (np.clip(v, old - clip, old + clip) - g) ** 2))
        assert loss[index].item() == pytest.approx(np.mean(terms))
        assert weight[index].item() == len(terms)


def test_a_wide_clip_is_the_plain_critic():
    torch.testing.assert_close(ppo_value(VALUE, OLD, RETURNS, MASK, clip=1e3), a2c_value(VALUE, RETURNS, MASK))


@settings(deadline=None, max_examples=50)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_the_clipped_critic_has_no_gradient_where_it_went_far_enough(value, old, target):
    """The gradient is zero exactly where the clipped value is beyond its bound and further from the return."""
    leaf, clip = row(value).requires_grad_(), 0.5
    ppo_value(leaf, row(old), row(target), yes(1), clip=clip)[0].sum().backward()
    near = old + min(max(value - old, -clip), clip)
    if abs(value - old) > clip + 1e-6 and (near - target) ** 2 > (value - target) ** 2 + 1e-6:
        assert leaf.grad.item() == 0
    elif (near - target) ** 2 < (value - target) ** 2 - 1e-6 or abs(value - old) < clip - 1e-6:
        assert leaf.grad.item() == pytest.approx(value - target)
