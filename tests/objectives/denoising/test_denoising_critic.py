"""A critic of noisy images: shaped rewards, TD(λ) targets, its best fit, and credits that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.denoising.denoising_critic import (
    batch_range_reward,
    batch_rank_reward,
    critic_huber,
    outcome_advantage,
    shaped_reward,
    step_credit,
    terminal_lambda_target,
)
from plaudit.objectives.denoising.denoising_policy_gradient import per_prompt_advantage

ROWS, STEPS = 6, 5
MASK = lengths_mask(ROWS, STEPS, seed=3)
REWARD, VALUE = normal(ROWS, seed=1), normal(ROWS, STEPS, seed=2)


def chains(rows, **settings):
    return {"reward": REWARD[:rows], "value": VALUE[:rows], "mask": MASK[:rows], **settings}


def fits(rows, **settings):
    return {"value": VALUE[:rows], "target": normal(ROWS, STEPS, seed=4)[:rows], "mask": MASK[:rows], **settings}


def prompts(rows):
    return {
        "reward": normal(5, seed=1)[:rows],
        "prompt_mean": normal(5, seed=2)[:rows],
        "prompt_sd": uniform(5, seed=3, low=0.5)[:rows],
        "prompt_count": torch.tensor([16, 3, 20, 15, 16])[:rows],
    }


POSITIVE = [0.0, -1.0, math.nan]
CASES = [
    Case(
        shaped_reward,
        prompts,
        extreme=("reward", "prompt_mean"),
        batch_statistics=True,
        invalid={"clip": POSITIVE, "epsilon": [-1.0]},
    ),
    Case(batch_range_reward, lambda rows: {"reward": REWARD[:rows]}, extreme=("reward",), batch_statistics=True),
    Case(batch_rank_reward, lambda rows: {"reward": REWARD[:rows]}, extreme=("reward",), batch_statistics=True),
    Case(
        terminal_lambda_target,
        chains,
        extreme=("reward", "value"),
        masks={"mask": ("value",)},
        invalid={"trace": [-0.1, 1.1, math.nan]},
    ),
    Case(
        critic_huber,
        lambda rows: fits(rows, delta=0.8),
        differentiable=("value",),
        extreme=("value", "target"),
        masks={"mask": ("value", "target")},
        invalid={"delta": POSITIVE, "aggregation": [-1.0, "median"]},
    ),
    Case(
        outcome_advantage,
        chains,
        extreme=("reward", "value"),
        masks={"mask": ("value",)},
        invalid={"clip": POSITIVE},
    ),
    Case(step_credit, chains, extreme=("reward", "value"), masks={"mask": ("value",)}),
]


def number(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def stored(row):
    """The values of a trajectory's stored states, in order."""
    return [value.item() for value, here in zip(VALUE[row], MASK[row], strict=True) if here]


def test_the_shaped_reward_is_an_advantage_over_its_bound():
    call = prompts(5)
    torch.testing.assert_close(3 * shaped_reward(**call), per_prompt_advantage(**call, clip=3.0))
    assert shaped_reward(**{**call, "reward": call["reward"] * 1e6}).abs().max() == 1


def test_range_and_rank_are_numpys():
    r = REWARD.numpy()
    np.testing.assert_allclose(batch_range_reward(REWARD), (r - r.min()) / (r.max() - r.min()))
    tied = number(3, 1, 2, 2, 5, 2)
    np.testing.assert_allclose(batch_rank_reward(tied), (rankdata(tied.numpy()) - 1) / 5)
    for shaping in (batch_range_reward, batch_rank_reward):
        assert shaping(number(2, 2, 2)).tolist() == [0.5, 0.5, 0.5]
        assert shaping(number(2)).tolist() == [0.5]
        assert shaping(number()).shape == (0,)


@pytest.mark.parametrize("trace", [0.0, 0.3, 0.9, 1.0])
def test_the_target_is_its_recursion_over_the_stored_states(trace):
    """Holes are skipped: the next state is the next one that was stored."""
    ours = terminal_lambda_target(**chains(ROWS), trace=trace)
    assert (ours[~MASK] == 0).all()
    for row in range(ROWS):
        values, expected = stored(row), [REWARD[row].item()]
        for following in reversed(values[1:]):
            expected.append(trace * expected[-1] + (1 - trace) * following)
        np.testing.assert_allclose(ours[row][MASK[row]], expected[::-1])


def test_the_targets_ends_are_monte_carlo_and_one_step():
    """λ = 1 regresses every state on the outcome; λ = 0 each on the next state's value."""
    call = chains(ROWS)
    outcome = terminal_lambda_target(**call, trace=1.0)
    torch.testing.assert_close(outcome, torch.where(MASK, REWARD[:, None], 0))
    longest = int(MASK.sum(1).argmax())
    values = stored(longest)
    assert len(values) > 2
    next_values = terminal_lambda_target(**call, trace=0.0)[longest][MASK[longest]]
    torch.testing.assert_close(next_values, number(*values[1:], REWARD[longest].item()))


@given(st.floats(0, 1), st.floats(-1, 1))
@settings(max_examples=30)
def test_a_critic_that_knows_the_outcome_is_its_own_target(trace, reward):
    value = torch.full((1, 4), reward, dtype=torch.float64)
    target = terminal_lambda_target(number(reward), value, torch.ones(1, 4, dtype=torch.bool), trace=trace)
    torch.testing.assert_close(target, value)


@pytest.mark.parametrize("time", [0.1, 0.5, 0.9, 1.0])
def test_the_critics_best_fit_is_the_expected_reward_given_the_noisy_image(time):
    """Images N(0.5, 1), r(x) = x: E[r | x_t] is known; there the expected loss (by quadrature) has slope 0.

    At pure noise (t = 1) it can only be the prompt's mean.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    mean, signal = 0.5, 1 - time
    x = 0.7
    spread = signal**2 + time**2
    expected = mean + signal * (x - signal * mean) / spread
    deviation = math.sqrt(1 - signal**2 / spread)  # of x_0 given x_t
    outcomes = torch.from_numpy(expected + deviation * nodes)
    value = number(expected).requires_grad_()
    loss, _ = critic_huber(value.expand(40)[:, None], outcomes[:, None], torch.ones(40, 1, dtype=torch.bool), delta=1e6)
    (slope,) = torch.autograd.grad((loss * torch.from_numpy(weights / weights.sum())).sum(), value)
    assert slope.abs().item() < 1e-9
    if time == 1:
        assert expected == mean


def test_the_critics_loss_is_square_near_and_linear_far():
    """So an outlier's pull is bounded by δ."""
    value = number(0.2, 5.0, -5.0)[:, None].requires_grad_()
    zero, mask = torch.zeros(3, 1).double(), torch.ones(3, 1, dtype=torch.bool)
    loss, _ = critic_huber(value, zero, mask, delta=2.0)
    torch.testing.assert_close(loss.detach(), number(0.02, 8.0, 8.0))
    loss.sum().backward()
    torch.testing.assert_close(value.grad[:, 0], number(0.2, 2, -2))


def test_advantages_are_clipped_and_masked():
    ours = outcome_advantage(**chains(ROWS), clip=0.6)
    expected = np.clip(REWARD.numpy()[:, None] - VALUE.numpy(), -0.6, 0.6)
    np.testing.assert_allclose(ours, np.where(MASK, expected, 0))
    assert ours.abs().max() == 0.6


def test_the_credits_of_a_chain_add_up_to_what_the_first_state_did_not_promise():
    ours = step_credit(**chains(ROWS))
    for row in range(ROWS):
        values = stored(row)
        np.testing.assert_allclose(ours[row][MASK[row]], np.diff([*values, REWARD[row].item()]))
        assert ours[row].sum().item() == pytest.approx(REWARD[row].item() - values[0])


def test_constant_values_give_all_credit_to_the_end():
    """Potentials that say nothing leave the outcome reward where it was."""
    call = {**chains(ROWS), "value": torch.zeros(ROWS, STEPS).double()}
    last = MASK & (MASK.flip(1).cumsum(1).flip(1) == 1)
    torch.testing.assert_close(step_credit(**call), torch.where(last, REWARD[:, None], 0))


def test_the_docstrings_examples():
    counts = torch.tensor([16])
    assert shaped_reward(number(2.5), number(1), number(1), counts, epsilon=0).item() == pytest.approx(0.5)
    torch.testing.assert_close(batch_range_reward(number(1, 2, 5)), number(0, 0.25, 1))
    torch.testing.assert_close(batch_rank_reward(number(1, 5, 2, 2)), number(0, 1, 0.5, 0.5))
    full = torch.ones(1, 3, dtype=torch.bool)
    target = terminal_lambda_target(number(1), number(0, 0.5)[None], full[:, :2], trace=0.5)
    torch.testing.assert_close(target, number(0.75, 1)[None])
    value = number(0.5)[None]
    assert critic_huber(value, number(1)[None], full[:, :1])[0].item() == pytest.approx(0.125)
    assert critic_huber(value, number(3)[None], full[:, :1])[0].item() == pytest.approx(2)
    advantage = outcome_advantage(number(1), number(0, 0.5, -0.5)[None], full)
    torch.testing.assert_close(advantage, number(1, 0.5, 1)[None])
    torch.testing.assert_close(step_credit(number(1), number(0, 0.5, 0.25)[None], full), number(0.5, -0.25, 0.75)[None])
