"""Rewards for length against TRL's own functions, and the numbers of the papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.rewards import accuracy_rewards, get_cosine_scaled_reward, get_soft_overlong_punishment

from objectives.contract import Case
from plaudit.objectives.reward_terms.length_rewards import (
    cosine_length_reward,
    group_length_reward,
    length_window_score,
    overlong_penalty,
)

LENGTH = torch.tensor([10, 12, 13, 14, 16])
CORRECT = torch.tensor([True, False, True, False, True])
GROUP = torch.tensor([[2, 4, 6, 9], [5, 5, 5, 1], [7, 3, 3, 8], [1, 2, 3, 4], [6, 6, 6, 6]])
RIGHT = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)

examples = settings(deadline=None, max_examples=30)

CASES = [
    Case(
        overlong_penalty,
        lambda rows: {"length": LENGTH[:rows], "maximum": 16, "buffer": 4},
        invalid={"maximum": [0, -1], "buffer": [-1, 17], "factor": [0.0, -1.0, math.nan]},
    ),
    Case(
        overlong_penalty, lambda rows: {"length": LENGTH[:rows], "maximum": 13, "buffer": 0, "factor": 2.0}, name="hard"
    ),
    Case(
        cosine_length_reward,
        lambda rows: {"length": LENGTH[:rows], "correct": CORRECT[:rows], "maximum": 14},
        invalid={"maximum": [0], "correct_long": [2.5, math.nan], "wrong_long": [-11.0, math.nan]},
    ),
    Case(
        cosine_length_reward,
        lambda rows: {"length": LENGTH[:rows], "correct": CORRECT[:rows], "maximum": 14, "exceeded": None},
        name="clamped",
    ),
    Case(group_length_reward, lambda rows: {"length": GROUP[:rows], "correct": RIGHT[:rows]}, exchangeable="K"),
    Case(
        group_length_reward,
        lambda rows: {"length": GROUP[:rows], "correct": RIGHT[:rows], "mask": MASK[:rows]},
        name="masked",
        exchangeable="K",
    ),
    Case(
        length_window_score,
        lambda rows: {"length": LENGTH[:rows], "source_length": torch.full((5,), 12)[:rows]},
        invalid={"lowest": [-0.1, math.nan], "highest": [0.6, 0.1]},
    ),
]

lengths = st.lists(st.integers(0, 40), min_size=1, max_size=8)


def test_the_docstrings_examples():
    """The first is the survey's checked fact, too: Lmax 16, buffer 4."""
    assert overlong_penalty(LENGTH, maximum=16, buffer=4).tolist() == [0, 0, -0.25, -0.5, -1]
    half = torch.tensor([8, 8])
    reward = cosine_length_reward(half, torch.tensor([True, False]), maximum=16)
    assert reward.tolist() == [pytest.approx((2 + 1) / 2), pytest.approx(-5)]
    group = torch.tensor([[2, 4, 6]])
    assert group_length_reward(group, torch.tensor([[True] * 3])).tolist() == [[1 / 2, 0, -1 / 2]]
    assert group_length_reward(group, torch.tensor([[False] * 3])).tolist() == [[0, 0, -1 / 2]]
    assert length_window_score(torch.tensor([6, 13, 14]), torch.tensor([10, 10, 10])).tolist() == [1, 1, 0]


@examples
@given(lengths, st.integers(1, 30), st.integers(0, 30))
def test_trl_punishes_overlong_outputs_alike(values, maximum, buffer):
    buffer = min(buffer, maximum)
    peer = get_soft_overlong_punishment(max_completion_len=maximum, soft_punish_cache=buffer)
    expected = peer(completion_ids=[[1] * length for length in values])
    ours = overlong_penalty(torch.tensor(values), maximum=maximum, buffer=buffer)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_without_a_buffer_the_first_token_too_many_costs_all():
    ours = overlong_penalty(torch.tensor([15, 16, 17]), maximum=16, buffer=0, factor=2.0)
    assert ours.tolist() == [0, 0, -2]
    assert get_soft_overlong_punishment(16, 0)(completion_ids=[[1] * 15, [1] * 16, [1] * 17]) == [0, 0, -1]


def test_verl_goes_on_falling_beyond_the_maximum():
    """verl's ``min(-(len - (Lmax - B)) / B * f, 0)``: the same up to the maximum, which no output exceeds there."""
    maximum, buffer, factor = 16, 4, 2.0
    length = torch.arange(0, 21)
    verl = torch.minimum(-(length - (maximum - buffer)) / buffer * factor, torch.tensor(0.0))
    ours = overlong_penalty(length, maximum=maximum, buffer=buffer, factor=factor)
    torch.testing.assert_close(ours[: maximum + 1], verl[: maximum + 1])
    assert (ours[maximum:] == -factor).all()
    assert verl[-1] == -2 * factor


@examples
@given(st.integers(1, 30), st.data())
def test_the_overlong_penalty_never_pays_and_never_falls_behind_its_factor(maximum, data):
    buffer = data.draw(st.integers(0, maximum))
    penalty = overlong_penalty(torch.arange(0, 2 * maximum), maximum=maximum, buffer=buffer, factor=3.0)
    assert (penalty.diff() <= 0).all()
    assert penalty.max() == 0
    assert penalty.min() >= -3


@pytest.mark.parametrize("maximum", [7, 20])
def test_trl_scales_by_the_same_cosine(monkeypatch, maximum):
    """TRL's own class, with the verdicts handed to it; it clamps at the maximum, where the paper pays r_e."""
    values, verdicts = [0, 3, 7, 10, 19, 20, 33], [True, False, True, False, True, False, True]
    monkeypatch.setattr(accuracy_rewards, "accuracy_reward", lambda completions, solution: verdicts)
    ends = {"min_value_wrong": -4.0, "max_value_wrong": -0.5, "min_value_correct": 0.25, "max_value_correct": 3.0}
    peer = get_cosine_scaled_reward(max_len=maximum, **ends)
    expected = peer(completions=[], solution=[], completion_ids=[[1] * length for length in values])
    ours = cosine_length_reward(
        torch.tensor(values),
        torch.tensor(verdicts),
        maximum=maximum,
        correct_short=3.0,
        correct_long=0.25,
        wrong_short=-4.0,
        wrong_long=-0.5,
        exceeded=None,
    )
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_the_papers_cosine_and_its_ends():
    """CosFn(t, T, ηmin, ηmax) = ηmin + (ηmax - ηmin)(1 + cos(πt/T)) / 2 with r0 = (2, -10), rL = (1, 0), re = -10."""
    length = torch.arange(0, 13)
    for verdict, start, end in ((True, 2.0, 1.0), (False, -10.0, 0.0)):
        reward = cosine_length_reward(length, torch.full((13,), verdict), maximum=12)
        for t in range(12):
            assert reward[t].item() == pytest.approx(
                end + (start - end) * (1 + math.cos(math.pi * t / 12)) / 2, abs=1e-5
            )
        assert reward[12] == -10
        assert (reward[:12].diff() * (end - start) > 0).all()  # right ones fall with length, wrong ones rise


def test_kimis_reward_by_loops():
    for mask in (None, MASK):
        ours = group_length_reward(GROUP, RIGHT, mask)
        for i in range(5):
            members = [k for k in range(4) if mask is None or mask[i, k]]
            values = [GROUP[i, k].item() for k in members]
            for k in range(4):
                expected = 0.0
                if k in members and max(values) > min(values):
                    bonus = 0.5 - (GROUP[i, k].item() - min(values)) / (max(values) - min(values))
                    expected = bonus if RIGHT[i, k] else min(0.0, bonus)
                assert ours[i, k].item() == pytest.approx(expected)


@examples
@given(st.lists(st.integers(0, 100), min_size=2, max_size=6), st.integers(1, 5), st.integers(0, 50))
def test_kimis_reward_does_not_care_for_the_unit_of_length(values, scale, shift):
    right = torch.ones(1, len(values), dtype=torch.bool)
    ours = group_length_reward(torch.tensor([values]), right)
    torch.testing.assert_close(group_length_reward(torch.tensor([values]) * scale + shift, right), ours)
    if len(set(values)) > 1:
        assert ours.max() == 0.5
        assert ours.min() == -0.5


def test_the_window_is_keep_it_simples():
    """1 - the official penalty: 1 outside of [min, max], and nothing fits an empty source."""
    length, source = torch.tensor([0, 5, 6, 7, 12, 13, 14, 3, 1]), torch.tensor([10] * 7 + [0, 1])
    expected = []
    for words, of in zip(length.tolist(), source.tolist(), strict=True):
        ratio = 0.0 if of == 0 else words / of
        expected.append(1.0 - (ratio < 0.6 or ratio > 1.3))
    assert length_window_score(length, source).tolist() == expected


def test_messages():
    with pytest.raises(ValueError, match=r"buffer: expected a number in \[0, maximum = 16\], got 17"):
        overlong_penalty(LENGTH, maximum=16, buffer=17)
