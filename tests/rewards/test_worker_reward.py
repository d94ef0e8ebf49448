"""A reward function in processes: the rewards of the plain function, and failures that cost one output each."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context, Output
from plaudit.rewards import FunctionReward, Part, WeightedReward, WorkerReward
from worker_functions import length, obey

CONTEXT = Context(content="?")


@pytest.fixture(scope="module")
def source():
    with WorkerReward(obey, count=2, time_limit_s=1) as found:
        yield found


def outputs(*commands: str) -> list[Output]:
    return [Output(content=command) for command in commands]


def test_rewards_are_those_of_the_plain_function():
    found = outputs(*("x" * number for number in range(9)))
    with WorkerReward("worker_functions:length", count=3) as source:
        reward = source.reward([CONTEXT] * 9, found)
    plain = FunctionReward(length).reward([CONTEXT] * 9, found)
    assert torch.equal(reward.value, plain.value)
    assert torch.equal(reward.judged, plain.judged)
    assert list(reward.components) == list(plain.components) == ["length"]


def test_each_failure_costs_its_own_output_and_is_counted_by_reason(source):
    bad = ("hang", "exit", "raise oh no", "string", "none", "nan")
    commands = [each for number, command in enumerate(bad) for each in (f"number {number}", command)]
    reward = source.reward([CONTEXT] * len(commands), outputs(*commands))
    assert reward.judged.tolist() == [True, False] * len(bad)
    assert reward.value[::2].tolist() == list(range(len(bad)))
    assert reward.errors == (
        "obey took longer than 1 s: 'hang'",
        "obey ended the worker (exit code 3): 'exit'",
        "obey raised ValueError (oh no): 'raise oh no'",
        "obey gave an object of type str, and a number was expected: 'string'",
        "obey could not judge: 'none'",
        "obey gave nan, and a finite number was expected: 'nan'",
    )
    assert source.reasons == reward.reasons
    assert source.reasons == {
        "time limit": 1,
        "worker died": 1,
        "raised": 1,
        "unusable answer": 1,
        "could not judge": 1,
        "not finite": 1,
    }


def test_outputs_are_judged_from_when_they_are_submitted(source):
    ticket = source.submit(CONTEXT, outputs("slow 0.1")[0])
    ticket[0].result(30)
    reward = source.result([ticket, source.submit(CONTEXT, outputs("number 5")[0])])
    torch.testing.assert_close(reward.value, torch.tensor([0.1, 5.0]))


def test_it_is_a_part_like_any_other(source):
    whole = WeightedReward({"program": Part(source, 2.0), "length": Part(FunctionReward(length))})
    tickets = [whole.submit(CONTEXT, output) for output in outputs("number 3", "exit")]
    reward = whole.result(tickets)
    assert reward.judged.tolist() == [True, False]
    assert float(reward.value[0]) == 2 * 3 + len("number 3")


def test_no_outputs_are_no_rewards(source):
    assert source.reward([], []).value.shape == (0,)


def test_a_function_that_cannot_be_sent_is_said_at_once():
    with pytest.raises(ConfigError, match="which pickle refuses"):
        WorkerReward(lambda context, output: 0.0)
