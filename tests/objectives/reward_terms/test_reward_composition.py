"""Composed rewards: the sums by hand, what happens to parts that nobody could judge, and TRL's aggregation."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal, uniform
from plaudit.objectives.reward_terms.reward_composition import (
    composite_reward,
    gated_reward,
    gdpo_advantage,
    renormalised_composite_reward,
    tiered_reward,
    verdict_reward,
)

SCORE = normal(5, 3, seed=1)
JUDGED = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)
PASSED = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], dtype=torch.bool)
KNOWN = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 0], [0, 0]], dtype=torch.bool)
WEIGHTS = (2.0, 1.0, 0.5)
GROUPS = normal(5, 4, 3, seed=2)
GROUPS_JUDGED = uniform(5, 4, 3, seed=3) < 0.7


def scores(rows, judged=True, **more):
    call = {"score": SCORE[:rows], "weights": WEIGHTS, **more}
    return {**call, "judged": JUDGED[:rows]} if judged else call


examples = settings(deadline=None, max_examples=30)

CASES = [
    Case(
        verdict_reward,
        lambda rows: {"passed": PASSED[:rows, 0], "judged": KNOWN[:rows, 1], "reward_pass": 2.0, "reward_fail": -1.0},
        invalid={"reward_pass": [-1.0, -2.0, math.inf]},
    ),
    Case(
        tiered_reward,
        lambda rows: {"passed": PASSED[:rows], "rewards": (-1.0, 0.0, 1.0), "judged": KNOWN[:rows]},
        invalid={"rewards": [(0.0, 1.0), (0.0, 0.0, 1.0), (0.0, 1.0, math.inf)]},
    ),
    Case(
        composite_reward,
        lambda rows: scores(rows, judged=False),
        differentiable=("score",),
        extreme=("score",),
        invalid={"weights": [(1.0, 2.0), (1.0, 2.0, math.nan)]},
    ),
    Case(
        composite_reward,
        lambda rows: {**scores(rows), "weights": (2.0, 0.0, 0.5)},
        name="judged",
        differentiable=("score",),
        extreme=("score",),
        masks={"judged": ("score",)},
    ),
    Case(
        renormalised_composite_reward,
        scores,
        differentiable=("score",),
        extreme=("score",),
        masks={"judged": ("score",)},
        invalid={"weights": [(1.0, 2.0), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0)]},
    ),
    Case(
        gated_reward,
        lambda rows: {"score": SCORE[:rows, 0], "gate": PASSED[:rows, 0]},
        differentiable=("score",),
        extreme=("score",),
        masks={"gate": ("score",)},
    ),
    Case(
        gdpo_advantage,
        lambda rows: {"score": GROUPS[:rows], "judged": GROUPS_JUDGED[:rows], "weights": WEIGHTS},
        extreme=("score",),
        masks={"judged": ("score",)},
        exchangeable="K",
        batch_statistics=True,
        invalid={"epsilon": [0.0, -1.0], "ddof": [2, -1], "weights": [(1.0,)]},
        low_precision=64.0,
    ),
    Case(
        gdpo_advantage,
        lambda rows: {"score": GROUPS[:rows], "weights": WEIGHTS, "ddof": 0},
        name="all-judged",
        extreme=("score",),
        exchangeable="K",
        batch_statistics=True,
        low_precision=64.0,
    ),
]

numbers = st.floats(-10, 10)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def bits(*values):
    return torch.tensor([values], dtype=torch.bool)


def test_the_docstrings_examples():
    reward, judged = verdict_reward(bits(1, 0, 1)[0], bits(1, 1, 0)[0])
    assert reward.tolist() == [1, 0, 0]
    assert judged.tolist() == [True, True, False]
    tiers = tiered_reward(torch.cat([bits(0, 1), bits(1, 0), bits(1, 1)]), rewards=(-1.0, 0.0, 1.0))
    assert tiers.reward.tolist() == [-1, 0, 1]
    assert composite_reward(row(1, 0.5), weights=(2.0, 4.0)).reward.item() == 2 * 1 + 4 * 0.5
    assert not composite_reward(row(1, 0.5), weights=(2.0, 4.0), judged=bits(1, 0)).judged.item()
    assert renormalised_composite_reward(row(1, 0.5), bits(1, 1), weights=(2.0, 4.0)).reward.item() == 4
    assert renormalised_composite_reward(row(1, 0.5), bits(1, 0), weights=(2.0, 4.0)).reward.item() == 6 * 2 / 2
    assert gated_reward(row(0.5, 0.5)[0], bits(1, 0)[0]).tolist() == [0.5, 0]
    advantage = gdpo_advantage(torch.tensor([[[1.0], [3.0]]]), weights=(1.0,), ddof=0, epsilon=1e-9)
    assert advantage.tolist() == [[pytest.approx(-1), pytest.approx(1)]]


@examples
@given(st.lists(numbers, min_size=3, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_the_third_verdict_is_never_a_number(values, known):
    """Whatever stands in an unjudged slot, NaN too, changes nothing; and the reward behind False is not a verdict."""
    judged = bits(*known)
    strict = composite_reward(row(*values), weights=WEIGHTS, judged=judged)
    loose = renormalised_composite_reward(row(*values), judged, weights=WEIGHTS)
    dirty = torch.where(judged, row(*values), math.nan)
    for clean, other in (
        (strict, composite_reward(dirty, weights=WEIGHTS, judged=judged)),
        (loose, renormalised_composite_reward(dirty, judged, weights=WEIGHTS)),
    ):
        torch.testing.assert_close(clean.reward, other.reward)
        assert torch.equal(clean.judged, other.judged)
    assert strict.judged.item() == all(known)
    assert loose.judged.item() == any(known)
    if all(known):
        expected = sum(weight * value for weight, value in zip(WEIGHTS, values, strict=True))
        assert strict.reward.item() == pytest.approx(expected, abs=1e-9)
        assert loose.reward.item() == pytest.approx(expected, abs=1e-9)


def test_a_component_of_weight_zero_need_not_be_judged():
    result = composite_reward(row(3, math.nan), weights=(2.0, 0.0), judged=bits(1, 0))
    assert result.judged.item()
    assert result.reward.item() == 6


@examples
@given(numbers, st.lists(st.booleans(), min_size=3, max_size=3))
def test_where_components_agree_any_of_them_stands_for_all(value, known):
    result = renormalised_composite_reward(row(value, value, value), bits(*known), weights=WEIGHTS)
    assert result.reward.item() == pytest.approx(sum(WEIGHTS) * value if any(known) else 0)


def test_peers_that_skip_a_component_count_it_as_zero():
    """TRL's sum_then_normalize takes a nansum: an engine's crash costs as much as a wrong answer."""
    with_none = torch.tensor([[1.0, math.nan]])
    assert (with_none * torch.tensor([2.0, 4.0])).nansum(1).item() == 2
    assert not composite_reward(with_none, weights=(2.0, 4.0), judged=~with_none.isnan()).judged.item()
    assert renormalised_composite_reward(with_none, ~with_none.isnan(), weights=(2.0, 4.0)).reward.item() == 6


def test_tiers_stop_at_the_first_failure_and_read_nothing_behind_it():
    rewards = (-1.0, 0.0, 0.5, 2.0)
    for passed in product([False, True], repeat=3):
        for known in product([False, True], repeat=3):
            level, decided = 0, True
            for check, judged in zip(passed, known, strict=True):
                if not judged:
                    decided = False
                    break
                if not check:
                    break
                level += 1
            result = tiered_reward(bits(*passed), rewards=rewards, judged=bits(*known))
            assert result.judged.item() == decided
            assert result.reward.item() == (rewards[level] if decided else 0)


def test_tiers_keep_every_right_output_above_every_wrong_one():
    everything = torch.tensor(list(product([False, True], repeat=3)))
    reward = tiered_reward(everything, rewards=(-1.0, 0.0, 0.5, 2.0)).reward
    right = everything.all(-1)
    assert reward[right].min() > reward[~right].max()


def gdpo_by_loops(score, judged, weights, ddof, epsilon):
    """From the formula, one number at a time."""
    groups, outputs, components = score.shape
    total = np.full((groups, outputs), np.nan)
    for i in range(groups):
        for c in range(components):
            known = [score[i, k, c] for k in range(outputs) if judged[i, k, c]]
            for k in range(outputs):
                if judged[i, k, c]:
                    deviation = np.sqrt(sum((x - np.mean(known)) ** 2 for x in known) / max(len(known) - ddof, 1))
                    z = (score[i, k, c] - np.mean(known)) / (deviation + epsilon)
                    total[i, k] = (0 if np.isnan(total[i, k]) else total[i, k]) + weights[c] * z
    real = total[~np.isnan(total)]
    deviation = np.sqrt(((real - real.mean()) ** 2).sum() / (len(real) - ddof))
    return np.nan_to_num((total - real.mean()) / (deviation + epsilon), nan=0.0)


@pytest.mark.parametrize("ddof", [0, 1])
def test_gdpo_is_the_formula_by_loops(ddof):
    judged = uniform(6, 5, 3, seed=8) < 0.6
    judged[0, 0] = False  # an output that nobody could judge
    judged[1, :, 2] = False  # a component of which nothing is known in a group
    score = normal(6, 5, 3, seed=9)
    ours = gdpo_advantage(score, judged, weights=WEIGHTS, ddof=ddof)
    expected = gdpo_by_loops(score.numpy(), judged.numpy(), WEIGHTS, ddof, 1e-4)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert ours[0, 0] == 0


def test_gdpo_is_trls_normalize_then_sum():
    """TRL writes it inside its trainer's method, with NaN for what was not judged: its lines in numpy."""
    judged = (uniform(6, 4, 3, seed=10) < 0.7).numpy()
    judged[2, 1] = False
    assert (judged.sum(1) == 1).any()  # a deviation of one number is NaN there and drops out; for us it is worth 0
    score = np.where(judged, normal(6, 4, 3, seed=11).numpy(), np.nan)
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        standard = (score - np.nanmean(score, 1, keepdims=True)) / (np.nanstd(score, 1, keepdims=True, ddof=1) + 1e-4)
        rewards = np.nansum(standard * np.array(WEIGHTS), -1)
    rewards[~judged.any(-1)] = np.nan
    expected = np.nan_to_num((rewards - np.nanmean(rewards)) / (np.nanstd(rewards, ddof=1) + 1e-4), nan=0.0)
    ours = gdpo_advantage(torch.from_numpy(score), torch.from_numpy(judged), weights=WEIGHTS)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_gdpo_tells_apart_what_a_sum_confuses():
    """The paper's example: with equal spreads, (1, 0), (0, 1) and the better (1, 1) against (0, 0)."""
    score = torch.tensor([[[1.0, 0], [0, 100], [1, 100], [0, 0]]], dtype=torch.float64)
    advantage = gdpo_advantage(score, weights=(1.0, 1.0))[0]
    assert advantage[0] == pytest.approx(advantage[1].item(), abs=1e-3)  # 1 of 1 is worth 100 of 100
    raw = score.sum(-1)[0]
    assert raw[1] - raw[0] == 99
    assert advantage[2] > advantage[0] > advantage[3]


@examples
@given(st.floats(0.1, 50), st.floats(-50, 50), st.integers(0, 2))
def test_gdpo_does_not_care_for_a_components_scale(scale, shift, column):
    moved = GROUPS.clone()
    moved[..., column] = scale * moved[..., column] + shift
    ours = gdpo_advantage(moved, weights=WEIGHTS, epsilon=1e-9)
    torch.testing.assert_close(ours, gdpo_advantage(GROUPS, weights=WEIGHTS, epsilon=1e-9), rtol=1e-5, atol=1e-6)


def test_gdpo_has_no_gradient_and_is_zero_where_all_are_equal():
    score = torch.full((2, 3, 2), 0.1, requires_grad=True)
    advantage = gdpo_advantage(score, weights=(1.0, 1.0))
    assert not advantage.requires_grad
    assert (advantage == 0).all()
    assert gdpo_advantage(score[:0], weights=(1.0, 1.0)).shape == (0, 3)


def test_groups_of_one_have_no_deviation():
    with pytest.raises(ValueError, match="score: expected groups of at least 2 outputs, got 1"):
        gdpo_advantage(normal(3, 1, 2), weights=(1.0, 1.0))


def test_weights_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match=r"weights: expected 3 finite numbers, one per component, got \(1.0, 2.0\)"):
        composite_reward(SCORE, weights=(1.0, 2.0))
