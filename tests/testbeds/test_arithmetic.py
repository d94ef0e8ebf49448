"""Chained arithmetic: what a problem is, which set it belongs to, and what counts as right."""

from __future__ import annotations

import re

import pytest

from plaudit.feedback.records import Context, Output, Producer
from plaudit.testbeds import arithmetic


def said(text: str, *, finished: bool = True) -> Output:
    return Output(content=text, producer=Producer(model="m", sampler={"finished": finished}))


def test_problems_have_two_to_four_steps_and_their_worked_answer_is_what_python_computes():
    found = arithmetic.problems(300, seed=0)
    steps = set()
    for context in found:
        parts = re.findall(r"[-+*]?\d+", context.text)
        value, results = int(parts[0]), []
        for part in parts[1:]:
            value = eval(f"({value}{part[0]}{int(part[1:])}) % 97")
            results.append(f"{value:02}")
        assert arithmetic.worked(context) == ";".join(results)
        assert len(arithmetic.worked(context)) < arithmetic.MAX_NEW_TOKENS
        assert set(context.text + arithmetic.worked(context)) <= set(arithmetic.CHARACTERS)
        steps.add(len(results))
    assert steps == {2, 3, 4}
    assert len({context.text for context in found}) == 300


def test_what_is_learned_from_and_what_is_measured_on_never_meet():
    learned = {context.text for seed in range(5) for context in arithmetic.problems(2000, seed=seed)}
    measured = {context.text for seed in range(5) for context in arithmetic.problems(2000, seed=seed, held_out=True)}
    assert not learned & measured


def test_a_seed_gives_the_same_problems_and_another_gives_others():
    assert arithmetic.problems(20, seed=3) == arithmetic.problems(20, seed=3)
    assert arithmetic.problems(20, seed=3) == arithmetic.problems(40, seed=3)[:20]
    assert arithmetic.problems(20, seed=3) != arithmetic.problems(20, seed=4)


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        (said("21;63;56"), 1),
        (said("56"), 1),
        (said("99;56"), 1),  # only the last number is judged
        (said("21;63;57"), 0),
        (said("21;63;56", finished=False), 0),
        (said("21;63;56;"), 0),
        (said("21;;56"), 0),
        (said("-56"), 0),
        (said("56 or 57"), 0),
        (said(""), 0),
        (Output(content="56"), 1),  # a person's answer has no sampler
    ],
)
def test_an_answer_is_right_if_it_ends_in_time_with_the_result_and_else_wrong(answer, reward):
    judged = arithmetic.verifier().reward([Context(content="12+9*3-7=")], [answer])
    assert judged.value.tolist() == [reward]
    assert judged.judged.tolist() == [True]


def test_what_is_no_problem_cannot_be_judged():
    judged = arithmetic.verifier().reward([Context(content="How are you?")], [said("56")])
    assert judged.judged.tolist() == [False]
    assert "Expected a problem such as 12+9*3-7=, got 'How are you?'" in judged.errors[0]


def test_every_second_unequal_demonstration_stops_after_its_first_step():
    whole, unequal = (make(40, seed=1) for make in (arithmetic.demonstrations, arithmetic.unequal_demonstrations))
    assert unequal[::2] == whole[::2]
    for one, other in zip(unequal[1::2], whole[1::2], strict=True):
        assert one.context == other.context
        first, *rest = other.output.text.split(";")
        assert one.output.text == first
        assert rest


def test_demonstrations_are_right():
    for example in arithmetic.demonstrations(50, seed=1):
        assert arithmetic.right(example.context, example.output) == 1
