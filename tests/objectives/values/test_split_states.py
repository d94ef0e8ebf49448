"""Targets over several next states: loops, one successor as the special case, and TreeDQN against its own formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal
from plaudit.objectives.values.q_learning import double_q_target
from plaudit.objectives.values.split_states import split_state_target, tree_dqn

ONLINE, TARGET = normal(6, 3, 4, seed=1), normal(6, 3, 4, seed=2)
REWARD, LOG_COST = normal(6, seed=3), normal(6, seed=4)
STATES = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1]]).bool()
ACTIONS = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.6
ACTIONS[3, 1] = False  # a successor with nothing left to do


def split(rows, **options):
    return {
        "reward": REWARD[:rows],
        "next_action_value": ONLINE[:rows],
        "next_target_action_value": TARGET[:rows],
        "state_mask": STATES[:rows],
        "action_mask": ACTIONS[:rows],
        "discount": 0.9,
        **options,
    }


def children(rows, **options):
    return {
        "log_cost": LOG_COST[:rows],
        "child_log_cost": ONLINE[:rows],
        "child_target_log_cost": TARGET[:rows],
        "child_mask": ACTIONS[:rows] & STATES[:rows, :, None],
        **options,
    }


NEXT, CHILD = ("next_action_value", "next_target_action_value"), ("child_log_cost", "child_target_log_cost")
CASES = [
    Case(
        split_state_target,
        split,
        masks={"action_mask": NEXT},
        extreme=("reward", *NEXT),
        exchangeable="J",
        invalid={"discount": [-0.1, 1.1, math.nan]},
    ),
    Case(
        tree_dqn,
        lambda rows: children(rows, step_cost=2.0, discount=0.9),
        differentiable=("log_cost",),
        masks={"child_mask": CHILD},
        extreme=("log_cost", *CHILD),
        exchangeable="J",
        invalid={"step_cost": [0.0, -1.0, math.nan], "discount": [0.0, 1.1, -0.1]},
    ),
]


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    values = torch.tensor([[[4.0, 1.0], [-1.0, 0.0]]]).double()
    states, actions = torch.ones(1, 2).bool(), torch.ones(1, 2, 2).bool()
    assert split_state_target(number(1), values, values, states, actions, discount=0.5).item() == 2
    two_and_five = torch.tensor([[[2.0], [5.0]]]).double().log()
    one_each = torch.ones(1, 2, 1).bool()
    loss = tree_dqn(number(math.log(8)), two_and_five, two_and_five, one_each)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert tree_dqn(number(0), two_and_five, two_and_five, ~one_each).item() == 0


def test_split_target_is_the_loop_over_successors():
    ours = split_state_target(**split(6))
    for i in range(6):
        values = []
        for j in range(3):
            if not STATES[i, j]:
                continue
            allowed = [k for k in range(4) if ACTIONS[i, j, k]]
            values.append(TARGET[i, j, max(allowed, key=lambda k: ONLINE[i, j, k].item())].item() if allowed else 0.0)
        mean = np.mean(values) if values else 0.0
        assert ours[i].item() == pytest.approx(REWARD[i].item() + 0.9 * mean)


def test_one_successor_is_double_q_learning():
    state = torch.ones(6, 1, dtype=torch.bool)
    ours = split_state_target(REWARD, ONLINE[:, :1], TARGET[:, :1], state, ACTIONS[:, :1], discount=0.9)
    expected = double_q_target(REWARD, ONLINE[:, 0], TARGET[:, 0], torch.zeros(6).bool(), ACTIONS[:, 0], discount=0.9)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("hidden", [math.nan, math.inf, -math.inf])
def test_absent_successors_are_not_read(hidden):
    dirty = {name: torch.where(STATES[..., None], split(6)[name], hidden) for name in NEXT}
    torch.testing.assert_close(split_state_target(**{**split(6), **dirty}), split_state_target(**split(6)))


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_tree_dqn_is_the_papers_formula(discount):
    """``(q - log|r + Σ_j -exp(q_target(s_j, argmin q(s_j, ·)))|)²`` with ``r = -c``, as the official code has it."""
    loss = tree_dqn(**children(6, step_cost=2.0, discount=discount))
    mask = children(6)["child_mask"]
    for i in range(6):
        value = -2.0
        for j in range(3):
            open_ones = [k for k in range(4) if mask[i, j, k]]
            if open_ones:
                best = min(open_ones, key=lambda k: ONLINE[i, j, k].item())
                value -= discount * math.exp(TARGET[i, j, best].item())
        assert loss[i].item() == pytest.approx((LOG_COST[i].item() - math.log(abs(value))) ** 2)


def test_tree_dqn_is_a_semi_gradient():
    leaves = {name: children(6)[name].clone().requires_grad_() for name in ("log_cost", *CHILD)}
    loss = tree_dqn(**{**children(6), **leaves})
    loss.sum().backward()
    torch.testing.assert_close(leaves["log_cost"].grad.square(), 4 * loss.detach())
    assert all(leaves[name].grad is None for name in CHILD)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1, 1000), min_size=1, max_size=6))
def test_the_best_prediction_is_the_geometric_mean(sizes):
    """Trees of several sizes under one decision: the loss is least at the mean logarithm."""
    best = torch.full((len(sizes),), np.log(sizes).mean(), dtype=torch.float64, requires_grad=True)
    # a tree of size n is a node of cost 1 and one open child of size n - 1
    child = torch.tensor(sizes, dtype=torch.float64).sub(1).clamp(min=1e-300).log()[:, None, None]
    tree_dqn(best, child, child, torch.ones_like(child, dtype=torch.bool)).sum().backward()
    assert best.grad.sum().item() == pytest.approx(0, abs=1e-9)


def test_no_room_is_an_error():
    nothing = torch.zeros(1, 2, 0)
    with pytest.raises(ValueError, match="child_log_cost: expected at least 1 candidate, got 0"):
        tree_dqn(torch.zeros(1), nothing, nothing, nothing.bool())
    with pytest.raises(ValueError, match="next_action_value: expected at least 1 action, got 0"):
        split_state_target(torch.zeros(1), nothing, nothing, torch.ones(1, 2).bool(), nothing.bool())
