"""AOT and WPO: which pair meets which, what the weight means, reductions to DPO, and TRL's numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, lengths_mask, normal, uniform
from objectives.trl_peer import summed_log_ratios, token_pairs, trl_dpo, trl_dpo_each
from plaudit.objectives.preferences import dpo
from plaudit.objectives.preferences.pairwise_batches import aot_paired, aot_unpaired, wpo, wpo_weight

POLICY, REF = ("log_prob_chosen", "log_prob_rejected"), ("ref_log_prob_chosen", "ref_log_prob_rejected")
SIDES = ("log_ratio_chosen", "log_ratio_rejected")
WEIGHTS = ("weight_chosen", "weight_rejected")
NOT_POSITIVE = [0.0, -1.0, math.nan, math.inf]


def log_probs(rows, **settings):
    return {
        **{name: -normal(5, seed=seed)[:rows].exp() for seed, name in enumerate((*POLICY, *REF))},
        "beta": 0.3,
        **settings,
    }


def pairs(rows, **settings):
    return {name: normal(5, seed=seed)[:rows] for seed, name in enumerate(SIDES)} | {"beta": 0.3, **settings}


def weighted(rows, **settings):
    weights = {name: uniform(5, seed=seed, low=0.1, high=1.5)[:rows] for seed, name in enumerate(WEIGHTS)}
    return pairs(rows, **weights, **settings)


def steps(rows):
    return {
        "token_log_prob": uniform(5, 6, seed=1, low=0.05).log()[:rows],
        "token_log_collision": uniform(5, 6, seed=2, low=0.05).log()[:rows],
        "mask": lengths_mask(5, 6)[:rows],
    }


WRONG = {"beta": NOT_POSITIVE, "label_smoothing": [-0.1, 0.5, math.nan]}
CASES = [
    Case(aot_paired, log_probs, differentiable=POLICY, extreme=POLICY, invalid=WRONG, batch_statistics=True),
    Case(
        aot_paired,
        lambda rows: log_probs(rows, label_smoothing=0.2),
        name="smoothed",
        differentiable=POLICY,
        extreme=POLICY,
        batch_statistics=True,
    ),
    Case(aot_unpaired, pairs, differentiable=SIDES, extreme=SIDES, invalid=WRONG, batch_statistics=True),
    Case(
        aot_unpaired,
        lambda rows: pairs(rows, label_smoothing=0.2),
        name="smoothed",
        differentiable=SIDES,
        extreme=SIDES,
        batch_statistics=True,
    ),
    Case(wpo_weight, steps, masks={"mask": ("token_log_prob", "token_log_collision")}),
    Case(
        wpo,
        weighted,
        differentiable=SIDES,
        extreme=SIDES,
        invalid={"beta": NOT_POSITIVE, "largest_weight": NOT_POSITIVE},
    ),
    Case(wpo, lambda rows: weighted(rows, largest_weight=0.5), name="cut", differentiable=SIDES, extreme=SIDES),
]

some_log_ratios = st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=8)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logistic(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_the_docstrings_examples():
    zero = numbers(0, 0)
    expected = numbers(logistic(1), math.log(2))
    torch.testing.assert_close(aot_paired(numbers(2, 0), zero, numbers(0, 1), zero, beta=1), expected)
    torch.testing.assert_close(aot_unpaired(numbers(2, 0), numbers(0, 1), beta=1), expected)
    weight = wpo_weight(numbers(0.5, 0.25).log()[None], numbers(0.5, 0.5).log()[None], torch.tensor([[True, True]]))
    assert weight.item() == pytest.approx(math.sqrt(0.5))
    ours = wpo(numbers(1), numbers(0), numbers(0.5), numbers(0.8), beta=1)
    assert ours.item() == pytest.approx(0.4 * logistic(1))


@settings(max_examples=50, deadline=None)
@given(some_log_ratios)
def test_aots_loss_is_that_of_the_sorted_sides(sides):
    chosen, rejected = zip(*sides, strict=True)
    ours = aot_unpaired(numbers(*chosen), numbers(*rejected), beta=0.3)
    by_rank = [logistic(0.3 * (a - b)) for a, b in zip(sorted(chosen), sorted(rejected), strict=True)]
    assert sorted(ours.tolist()) == pytest.approx(sorted(by_rank))
    order = sorted(range(len(chosen)), key=chosen.__getitem__)
    assert [ours[index].item() for index in order] == pytest.approx(by_rank)
    zero = torch.zeros(len(chosen)).double()
    paired = aot_paired(numbers(*chosen), zero, numbers(*rejected), zero, beta=0.3)
    assert torch.equal(paired, ours)


@settings(max_examples=50, deadline=None)
@given(some_log_ratios)
def test_aot_does_not_mind_the_order_of_either_side(sides):
    chosen, rejected = zip(*sides, strict=True)
    mixed = aot_unpaired(numbers(*chosen), numbers(*reversed(rejected)), beta=0.3)
    torch.testing.assert_close(mixed, aot_unpaired(numbers(*chosen), numbers(*rejected), beta=0.3))


@settings(max_examples=50, deadline=None)
@given(some_log_ratios)
def test_sorting_pairs_never_costs_more_than_dpo(sides):
    """The logistic loss is convex: matching by rank is its cheapest transport."""
    chosen, rejected = (numbers(*values) for values in zip(*sides, strict=True))
    assert aot_unpaired(chosen, rejected, beta=0.3).sum() <= dpo(chosen, rejected, beta=0.3).sum() + 1e-9


def test_aot_with_one_pair_is_dpo():
    call = log_probs(1)
    chosen, rejected = (call[f"log_prob_{side}"] - call[f"ref_log_prob_{side}"] for side in ("chosen", "rejected"))
    torch.testing.assert_close(aot_paired(**call), dpo(chosen, rejected, beta=0.3))
    torch.testing.assert_close(aot_unpaired(chosen, rejected, beta=0.3), dpo(chosen, rejected, beta=0.3))


def test_the_weight_of_samples_is_one_on_average():
    """For one step: the mean over the policy of ``π(y) / sum_v π(v)^2`` is exactly 1."""
    policy = numbers(0.6, 0.3, 0.1)
    collision = policy.square().sum().log().expand(3, 1)
    weight = wpo_weight(policy.log()[:, None], collision, torch.ones(3, 1, dtype=torch.bool))
    assert (policy * weight).sum().item() == pytest.approx(1)


def test_weights_carry_no_gradient_and_an_empty_output_weighs_one():
    call = steps(5)
    call["mask"][0] = False
    weight = wpo_weight(**{**call, "token_log_prob": call["token_log_prob"].requires_grad_()})
    assert not weight.requires_grad
    assert weight[0].item() == 1


def test_wpo_with_weights_of_one_is_dpo_and_the_authors_code_cuts():
    call = pairs(5)
    one = torch.ones(5).double()
    torch.testing.assert_close(wpo(**call, weight_chosen=one, weight_rejected=one), dpo(**call))
    torch.testing.assert_close(wpo(**call, weight_chosen=2 * one, weight_rejected=one), 2 * dpo(**call))
    cut = wpo(**call, weight_chosen=2 * one, weight_rejected=one, largest_weight=1.0)
    torch.testing.assert_close(cut, dpo(**call))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_trl_agrees_on_aot(smoothing):
    policy, ref, mask = token_pairs()
    settings = {"beta": 0.3, "label_smoothing": smoothing}
    sums = [torch.where(mask, x, 0).sum(-1).chunk(2) for x in (policy, ref)]
    ours = aot_paired(*sums[0], *sums[1], **settings).mean()
    torch.testing.assert_close(ours, trl_dpo("aot", policy, ref, mask, **settings))
    ours = aot_unpaired(*summed_log_ratios(policy, ref, mask), **settings).mean()
    torch.testing.assert_close(ours, trl_dpo("aot_unpaired", policy, ref, mask, **settings))


def test_trl_agrees_on_wpo():
    tokens = token_pairs()
    policy, _, mask = tokens
    collision = -normal(*policy.shape, seed=9).exp()
    weights = wpo_weight(policy, collision, mask).chunk(2)
    ours = wpo(*summed_log_ratios(*tokens), *weights, beta=0.3)
    torch.testing.assert_close(ours, trl_dpo_each("sigmoid", *tokens, beta=0.3, token_log_collision=collision))
