"""Clipping, running normalisation, and rewards for length: as formulas, with what could not be judged left as it was."""

from __future__ import annotations

import json
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context, Output, Producer, Text, Tokens
from plaudit.rewards import (
    BoundedReward,
    EndedReward,
    FunctionReward,
    NormalisedReward,
    OverlongPenalty,
    Part,
    Reward,
    WeightedReward,
)

NAN, INF = float("nan"), float("inf")


def written(context: Context, output: Output) -> float | None:
    """The number that an output says."""
    return None if output.text == "?" else float(output.text)


def outputs(*texts: object, finished: bool | None = None, length: int = 0) -> list[Output]:
    producer = None if finished is None else Producer(model="policy", sampler={"finished": finished})
    content = [Tokens(ids=(7,) * length, tokenizer="t", text=str(text)) for text in texts]
    return [Output(content=each, producer=producer) for each in content]


def judged(source, found: list[Output]) -> Reward:
    return source.reward([Context(content="?")] * len(found), found)


class Given:
    def __init__(self, *values: float) -> None:
        self.value = torch.tensor(values)

    def reward(self, contexts, outputs) -> Reward:
        return Reward(self.value, torch.ones_like(self.value, dtype=torch.bool))


# --- clipping -------------------------------------------------------------------------------------------------------


def test_what_lies_outside_is_clipped_and_what_is_no_number_was_not_judged():
    reward = judged(BoundedReward(Given(1.5, NAN, -0.5, INF), low=0, high=1), outputs(1, 2, 3, 4))
    assert reward.value.tolist() == [1, 0, 0, 0]
    assert reward.judged.tolist() == [True, False, True, False]
    assert judged(BoundedReward(FunctionReward(written), low=0, high=1), outputs("?")).judged.tolist() == [False]
    with pytest.raises(ConfigError, match="low, high: expected finite numbers with low < high, got 1 and 1"):
        BoundedReward(Given(), low=1, high=1)


# --- normalisation --------------------------------------------------------------------------------------------------


def test_each_batch_is_normalised_by_all_rewards_so_far():
    source = NormalisedReward(FunctionReward(written))
    first, second = judged(source, outputs(1, 3)), judged(source, outputs(5, "?", 7))
    assert first.value.tolist() == [-1, 1]
    mean, deviation = statistics.mean([1, 3, 5, 7]), statistics.pstdev([1, 3, 5, 7])
    torch.testing.assert_close(second.value[[0, 2]], torch.tensor([(5 - mean) / deviation, (7 - mean) / deviation]))
    assert second.judged.tolist() == [True, False, True]
    assert second.components["written"][0] == 5


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), max_size=5), min_size=1, max_size=8))
def test_statistics_of_batches_are_those_of_all_values_together(batches):
    source = NormalisedReward(FunctionReward(written))
    for batch in batches:
        judged(source, outputs(*batch))
    values = [value for batch in batches for value in batch]
    assert source.count == len(values)
    if values:
        assert source.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
        assert source.squares == pytest.approx(statistics.pvariance(values) * len(values), rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("value", [0.1, 1 / 3, -7e3])
def test_equal_rewards_become_zero_whatever_their_rounding(value):
    source = NormalisedReward(FunctionReward(written))
    for size in (3, 7, 1, 10):
        assert judged(source, outputs(*[value] * size)).value.abs().max() == pytest.approx(0, abs=1e-6 * abs(value))
    assert source.squares == 0


def test_nothing_that_is_no_number_spoils_the_statistics():
    source = NormalisedReward(Given(1.0, NAN, INF, 3.0))
    judged(source, outputs(1, 2, 3, 4))
    assert (source.count, source.mean) == (2, 2.0)


def test_a_restored_normalisation_goes_on_to_the_bit():
    whole, resumed = (NormalisedReward(FunctionReward(written)) for _ in range(2))
    judged(whole, outputs(0.1, 0.7, -3.3))
    resumed.restore(json.loads(json.dumps(whole.state())))
    for batch in (outputs(1.1, 0.3), outputs(2.7)):
        assert torch.equal(judged(whole, batch).value, judged(resumed, batch).value)
    assert resumed.state() == whole.state()


def test_the_state_of_what_is_wrapped_is_kept():
    def make() -> BoundedReward:
        return BoundedReward(NormalisedReward(NormalisedReward(FunctionReward(written))), low=-1, high=1)

    one, other = make(), make()
    judged(one, outputs(1, 2, 4))
    other.restore(one.state())
    assert other.state() == one.state()
    assert one.state()["source"]["source"]["count"] == 3


# --- length ---------------------------------------------------------------------------------------------------------


def test_an_output_that_was_cut_gets_the_fixed_reward_whatever_the_source_says():
    found = [*outputs(5, "?", finished=True), *outputs(5, "?", finished=False)]
    reward = judged(EndedReward(FunctionReward(written), otherwise=-1), found)
    assert reward.value[[0, 2, 3]].tolist() == [5, -1, -1]
    assert reward.judged.tolist() == [True, False, True, True]


def test_an_output_of_which_nobody_knows_whether_it_ended_is_an_error():
    message = "output: expected a sampled one, whose producer.sampler says under 'finished' .*, got None there"
    with pytest.raises(RewardError, match=message):
        judged(EndedReward(FunctionReward(written)), outputs(5))
    with pytest.raises(ConfigError, match="otherwise: expected a finite number, got nan"):
        EndedReward(FunctionReward(written), otherwise=NAN)


def test_the_overlong_penalty_is_that_of_dapo_and_a_part_like_any_other():
    penalty = OverlongPenalty(maximum=16, buffer=4)
    found = [outputs(1, length=length)[0] for length in (10, 12, 13, 14, 16, 20)]
    assert judged(penalty, found).value.tolist() == [0, 0, -0.25, -0.5, -1, -1]
    parts = {"right": Part(FunctionReward(written), 1.5, (0, 1)), "length": Part(penalty, 1.0, (-1, 0))}
    assert judged(WeightedReward(parts, verifier="right"), found).value.tolist() == [1.5, 1.5, 1.25, 1, 0.5, 0.5]


def test_overlong_penalties_that_cannot_be_given():
    with pytest.raises(ConfigError, match=r"buffer: expected a number in \[0, maximum = 4\], got 5"):
        OverlongPenalty(maximum=4, buffer=5)
    text = [Output(content=Text(text="1"))]
    with pytest.raises(RewardError, match=r"outputs\[0\]: expected tokens, whose number is the length, got text"):
        judged(OverlongPenalty(maximum=4, buffer=2), text)
