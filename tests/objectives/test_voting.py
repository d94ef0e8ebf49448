"""Votes: counts by hand, ties, abstentions, and one model alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from objectives.contract import Case, uniform
from plaudit.objectives.voting import collective_vote, self_consistency

ANSWER = torch.randint(-1, 3, (5, 3, 6), generator=torch.Generator().manual_seed(1))
WEIGHT = uniform(5, 3, seed=2, low=0.2)
CASES = [
    Case(self_consistency, lambda rows: {"answer": ANSWER[:rows, 0]}, exchangeable="K"),
    Case(collective_vote, lambda rows: {"answer": ANSWER[:rows]}),
    Case(collective_vote, lambda rows: {"answer": ANSWER[:rows], "weight": WEIGHT[:rows]}, name="weighted"),
]


def test_the_docstrings_examples():
    assert self_consistency(torch.tensor([[4, 4, 7, -1]])).item() == 0.5
    vote = collective_vote(torch.tensor([[[1, 1], [2, 3]]]), torch.tensor([[1.0, 0.5]]))
    assert vote.winner.item() == 1
    assert vote.share.item() == pytest.approx(2 / 3)
    assert vote.reward.tolist() == [[[1, 1], [0, 0]]]


@pytest.mark.parametrize("weighted", [False, True])
def test_votes_are_counted(weighted):
    """Against a counter; the winner must be clear, otherwise nobody is rewarded."""
    weight = WEIGHT if weighted else torch.ones(5, 3).double()
    vote = collective_vote(ANSWER, WEIGHT if weighted else None)
    for context in range(5):
        support, count = Counter(), Counter()
        for model in range(3):
            for answer in ANSWER[context, model].tolist():
                if answer >= 0:
                    support[answer] += weight[context, model].item()
                    count[answer] += 1
        ranked = sorted(support, key=lambda answer: (round(support[answer], 9), count[answer]), reverse=True)
        first, second = ranked[:2]
        if (round(support[first], 9), count[first]) == (round(support[second], 9), count[second]):
            assert vote.winner[context] == -1
            assert (vote.reward[context] == 0).all()
            assert vote.share[context] == 0
        else:
            assert vote.winner[context] == first
            assert torch.equal(vote.reward[context] == 1, ANSWER[context] == first)
            assert vote.share[context].item() == pytest.approx(support[first] / (6 * weight[context].sum().item()))


def test_self_consistency_is_the_share_of_the_most_frequent_answer():
    for row in ANSWER[:, 0]:
        counts = Counter(answer for answer in row.tolist() if answer >= 0)
        assert self_consistency(row[None]).item() == pytest.approx(max(counts.values(), default=0) / 6)


def test_class_0_is_an_answer_like_any_other():
    answer = torch.tensor([[0, 0, 1]])
    assert self_consistency(answer).item() == pytest.approx(2 / 3)
    assert collective_vote(answer[:, None]).winner.item() == 0


def test_one_model_is_a_majority_vote_whatever_its_weight():
    """RLCCF with N = 1 is TTRL: the weight cancels."""
    alone = ANSWER[:, :1]
    plain = collective_vote(alone)
    weighted = collective_vote(alone, self_consistency(ANSWER[:, 0])[:, None])
    assert torch.equal(plain.reward, weighted.reward)
    assert torch.equal(plain.winner, weighted.winner)
    torch.testing.assert_close(plain.share, weighted.share)
    decided = plain.winner >= 0
    torch.testing.assert_close(plain.share[decided], self_consistency(ANSWER[:, 0])[decided])


def test_a_sure_model_outvotes_two_that_scatter():
    """Weighting by self-consistency: 4 of 4 for one answer against 2 of 4 each for another, 4 votes to 4 plainly."""
    answer = torch.tensor([[[7, 7, 7, 7], [5, 5, 1, 2], [5, 5, 3, 4]]])
    assert collective_vote(answer).winner.item() == -1
    sure = torch.stack([self_consistency(answer[:, m]) for m in range(3)], -1)
    assert collective_vote(answer, sure).winner.item() == 7


def test_equal_weights_are_decided_by_votes():
    vote = collective_vote(torch.tensor([[[1, -1], [2, 2]]]), torch.tensor([[1.0, 0.5]]))
    assert vote.winner.item() == 2


def test_models_and_outputs_may_change_places():
    order, models = [3, 0, 5, 1, 4, 2], [2, 0, 1]
    moved = collective_vote(ANSWER[:, models][:, :, order], WEIGHT[:, models])
    vote = collective_vote(ANSWER, WEIGHT)
    assert torch.equal(moved.reward, vote.reward[:, models][:, :, order])
    assert torch.equal(moved.winner, vote.winner)


def test_nothing_readable_wins_nothing():
    vote = collective_vote(torch.full((1, 2, 3), -1))
    assert (vote.winner.item(), vote.share.item(), vote.reward.sum().item()) == (-1, 0, 0)
    assert self_consistency(torch.full((1, 3), -1)).item() == 0
    silent = collective_vote(torch.tensor([[[1, 1]]]), torch.zeros(1, 1))
    assert (silent.winner.item(), silent.share.item()) == (-1, 0)
