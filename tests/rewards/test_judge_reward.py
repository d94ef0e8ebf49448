"""A judge over HTTP as a reward: shares of wins by hand, both orders, and pairs without a verdict."""

from __future__ import annotations

import json
import re

import pytest
import torch

from chat_server import Reply, says, serving
from plaudit.errors import RewardError
from plaudit.feedback.records import Context, Output
from plaudit.policies import Endpoint
from plaudit.rewards import BaselineWins, EndpointJudge, GroupWinRate

CONTEXTS = [Context(content=text) for text in ("Hi", "Why?")]


def shown(asked: dict) -> tuple[str, str]:
    user = asked["messages"][1]["content"]
    first, second = re.findall(r"^--- (?:first|second) answer \w+ ---\n(.*)$", user, flags=re.MULTILINE)
    return json.loads(first), json.loads(second)


def longer(asked: dict) -> Reply:
    """The longer answer is better; what holds a question mark cannot be judged, what holds an x wins where it is first."""
    first, second = shown(asked)
    if "?" in first + second:
        return says("I cannot tell.")
    if "x" in first:
        return says("Verdict: first")
    if len(first) == len(second):
        return says("Verdict: tie")
    return says("Verdict: " + ("first" if len(first) > len(second) else "second"))


@pytest.fixture(scope="module")
def judge():
    with serving(longer) as server:
        yield EndpointJudge(Endpoint(server.url, "judge-model", retries=0))


def outputs(*texts: str) -> list[Output]:
    return [Output(content=text) for text in texts]


def test_the_reward_is_the_share_of_the_group_that_an_output_beats(judge):
    """Groups stand mixed: a, aa, aa of one context and bbbb, b of the other."""
    kept = []
    contexts = [CONTEXTS[place] for place in (0, 1, 0, 1, 0)]
    source = GroupWinRate(judge, keep=kept.extend)
    reward = source.reward(contexts, outputs("a", "bbbb", "aa", "b", "aa"))
    assert reward.value.tolist() == [0, 1, (1 + 0.5) / 2, 0, (1 + 0.5) / 2]
    assert reward.judged.all()
    assert list(reward.components) == ["win_rate"]
    assert len(kept) == 3 + 1


def test_a_verdict_that_changes_with_the_order_is_a_tie(judge):
    reward = GroupWinRate(judge).reward([CONTEXTS[0]] * 2, outputs("x", "xx"))
    assert reward.value.tolist() == [0.5, 0.5]


def test_pairs_without_a_verdict_are_left_out_and_an_output_without_any_was_not_judged(judge):
    reward = GroupWinRate(judge).reward([CONTEXTS[0]] * 4, outputs("a", "?", "aa", "aaa"))
    assert reward.judged.tolist() == [True, False, True, True]
    assert reward.value[[0, 2, 3]].tolist() == [0, 0.5, 1]
    assert reward.errors == ("The judge could compare it with none: '?'",)


def test_an_output_alone_cannot_be_compared(judge):
    reward = GroupWinRate(judge).reward(CONTEXTS, outputs("a", "b"))
    assert not reward.judged.any()
    assert reward.errors[0] == "there is no other output of its context to compare with: 'a'"
    assert GroupWinRate(judge).reward([], []).value.shape == (0,)


def test_against_a_baseline_an_output_wins_ties_loses_or_was_not_judged(judge):
    baselines = dict(zip((context.digest for context in CONTEXTS), outputs("aa", "bbb"), strict=True))
    contexts = [CONTEXTS[0], CONTEXTS[0], CONTEXTS[1], CONTEXTS[1]]
    reward = BaselineWins(judge, baselines).reward(contexts, outputs("aaa", "aa", "bb", "?"))
    assert reward.judged.tolist() == [True, True, True, False]
    torch.testing.assert_close(reward.value, torch.tensor([1, 0.5, 0, float("nan")]), equal_nan=True)
    assert reward.errors == ("The judge could not compare it with the baseline: '?'",)


def test_a_context_without_a_baseline_is_an_error(judge):
    with pytest.raises(
        RewardError, match=r"baselines: expected an output for every context, got none for \w{32} \('Hi'\)"
    ):
        BaselineWins(judge, {}).reward(CONTEXTS[:1], outputs("a"))
