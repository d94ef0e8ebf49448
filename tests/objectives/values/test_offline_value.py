"""Expectiles, IQL and ILQL: scipy's expectile as the minimiser, the limits of τ, caps, and loops from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import expectile as scipy_expectile

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.values.offline_value import (
    advantage_weight,
    expectile,
    ilql,
    ilql_log_prob,
    iql_policy,
    iql_q,
    iql_value,
)
from plaudit.objectives.values.value import following

Q, V, TARGET, REWARD = (normal(6, seed=seed) for seed in range(1, 5))
LOG_PROB = uniform(6, seed=6, low=0.05).log()
TERMINAL = torch.tensor([False, True, False, False, True, False])
GROUP, GROUP_MASK = normal(6, 5, seed=7), lengths_mask(6, 5, seed=2)
TOKENS = {
    name: normal(6, 5, seed=10 + seed)
    for seed, name in enumerate(("action_value", "value", "target_action_value", "reward"))
}
TOKENS["log_sum_action_value"] = TOKENS["action_value"] + uniform(6, 5, seed=20)
TOKEN_MASK, AFTER = lengths_mask(6, 5, seed=3), normal(6, seed=21)
PRIOR = normal(6, 4, seed=8).log_softmax(-1)
ACTIONS = normal(6, 4, seed=9)


def text(rows, bootstrap=True, **options):
    call = {name: tensor[:rows] for name, tensor in TOKENS.items()}
    call |= {"mask": TOKEN_MASK[:rows], "alpha": 0.3, "level": 0.8, "discount": 0.9, **options}
    return {**call, "bootstrap": AFTER[:rows]} if bootstrap else call


LEVELS = [0.0, 1.0, -0.1, math.nan]
NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]
CASES = [
    Case(
        expectile,
        lambda rows: {"values": GROUP[:rows], "mask": GROUP_MASK[:rows], "level": 0.8},
        differentiable=("values",),
        masks={"mask": ("values",)},
        extreme=("values",),
        exchangeable="K",
        invalid={"level": LEVELS},
    ),
    Case(
        expectile,
        lambda rows: {"values": GROUP[:rows], "level": 0.2},
        name="low",
        differentiable=("values",),
        extreme=("values",),
        exchangeable="K",
    ),
    Case(
        iql_value,
        lambda rows: {"value": V[:rows], "target_action_value": TARGET[:rows], "level": 0.8},
        differentiable=("value",),
        extreme=("value", "target_action_value"),
        invalid={"level": LEVELS},
    ),
    Case(
        iql_q,
        lambda rows: {
            "action_value": Q[:rows],
            "reward": REWARD[:rows],
            "next_value": V[:rows],
            "terminal": TERMINAL[:rows],
            "discount": 0.9,
        },
        differentiable=("action_value",),
        extreme=("action_value", "next_value", "reward"),
        invalid={"discount": [-0.1, 1.1, math.nan]},
    ),
    Case(
        advantage_weight,
        lambda rows: {"action_value": Q[:rows], "value": V[:rows], "beta": 0.5, "cap": 3.0},
        extreme=("action_value", "value"),
        invalid={"beta": NOT_POSITIVE, "cap": NOT_POSITIVE},
    ),
    Case(
        iql_policy,
        lambda rows: {
            "log_prob": LOG_PROB[:rows],
            "action_value": Q[:rows],
            "value": V[:rows],
            "beta": 0.5,
            "cap": 3.0,
        },
        differentiable=("log_prob",),
        extreme=("action_value", "value", "log_prob"),
        invalid={"beta": NOT_POSITIVE, "cap": NOT_POSITIVE},
    ),
    Case(
        ilql,
        text,
        differentiable=("action_value", "log_sum_action_value", "value"),
        masks={"mask": tuple(TOKENS)},
        extreme=("action_value", "value", "target_action_value"),
        invalid={"alpha": [-1.0], "level": LEVELS, "discount": [-0.1, 1.1], "aggregation": ["mean", 0.0]},
        stops_gradients=True,
    ),
    Case(
        ilql_log_prob,
        lambda rows: {"ref_log_prob": PRIOR[:rows], "action_value": ACTIONS[:rows], "value": V[:rows], "beta": 0.7},
        differentiable=("ref_log_prob", "action_value"),
        extreme=("action_value", "value"),
        exchangeable="K",
        invalid={"beta": NOT_POSITIVE},
    ),
]


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


NO, ONE = torch.tensor([False]), torch.ones(1, 1, dtype=torch.bool)
numbers = st.lists(st.floats(-5, 5), min_size=1, max_size=7)
levels = st.floats(0.02, 0.98)


def test_the_docstrings_examples():
    assert expectile(row(0, 1), level=0.9).item() == pytest.approx(0.9)
    assert iql_value(number(0), number(2), level=0.7).item() == pytest.approx(2.8)
    assert iql_value(number(0), number(-2), level=0.7).item() == pytest.approx(1.2)
    assert iql_q(number(1), number(1), number(2), NO, discount=0.5).item() == 1
    assert iql_q(number(1), number(1), number(2), ~NO, discount=0.5).item() == 0
    assert advantage_weight(number(math.log(2)), number(0), beta=0.5, cap=3.0).item() == pytest.approx(3)
    assert advantage_weight(number(math.log(2)), number(0), beta=0.5).item() == pytest.approx(4)
    assert iql_policy(number(-1), number(math.log(4)), number(0), beta=1.0).item() == pytest.approx(4)
    loss, _ = ilql(row(1), row(3), row(0), row(2), row(1), ONE, alpha=5.0)
    assert loss.item() == pytest.approx(2.8 + 2 * 5)
    half = row(math.log(0.5), math.log(0.5))
    shifted = ilql_log_prob(half, row(math.log(3), 0), number(0.3), beta=1.0)
    assert shifted.exp().tolist()[0] == pytest.approx([0.75, 0.25])


@settings(deadline=None, max_examples=50)
@given(numbers, levels)
def test_the_expectile_is_scipys(values, level):
    assert expectile(row(*values), level=level).item() == pytest.approx(scipy_expectile(values, level), abs=1e-8)


@pytest.mark.parametrize("level", [0.3, 0.8])
def test_a_masked_expectile_is_that_of_what_is_left(level):
    ours = expectile(GROUP, GROUP_MASK, level=level)
    for i in range(len(GROUP)):
        assert ours[i].item() == pytest.approx(scipy_expectile(GROUP[i][GROUP_MASK[i]].numpy(), level))


@settings(deadline=None, max_examples=50)
@given(numbers, levels)
def test_mirrored_numbers_mirror_the_expectile(values, level):
    mirrored = expectile(-row(*values), level=1 - level).item()
    assert mirrored == pytest.approx(-expectile(row(*values), level=level).item(), abs=1e-9)


@settings(deadline=None, max_examples=50)
@given(numbers)
def test_the_expectiles_limits_are_mean_maximum_and_minimum(values):
    assert expectile(row(*values), level=0.5).item() == pytest.approx(np.mean(values), abs=1e-9)
    assert expectile(row(*values), level=1 - 1e-9).item() == pytest.approx(max(values), abs=1e-6)
    assert expectile(row(*values), level=1e-9).item() == pytest.approx(min(values), abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(numbers, levels)
def test_iqls_value_is_least_at_the_expectile(values, level):
    best = number(scipy_expectile(values, level)).expand(len(values)).clone().requires_grad_()
    iql_value(best, torch.tensor(values, dtype=torch.float64), level=level).sum().backward()
    assert best.grad.sum().item() == pytest.approx(0, abs=1e-6)


def test_the_middle_level_is_half_the_squared_error():
    torch.testing.assert_close(iql_value(V, TARGET, level=0.5), 0.5 * (V - TARGET).square())


def test_gradients_of_iqls_value():
    leaf = V.clone().requires_grad_()
    iql_value(leaf, TARGET, level=0.8).sum().backward()
    weight = torch.where(TARGET < V, 0.2, 0.8)
    torch.testing.assert_close(leaf.grad, -2 * weight * (TARGET - V))


@pytest.mark.parametrize("hidden", [math.nan, math.inf])
def test_after_the_end_the_next_value_is_not_read(hidden):
    dirty = torch.where(TERMINAL, hidden, V)
    clean = iql_q(Q, REWARD, V, TERMINAL, discount=0.9)
    torch.testing.assert_close(iql_q(Q, REWARD, dirty, TERMINAL, discount=0.9), clean)
    torch.testing.assert_close(clean[TERMINAL], (REWARD - Q).square()[TERMINAL])


def test_a_large_beta_is_plain_imitation():
    torch.testing.assert_close(iql_policy(LOG_PROB, Q, V, beta=1e9), -LOG_PROB)


def test_the_cap_is_reached_without_overflow():
    weight = advantage_weight(torch.tensor([1e30, -1e30]), torch.zeros(2), beta=1e-3, cap=100.0)
    assert weight.tolist() == pytest.approx([100, 0])


def test_the_weighted_optimum_is_the_tilted_policy():
    """Minimising ``E_log[-w log π]`` over distributions gives ``π ∝ π_log exp(A/β)`` (cross-entropy's minimum)."""
    log_policy, advantage, beta = PRIOR[0], ACTIONS[0], 0.7
    tilted = (log_policy + advantage / beta).log_softmax(-1)
    logits = tilted.clone().requires_grad_()
    losses = iql_policy(logits.log_softmax(-1), advantage, torch.zeros(4).double(), beta=beta, cap=1e9)
    (log_policy.exp() * losses).sum().backward()
    torch.testing.assert_close(logits.grad, torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(ilql_log_prob(log_policy[None], advantage[None], number(0.4), beta=beta)[0], tilted)


def test_ilql_is_the_loop_of_the_definition():
    alpha, level, discount = 0.3, 0.8, 0.9
    loss, weight = ilql(**text(6))
    for i in range(6):
        kept = TOKEN_MASK[i].nonzero().flatten().tolist()
        terms = []
        for place, t in enumerate(kept):
            q, v, target, reward, log_sum = (
                TOKENS[name][i, t].item()
                for name in ("action_value", "value", "target_action_value", "reward", "log_sum_action_value")
            )
            last = place + 1 == len(kept)
            after = AFTER[i].item() if last else TOKENS["value"][i, kept[place + 1]].item()
            u = target - v
            expected = (reward + discount * after - q) ** 2 + abs(level - (u < 0)) * u**2 + alpha * (log_sum - q)
            terms.append(expected)
        assert loss[i].item() == pytest.approx(np.mean(terms))
        assert weight[i].item() == len(kept)


def test_one_token_of_ilql_without_cql_is_iql():
    """Both losses of IQL on one transition that ends the text."""
    column = {name: tensor[:, None] for name, tensor in (("q", Q), ("v", V), ("t", TARGET), ("r", REWARD))}
    ones, over = torch.ones(6, 1, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    loss, _ = ilql(column["q"], column["q"], column["v"], column["t"], column["r"], ones, alpha=0.0, level=0.8)
    parts = iql_q(Q, REWARD, V, over, discount=0.99) + iql_value(V, TARGET, level=0.8)
    torch.testing.assert_close(loss, parts)


def test_ilqls_gradients():
    """The value's comes from the expectile alone, Q's from the Bellman error and CQL's term."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in TOKENS.items()}
    loss, _ = ilql(
        **leaves, mask=TOKEN_MASK, bootstrap=AFTER, alpha=0.3, level=0.8, discount=0.9, aggregation="sequence-sum"
    )
    loss.sum().backward()
    u = TOKENS["target_action_value"] - TOKENS["value"]
    expected = -2 * torch.where(u < 0, 0.2, 0.8) * u
    torch.testing.assert_close(leaves["value"].grad, torch.where(TOKEN_MASK, expected, 0))
    torch.testing.assert_close(leaves["log_sum_action_value"].grad, 0.3 * TOKEN_MASK.double())
    for name in ("target_action_value", "reward"):
        assert leaves[name].grad is None
    after = following(TOKENS["value"], TOKEN_MASK, AFTER)
    error = TOKENS["reward"] + 0.9 * after - TOKENS["action_value"]
    torch.testing.assert_close(leaves["action_value"].grad, torch.where(TOKEN_MASK, -2 * error - 0.3, 0))


def test_rows_without_numbers_are_an_error():
    with pytest.raises(ValueError, match="values: expected at least 1 number a row, got 0"):
        expectile(torch.zeros(2, 0), level=0.5)
