"""Cycles in preferences: by hand, on matrices, against coins, and among real people's comparisons."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.evaluation import (
    EvaluationError,
    intransitivity,
    intransitivity_of_matrices,
    intransitivity_of_records,
)
from plaudit.evaluation.intransitivity import CHANCE
from plaudit.feedback.formats import Parsed, read
from plaudit.feedback.records import Comparison, Context, Output, Source
from plaudit.training.randomness import numpy_generator

ROCK_PAPER_SCISSORS = [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]


def generator():
    return numpy_generator(0, "cycles")


def compared(choices: dict[str, str], source: str = "ann", context: str = "q") -> list[Comparison]:
    """Comparisons such as {"ab": "a"}: of output a with output b, the first was preferred."""
    return [
        Comparison(
            source=Source(name=source), context=Context(content=context), outputs=[Output(content=o) for o in pair],
            choice=choice,
        )
        for pair, choice in choices.items()
    ]  # fmt: skip


def test_one_circle_and_one_order():
    found = intransitivity([{("a", "b"): 1, ("b", "c"): 1, ("a", "c"): -1}, {("a", "b"): 1, ("b", "c"): 1, ("a", "c"): 1}],
                           generator=generator())  # fmt: skip
    assert (found.share.value, found.triples, found.cyclic) == (0.5, 2, 1)
    assert found.against_chance == 2.0


def test_rock_paper_scissors_as_a_matrix():
    assert intransitivity_of_matrices([ROCK_PAPER_SCISSORS], generator=generator()).share.value == 1.0


def test_ties_and_pairs_that_were_not_compared_are_counted_apart():
    groups = [
        {("a", "b"): 1, ("b", "c"): 1, ("a", "c"): -1, ("c", "d"): 1},
        {("a", "b"): 0, ("b", "c"): 0, ("a", "c"): 1},
        {("a", "b"): 0, ("b", "c"): 1, ("a", "c"): 1},
    ]
    found = intransitivity(groups, generator=generator())
    assert (found.triples, found.tied, found.unranked_ties, found.incomplete) == (1, 2, 1, 3)


def test_three_transitive_people_whose_majority_runs_in_a_circle():
    people = {
        "ann": {"ab": "a", "bc": "a", "ac": "a"},  # a b c
        "bob": {"bc": "a", "ca": "a", "ba": "a"},  # b c a
        "cec": {"ca": "a", "ab": "a", "cb": "a"},  # c a b
    }
    records = [record for name, choices in people.items() for record in compared(choices, name)]
    assert intransitivity_of_records(records, generator=generator()).cyclic == 0
    majority = intransitivity_of_records(records, generator=generator(), pooled=True)
    assert (majority.cyclic, majority.triples) == (1, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5, allow_nan=False).map(lambda v: round(v, 2)), min_size=3, max_size=6, unique=True))
def test_a_reward_never_runs_in_circles(rewards):
    r = np.array(rewards)
    matrix = 1 / (1 + np.exp(-(r[:, None] - r[None])))
    found = intransitivity_of_matrices([matrix], generator=generator(), resamples=100)
    assert found.cyclic == 0


def test_coins_make_the_share_that_chance_is_said_to_make():
    coins = numpy_generator(3, "coins")
    groups = [{pair: float(coins.choice([-1, 1])) for pair in combinations(range(4), 2)} for _ in range(800)]
    share = intransitivity(groups, generator=generator(), resamples=1000).share
    assert share.low < CHANCE < share.high
    assert share.high - share.low < 0.05
    assert share.clusters == 800


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[0.5, 0.9], [0.2, 0.5]], r"expected P\[i, j\] \+ P\[j, i\] = 1, got 0.9 \+ 0.2 at i = 0, j = 1"),
        ([[0.5, 1.5], [-0.5, 0.5]], r"expected probabilities in \[0, 1\], got 1.5"),
        ([[0.5, 0.5, 0.5]], r"expected a square one, got shape \(1, 3\)"),
        ([[0.5, 1.0], [0.0, 0.5]], r"expected three items with all three pairs decided, got none"),
    ],
)
def test_what_is_no_preference_matrix(matrix, said):
    with pytest.raises(EvaluationError, match=said):
        intransitivity_of_matrices([matrix], generator=generator())


def test_real_people_do_not_run_in_circles(qa_feedback):
    """The figure in docs/qa_feedback.md."""
    results = list(read(qa_feedback))
    records = [r.record for r in results if isinstance(r, Parsed) and isinstance(r.record, Comparison)]
    found = intransitivity_of_records(records, generator=numpy_generator(0, "qa", "cycles"))
    assert (found.cyclic, found.triples, found.tied, found.unranked_ties, found.incomplete) == (0, 1449, 551, 29, 0)
    assert found.share.clusters == 434
    assert 0.008 < found.share.high < 0.009
