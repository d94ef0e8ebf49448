"""Records and summaries: which set a record belongs to, what a summary is worth, what writers and readers do."""

from __future__ import annotations

import math
from itertools import chain, combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.feedback.records import Context, Output
from plaudit.testbeds import summaries

RECORD = Context(content="keapFd=")  # important: a, F, d (3 each); slight: e (1); nothing: k, p


def worth(text: str, record: Context = RECORD) -> float:
    return summaries.utility(record, Output(content=text))


def test_records_hold_6_to_12_facts_of_different_kinds_and_one_that_matters():
    found = summaries.records(500, seed=0)
    sizes = set()
    for context in found:
        stated = summaries.facts(context)
        assert len({fact.lower() for fact in stated}) == len(stated)
        assert any(summaries.importance(fact) == summaries.IMPORTANT for fact in stated)
        assert set(context.text) <= set(summaries.CHARACTERS)
        sizes.add(len(stated))
    assert sizes == set(range(6, 13))
    assert len({context.text for context in found}) == 500


def test_what_is_learned_from_and_what_is_measured_on_never_meet():
    learned = {context.text for seed in range(5) for context in summaries.records(1000, seed=seed)}
    measured = {context.text for seed in range(5) for context in summaries.records(300, seed=seed, held_out=True)}
    assert not learned & measured


def test_a_seed_gives_the_same_records_and_references_and_another_gives_others():
    one, other = summaries.records(20, seed=3), summaries.records(20, seed=4)
    assert one == summaries.records(40, seed=3)[:20]
    assert one != other
    texts = [[summaries.written(context, seed=seed) for context in one] for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("text", "covered", "said", "false"),
    [
        ("", 0, 0, 0),
        ("adF", 9, 3, 0),
        ("Fda", 9, 3, 0),  # the order does not matter
        ("keapFd", 10, 6, 0),
        ("aa", 3, 2, 0),  # covered once, paid twice
        ("A", 0, 1, 1),  # the wrong size
        ("bb", 0, 2, 2),
        ("a=", 3, 2, 1),
    ],
)
def test_a_summary_is_worth_what_it_covers_less_its_length_and_its_errors(text, covered, said, false):
    expected = covered / 10 - summaries.LENGTH_COST * said - summaries.FALSE_COST * false
    assert worth(text) == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_no_summary_is_worth_more_than_the_ideal_one(seed):
    (context,) = summaries.records(1, seed=seed)
    stated = summaries.facts(context)
    every = chain.from_iterable(combinations(stated, count) for count in range(len(stated) + 1))
    best = max(worth("".join(chosen), context) for chosen in every)
    assert worth(summaries.ideal(context), context) == pytest.approx(best)


def test_writers_fall_short_of_the_ideal_and_err_as_often_as_is_said():
    found = summaries.records(1500, seed=90)
    texts = [summaries.written(context, seed=90) for context in found]
    assert all(texts)
    ideal = fmean(worth(summaries.ideal(context), context) for context in found)
    made = fmean(worth(text, context) for text, context in zip(texts, found, strict=True))
    assert 0 < made < ideal - 0.2
    said = [(fact, context) for text, context in zip(texts, found, strict=True) for fact in text]
    share = fmean(fact not in context.text for fact, context in said)
    assert share == pytest.approx(summaries._MISTAKEN, abs=0.012)
    assert all(fact.swapcase() in context.text for fact, context in said if fact not in context.text)


def test_readers_choose_by_utility_with_logistic_noise():
    people = summaries.readers()
    chance = people.preference_probability(RECORD, Output(content="adF"), Output(content="ad"))
    difference = worth("adF") - worth("ad")
    assert chance == pytest.approx(1 / (1 + math.exp(-difference / summaries.NOISE)))
    assert 0.5 < chance < 1


@pytest.mark.parametrize("text", ["keapFd", "keapF=", "keapFz=", "keapFdkeapFda=", "="])
def test_what_is_no_record_cannot_be_judged(text):
    judged = summaries.judge().reward([Context(content=text)], [Output(content="a")])
    assert judged.judged.tolist() == [False]
    assert f"Expected a record such as keapFd=, got {text!r}" in judged.errors[0]
