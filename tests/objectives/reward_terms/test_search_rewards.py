"""Search rewards against sets of item numbers, their bounds, and the hacks that the gate and the coverage prevent."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from objectives.contract import Case, lengths_mask, uniform
from plaudit.objectives.reward_terms.search_rewards import (
    leser_reward,
    search_coverage,
    search_intent_coverage,
    search_novelty,
    search_precision,
    search_redundancy,
)

ROWS, EXPANSIONS, ITEMS = 6, 4, 9
RETRIEVED = uniform(ROWS, EXPANSIONS, ITEMS, seed=1) < 0.35
RELEVANT = uniform(ROWS, ITEMS, seed=2) < 0.4
ORIGINAL = uniform(ROWS, ITEMS, seed=3) < 0.2
INTENTS = uniform(ROWS, 3, ITEMS, seed=4) < 0.25
MASK = lengths_mask(ROWS, EXPANSIONS, seed=5)
KEPT = torch.tensor([True, False, True, True, False, True])
PARTS = ("relevance", "coverage", "redundancy", "format_share")


def searches(rows, *names, **more):
    tensors = {"relevant": RELEVANT, "original": ORIGINAL, "intents": INTENTS, "mask": MASK}
    return {"retrieved": RETRIEVED[:rows]} | {name: tensors[name][:rows] for name in names} | more


def rewards(rows):
    return {name: uniform(ROWS, seed=seed)[:rows] for seed, name in enumerate(PARTS)} | {"keeps_rules": KEPT[:rows]}


CASES = [
    Case(
        search_precision,
        lambda rows: searches(rows, "relevant", "mask", depth=5),
        exchangeable="E",
        invalid={"depth": [0, -1]},
    ),
    Case(search_coverage, lambda rows: searches(rows, "relevant", "original", "mask"), exchangeable="E"),
    Case(
        search_novelty,
        lambda rows: searches(rows, "relevant", "original", "mask", depth=5),
        exchangeable="E",
        invalid={"depth": [0, -1]},
    ),
    Case(search_intent_coverage, lambda rows: searches(rows, "intents", "mask"), exchangeable="E"),
    Case(search_redundancy, lambda rows: searches(rows, "mask"), exchangeable="E"),
    Case(
        leser_reward,
        rewards,
        differentiable=PARTS,
        extreme=PARTS,
        invalid={
            name: [-0.1, math.nan]
            for name in ("relevance_weight", "coverage_weight", "redundancy_weight", "format_weight")
        },
    ),
]


def sets(indicator):
    return [set(np.flatnonzero(row).tolist()) for row in indicator.numpy()]


def slow(row, depth):
    """The five measures of one output, from sets of item numbers."""
    found = [items for items, exists in zip(sets(RETRIEVED[row]), MASK[row], strict=True) if exists]
    relevant, original = sets(RELEVANT[row][None])[0], sets(ORIGINAL[row][None])[0]
    union = set().union(*found)
    intents = [items for items in sets(INTENTS[row]) if items]
    pairs = [len(a & b) / len(a | b) if a | b else 0.0 for a, b in itertools.combinations(found, 2)]
    return {
        search_precision: sum(len(items & relevant) / depth for items in found) / len(found),
        search_coverage: len((union | original) & relevant) / len(relevant),
        search_novelty: min(1, len((union & relevant) - original) / depth),
        search_intent_coverage: sum(bool(union & items) for items in intents) / len(intents) if intents else 0.0,
        search_redundancy: sum(pairs) / len(pairs) if pairs else 0.0,
    }


@pytest.mark.parametrize("row", range(ROWS))
def test_measures_are_those_of_sets(row):
    expected = slow(row, depth=2)
    ours = {
        search_precision: search_precision(RETRIEVED, RELEVANT, MASK, depth=2),
        search_coverage: search_coverage(RETRIEVED, RELEVANT, ORIGINAL, MASK),
        search_novelty: search_novelty(RETRIEVED, RELEVANT, ORIGINAL, MASK, depth=2),
        search_intent_coverage: search_intent_coverage(RETRIEVED, INTENTS, MASK),
        search_redundancy: search_redundancy(RETRIEVED, MASK),
    }
    assert {f.__name__: v[row].item() for f, v in ours.items()} == pytest.approx(
        {f.__name__: v for f, v in expected.items()}
    )


def marks(*items, pool=4):
    return [item in items for item in range(pool)]


def test_the_docstrings_examples():
    two = torch.tensor([[marks(0, 1), marks(0)]])
    assert search_precision(two, torch.tensor([marks(0)]), depth=2).item() == pytest.approx(1 / 2)
    coverage = search_coverage(two, torch.tensor([marks(0, 2, 3)]), torch.tensor([marks(2)]))
    assert coverage.item() == pytest.approx(2 / 3)
    new = search_novelty(two, torch.tensor([marks(0, 2)]), torch.tensor([marks(2)]), depth=4)
    assert new.item() == pytest.approx(1 / 4)
    assert search_intent_coverage(two, torch.tensor([[marks(0), marks(3)]])).item() == pytest.approx(1 / 2)
    assert search_redundancy(torch.tensor([[marks(1, 2), marks(2, 3)]])).item() == pytest.approx(1 / 3)
    parts = (torch.tensor([value]) for value in (0.5, 0.4, 0.1, 1.0))
    assert leser_reward(*parts, torch.tensor([True])).item() == pytest.approx(0.5 + 0.4 - 0.02 + 0.1)
    broken = (torch.tensor([value]) for value in (math.nan, math.nan, math.nan, 0.8))
    assert leser_reward(*broken, torch.tensor([False])).item() == pytest.approx(0.08)


def test_redundancy_of_a_pair_is_scikit_learns_jaccard():
    for row in range(ROWS):
        pair = RETRIEVED[row, :2]
        expected = jaccard_score(pair[0].numpy(), pair[1].numpy(), zero_division=0)
        assert search_redundancy(pair[None]).item() == pytest.approx(expected)


def test_the_same_expansion_again_earns_nothing_and_is_redundant():
    again = torch.cat([RETRIEVED[:, :1]] * 3, 1)
    once = RETRIEVED[:, :1]
    for measure in (
        lambda found: search_coverage(found, RELEVANT, ORIGINAL),
        lambda found: search_novelty(found, RELEVANT, ORIGINAL, depth=3),
        lambda found: search_intent_coverage(found, INTENTS),
        lambda found: search_precision(found, RELEVANT, depth=3),
    ):
        torch.testing.assert_close(measure(again), measure(once))
    returned_something = once[:, 0].any(-1).float()
    torch.testing.assert_close(search_redundancy(again), returned_something)


def test_coverage_cannot_be_bought_with_irrelevant_results():
    flooded = torch.cat([RETRIEVED, ~RELEVANT[:, None]], 1)
    torch.testing.assert_close(
        search_coverage(flooded, RELEVANT, ORIGINAL), search_coverage(RETRIEVED, RELEVANT, ORIGINAL)
    )
    assert (search_precision(flooded, RELEVANT, depth=9) <= search_precision(RETRIEVED, RELEVANT, depth=9)).all()


def test_hidden_expansions_count_for_nothing():
    filled = RETRIEVED | ~MASK[..., None]
    torch.testing.assert_close(
        search_precision(filled, RELEVANT, MASK, depth=4), search_precision(RETRIEVED, RELEVANT, MASK, depth=4)
    )
    torch.testing.assert_close(search_redundancy(filled, MASK), search_redundancy(RETRIEVED, MASK))
    nothing = torch.zeros_like(MASK)
    assert search_precision(filled, RELEVANT, nothing, depth=4).tolist() == [0] * ROWS
    assert search_redundancy(filled, nothing).tolist() == [0] * ROWS
    expected = (ORIGINAL & RELEVANT).sum(-1) / RELEVANT.sum(-1)
    torch.testing.assert_close(search_coverage(filled, RELEVANT, ORIGINAL, nothing), expected)


def test_a_broken_rule_costs_all_that_was_found_and_leaves_no_gradient():
    call = rewards(ROWS)
    call |= {name: call[name].clone().requires_grad_() for name in PARTS}
    reward = leser_reward(**call)
    reward.sum().backward()
    torch.testing.assert_close(reward[~KEPT], 0.1 * call["format_share"][~KEPT])
    for name, weight in {"relevance": 1.0, "coverage": 1.0, "redundancy": -0.2}.items():
        torch.testing.assert_close(call[name].grad, torch.where(KEPT, weight, 0).double())
