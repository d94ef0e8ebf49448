"""Votes: by counting with Python's own counter, with ties that decide nothing, and RLCCF's limits."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.contract import Case, normal
from plaudit.objectives.reward_terms.consensus_rewards import (
    agreement_reward,
    collective_consistency,
    filtered_majority_reward,
    majority_reward,
    rlccf_reward,
    scored_majority_reward,
    self_consistency,
)

ANSWER = torch.tensor([[7, 3, 7, -1], [7, 3, 7, 3], [-1, -1, -1, -1], [1, 2, 3, 2], [5, 5, 5, 5]])
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
ACCEPTED = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
SCORE = normal(5, 4, seed=1)
MODELS = torch.stack([ANSWER, ANSWER.flip(-1).roll(1, 0), ANSWER.roll(2, 0)], 1)
MODELS_MASK = torch.stack([MASK, MASK.roll(1, 0), MASK.roll(1, 1)], 1)
examples = settings(deadline=None, max_examples=60)
answers = st.lists(st.integers(-1, 3), min_size=1, max_size=7)

CASES = [
    Case(function, lambda rows: {"answer": ANSWER[:rows]}, exchangeable="K")
    for function in (majority_reward, agreement_reward, self_consistency)
] + [
    Case(function, lambda rows: {"answer": ANSWER[:rows], "mask": MASK[:rows]}, name="masked", exchangeable="K")
    for function in (majority_reward, agreement_reward, self_consistency)
]
CASES += [
    Case(
        filtered_majority_reward,
        lambda rows: {"answer": ANSWER[:rows], "accepted": ACCEPTED[:rows], "mask": MASK[:rows]},
        exchangeable="K",
    ),
    Case(
        scored_majority_reward,
        lambda rows: {"answer": ANSWER[:rows], "score": SCORE[:rows], "mask": MASK[:rows]},
        extreme=("score",),
        masks={"mask": ("score",)},
        exchangeable="K",
    ),
    Case(rlccf_reward, lambda rows: {"answer": MODELS[:rows]}, exchangeable="G"),
    Case(
        rlccf_reward,
        lambda rows: {"answer": MODELS[:rows], "mask": MODELS_MASK[:rows]},
        name="masked",
        exchangeable="G",
    ),
    Case(collective_consistency, lambda rows: {"answer": MODELS[:rows]}, exchangeable="G"),
    Case(
        collective_consistency,
        lambda rows: {"answer": MODELS[:rows], "mask": MODELS_MASK[:rows]},
        name="masked",
        exchangeable="K",
    ),
]


def test_the_docstrings_examples():
    assert majority_reward(torch.tensor([[7, 3, 7, -1]])).reward.tolist() == [[1, 0, 1, 0]]
    assert not majority_reward(torch.tensor([[7, 3]])).decided.item()
    filtered = filtered_majority_reward(torch.tensor([[7, 7, 3]]), torch.tensor([[False, False, True]]))
    assert filtered.reward.tolist() == [[0, 0, 1]]
    scored = scored_majority_reward(torch.tensor([[7, 3]]), torch.tensor([[-1.0, -2.0]]))
    assert scored.reward.tolist() == [[1, 0]]
    assert agreement_reward(torch.tensor([[7, 3, 7, -1]])).tolist() == [[1 / 2, 1 / 4, 1 / 2, 0]]
    assert self_consistency(torch.tensor([[7, 3, 7, -1]])).item() == 1 / 2
    models = torch.tensor([[[7, 7, 7], [3, 3, 5]]])
    assert rlccf_reward(models).reward.tolist() == [[[1, 1, 1], [0, 0, 0]]]
    assert collective_consistency(models).item() == pytest.approx(3 / (1 * 3 + 2 / 3 * 3))


def winner(votes):
    """The answer with the most votes; None if there is no single one."""
    best = [answer for answer, count in votes.items() if count == max(votes.values())]
    return best[0] if len(best) == 1 else None


@examples
@given(answers, st.data())
def test_majority_by_counting(values, data):
    mask = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    known = [value for value, there in zip(values, mask, strict=True) if there and value >= 0]
    best = winner(Counter(known))
    reward, decided = majority_reward(torch.tensor([values]), torch.tensor([mask]))
    assert decided.item() == (best is not None)
    expected = [float(best is not None and there and value == best) for value, there in zip(values, mask, strict=True)]
    assert reward.tolist() == [expected]
    share = max(Counter(known).values(), default=0) / max(sum(mask), 1)
    assert self_consistency(torch.tensor([values]), torch.tensor([mask])).item() == pytest.approx(share)
    soft = [known.count(v) / max(sum(mask), 1) if m and v >= 0 else 0 for v, m in zip(values, mask, strict=True)]
    np.testing.assert_allclose(
        agreement_reward(torch.tensor([values]), torch.tensor([mask])).numpy(), [soft], rtol=1e-6
    )


def test_a_tie_depends_on_the_order_in_ttrls_code_and_on_nothing_here():
    assert Counter(["a", "b"]).most_common(1) != Counter(["b", "a"]).most_common(1)
    for tie in ([1, 2], [2, 1], [1, 2, 2, 1]):
        reward, decided = majority_reward(torch.tensor([tie]))
        assert not decided.item()
        assert (reward == 0).all()


@examples
@given(answers)
def test_the_names_of_the_answers_do_not_matter(values):
    renamed = [value if value < 0 else 10 - 3 * value for value in values]
    assert torch.equal(majority_reward(torch.tensor([values])).reward, majority_reward(torch.tensor([renamed])).reward)


def test_agreement_has_the_collision_probability_as_its_mean():
    shares = np.array(list(Counter([1, 2, 2, 3]).values())) / 4
    assert agreement_reward(torch.tensor([[1, 2, 2, 3]])).mean().item() == pytest.approx((shares**2).sum())


@examples
@given(answers, st.data())
def test_the_filtered_vote_by_counting(values, data):
    accepted = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    voters = [v for v, ok in zip(values, accepted, strict=True) if ok and v >= 0] or [v for v in values if v >= 0]
    best = winner(Counter(voters))
    reward, decided = filtered_majority_reward(torch.tensor([values]), torch.tensor([accepted]))
    assert decided.item() == (best is not None)
    assert reward.tolist() == [[float(best is not None and value == best) for value in values]]


def test_accepting_all_or_none_is_the_plain_vote():
    for accepted in (torch.ones_like(MASK), torch.zeros_like(MASK)):
        filtered = filtered_majority_reward(ANSWER, accepted, MASK)
        plain = majority_reward(ANSWER, MASK)
        assert torch.equal(filtered.reward, plain.reward)
        assert torch.equal(filtered.decided, plain.decided)


@examples
@given(answers, st.data())
def test_the_scored_vote_by_counting(values, data):
    score = data.draw(st.lists(st.integers(-5, 5).map(float), min_size=len(values), max_size=len(values)))
    of = defaultdict(list)
    for value, number in zip(values, score, strict=True):
        if value >= 0:
            of[value].append(number)
    most = max(map(len, of.values()), default=0)
    means = {value: Fraction(int(sum(numbers)), len(numbers)) for value, numbers in of.items() if len(numbers) == most}
    best = winner(means)
    reward, decided = scored_majority_reward(torch.tensor([values]), torch.tensor([score]))
    assert decided.item() == (best is not None)
    assert reward.tolist() == [[float(best is not None and value == best) for value in values]]


def rlccf_by_counting(models):
    """From the specification, in exact fractions: SC weights, then the plain count, then nothing."""
    vote, count, total = defaultdict(Fraction), Counter(), Fraction(0)
    for samples in models:
        known = [value for value in samples if value >= 0]
        weight = Fraction(max(Counter(known).values(), default=0), len(samples))
        total += weight * len(samples)
        for value in known:
            vote[value] += weight
            count[value] += 1
    best = {value: count[value] for value, number in vote.items() if number == max(vote.values())}
    consistency = max(vote.values()) / total if total else Fraction(0)
    return winner(best) if best else None, consistency


@examples
@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_rlccf_by_counting(models, outputs, data):
    sample = st.lists(st.integers(-1, 3), min_size=outputs, max_size=outputs)
    values = data.draw(st.lists(sample, min_size=models, max_size=models))
    best, consistency = rlccf_by_counting(values)
    reward, decided = rlccf_reward(torch.tensor([values]))
    assert decided.item() == (best is not None)
    assert reward.tolist() == [[[float(best is not None and v == best) for v in row] for row in values]]
    assert collective_consistency(torch.tensor([values])).item() == pytest.approx(float(consistency))


@examples
@given(answers, st.data())
def test_with_one_model_rlccf_is_ttrl(values, data):
    """The specification's limit: the weight cancels."""
    mask = torch.tensor([data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))])
    answer = torch.tensor([values])
    collective, single = rlccf_reward(answer[:, None], mask[:, None]), majority_reward(answer, mask)
    assert torch.equal(collective.reward[:, 0], single.reward)
    assert torch.equal(collective.decided, single.decided)


def test_masks_delete_outputs_of_models():
    """A model with fewer outputs than the others: its self-consistency is over its own."""
    answer = torch.tensor([[[1, 1, 9], [2, 2, 2], [1, 2, -1]]])
    mask = torch.tensor([[[1, 1, 0], [1, 1, 1], [1, 1, 1]]], dtype=torch.bool)
    # weights 1, 1, 1/3: answer 1 has 2 + 1/3, answer 2 has 3 + 1/3
    assert rlccf_reward(answer, mask).reward.tolist() == [[[0, 0, 0], [1, 1, 1], [0, 1, 0]]]
    expected = (3 + 1 / 3) / (2 + 3 + 1)
    assert collective_consistency(answer, mask).item() == pytest.approx(expected)


def test_a_confident_minority_beats_a_wavering_majority():
    """Plain counting says 3 (4 of 9), self-consistency 7: 3 votes of weight 1 against 4 of at most 2/3."""
    models = torch.tensor([[[7, 7, 7], [3, 3, 5], [3, 3, 6]]])
    assert majority_reward(models.flatten(1)).reward.sum().item() == 4
    assert rlccf_reward(models).reward.tolist() == [[[1, 1, 1], [0, 0, 0], [0, 0, 0]]]


def test_votes_that_tie_go_to_the_plain_count_and_then_to_nobody():
    """Four votes of weight 1/2 against two of weight 1, then the same number on both sides."""
    answer = torch.tensor([[[1, 1, 8, 9], [1, 1, 8, 9], [2, 2, -1, -1]]])
    mask = torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]], dtype=torch.bool)
    reward, decided = rlccf_reward(answer, mask)
    assert decided.item()
    assert reward.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]]
    assert not rlccf_reward(torch.tensor([[[1, 1, 1, 8], [2, 2, 2, 9]]])).decided.item()


def test_no_answer_at_all_is_no_winner():
    nothing = torch.full((2, 3, 4), -1)
    result = rlccf_reward(nothing)
    assert not result.decided.any()
    assert (result.reward == 0).all()
    assert (collective_consistency(nothing) == 0).all()
    assert math.isfinite(self_consistency(nothing[0]).sum().item())
