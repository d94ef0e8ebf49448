"""Branching: subtree sums against recursion, return-equivalent redistribution, and ReviBranch's loss term by term."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from torch.nn.functional import smooth_l1_loss

from objectives.contract import Case, lengths_mask, normal, uniform
from plaudit.objectives.values.branching import (
    attention_importance,
    fathoming_reward,
    redistributed_reward,
    revibranch,
    sensitivity_importance,
    subtree_importance,
    tree_return,
    tree_size_reward,
)
from plaudit.objectives.values.value import n_step_return

MASK = lengths_mask(6, 5, seed=3)
REWARD, Q, TARGET, CHANGED = (normal(6, 5, seed=seed) for seed in (1, 2, 3, 4))
PREDICTION, RETURN = normal(6, seed=5), normal(6, seed=6)
SIZE, LOGIT = uniform(6, 5, seed=7, high=30), normal(6, 5, seed=8)
IMPORTANCE = torch.where(MASK, LOGIT.exp(), 0)
IMPORTANCE = IMPORTANCE / IMPORTANCE.sum(-1, keepdim=True)
PARENT = torch.tensor(
    [[-1, 0, 0, 1, 2], [-1, 0, 1, 2, 3], [-1, 0, 0, 0, 0], [-1, -1, 0, 1, 0], [-1, 0, 1, 1, 2], [-1, 0, 0, 2, 2]]
)


def path_loss(rows, **options):
    return {
        "action_value": 3 * Q[:rows],
        "target": TARGET[:rows],
        "mask": MASK[:rows],
        "return_prediction": PREDICTION[:rows],
        "path_return": RETURN[:rows],
        **options,
    }


CASES = [
    Case(
        tree_return,
        lambda rows: {"reward": REWARD[:rows], "parent": PARENT[:rows], "mask": MASK[:rows], "discount": 0.9},
        masks={"mask": ("reward",)},
        extreme=("reward",),
        invalid={"discount": [-0.1, 1.1, math.nan]},
    ),
    Case(
        tree_size_reward,
        lambda rows: {"nodes": SIZE[:rows, 0]},
        differentiable=("nodes",),
    ),
    Case(
        fathoming_reward,
        lambda rows: {"step_cost": SIZE[:rows], "fathomed": MASK[:rows]},
        differentiable=("step_cost",),
        extreme=("step_cost",),
    ),
    Case(
        sensitivity_importance,
        lambda rows: {"prediction": PREDICTION[:rows], "changed_prediction": CHANGED[:rows], "mask": MASK[:rows]},
        masks={"mask": ("changed_prediction",)},
        extreme=("prediction", "changed_prediction"),
        invalid={"floor": [0.0, -1.0, math.nan]},
    ),
    Case(
        attention_importance,
        lambda rows: {"logit": LOGIT[:rows], "mask": MASK[:rows]},
        differentiable=("logit",),
        stops_gradients=True,  # the sum of the weights is 1 whatever the logits are
        masks={"mask": ("logit",)},
        extreme=("logit",),
        exchangeable="T",
    ),
    Case(
        subtree_importance,
        lambda rows: {"subtree_size": SIZE[:rows], "mask": MASK[:rows]},
        masks={"mask": ("subtree_size",)},
        exchangeable="T",
    ),
    Case(
        redistributed_reward,
        lambda rows: {"reward": REWARD[:rows], "importance": IMPORTANCE[:rows], "mask": MASK[:rows], "mix": 0.3},
        masks={"mask": ("reward", "importance")},
        extreme=("reward",),
        exchangeable="T",
        invalid={"mix": [-0.1, 1.1, math.nan]},
    ),
    Case(
        revibranch,
        path_loss,
        differentiable=("action_value", "return_prediction"),
        masks={"mask": ("action_value", "target")},
        extreme=("action_value", "target", "return_prediction", "path_return"),
        exchangeable="T",
        invalid={"huber_width": [0.0, -1.0, math.nan], "return_weight": [-1.0, math.nan]},
    ),
]


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def yes(count: int) -> torch.Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def test_the_docstrings_examples():
    parent = torch.tensor([[-1, 0, 0, 1]])
    assert tree_return(-torch.ones(1, 4), parent, yes(4)).tolist() == [[-4, -2, -1, -1]]
    assert tree_size_reward(torch.tensor([0.0, math.e - 1])).tolist() == pytest.approx([0, -1])
    assert fathoming_reward(row(1, 1), torch.tensor([[False, True]])).tolist() == [[-1, 0]]
    assert sensitivity_importance(number(1), row(1, 3), yes(2), floor=1.0).tolist() == [[0.25, 0.75]]
    assert attention_importance(row(0, math.log(3)), yes(2)).tolist()[0] == pytest.approx([0.25, 0.75])
    assert subtree_importance(row(3, 1), yes(2)).tolist()[0] == pytest.approx([2 / 3, 1 / 3])
    assert redistributed_reward(row(0, -4), row(0.25, 0.75), yes(2), mix=0.5).tolist() == [[-0.5, -3.5]]
    loss = revibranch(row(1, 3), row(0, 0), yes(2), number(2), number(0))
    assert loss.item() == pytest.approx(3.5)


@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_tree_return_is_the_recursion_over_children(discount):
    ours = tree_return(REWARD, PARENT, MASK, discount=discount)
    for i in range(6):

        def below(node: int, i: int = i) -> float:
            children = [j for j in range(5) if MASK[i, j] and PARENT[i, j] == node]
            return REWARD[i, node].item() + discount * sum(below(j) for j in children)

        for node in range(5):
            assert ours[i, node].item() == pytest.approx(below(node) if MASK[i, node] else 0)


def test_a_chain_is_the_path_return():
    chain = torch.arange(-1, 4).expand(6, -1)
    full = torch.ones_like(MASK)
    path = n_step_return(REWARD, REWARD, full, discount=0.9, steps=None)
    torch.testing.assert_close(tree_return(REWARD, chain, full, discount=0.9), path)


def test_the_roots_return_is_minus_the_number_of_nodes():
    """Subtree sizes of the children and the node itself add up, in every node of a random tree."""
    random = np.random.default_rng(0)
    parent = torch.tensor([[-1] + [int(random.integers(0, node)) for node in range(1, 30)]])
    size = -tree_return(-torch.ones(1, 30), parent, yes(30))[0]
    assert size[0] == 30
    for node in range(30):
        children = [j for j in range(30) if parent[0, j] == node]
        assert size[node] == 1 + sum(size[j] for j in children)


def test_a_parent_after_its_child_is_an_error():
    with pytest.raises(ValueError, match="parent: expected each parent to come before its child"):
        tree_return(row(1, 1), torch.tensor([[1, 0]]), yes(2))


def test_the_mean_terminal_reward_is_the_shifted_geometric_mean():
    nodes = SIZE.flatten()
    mean = tree_size_reward(nodes).mean().item()
    expected = np.exp(np.log(nodes.numpy() + 1).mean()) - 1
    assert math.exp(-mean) - 1 == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 5)), min_size=1, max_size=6), st.floats(0, 1))
def test_redistribution_keeps_the_return(steps, mix):
    """Return equivalence, for any weights that add up to 1."""
    reward, size = (row(*side) for side in zip(*steps, strict=True))
    mask = yes(len(steps))
    for importance in (
        subtree_importance(size, mask),
        attention_importance(size, mask),
        sensitivity_importance(number(1), size, mask),
    ):
        assert importance.sum().item() == pytest.approx(1)
        spread = redistributed_reward(reward, importance, mask, mix=mix)
        assert spread.sum().item() == pytest.approx(reward.sum().item(), abs=1e-9)


def test_redistribution_under_masks_keeps_the_return_of_what_counts():
    for importance in (
        subtree_importance(SIZE, MASK),
        attention_importance(LOGIT, MASK),
        sensitivity_importance(PREDICTION, CHANGED, MASK),
    ):
        spread = redistributed_reward(REWARD, importance, MASK, mix=0.8)
        torch.testing.assert_close(spread.sum(-1), torch.where(MASK, REWARD, 0).sum(-1))
        assert (spread[~MASK] == 0).all()


def test_no_mix_leaves_the_rewards_and_a_full_mix_only_the_weights():
    kept = redistributed_reward(REWARD, IMPORTANCE, MASK, mix=0.0)
    torch.testing.assert_close(kept, torch.where(MASK, REWARD, 0))
    spread = redistributed_reward(REWARD, IMPORTANCE, MASK, mix=1.0)
    torch.testing.assert_close(spread, IMPORTANCE * torch.where(MASK, REWARD, 0).sum(-1, keepdim=True))


def test_weights_are_their_definitions():
    for i in range(6):
        kept = MASK[i]
        attention = softmax(LOGIT[i][kept].numpy())
        assert attention_importance(LOGIT, MASK)[i][kept].tolist() == pytest.approx(attention.tolist())
        amount = np.log(1 + SIZE[i][kept].numpy())
        assert subtree_importance(SIZE, MASK)[i][kept].tolist() == pytest.approx((amount / amount.sum()).tolist())
        change = np.abs(CHANGED[i][kept].numpy() - PREDICTION[i].item()) + 0.1
        ours = sensitivity_importance(PREDICTION, CHANGED, MASK, floor=0.1)
        assert ours[i][kept].tolist() == pytest.approx((change / change.sum()).tolist())


def test_attention_learns_through_its_weights():
    leaf = LOGIT.clone().requires_grad_()
    (attention_importance(leaf, MASK) * REWARD).sum().backward()
    weight = attention_importance(LOGIT, MASK)
    mean = (weight * REWARD).sum(-1, keepdim=True)
    torch.testing.assert_close(leaf.grad, weight * (REWARD - mean))


def test_empty_subtrees_share_equally():
    mask = torch.tensor([[True, True, False]])
    assert subtree_importance(torch.zeros(1, 3), mask).tolist() == [[0.5, 0.5, 0]]


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_revibranch_is_the_loop_over_steps(width):
    loss = revibranch(**path_loss(6, huber_width=width, return_weight=0.7))
    for i in range(6):
        error = (3 * Q - TARGET)[i][MASK[i]].numpy()
        huber = np.where(np.abs(error) <= width, error**2 / 2, width * (np.abs(error) - width / 2))
        missed = PREDICTION[i].item() - RETURN[i].item()
        assert loss[i].item() == pytest.approx(huber.mean() + 0.7 * missed**2)


def test_torch_agrees_on_one_step():
    over = torch.ones(6, 1, dtype=torch.bool)
    ours = revibranch(3 * Q[:, :1], TARGET[:, :1], over, RETURN, RETURN)
    torch.testing.assert_close(ours, smooth_l1_loss(3 * Q[:, 0], TARGET[:, 0], reduction="none"))
