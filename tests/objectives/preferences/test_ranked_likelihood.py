"""RRHF and PRO: the papers' sums in loops, and what they become for two outputs or a list in order."""

from __future__ import annotations

import math

import pytest
import torch

from objectives.contract import Case, uniform
from objectives.preferences.test_listwise import LABEL, MASK, K, expect, pairs_of, row, whole
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.ranked_likelihood import pro, rrhf

LENGTH = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3], [5, 8, 9, 7, 9], [3, 2, 3, 8, 4], [6, 2, 6, 4, 3]])


def rewarded(rows, **call):
    log_prob = -uniform(5, K, seed=2, low=1, high=20)
    return {
        "log_prob": log_prob[:rows],
        "length": LENGTH[:rows],
        "reward": 3 * LABEL[:rows],
        "mask": MASK[:rows],
        **call,
    }


REWARDED = {
    "differentiable": ("log_prob",),
    "extreme": ("log_prob",),
    "masks": {"mask": ("log_prob", "reward")},
    "exchangeable": "K",
}
CASES = [
    Case(rrhf, rewarded, **REWARDED, invalid={"ranking_weight": [-1.0, math.nan], "likelihood": ["max"]}),
    Case(rrhf, lambda rows: rewarded(rows, likelihood="mean", ranking_weight=100.0), name="official", **REWARDED),
    Case(pro, rewarded, **REWARDED, invalid={"likelihood_weight": [-1.0, math.nan]}),
    Case(pro, lambda rows: rewarded(rows, likelihood_weight=0.0), name="ranking only", **REWARDED),
    *(
        Case(function, lambda rows: whole(rewarded, rows), name="whole lists", differentiable=("log_prob",))
        for function in (rrhf, pro)
    ),
]


def test_the_docstrings_examples():
    two = torch.tensor([[2, 2]])
    assert rrhf(row(-4, -2), two, row(1, 0)).item() == pytest.approx(5)
    ones = torch.ones(1, 2, dtype=torch.long)
    assert pro(row(-1, -1), ones, row(1, 0), likelihood_weight=0.0).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("likelihood", ["sum", "mean"])
def test_rrhf_is_the_papers_sum(likelihood):
    def slow(log_prob, length, reward):
        if len(reward) == 0:
            return 0.0
        mean = log_prob / length
        ranking = sum(max(0.0, mean[j] - mean[i]) for i, j in pairs_of(reward))
        imitated = log_prob if likelihood == "sum" else mean
        return 2.5 * ranking - imitated[reward == reward.max()].mean()

    expect(rrhf, rewarded(5, ranking_weight=2.5, likelihood=likelihood), slow)


def test_pro_is_the_papers_sum():
    def slow(log_prob, length, reward):
        mean = log_prob / length
        loss = 0.0
        for k in range(len(reward)):
            lower = [i for i in range(len(reward)) if reward[i] < reward[k]]
            if lower:
                top = math.exp(mean[k] * max(reward[k] - reward[i] for i in lower))
                rest = sum(math.exp(mean[i] * (reward[k] - reward[i])) for i in lower)
                loss -= math.log(top / (top + rest))
        return loss - 0.1 * (len(reward) - 1) ** 2 * log_prob[reward == reward.max()].mean()

    expect(pro, rewarded(5, likelihood_weight=0.1), slow)


def test_pro_on_a_pair_is_dpo_without_a_reference():
    """β is the difference of the rewards."""
    log_prob, ones = -uniform(4, 2, seed=4, high=5), torch.ones(4, 2, dtype=torch.long)
    reward = torch.tensor([[0.7, 0.2]], dtype=torch.float64).expand(4, 2)
    loss = pro(log_prob, ones, reward, likelihood_weight=0.0)
    torch.testing.assert_close(loss, dpo(log_prob[:, 0], log_prob[:, 1], beta=0.5))


def test_rrhf_without_disorder_is_supervised_learning_on_the_best():
    log_prob, ones = row(-1, -2, -3), torch.ones(1, 3, dtype=torch.long)
    assert rrhf(log_prob, ones, row(3, 2, 1)).item() == pytest.approx(1)


def test_empty_lists_are_no_lists():
    nothing, lengths = torch.zeros(2, 0, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.long)
    for function in (rrhf, pro):
        with pytest.raises(ValueError, match="log_prob: expected groups of at least 1 outputs, got 0"):
            function(nothing, lengths, nothing)
