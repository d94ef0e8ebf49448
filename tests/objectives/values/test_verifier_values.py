"""VerifierQ: bounded targets, and a conservative term between two expectiles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import expectile as scipy_expectile

from objectives.contract import Case, normal, uniform
from plaudit.objectives.values.verifier_values import verifier_q, verifier_q_target

Q, TARGET = uniform(6, 4, seed=1), uniform(6, seed=2)
ACTION = torch.tensor([0, 2, 1, 3, 0, 1])
MASK = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 1]]).bool()
TERMINAL = torch.tensor([False, True, False, False, True, False])


def steps(rows, **settings):
    call = {"action_value": Q[:rows], "action": ACTION[:rows], "target": TARGET[:rows], "mask": MASK[:rows]}
    return {**call, "alpha": 0.5, **settings}


CASES = [
    Case(
        verifier_q_target,
        lambda rows: {"reward": TARGET[:rows], "next_value": normal(6)[:rows], "terminal": TERMINAL[:rows]},
        extreme=("reward", "next_value"),
    ),
    Case(
        verifier_q,
        steps,
        differentiable=("action_value",),
        masks={"mask": ("action_value",)},
        extreme=("action_value", "target"),
        invalid={"alpha": [-1.0, math.nan], "upper": [0.0, 1.0, math.nan], "lower": [0.0, 1.0, 0.95]},
    ),
]


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    no = torch.tensor([False])
    assert verifier_q_target(number(1), number(0.5), no).item() == 0.75
    assert verifier_q_target(number(1), number(math.nan), ~no).item() == 1
    pair = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert verifier_q(pair, torch.tensor([1]), number(1), alpha=1.0).item() == pytest.approx(0.4)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_the_target_stays_a_probability(reward, value, end):
    assert 0 <= verifier_q_target(number(reward), number(value), torch.tensor([end])).item() <= 1


def test_value_is_bellman_error_and_the_gap_of_scipys_expectiles():
    loss = verifier_q(**steps(6, upper=0.8, lower=0.3))
    for i in range(6):
        kept = Q[i][MASK[i]].numpy()
        gap = scipy_expectile(kept, 0.8) - scipy_expectile(kept, 0.3)
        error = Q[i, ACTION[i]].item() - TARGET[i].item()
        assert loss[i].item() == pytest.approx(0.5 * error**2 + 0.5 * gap)


def test_equal_expectiles_leave_the_bellman_error():
    error = Q.gather(-1, ACTION[:, None]).squeeze(-1) - TARGET
    torch.testing.assert_close(verifier_q(**steps(6, upper=0.6, lower=0.6)), 0.5 * error.square())


def test_the_term_lowers_the_best_and_raises_the_worst():
    values = torch.tensor([[0.1, 0.5, 0.9]], dtype=torch.float64, requires_grad=True)
    middle = torch.tensor([1])
    verifier_q(values, middle, number(0.5), alpha=1.0, upper=0.9, lower=0.5).sum().backward()
    assert values.grad[0, 2] > 0 > values.grad[0, 0]
