"""Q-learning: the papers' targets by loops, terminal states, semi-gradients, and CQL's limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, mse_loss, smooth_l1_loss

from objectives.contract import Case, normal
from plaudit.objectives.values.q_learning import cql, double_dqn, double_q_target, dqn, q_target

Q, NEXT, NEXT_TARGET = normal(6, 4, seed=1), normal(6, 3, seed=2), normal(6, 3, seed=3)
ACTION = torch.tensor([0, 2, 1, 3, 0, 1])
REWARD, TARGET = normal(6, seed=4), normal(6, seed=5)
TERMINAL = torch.tensor([False, True, False, False, True, False])
NEXT_MASK = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0]]).bool()
MASK = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 1]]).bool()


def step(rows, masked=True, **settings):
    call = {"reward": REWARD[:rows], "terminal": TERMINAL[:rows], "discount": 0.9, **settings}
    return {**call, "next_mask": NEXT_MASK[:rows]} if masked else call


def taken(rows, **settings):
    return step(rows, action_value=Q[:rows], action=ACTION[:rows], **settings)


NO_SHARE, NOT_POSITIVE = [-0.1, 1.1, math.nan], [0.0, -1.0, math.nan]
CASES = [
    Case(
        q_target,
        lambda rows: step(rows, next_action_value=NEXT[:rows]),
        masks={"next_mask": ("next_action_value",)},
        extreme=("next_action_value", "reward"),
        invalid={"discount": NO_SHARE},
        exchangeable="J",
    ),
    Case(
        double_q_target,
        lambda rows: step(rows, next_action_value=NEXT[:rows], next_target_action_value=NEXT_TARGET[:rows]),
        masks={"next_mask": ("next_action_value", "next_target_action_value")},
        extreme=("next_action_value", "next_target_action_value", "reward"),
        invalid={"discount": NO_SHARE},
        exchangeable="J",
    ),
    Case(
        dqn,
        lambda rows: taken(rows, next_target_action_value=NEXT_TARGET[:rows]),
        differentiable=("action_value",),
        masks={"next_mask": ("next_target_action_value",)},
        extreme=("action_value", "next_target_action_value", "reward"),
        invalid={"discount": NO_SHARE, "error_clip": NOT_POSITIVE},
    ),
    Case(
        dqn,
        lambda rows: taken(rows, masked=False, next_target_action_value=NEXT_TARGET[:rows], error_clip=0.5),
        name="clipped",
        differentiable=("action_value",),
        extreme=("action_value",),
    ),
    Case(
        double_dqn,
        lambda rows: taken(rows, next_action_value=NEXT[:rows], next_target_action_value=NEXT_TARGET[:rows]),
        differentiable=("action_value",),
        masks={"next_mask": ("next_action_value", "next_target_action_value")},
        extreme=("action_value", "next_target_action_value"),
        invalid={"discount": NO_SHARE, "error_clip": NOT_POSITIVE},
    ),
    Case(
        cql,
        lambda rows: {
            "action_value": Q[:rows],
            "action": ACTION[:rows],
            "target": TARGET[:rows],
            "mask": MASK[:rows],
            "alpha": 0.7,
        },
        differentiable=("action_value",),
        masks={"mask": ("action_value",)},
        extreme=("action_value", "target"),
        invalid={"alpha": [-1.0, math.nan], "error_clip": NOT_POSITIVE},
    ),
    Case(
        cql,
        lambda rows: {"action_value": Q[:rows], "action": ACTION[:rows], "target": TARGET[:rows], "alpha": 2.0},
        name="all actions",
        differentiable=("action_value",),
        extreme=("action_value",),
    ),
]

NO = torch.tensor([False])


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    first = torch.tensor([0])
    assert q_target(number(1), row(2, 3), NO, discount=0.5).item() == 2.5
    assert q_target(number(1), row(2, 3), ~NO, discount=0.5).item() == 1
    assert double_q_target(number(1), row(2, 3), row(8, 4), NO, discount=0.5).item() == 3
    assert dqn(row(1, 0), first, number(1), row(2, 3), NO, discount=0.5).item() == 2.25
    assert dqn(row(1, 0), first, number(1), row(2, 3), NO, discount=0.5, error_clip=1.0).item() == 2
    assert double_dqn(row(1, 0), first, number(1), row(2, 3), row(8, 4), NO, discount=0.5).item() == 4
    loss = cql(row(0, math.log(3)), first, number(1), alpha=2.0).item()
    assert loss == pytest.approx(2 * math.log(4) + 0.5)


def test_targets_are_loops_over_transitions():
    plain = q_target(REWARD, NEXT, TERMINAL, NEXT_MASK, discount=0.9)
    double = double_q_target(REWARD, NEXT, NEXT_TARGET, TERMINAL, NEXT_MASK, discount=0.9)
    for i in range(len(REWARD)):
        allowed = [j for j in range(3) if NEXT_MASK[i, j]]
        over = TERMINAL[i] or not allowed
        best = 0.0 if over else max(NEXT[i, j].item() for j in allowed)
        assert plain[i].item() == pytest.approx(REWARD[i].item() + 0.9 * best)
        choice = None if over else max(allowed, key=lambda j: NEXT[i, j].item())
        valued = 0.0 if choice is None else NEXT_TARGET[i, choice].item()
        assert double[i].item() == pytest.approx(REWARD[i].item() + 0.9 * valued)


@pytest.mark.parametrize("hidden", [math.nan, math.inf, -math.inf])
def test_after_the_end_nothing_is_read(hidden):
    dirty = torch.where(TERMINAL[:, None], hidden, NEXT)
    for loss in (
        q_target(REWARD, dirty, TERMINAL, discount=0.9),
        double_q_target(REWARD, dirty, dirty, TERMINAL, discount=0.9),
        dqn(Q, ACTION, REWARD, dirty, TERMINAL, discount=0.9),
    ):
        assert loss.isfinite().all()
    torch.testing.assert_close(q_target(REWARD, dirty, TERMINAL, discount=0.9)[TERMINAL], REWARD[TERMINAL])


def test_padded_actions_are_not_read():
    dirty = torch.full_like(Q, math.nan).scatter(-1, ACTION[:, None], Q.gather(-1, ACTION[:, None])).requires_grad_()
    loss = dqn(dirty, ACTION, REWARD, NEXT, TERMINAL, discount=0.9)
    torch.testing.assert_close(loss, dqn(Q, ACTION, REWARD, NEXT, TERMINAL, discount=0.9))
    loss.sum().backward()
    assert dirty.grad.isfinite().all()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=5))
def test_double_choice_of_one_network_is_the_maximum(values):
    both = double_q_target(number(0), row(*values), row(*values), NO, discount=1.0)
    assert both.item() == max(values)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=1, max_size=5))
def test_the_double_target_is_at_most_the_plain_one(values):
    chooser, valuer = (row(*side) for side in zip(*values, strict=True))
    double = double_q_target(number(0), chooser, valuer, NO, discount=1.0)
    assert double.item() <= q_target(number(0), valuer, NO, discount=1.0).item()


def test_dqn_is_a_semi_gradient():
    """``dL/dQ(s, a) = 2 (Q(s, a) - y)`` and nothing else, though both networks are given as leaves."""
    leaves = [x.clone().requires_grad_() for x in (Q, NEXT, NEXT_TARGET)]
    double_dqn(leaves[0], ACTION, REWARD, leaves[1], leaves[2], TERMINAL, NEXT_MASK, discount=0.9).sum().backward()
    target = double_q_target(REWARD, NEXT, NEXT_TARGET, TERMINAL, NEXT_MASK, discount=0.9)
    expected = torch.zeros_like(Q)
    expected[torch.arange(6), ACTION] = 2 * (Q[torch.arange(6), ACTION] - target)
    torch.testing.assert_close(leaves[0].grad, expected)
    assert leaves[1].grad is None
    assert leaves[2].grad is None


def test_torch_agrees_on_square_and_huber():
    """CleanRL's ``mse_loss`` is ours; Stable-Baselines3's ``smooth_l1_loss`` is half of ours with the error clipped at 1."""
    value = 3 * Q.gather(-1, ACTION[:, None]).squeeze(-1)
    target = q_target(REWARD, NEXT, TERMINAL, discount=0.9)
    square = dqn(3 * Q, ACTION, REWARD, NEXT, TERMINAL, discount=0.9)
    clipped = dqn(3 * Q, ACTION, REWARD, NEXT, TERMINAL, discount=0.9, error_clip=1.0)
    torch.testing.assert_close(square, mse_loss(value, target, reduction="none"))
    torch.testing.assert_close(clipped / 2, smooth_l1_loss(value, target, reduction="none"))


def test_cql_without_its_term_is_half_of_dqn():
    target = q_target(REWARD, NEXT, TERMINAL, discount=0.9)
    loss = dqn(Q, ACTION, REWARD, NEXT, TERMINAL, discount=0.9)
    torch.testing.assert_close(2 * cql(Q, ACTION, target, alpha=0.0), loss)


def test_cqls_term_is_cross_entropy_of_the_logs_action():
    """With Q as logits: what ILQL's official code computes."""
    term = cql(Q, ACTION, TARGET, alpha=1.0) - cql(Q, ACTION, TARGET, alpha=0.0)
    torch.testing.assert_close(term, cross_entropy(Q, ACTION, reduction="none"))


def test_cql_with_a_mask_is_the_loop_over_the_actions_that_exist():
    loss = cql(Q, ACTION, TARGET, MASK, alpha=0.7)
    for i in range(6):
        exists = [Q[i, k].item() for k in range(4) if MASK[i, k]]
        value = Q[i, ACTION[i]].item()
        expected = 0.7 * (np.log(np.sum(np.exp(exists))) - value) + 0.5 * (value - TARGET[i].item()) ** 2
        assert loss[i].item() == pytest.approx(expected)


def test_cqls_gradient_is_softmax_less_the_logs_action():
    leaf, alpha = Q.clone().requires_grad_(), 0.7
    cql(leaf, ACTION, TARGET, alpha=alpha).sum().backward()
    data = torch.nn.functional.one_hot(ACTION, 4).double()
    error = Q.gather(-1, ACTION[:, None]) - TARGET[:, None]
    torch.testing.assert_close(leaf.grad, alpha * (Q.softmax(-1) - data) + data * error)


def test_no_actions_is_an_error():
    with pytest.raises(ValueError, match="next_action_value: expected at least 1 action, got 0"):
        q_target(number(0), torch.zeros(1, 0).double(), NO, discount=0.9)
