"""Agreement of annotators and their leanings, against published examples and planted habits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.evaluation import (
    EvaluationError,
    agreement_with,
    krippendorff_alpha,
    leanings,
    leave_one_out_agreement,
)
from plaudit.feedback.records import Comparison, Context, Output, Source

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units, missing labels
OBSERVERS = (
    ["1", "2", "3", "3", "2", "1", "4", "1", "2", ".", ".", "."],
    ["1", "2", "3", "3", "2", "2", "4", "1", "2", "5", ".", "3"],
    [".", "3", "3", "3", "2", "3", "4", "2", "2", "5", "1", "."],
    ["1", "2", "3", "3", "2", "4", "4", "1", "2", "5", "1", "."],
)
UNITS = [[label for label in labels if label != "."] for labels in zip(*OBSERVERS, strict=True)]


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def comparison(a: str, b: str, choice: str, *, asked: str = "Say it.", shown=(0, 1)) -> Comparison:
    outputs = (Output(content=a), Output(content=b))
    source = Source(kind="person", name="someone")
    return Comparison(source=source, context=Context(content=asked), outputs=outputs, choice=choice, shown=shown)


def test_alpha_of_the_published_example():
    found = krippendorff_alpha(UNITS, generator=generator())
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert (found.n, found.clusters) == (40, 11)
    assert 0.3 < found.low < found.value < found.high <= 1


def test_alpha_is_one_where_all_agree_and_about_zero_where_labels_are_drawn():
    assert krippendorff_alpha([["a", "a"], ["b", "b", "b"]], generator=generator()).value == 1
    drawn = generator().integers(0, 3, size=(2000, 3)).tolist()
    found = krippendorff_alpha(drawn, generator=generator())
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.05


def test_alpha_is_below_zero_where_two_contradict_each_other():
    """D_o = 1, and of 2 n labels, half of each, D_e = n / (2 n - 1): alpha = 1 / n - 1."""
    found = krippendorff_alpha([["a", "b"]] * 10, generator=generator())
    assert found.value == pytest.approx(1 - 19 / 10)


@given(st.permutations(range(11)), st.randoms(use_true_random=False))
def test_alpha_knows_no_order_of_items_labels_or_names(order, random):
    units = [unit for unit in UNITS if len(unit) > 1]
    renamed = {name: number for number, name in enumerate(random.sample("12345", 5))}
    moved = [[renamed[label] for label in random.sample(units[index], len(units[index]))] for index in order]
    first, second = (krippendorff_alpha(rows, generator=generator(), resamples=100) for rows in (units, moved))
    assert first.value == pytest.approx(second.value)


def test_each_annotator_is_held_against_the_rest():
    assert leave_one_out_agreement([["a", "a", "b"]], generator=generator()).value == pytest.approx(1 / 3)
    found = leave_one_out_agreement([["a", "a"], ["a", "b"], ["b"], []], generator=generator())
    assert (found.value, found.n, found.clusters) == (0.5, 4, 2)


def test_of_several_most_frequent_labels_each_counts_its_share():
    found = agreement_with(["a", "b", "c", "a"], [["a", "b"], ["b"], ["a", "b"], []], generator=generator())
    assert (found.value, found.n) == (0.5, 3)


def test_agreement_follows_the_noise_of_labels():
    """Dubois et al.: with a share p of the labels replaced by a fair coin's, agreement a falls to 1/2 + (1 - p) (a - 1/2)."""
    random = generator()
    truth = random.random(20_000) < 0.5
    clean = truth ^ (random.random(20_000) < 0.25)
    noisy = np.where(random.random(20_000) < 0.5, random.random(20_000) < 0.5, clean)
    found = agreement_with(noisy.tolist(), [[label] for label in truth.tolist()], generator=random)
    assert found.value == pytest.approx(0.625, abs=0.015)


def test_leanings_find_what_was_planted():
    """Always the longer output, the first shown in three of four, lists only where they are longer."""
    long, short, listed = "a much longer answer", "short", "- one\n- two"
    rows = [
        comparison(long, short, "a", asked="1"),
        comparison(short, long, "b", asked="2", shown=(1, 0)),
        comparison(long, short, "a", asked="3"),
        comparison(long, listed, "a", asked="4", shown=(1, 0)),
        comparison(long, short, "tie", asked="5"),
        comparison(long, short, "cannot_judge", asked="6"),
    ]
    found = leanings(rows, generator=generator())
    assert (found.longer.value, found.longer.n) == (1, 4)
    assert (found.first.value, found.first.n) == (0.75, 4)
    assert (found.listed.value, found.listed.n) == (0, 1)
    assert found.longer.high == 1 > found.longer.low


def test_without_a_difference_there_is_no_leaning():
    found = leanings([comparison("same", "same", "a", shown=None)], generator=generator())
    assert (found.longer, found.listed, found.first) == (None, None, None)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: krippendorff_alpha([["a", "b"]], generator=generator()), "expected at least two .* got 1"),
        (lambda: krippendorff_alpha([["a", "a"]] * 3, generator=generator()), "expected labels that differ, got 'a'"),
        (lambda: leave_one_out_agreement([["a"]], generator=generator()), "at least one item with two labels"),
        (lambda: agreement_with(["a"], [[]], generator=generator()), "that somebody else labelled, got none"),
        (lambda: agreement_with(["a"], [], generator=generator()), "as many values as labels has, 1, got 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_says_why(ask, message):
    with pytest.raises(EvaluationError, match=message):
        ask()
