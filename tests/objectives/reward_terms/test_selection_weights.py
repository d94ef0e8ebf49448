"""Which contexts and attempts are learned from: the papers' ranges, and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, uniform
from plaudit.objectives.reward_terms.selection_weights import (
    first_success_weight,
    middling_mean_weight,
    reward_difficulty,
    spread_weight,
)

REWARD = uniform(5, 4, seed=1, high=2.1)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
CORRECT = torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
examples = settings(deadline=None, max_examples=30)


def groups(rows, **more):
    return {"reward": REWARD[:rows], "mask": MASK[:rows], **more}


CASES = [
    Case(
        middling_mean_weight,
        lambda rows: {"reward": REWARD[:rows], "lowest": 0.8, "highest": 1.2},
        extreme=("reward",),
        exchangeable="K",
        invalid={"highest": [0.8, 0.1, math.nan], "ddof": [2, -1]},
    ),
    Case(
        middling_mean_weight,
        lambda rows: groups(rows, lowest=0.3, highest=1.8, least_deviation=0.5),
        name="deviation",
        extreme=("reward",),
        masks={"mask": ("reward",)},
        exchangeable="K",
        invalid={"least_deviation": [-0.1, math.nan]},
    ),
    Case(
        spread_weight,
        lambda rows: groups(rows, least_range=1.0),
        extreme=("reward",),
        masks={"mask": ("reward",)},
        exchangeable="K",
        invalid={"least_range": [0.0, -1.0, math.nan]},
    ),
    Case(
        reward_difficulty,
        groups,
        differentiable=("reward",),
        extreme=("reward",),
        masks={"mask": ("reward",)},
        exchangeable="K",
        invalid={"highest": [0.3, 0.0, math.nan]},
    ),
    Case(first_success_weight, lambda rows: {"correct": CORRECT[:rows]}),
    Case(first_success_weight, lambda rows: {"correct": CORRECT[:rows], "mask": MASK[:rows]}, name="masked"),
]


def test_the_docstrings_examples():
    weight = middling_mean_weight(torch.tensor([[0.0, 2.0], [2.0, 2.0]]), lowest=0.3, highest=1.8)
    assert weight.tolist() == [1, 0]
    assert spread_weight(torch.tensor([[0, 0, 0], [0.5, 0.55, 0.5], [0, 1.0, 0]])).tolist() == [0, 0, 1]
    assert reward_difficulty(torch.tensor([[1.05, 1.05]])).item() == pytest.approx(1 / 2)
    assert first_success_weight(torch.tensor([[False, True, True]])).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("least", [None, 0.1, 0.6])
def test_verireasons_filter_by_loops(ddof, least):
    """Keep s with mean in [0.3, 1.8] and deviation above 0.1."""
    ours = middling_mean_weight(REWARD, MASK, lowest=0.3, highest=1.8, least_deviation=least, ddof=ddof)
    for i in range(5):
        values = REWARD[i][MASK[i]].numpy()
        deviation = 0.0 if len(values) == 1 else np.std(values, ddof=ddof)
        keep = 0.3 <= values.mean() <= 1.8 and (least is None or deviation > least)
        assert ours[i].item() == keep


def test_the_deviation_is_the_populations_and_must_be_exceeded():
    pair = torch.tensor([[0.0, 2.0]])
    for least, keep in ((0.99, 1), (1.0, 0)):
        assert middling_mean_weight(pair, lowest=0.3, highest=1.8, least_deviation=least).item() == keep


def test_srpos_filter_keeps_its_borders():
    """Mean accuracy within [0.1, 0.9]: of ten samples one to nine right, and neither none nor all."""
    for right in range(11):
        accuracy = (torch.arange(10) < right).float()[None]
        kept = middling_mean_weight(accuracy, lowest=0.1, highest=0.9).item()
        assert kept == (1 <= right <= 9)


def test_the_range_is_difficulty_one_to_zero():
    """δ = 1 - (μ - 0.3) / (1.8 - 0.3)."""
    for mean, difficulty in ((0.3, 1.0), (1.8, 0.0), (1.05, 0.5)):
        assert reward_difficulty(torch.full((1, 8), mean)).item() == pytest.approx(difficulty, abs=1e-6)
    expected = [1 - (REWARD[i][MASK[i]].mean().item() - 0.3) / 1.5 for i in range(5)]
    np.testing.assert_allclose(reward_difficulty(REWARD, MASK).numpy(), expected, rtol=1e-9)


@examples
@given(st.lists(st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5, 1.0]), min_size=2, max_size=6))
def test_propas_groups(labels):
    """Dropped if all are 0, all are 1, or the range is below 0.1."""
    dropped = all(x == 0 for x in labels) or all(x == 1 for x in labels) or max(labels) - min(labels) < 0.1
    assert spread_weight(torch.tensor([labels])).item() == (not dropped)


@examples
@given(st.lists(st.booleans(), min_size=1, max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_smart_imitates_the_first_success_only(correct, made):
    mask = made[: len(correct)]
    weight = first_success_weight(torch.tensor([correct]), torch.tensor([mask]))[0].tolist()
    successes = [k for k, (right, there) in enumerate(zip(correct, mask, strict=True)) if right and there]
    assert weight == [float(bool(successes) and k == successes[0]) for k in range(len(correct))]


def test_with_one_attempt_smart_is_rejection_sampling():
    assert first_success_weight(CORRECT[:, :1])[:, 0].tolist() == CORRECT[:, 0].float().tolist()


def test_nothing_sampled_is_nothing_kept():
    nobody = torch.zeros_like(MASK)
    assert (middling_mean_weight(REWARD, nobody, lowest=-1.0, highest=1.0) == 0).all()
    assert (spread_weight(REWARD, nobody) == 0).all()
