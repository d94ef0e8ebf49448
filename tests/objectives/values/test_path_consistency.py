"""Path consistency: zero at the optimum of a small tree that is solved exactly, loops elsewhere, and where gradients stop."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from objectives.contract import Case, lengths_mask, normal
from plaudit.objectives.values.path_consistency import (
    oreo_policy,
    oreo_response_policy,
    oreo_value,
    pcl,
    soft_bellman_error,
)

MASK = lengths_mask(6, 5, seed=1)
VALUE, LOG_RATIO, REWARD = (normal(6, 5, seed=seed) for seed in (1, 2, 3))
AFTER = normal(6, seed=4)
BETA = 0.3


def paths(rows, bootstrap=False, **settings):
    call = {"value": VALUE[:rows], "token_log_ratio": LOG_RATIO[:rows], "reward": REWARD[:rows], "mask": MASK[:rows]}
    call |= {"beta": BETA, **settings}
    return {**call, "bootstrap": AFTER[:rows]} if bootstrap else call


INPUTS = ("value", "token_log_ratio", "reward")
BETAS = [0.0, -1.0, math.nan, math.inf]
CASES = [
    Case(
        pcl,
        lambda rows: paths(rows, bootstrap=True, discount=0.9, steps=2),
        differentiable=("value", "token_log_ratio", "bootstrap"),
        masks={"mask": INPUTS},
        extreme=INPUTS,
        invalid={"beta": BETAS, "discount": [-0.1, 1.1], "steps": [0, -1], "aggregation": ["mean", 0.0]},
    ),
    Case(
        pcl,
        lambda rows: paths(rows, discount=0.9, steps=None),
        name="to the end",
        differentiable=("value", "token_log_ratio"),
        masks={"mask": INPUTS},
        extreme=INPUTS,
    ),
    Case(
        oreo_value,
        paths,
        differentiable=("value",),
        masks={"mask": INPUTS},
        extreme=INPUTS,
        invalid={"beta": BETAS, "aggregation": ["mean", 0.0]},
    ),
    Case(
        oreo_policy,
        paths,
        differentiable=("token_log_ratio",),
        stops_gradients=True,
        masks={"mask": INPUTS},
        extreme=INPUTS,
        invalid={"beta": BETAS, "aggregation": ["mean", 0.0]},
    ),
    Case(
        oreo_response_policy,
        lambda rows: {
            "value": VALUE[:rows, 0],
            "log_ratio": LOG_RATIO[:rows, 0],
            "total_reward": REWARD[:rows, 0],
            "beta": BETA,
        },
        differentiable=("log_ratio",),
        extreme=("value", "log_ratio", "total_reward"),
        invalid={"beta": BETAS},
    ),
    Case(
        soft_bellman_error,
        lambda rows: paths(rows, bootstrap=True, discount=0.9),
        differentiable=("value", "token_log_ratio", "reward", "bootstrap"),
        masks={"mask": INPUTS},
        extreme=INPUTS,
        invalid={"beta": BETAS, "discount": [-0.1, 1.1]},
    ),
]


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def yes(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def test_the_docstrings_examples():
    log2 = math.log(2)
    one = yes(1)
    assert pcl(row(1), row(log2), row(2), one, beta=1.0)[0].item() == pytest.approx((1 - log2) ** 2 / 2)
    for loss in (oreo_value, oreo_policy):
        assert loss(row(1), row(log2), row(2), one, beta=1.0)[0].item() == pytest.approx((1 - 2 + log2) ** 2)
    response = oreo_response_policy(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([2.0]), beta=1.0)
    assert response.item() == 1
    assert soft_bellman_error(row(1, 3), row(1, 0), row(0, 3), yes(2), beta=2.0).tolist() == [[0, 0]]


class Tree:
    """Sequences of at most three tokens out of three; token 0 ends a sequence. Values and policy by backward induction."""

    def __init__(self, beta: float, discount: float = 1.0, seed: int = 0) -> None:
        self.beta, self.discount = beta, discount
        self.random = np.random.default_rng(seed)
        self.reward: dict[tuple[int, ...], float] = {}
        self.value: dict[tuple[int, ...], float] = {}
        self.log_ratio: dict[tuple[int, ...], float] = {}
        self.log_policy: dict[tuple[int, ...], float] = {}
        self.log_reference: dict[tuple[int, ...], float] = {}
        self.solve(())

    def solve(self, state: tuple[int, ...]) -> float:
        if len(state) == 3 or (state and state[-1] == 0):
            self.value[state] = 0.0
            return 0.0
        reference = self.random.dirichlet(np.ones(3))
        gain = np.zeros(3)
        for token in range(3):
            child = (*state, token)
            self.reward[child] = self.random.normal()
            gain[token] = self.reward[child] + self.discount * self.solve(child)
        tilted = reference * np.exp(gain / self.beta)
        policy = tilted / tilted.sum()
        self.value[state] = self.beta * np.log(tilted.sum())
        for token in range(3):
            child = (*state, token)
            self.log_policy[child], self.log_reference[child] = np.log(policy[token]), np.log(reference[token])
            self.log_ratio[child] = np.log(policy[token] / reference[token])
        return self.value[state]

    def paths(self) -> dict[str, torch.Tensor]:
        """All complete sequences, padded to three steps."""
        rows = []
        for path in product(range(3), repeat=3):
            length = path.index(0) + 1 if 0 in path else 3
            if path[:length] not in [p for p, _ in rows]:
                rows.append((path[:length], length))
        call = {name: torch.full((len(rows), 3), math.nan).double() for name in ("value", "token_log_ratio", "reward")}
        call["mask"] = torch.zeros(len(rows), 3, dtype=torch.bool)
        for i, (path, length) in enumerate(rows):
            for t in range(length):
                call["value"][i, t] = self.value[path[:t]]
                call["token_log_ratio"][i, t] = self.log_ratio[path[: t + 1]]
                call["reward"][i, t] = self.reward[path[: t + 1]]
                call["mask"][i, t] = True
        return call


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_oreo_is_zero_at_the_optimum_of_a_tree(beta):
    """Theorem 1, on every path of a tree, whoever would take it."""
    call = Tree(beta).paths()
    assert call["mask"].sum(-1).unique().tolist() == [1, 2, 3]
    for loss in (oreo_value, oreo_policy):
        torch.testing.assert_close(loss(**call, beta=beta)[0], torch.zeros(len(call["mask"])).double())
    total = torch.where(call["mask"], call["reward"], 0).sum(-1)
    log_ratio = torch.where(call["mask"], call["token_log_ratio"], 0).sum(-1)
    response = oreo_response_policy(call["value"][:, 0], log_ratio, total, beta=beta)
    torch.testing.assert_close(response, torch.zeros_like(response))


@pytest.mark.parametrize("steps", [1, 2, 3, None])
@pytest.mark.parametrize("discount", [0.8, 1.0])
def test_pcl_is_zero_at_the_optimum_for_any_number_of_steps(steps, discount):
    call = Tree(0.5, discount).paths()
    loss, _ = pcl(**call, beta=0.5, discount=discount, steps=steps)
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    error = soft_bellman_error(**call, beta=0.5, discount=discount)
    torch.testing.assert_close(error, torch.zeros_like(error))


def test_the_trees_value_is_the_best_regularised_return():
    """By enumeration: V of the root is the policy's expected reward less β KL, and no other policy of 200 does better."""
    tree = Tree(0.5)
    root = tree.value[()]

    def gain(log_policy: dict[tuple[int, ...], float], state: tuple[int, ...] = ()) -> float:
        if tree.value[state] == 0 and (len(state) == 3 or (state and state[-1] == 0)):
            return 0.0
        return sum(
            math.exp(log_policy[(*state, token)])
            * (
                tree.reward[(*state, token)]
                - tree.beta * (log_policy[(*state, token)] - tree.log_reference[(*state, token)])
                + gain(log_policy, (*state, token))
            )
            for token in range(3)
        )

    assert gain(tree.log_policy) == pytest.approx(root)
    random = np.random.default_rng(1)
    for _ in range(200):
        other: dict[tuple[int, ...], float] = {}
        for state in {child[:-1] for child in tree.log_policy}:
            for token, share in enumerate(random.dirichlet(np.ones(3))):
                other[(*state, token)] = math.log(share)
        assert gain(other) < root


def test_away_from_the_optimum_oreo_is_not_zero():
    call = Tree(0.5).paths()
    call["value"] = call["value"] + 0.1
    assert (oreo_value(**call, beta=0.5)[0] > 1e-3).all()


def by_hand(i: int, discount: float, steps: int | None, bootstrap: float) -> list[float]:
    """The consistency errors of one path, over its steps."""
    kept = MASK[i].nonzero().flatten().tolist()
    errors = []
    for t in range(len(kept)):
        end = len(kept) if steps is None else min(t + steps, len(kept))
        error = -VALUE[i, kept[t]].item()
        error += discount ** (end - t) * (VALUE[i, kept[end]].item() if end < len(kept) else bootstrap)
        for j in range(t, end):
            soft = REWARD[i, kept[j]].item() - BETA * LOG_RATIO[i, kept[j]].item()
            error += discount ** (j - t) * soft
        errors.append(error)
    return errors


@pytest.mark.parametrize("steps", [1, 2, None])
def test_pcl_is_the_loop_of_the_definition(steps):
    loss, _ = pcl(**paths(6, bootstrap=True, discount=0.9, steps=steps))
    for i in range(6):
        errors = by_hand(i, 0.9, steps, AFTER[i].item())
        assert loss[i].item() == pytest.approx(np.mean(np.square(errors) / 2))


def test_oreo_is_twice_pcl_to_the_end():
    """Equation 8 has no factor 1/2."""
    loss, _ = oreo_value(**paths(6))
    torch.testing.assert_close(loss, 2 * pcl(**paths(6))[0])
    torch.testing.assert_close(loss, oreo_policy(**paths(6))[0])
    for i in range(6):
        assert loss[i].item() == pytest.approx(np.mean(np.square(by_hand(i, 1.0, None, 0.0))))


def test_oreos_gradients_are_the_papers():
    """The value's: ``2 e_t``; the policy's: ``2 β e_t`` for the step's own log-ratio, later steps stopped."""
    for loss, leaf_name, slope in ((oreo_value, "value", 1.0), (oreo_policy, "token_log_ratio", BETA)):
        call = paths(6)
        leaves = {name: call[name].clone().requires_grad_() for name in INPUTS}
        loss(**{**call, **leaves}, aggregation="sequence-sum")[0].sum().backward()
        for i in range(6):
            kept = MASK[i].nonzero().flatten()
            errors = -torch.tensor(by_hand(i, 1.0, None, 0.0), dtype=torch.float64)
            torch.testing.assert_close(leaves[leaf_name].grad[i, kept], 2 * slope * errors)
        assert all(leaf.grad is None for name, leaf in leaves.items() if name != leaf_name)


def test_one_step_errors_add_up_to_oreos_residual():
    errors = soft_bellman_error(**paths(6))
    for i in range(6):
        kept = MASK[i].nonzero().flatten()
        sums = errors[i, kept].flip(-1).cumsum(-1).flip(-1)
        torch.testing.assert_close(sums, torch.tensor(by_hand(i, 1.0, None, 0.0), dtype=torch.float64))


def test_the_optimum_of_response_level_oreo_over_one_context_is_the_tilted_policy():
    """With V = β log Z the loss is zero at ``log π/π_ref = R/β - log Z``."""
    reward, beta = torch.tensor([1.0, -0.5, 0.3]).double(), 0.4
    reference = torch.tensor([0.2, 0.5, 0.3]).double()
    log_z = (reference.log() + reward / beta).logsumexp(-1)
    log_ratio = reward / beta - log_z
    loss = oreo_response_policy((beta * log_z).expand(3), log_ratio, reward, beta=beta)
    torch.testing.assert_close(loss, torch.zeros(3).double())
    assert (log_ratio.exp() * reference).sum().item() == pytest.approx(1)
