"""METEOR against sums worked by hand and against NLTK, and the similarity of outputs of different contexts."""

from __future__ import annotations

from itertools import permutations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.evaluation import EvaluationError, meteor, meteor_similarity

TEXTS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(" ".join)


def f_mean(precision: float, recall: float) -> float:
    return 10 * precision * recall / (recall + 9 * precision)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "score"),
    [
        ("a b c d", "a b c d", 1 - 0.5 / 4**3),
        ("a b c d", "d c b a", 1 - 0.5),  # four chunks of four
        ("a b c d", "a b", f_mean(1, 1 / 2) * (1 - 0.5 / 2**3)),
        ("a b", "a b c d", f_mean(1 / 2, 1) * (1 - 0.5 / 2**3)),  # recall weighs more: this is better than the last
        ("a b c d", "a x b", f_mean(2 / 3, 1 / 2) * (1 - 0.5)),  # apart in the hypothesis
        ("a x b", "a b", f_mean(1, 2 / 3) * (1 - 0.5)),  # apart in the reference
        ("a b c", "A B C", 1 - 0.5 / 3**3),
        ("a", "a a", f_mean(1 / 2, 1) * (1 - 0.5)),  # a word is matched once
        ("a b", "c d", 0.0),
        ("a b", "", 0.0),
        ("", "", 0.0),
    ],
)
def test_sums_by_hand(reference, hypothesis, score):
    assert meteor(reference, hypothesis) == pytest.approx(score, abs=1e-12)


# Without stemming and WordNet: meteor_score([reference.split()], hypothesis.split(), ...) of NLTK 3.10.4, with a stemmer that
# returns its word and a WordNet without synsets.
NLTK = [
    ("it is a guide to action which ensures that the military always obeys the commands of the party",
     "it is a guide to action that ensures that the military will forever heed party commands", 0.6320224719101123),
    ("the cat sat on the mat", "on the mat sat the cat", 0.5),
    ("a b a b a", "b a a b", 0.6441326530612245),
    ("the old man the boat the old man", "the man old the", 0.2631578947368421),
]  # fmt: skip


@pytest.mark.parametrize(("reference", "hypothesis", "score"), NLTK)
def test_numbers_of_nltk(reference, hypothesis, score):
    assert meteor(reference, hypothesis) == pytest.approx(score, abs=1e-12)


@given(TEXTS, TEXTS)
def test_it_lies_between_zero_and_the_score_of_equal_texts(reference, hypothesis):
    score, words = meteor(reference, hypothesis), len(reference.split())
    assert 0 <= score < 1
    assert (score == 0) == (not set(reference.split()) & set(hypothesis.split()))
    if words:
        assert score <= meteor(reference, reference)
        assert meteor(reference, reference) == pytest.approx(1 - 0.5 / words**3)


@given(st.lists(TEXTS, min_size=2, max_size=5))
def test_the_mean_similarity_is_the_mean_over_ordered_pairs(texts):
    pairs = fmean(meteor(one, other) for one, other in permutations(texts, 2))
    assert fmean(meteor_similarity(texts)) == pytest.approx(pairs, abs=1e-12)


def test_equal_outputs_are_alike_and_one_alone_is_compared_with_nothing():
    assert meteor_similarity(["a b", "a b", "c"]) == pytest.approx([(1 - 0.5 / 8) / 2] * 2 + [0])
    with pytest.raises(EvaluationError, match="texts: expected at least two to compare, got 1"):
        meteor_similarity(["a"])
