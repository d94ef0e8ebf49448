"""Strategy and solution as two parts of one likelihood."""

from __future__ import annotations

import math

import pytest
import torch

from objectives.contract import Case, normal, uniform
from plaudit.objectives.imitation.likelihood import negative_log_likelihood
from plaudit.objectives.values.strategies import strategy_likelihood

LOG_PROB, ADVANTAGE = uniform(5, 6, seed=1, low=0.05).log(), normal(5, seed=2)
PLACE, LENGTH = torch.arange(6), torch.tensor([[2], [3], [4], [5], [6]])
STRATEGY, SOLUTION = (PLACE < 1).expand(5, 6), (PLACE >= 1) & (LENGTH > PLACE)


def outputs(rows, advantage=True):
    call = {
        "token_log_prob": LOG_PROB[:rows],
        "strategy_mask": STRATEGY[:rows],
        "solution_mask": SOLUTION[:rows],
        "strategy_weight": 3.0,
    }
    return {**call, "advantage": ADVANTAGE[:rows]} if advantage else call


CASES = [
    Case(
        strategy_likelihood,
        outputs,
        differentiable=("token_log_prob",),
        extreme=("token_log_prob", "advantage"),
        invalid={"strategy_weight": [-1.0, math.nan]},
    ),
    Case(
        strategy_likelihood,
        lambda rows: outputs(rows, advantage=False),
        name="imitation",
        differentiable=("token_log_prob",),
    ),
]


def test_the_docstrings_example():
    log_prob = torch.tensor([[math.log(1 / 2), math.log(1 / 4), math.log(1 / 4)]])
    first = torch.tensor([[True, False, False]])
    loss = strategy_likelihood(log_prob, first, ~first, strategy_weight=3.0)
    assert loss.item() == pytest.approx(5 * math.log(2))


@pytest.mark.parametrize("hidden", [math.nan, math.inf])
def test_tokens_of_neither_part_are_not_read(hidden):
    dirty = torch.where(STRATEGY | SOLUTION, LOG_PROB, hidden).requires_grad_()
    call = {**outputs(5), "token_log_prob": dirty}
    loss = strategy_likelihood(**call)
    torch.testing.assert_close(loss, strategy_likelihood(**outputs(5)))
    loss.sum().backward()
    assert (dirty.grad[~(STRATEGY | SOLUTION)] == 0).all()


def test_without_a_strategy_it_is_the_mean_likelihood():
    nothing = torch.zeros_like(STRATEGY)
    value, _ = negative_log_likelihood(LOG_PROB, SOLUTION)
    torch.testing.assert_close(strategy_likelihood(LOG_PROB, nothing, SOLUTION), value)


def test_the_strategys_share_does_not_shrink_with_the_solutions_length():
    """In a token mean the one strategy token's gradient falls as 1/length; here it is λ."""
    leaf = LOG_PROB.clone().requires_grad_()
    strategy_likelihood(leaf, STRATEGY, SOLUTION, strategy_weight=3.0).sum().backward()
    torch.testing.assert_close(leaf.grad[:, 0], torch.full((5,), -3.0).double())
    expected = torch.where(SOLUTION, -1 / SOLUTION.sum(-1, keepdim=True).double(), 0)
    torch.testing.assert_close(leaf.grad[:, 1:], expected[:, 1:])
