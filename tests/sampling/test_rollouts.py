"""Gathering: sources that judge while the rest is sampled give the rollouts that plain sources give."""

from __future__ import annotations

import pytest
import torch

from plaudit.errors import RewardError
from plaudit.feedback.records import Context
from plaudit.policies import CausalLM, Sampling
from plaudit.rewards import BoundedReward, FunctionReward, Part, WeightedReward, WorkerReward
from plaudit.sampling import gather
from worker_functions import early

CONTEXTS = [Context(content=text) for text in ("Hi", "Say a vowel.", "Count to three, please.", "Why?")]


class Watching(FunctionReward):
    """Notes what it is asked, and in which order."""

    def __init__(self) -> None:
        super().__init__(early)
        self.calls: list[str] = []
        self.asked: list[Context] = []

    def submit(self, context, output):
        self.calls.append("submit")
        self.asked.append(context)
        return context, output

    def result(self, tickets):
        self.calls.append(f"result of {len(tickets)}")
        return FunctionReward.reward(self, *zip(*tickets, strict=True))


@pytest.fixture(scope="module")
def policy(tiny_model) -> CausalLM:
    return CausalLM.load(tiny_model, dtype="float32")


def gathered(policy: CausalLM, reward, **settings):
    sampling = Sampling(max_new_tokens=24, temperature=1.5, stop=tuple("abcdefghijklmnopqrstuvwxyz"))
    generator = torch.Generator().manual_seed(5)
    settings = {"batch_size": 3, "version": 2, "fewest": 2, **settings}
    return gather(policy, CONTEXTS, 4, reward, generator=generator, sampling=sampling, **settings)


def test_each_output_is_submitted_when_it_ends_and_the_rollouts_are_the_same(policy):
    plain, watching = gathered(policy, FunctionReward(early)), Watching()
    streamed = gathered(policy, watching)
    assert streamed == plain
    assert watching.calls == ["submit"] * 16 + ["result of 16"]
    assert plain.dropped["could not be judged"]
    assert watching.asked != [context for context in CONTEXTS for _ in range(4)]


def test_the_first_output_is_submitted_before_the_last_is_sampled(policy, monkeypatch):
    events = []
    watching, stream = Watching(), CausalLM.stream

    def noted(self, *args, **settings):
        for found in stream(self, *args, **settings):
            events.append("sampled")
            yield found

    monkeypatch.setattr(CausalLM, "stream", noted)
    watching.submit = lambda context, output: events.append("submitted") or (context, output)
    gathered(policy, watching)
    assert events == ["sampled", "submitted"] * 16


def test_worker_processes_give_the_rollouts_of_the_function_itself(policy):
    with WorkerReward("worker_functions:early", count=2, time_limit_s=60) as worker:
        assert gathered(policy, worker) == gathered(policy, FunctionReward(early))


def test_a_reward_around_a_plain_one_goes_the_streaming_way_to_the_same_result(policy):
    inner = BoundedReward(FunctionReward(early), low=0, high=300)
    assert gathered(policy, inner) == gathered(policy, FunctionReward(early))
    weighted, plain = (
        gathered(policy, WeightedReward({"early": Part(FunctionReward(early))})),
        gathered(policy, FunctionReward(early)),
    )
    assert (weighted.rollouts, weighted.dropped) == (plain.rollouts, plain.dropped)
    assert weighted.reasons == {f"early: {reason}": count for reason, count in plain.reasons.items()} != {}


def test_a_streaming_source_that_loses_an_output_is_an_error(policy):
    watching = Watching()
    watching.result = lambda tickets: FunctionReward.reward(watching, *zip(*tickets[1:], strict=True))
    with pytest.raises(RewardError, match=r"value: expected a reward of shape \[16\], got \[15\]"):
        gathered(policy, watching)
