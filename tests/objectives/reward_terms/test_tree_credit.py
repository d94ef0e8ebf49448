"""Trees by hand: telescoping credits, shared prefixes that count once, and PROPA's boost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.reward_terms.tree_credit import (
    mixed_step_advantage,
    propa_step_reward,
    shared_prefix_advantage,
    tree_process_advantage,
    tree_step_advantage,
)

VISITS = torch.tensor([[3, 1, 0, 5], [0, 0, 2, 1], [1, 1, 1, 1], [7, 2, 0, 0], [4, 0, 1, 1]])
TOTAL = uniform(5, 4, seed=1) * VISITS
PARENT = torch.tensor([[-1, 0, 0, 1, 1], [1, -1, 1, 2, 2], [-1, 0, 1, 2, 3], [-1, 0, 0, 0, 0], [2, 0, -1, 2, 1]])
NODE_MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 1, 1, 0, 1]]) == 1
VALUE = uniform(5, 5, seed=2)
LEAF = normal(5, 4, seed=3)
# leaves 0, 1 share three tokens and 0, 1, 2 the first one; leaf 3 begins elsewhere
NODE = torch.tensor([[0, 1, 1, 2, 2, 2], [0, 1, 1, 3, 3, 3], [0, 4, 4, 4, 4, 4], [5, 5, 5, 6, 6, 6]]).repeat(5, 1, 1)
TOKEN_MASK = torch.stack(
    [
        torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 0, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]) == 1,
        torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]) == 1,
    ]
)[torch.tensor([0, 1, 0, 1, 0])]
OUTCOME, STEP, MASK = normal(5, seed=4), normal(5, 6, seed=5), lengths_mask(5, 6)
examples = settings(deadline=None, max_examples=30)

CASES = [
    Case(
        propa_step_reward,
        lambda rows: {"total": TOTAL[:rows], "visits": VISITS[:rows]},
        differentiable=("total",),
        extreme=("total",),
        exchangeable="K",
        invalid={"unvisited": ["simulate"]},
    ),
    Case(
        propa_step_reward,
        lambda rows: {"total": TOTAL[:rows], "visits": VISITS[:rows], "unvisited": "zero"},
        name="zero",
        differentiable=("total",),
        extreme=("total",),
        exchangeable="K",
    ),
    *(
        Case(
            function,
            lambda rows: {"value": VALUE[:rows], "parent": PARENT[:rows], "mask": NODE_MASK[:rows]},
            extreme=("value",),
            masks={"mask": ("value",)},
        )
        for function in (tree_step_advantage, tree_process_advantage)
    ),
    Case(
        shared_prefix_advantage,
        lambda rows: {"leaf_advantage": LEAF[:rows], "node": NODE[:rows], "mask": TOKEN_MASK[:rows]},
        extreme=("leaf_advantage",),
        exchangeable="K",
    ),
    Case(
        mixed_step_advantage,
        lambda rows: {
            "outcome_advantage": OUTCOME[:rows],
            "step_advantage": STEP[:rows],
            "mask": MASK[:rows],
            "step_share": 0.3,
        },
        extreme=("outcome_advantage", "step_advantage"),
        masks={"mask": ("step_advantage",)},
        invalid={"step_share": [-0.1, 1.1, math.nan]},
    ),
]


def bits(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_the_docstrings_examples():
    boosted = propa_step_reward(torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[4, 10, 5]])).reward
    assert boosted.tolist() == [[0, pytest.approx(math.log(2) / math.log(11)), 1]]
    value, parent = torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([[-1, 0, 0]])
    assert tree_step_advantage(value, parent, bits([1, 1, 1])).tolist() == [[0, 0.5, -0.5]]
    path = tree_process_advantage(torch.tensor([[0.5, 0.75, 1.0]]), torch.tensor([[-1, 0, 1]]), bits([1, 1, 1]))
    assert path.tolist() == [[0, 1 / 4 + 1 / 4, 1 / 2 + 1 / 4]]
    node = torch.tensor([[[0, 1], [0, 2]]])
    advantage, weight = shared_prefix_advantage(torch.tensor([[1.0, -3.0]]), node, torch.ones(1, 2, 2) == 1)
    assert advantage.tolist() == [[[-1, 1], [-1, -3]]]
    assert weight.tolist() == [[[1 / 2, 1], [1 / 2, 1]]]
    mixed = mixed_step_advantage(torch.ones(1), torch.tensor([[0.0, -1.0]]), bits([1, 1]), step_share=0.5)
    assert mixed.tolist() == [[0.5, 0]]


@examples
@given(st.floats(0, 1), st.integers(1, 20))
def test_the_boost_by_hand(mean, visits):
    """boost(x) = ln(1 + 10 x) / ln 11, which is x at 0 and at 1 and lifts 0.1 to 0.29."""
    ours = propa_step_reward(torch.tensor([[mean * visits]], dtype=torch.float64), torch.tensor([[visits]])).reward
    assert ours.item() == pytest.approx(math.log(1 + 10 * mean) / math.log(11), abs=1e-12)
    assert ours.item() >= mean - 1e-12
    tenth = propa_step_reward(torch.tensor([[1.0]]), torch.tensor([[10]])).reward
    assert tenth.item() == pytest.approx(0.29, abs=0.005)


def test_unvisited_children_are_unjudged_unless_one_asks_for_the_codes_zero():
    total, visits = torch.tensor([[2.0, math.nan]]), torch.tensor([[2, 0]])
    masked = propa_step_reward(total, visits)
    assert masked.judged.tolist() == [[True, False]]
    assert masked.reward.tolist() == [[1, 0]]
    zero = propa_step_reward(total, visits, unvisited="zero")
    assert zero.judged.tolist() == [[True, True]]
    assert zero.reward.tolist() == [[1, 0]]


def path_to_root(parent, node):
    path = [node]
    while parent[path[-1]] >= 0:
        path.append(parent[path[-1]])
    return path


def test_credits_telescope_along_every_path():
    """Σ over the path of V(n) - V(parent) = V(leaf) - V(root)."""
    everything = torch.ones_like(NODE_MASK)
    credit = tree_step_advantage(VALUE, PARENT, everything)
    for row in range(5):
        for node in range(5):
            path = path_to_root(PARENT[row].tolist(), node)
            expected = VALUE[row, node] - VALUE[row, path[-1]]
            assert credit[row, path].sum().item() == pytest.approx(expected.item(), abs=1e-12)


def test_both_credits_by_loops():
    local, both = tree_step_advantage(VALUE, PARENT, NODE_MASK), tree_process_advantage(VALUE, PARENT, NODE_MASK)
    for row in range(5):
        root = PARENT[row].tolist().index(-1)
        for node in range(5):
            parent = PARENT[row, node].item()
            known = NODE_MASK[row, node] and parent >= 0 and NODE_MASK[row, parent]
            value = VALUE[row].tolist()
            assert local[row, node].item() == pytest.approx(value[node] - value[parent] if known else 0)
            whole = 2 * value[node] - value[parent] - value[root] if known and NODE_MASK[row, root] else 0
            assert both[row, node].item() == pytest.approx(whole)


def test_siblings_credits_are_their_centred_values():
    """With V(parent) the mean of its children, the credit is the numerator of a group advantage."""
    children = uniform(3, 4, seed=8)
    value = torch.cat([children.mean(-1, keepdim=True), children], -1)
    parent = torch.tensor([-1, 0, 0, 0, 0]).repeat(3, 1)
    credit = tree_step_advantage(value, parent, torch.ones_like(value) == 1)
    torch.testing.assert_close(credit[:, 1:], children - children.mean(-1, keepdim=True))


def test_parents_must_exist():
    with pytest.raises(ValueError, match=r"parent: expected numbers in \[-1, 1\], one per node"):
        tree_step_advantage(torch.zeros(1, 2), torch.tensor([[-1, 2]]), bits([1, 1]))
    assert tree_step_advantage(torch.zeros(1, 2), torch.tensor([[-1, 2]]), bits([1, 0])).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="parent: expected one root in a row, got up to 2"):
        tree_process_advantage(torch.zeros(1, 2), torch.tensor([[-1, -1]]), bits([1, 1]))


def test_shared_prefixes_by_loops():
    ours = shared_prefix_advantage(LEAF, NODE, TOKEN_MASK)
    for i in range(5):
        for k in range(4):
            for t in range(6):
                leaves = [j for j in range(4) if TOKEN_MASK[i, j, t] and NODE[i, j, t] == NODE[i, k, t]]
                here = bool(TOKEN_MASK[i, k, t])
                mean = np.mean([LEAF[i, j].item() for j in leaves]) if here else 0
                assert ours.advantage[i, k, t].item() == pytest.approx(mean)
                assert ours.weight[i, k, t].item() == pytest.approx(1 / len(leaves) if here else 0)


def test_averaging_alone_changes_nothing_and_the_weight_counts_a_prefix_once():
    """With log-probabilities that belong to the nodes' tokens, as they do in a tree."""
    mask = TOKEN_MASK[:1]
    table = normal(7, 6, seed=9)
    log_prob = table[NODE[0], torch.arange(6)][None]
    advantage, weight = shared_prefix_advantage(LEAF[:1], NODE[:1], mask)
    rows_apart = (LEAF[:1, :, None] * log_prob * mask).sum()
    torch.testing.assert_close((advantage * log_prob * mask).sum(), rows_apart)
    once, seen = 0.0, set()
    for k in range(4):
        for t in range(6):
            place = (NODE[0, k, t].item(), t)
            if mask[0, k, t] and place not in seen:
                seen.add(place)
                once += advantage[0, k, t].item() * log_prob[0, k, t].item()
    assert (weight * advantage * log_prob).sum().item() == pytest.approx(once)
    assert weight.sum().item() == pytest.approx(len(seen))


def test_leaves_without_a_common_prefix_keep_their_advantages():
    node = torch.arange(4)[None, :, None].expand(1, 4, 6)
    advantage, weight = shared_prefix_advantage(LEAF[:1], node, torch.ones(1, 4, 6) == 1)
    torch.testing.assert_close(advantage, LEAF[:1, :, None].expand(1, 4, 6))
    assert (weight == 1).all()


def test_a_row_that_is_no_leaf_is_not_read():
    leaf = torch.tensor([[1.0, math.nan]])
    mask = torch.tensor([[[True, True], [False, False]]])
    advantage, _ = shared_prefix_advantage(leaf, torch.zeros(1, 2, 2, dtype=torch.long), mask)
    assert advantage.tolist() == [[[1, 1], [0, 0]]]


@examples
@given(st.floats(0, 1))
def test_the_mixture_by_hand(share):
    ours = mixed_step_advantage(OUTCOME, STEP, MASK, step_share=share)
    expected = np.where(MASK, (1 - share) * OUTCOME[:, None].numpy() + share * STEP.numpy(), 0)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)


def test_advantages_are_constants():
    value = VALUE.clone().requires_grad_()
    leaf = LEAF.clone().requires_grad_()
    assert not tree_step_advantage(value, PARENT, NODE_MASK).requires_grad
    assert not tree_process_advantage(value, PARENT, NODE_MASK).requires_grad
    assert not shared_prefix_advantage(leaf, NODE, TOKEN_MASK).advantage.requires_grad
    assert not mixed_step_advantage(OUTCOME.clone().requires_grad_(), STEP, MASK, step_share=0.5).requires_grad
