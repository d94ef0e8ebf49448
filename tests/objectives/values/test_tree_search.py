"""Tree search: bounds by hand, back-ups on a tree that was visited for real, and groups of children."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

from objectives.contract import Case, uniform
from plaudit.objectives.values.tree_search import (
    maximum_backup,
    mean_backup,
    puct_score,
    search_prior,
    step_group_reward,
    uct_score,
)

VISITS = torch.tensor([[3, 0, 1, 2], [1, 1, 4, 0], [0, 0, 0, 0], [5, 2, 2, 1], [0, 1, 0, 3], [2, 2, 2, 2]]).double()
VALUE_SUM = VISITS * uniform(6, 4, seed=1)
OWN_VISITS, OWN_SUM = torch.ones(6).double(), uniform(6, seed=2)
PARENT_VISITS = VISITS.sum(-1) + OWN_VISITS
LOG_PROB, LENGTH = -uniform(6, 4, seed=3, high=20), torch.tensor([[3.0, 7.0, 1.0, 5.0]]).double().expand(6, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
VALUE = uniform(6, 4, seed=4)

STATISTICS = ("value_sum", "visits")
CASES = [
    Case(
        uct_score,
        lambda rows: {
            "value_sum": VALUE_SUM[:rows],
            "visits": VISITS[:rows].clamp(min=1),
            "parent_visits": PARENT_VISITS[:rows],
        },
        exchangeable="K",
        invalid={"exploration": [-1.0, math.nan]},
    ),
    Case(
        puct_score,
        lambda rows: {
            "value_sum": VALUE_SUM[:rows],
            "visits": VISITS[:rows],
            "prior": VALUE[:rows],
            "parent_value": OWN_SUM[:rows],
            "parent_visits": PARENT_VISITS[:rows],
        },
        exchangeable="K",
        invalid={"exploration": [-1.0, math.nan], "first_play_reduction": [-0.1]},
    ),
    Case(
        search_prior,
        lambda rows: {"log_prob": LOG_PROB[:rows], "length": LENGTH[:rows], "mask": MASK[:rows], "temperature": 0.7},
        extreme=("log_prob",),
        masks={"mask": ("log_prob", "length")},
        exchangeable="K",
        invalid={"temperature": [0.0, -1.0, math.nan]},
    ),
    Case(
        mean_backup,
        lambda rows: {
            "value_sum": VALUE_SUM[:rows],
            "visits": VISITS[:rows],
            "own_value_sum": OWN_SUM[:rows],
            "own_visits": OWN_VISITS[:rows],
            "mask": MASK[:rows],
        },
        masks={"mask": STATISTICS},
        exchangeable="K",
    ),
    Case(
        maximum_backup,
        lambda rows: {"value": VALUE[:rows], "visits": VISITS[:rows], "own_value": OWN_SUM[:rows]},
        exchangeable="K",
    ),
    Case(
        step_group_reward,
        lambda rows: {"value_sum": VALUE_SUM[:rows], "visits": VISITS[:rows], "mask": MASK[:rows]},
        masks={"mask": STATISTICS},
        exchangeable="K",
        invalid={"gain": [0.0, -1.0, math.nan], "least_range": [-0.1, math.nan]},
    ),
]


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_the_docstrings_examples():
    assert uct_score(row(1), row(2), number(math.e)).item() == pytest.approx(1.5)
    assert puct_score(row(1), row(1), row(0.5), number(0), number(4), exploration=1.0).item() == 1.5
    assert search_prior(row(-2, -4), row(1, 2)).tolist() == [[0.5, 0.5]]
    backed = mean_backup(row(1, 0), row(2, 1), number(0), number(1))
    assert (backed.visits.item(), backed.value_sum.item()) == (4, 1)
    assert maximum_backup(row(0.2, 0.9), row(3, 0), number(0)).item() == 0.2
    group = step_group_reward(row(1, 0, 0), row(1, 2, 0))
    assert group.reward.tolist() == [[1, 0, 0]]
    assert group.kept.tolist() == [True]


def test_scores_are_loops():
    uct = uct_score(VALUE_SUM, VISITS, PARENT_VISITS, exploration=1.3)
    puct = puct_score(VALUE_SUM, VISITS, VALUE, OWN_SUM, PARENT_VISITS)
    for i in range(6):
        parent = PARENT_VISITS[i].item()
        for k in range(4):
            n, w = VISITS[i, k].item(), VALUE_SUM[i, k].item()
            mean = w / n if n else OWN_SUM[i].item() - 0.1
            bound = w / n + 1.3 * math.sqrt(2 * math.log(parent) / n) if n else math.inf
            assert uct[i, k].item() == pytest.approx(bound)
            expected = mean + 1.25 * VALUE[i, k].item() * math.sqrt(parent) / (1 + n)
            assert puct[i, k].item() == pytest.approx(expected)


def test_uct_finds_the_best_arm():
    """Of four arms the best is pulled most, and each is tried: 2,000 pulls of Bernoulli arms."""
    chance, random = [0.2, 0.5, 0.8, 0.4], np.random.default_rng(0)
    total, visits = torch.zeros(1, 4), torch.zeros(1, 4)
    for _ in range(2000):
        arm = int(uct_score(total, visits, visits.sum(-1)).argmax())
        total[0, arm] += float(random.random() < chance[arm])
        visits[0, arm] += 1
    assert visits.min() > 5
    assert visits[0, 2] > 0.8 * 2000


def test_no_exploration_is_the_mean():
    visits = VISITS.clamp(min=1)
    torch.testing.assert_close(uct_score(VALUE_SUM, visits, PARENT_VISITS, exploration=0.0), VALUE_SUM / visits)


def test_virtual_loss_lowers_a_score():
    """A roll-out under way counts as a visit that brought nothing."""
    waiting = uct_score(row(1, 1), row(3, 2), number(5))
    assert waiting[0, 0] < uct_score(row(1, 1), row(2, 2), number(5))[0, 0]


@pytest.mark.parametrize("temperature", [0.7, 2.0])
def test_the_prior_is_scipys_softmax_of_token_means(temperature):
    ours = search_prior(LOG_PROB, LENGTH, MASK, temperature=temperature)
    for i in range(6):
        kept = MASK[i]
        mean = (LOG_PROB[i] / LENGTH[i])[kept].numpy()
        assert ours[i][kept].tolist() == pytest.approx(softmax(mean / temperature).tolist())
        assert (ours[i][~kept] == 0).all()


def test_backing_up_each_roll_out_adds_up_to_the_back_up_of_statistics():
    """A hand-made tree: root with children a, b; a with children c, d. Rewards go up along their paths."""
    parent = {"a": "root", "b": "root", "c": "a", "d": "a"}
    rollouts = [("root", 1.0), ("a", 0.0), ("c", 1.0), ("c", 0.0), ("d", 1.0), ("b", 1.0)]
    visits = dict.fromkeys(("root", *parent), 0.0)
    total = dict.fromkeys(("root", *parent), 0.0)
    for start, reward in rollouts:
        node: str | None = start
        while node is not None:
            visits[node] += 1
            total[node] += reward
            node = parent.get(node)
    for node in ("root", "a"):
        below = [child for child, above in parent.items() if above == node]
        own = [reward for start, reward in rollouts if start == node]
        backed = mean_backup(
            row(*(total[child] for child in below)),
            row(*(visits[child] for child in below)),
            number(sum(own)),
            number(len(own)),
        )
        assert (backed.visits.item(), backed.value_sum.item()) == (visits[node], total[node])
        assert 0 <= backed.value_sum.item() / backed.visits.item() <= 1


def test_the_maximum_is_at_least_the_mean():
    nothing = torch.zeros(6).double()
    backed = mean_backup(VALUE * VISITS, VISITS, nothing, nothing)
    some = backed.visits > 0
    best = maximum_backup(VALUE, VISITS, nothing)
    assert (best[some] >= (backed.value_sum / backed.visits)[some]).all()
    assert maximum_backup(VALUE, torch.zeros_like(VISITS), OWN_SUM).tolist() == OWN_SUM.tolist()


@pytest.mark.parametrize("hidden", [math.nan, math.inf])
def test_unvisited_children_are_not_read(hidden):
    dirty = torch.where(VISITS > 0, VALUE, hidden)
    torch.testing.assert_close(maximum_backup(dirty, VISITS, OWN_SUM), maximum_backup(VALUE, VISITS, OWN_SUM))


def test_group_rewards_are_the_boosted_means():
    """0.1 becomes 0.289, 0 and 1 stay."""
    group = step_group_reward(row(0, 0.1, 1, 2), row(1, 1, 1, 2))
    assert group.reward.tolist()[0] == pytest.approx([0, math.log(2) / math.log(11), 1, 1])
    assert group.reward[0, 1].item() == pytest.approx(0.289, abs=1e-3)


@pytest.mark.parametrize(
    ("value_sum", "visits", "kept"),
    [
        ([0, 0, 0], [1, 2, 0], False),  # all 0
        ([1, 2, 1], [1, 2, 1], False),  # all 1
        ([0.5, 0.51, 0.5], [1, 1, 1], False),  # too close
        ([1, 0, 0], [1, 0, 0], True),  # one success, the rest unvisited
    ],
)
def test_groups_that_say_nothing_are_left_out(value_sum, visits, kept):
    assert step_group_reward(row(*value_sum), row(*visits)).kept.item() is kept


def test_a_hidden_child_does_not_keep_a_group():
    mask = torch.tensor([[True, True, False]])
    assert not step_group_reward(row(1, 1, 0), row(1, 1, 1), mask).kept.item()
