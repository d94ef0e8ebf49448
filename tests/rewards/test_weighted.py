"""Weighted sums: what they pay, what they log, what they cannot judge, and the check that right is paid above wrong."""

from __future__ import annotations

import math
import re

import pytest
import torch

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context, Output
from plaudit.rewards import BoundedReward, FunctionReward, NormalisedReward, Part, Reward, WeightedReward

CONTEXTS = [Context(content="What is 2 + 2?")] * 3
OUTPUTS = [Output(content=text) for text in ("4", "five", "")]


def right(context: Context, output: Output) -> float:
    return float(output.text == "4")


def brevity(context: Context, output: Output) -> float | None:
    return 1 / len(output.text) if output.text else None


class Given:
    """Rewards as they are written down."""

    def __init__(self, *values: float, components: dict[str, list[float]] | None = None) -> None:
        self.values = values
        self.components = {name: torch.tensor(values) for name, values in (components or {}).items()}

    def reward(self, contexts, outputs) -> Reward:
        value = torch.tensor(self.values)
        return Reward(value, ~value.isnan(), components=self.components)


def test_the_sum_is_weighted_and_its_parts_are_logged_by_name():
    parts = {"right": Part(FunctionReward(right), 2.0), "brevity": Part(FunctionReward(brevity), -0.5)}
    reward = WeightedReward(parts).reward(CONTEXTS[:2], OUTPUTS[:2])
    assert reward.value.tolist() == [2 * 1 - 0.5 * 1, 2 * 0 - 0.5 / 4]
    assert reward.judged.tolist() == [True, True]
    assert {name: values.tolist() for name, values in reward.components.items()} == {
        "right": [1, 0],
        "brevity": [1, 0.25],
    }


def test_what_a_part_is_made_of_is_logged_below_its_name():
    inner = Given(3.0, components={"style": [1.0], "facts": [2.0]})
    found = WeightedReward({"model": Part(inner), "plain": Part(Given(1.0, components={"x": [1.0]}))})
    components = found.reward(CONTEXTS[:1], OUTPUTS[:1]).components
    assert {name: values.tolist() for name, values in components.items()} == {
        "model": [3],
        "model.style": [1],
        "model.facts": [2],
        "plain": [1],
    }


def test_an_output_is_judged_if_every_part_that_counts_could_judge_it():
    parts = {"right": Part(FunctionReward(right)), "brevity": Part(FunctionReward(brevity), 0.5)}
    reward = WeightedReward(parts).reward(CONTEXTS, OUTPUTS)
    assert reward.judged.tolist() == [True, True, False]
    assert reward.errors == ("brevity: brevity could not judge: ''",)
    logged = {**parts, "brevity": Part(FunctionReward(brevity), 0.0)}
    reward = WeightedReward(logged).reward(CONTEXTS, OUTPUTS)
    assert reward.judged.tolist() == [True, True, True]
    assert reward.value.tolist() == [1, 0, 0]
    assert math.isnan(reward.components["brevity"][2])


def test_parts_that_begin_early_give_what_they_give_at_once():
    class Early(FunctionReward):
        """Judges when it is given an output, and answers in whatever order it is asked."""

        def submit(self, context, output):
            return FunctionReward.reward(self, [context], [output]).value

        def result(self, tickets):
            value = torch.cat(list(tickets)) if tickets else torch.zeros(0)
            return Reward(value, ~value.isnan(), components={self.name: value})

    parts = {"right": Part(Early(right), 2.0), "brevity": Part(FunctionReward(brevity), 0.5)}
    source = WeightedReward(parts)
    tickets = [source.submit(*pair) for pair in zip(CONTEXTS, OUTPUTS, strict=True)]
    streamed, plain = source.result(tickets[::-1]), source.reward(CONTEXTS, OUTPUTS)
    assert streamed.judged.tolist() == plain.judged.tolist()[::-1]
    torch.testing.assert_close(streamed.value.flip(0), plain.value, equal_nan=True)


# --- right above wrong ----------------------------------------------------------------------------------------------

VERIFIER = Part(FunctionReward(right), 2.0, (0, 1))


def test_a_wrong_output_that_could_be_paid_as_well_as_a_right_one_is_an_error_with_the_numbers():
    """ReEx-SQL's weights (2, 1, 3, 1, 2), of which the third is the verifier's."""
    others = {name: Part(Given(), weight, (0, 1)) for name, weight in zip("abcd", (2, 1, 1, 2), strict=True)}
    message = (
        "parts: a wrong output can be paid 6 and a right one 3; what exact calls right must always be paid more. "
        "Give exact a weight above 6, got 3, or the others less."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        WeightedReward({**others, "exact": Part(Given(), 3.0, (0, 1))}, verifier="exact")
    with pytest.raises(ConfigError, match="a wrong output can be paid 6 and a right one 6"):
        WeightedReward({**others, "exact": Part(Given(), 6.0, (0, 1))}, verifier="exact")
    WeightedReward({**others, "exact": Part(Given(), 6.01, (0, 1))}, verifier="exact")


def test_a_negative_weight_and_a_verifier_on_another_scale_enter_the_check():
    """Verifier -1 or 1 with weight 1: a lead of 2, which a penalty of up to 4 times 0.5 takes away."""
    parts = {"right": Part(Given(), 1.0, (-1, 1)), "length": Part(Given(), -0.5, (0, 4))}
    with pytest.raises(ConfigError, match=r"a wrong output can be paid -1 and a right one -1;.*weight above 1, got 1"):
        WeightedReward(parts, verifier="right")
    WeightedReward({**parts, "length": Part(Given(), -0.49, (0, 4))}, verifier="right")


def test_a_part_that_is_only_logged_needs_no_range():
    WeightedReward({"right": VERIFIER, "length": Part(Given(), 0.0)}, verifier="right")


@pytest.mark.parametrize(
    ("parts", "verifier", "message"),
    [
        ({"right": VERIFIER, "x": Part(Given())}, "right", r"parts.x.range: .* since right is the verifier, got none"),
        ({"right": VERIFIER}, "rihgt", r"verifier: expected one of the parts \['right'\], got 'rihgt'"),
        ({"right": Part(Given(), 0.0, (0, 1)), "x": VERIFIER}, "right", "parts.right.weight: .* other than 0 of the verifier"),
        ({"x": Part(Given(), float("nan"))}, None, "parts.x.weight: expected a finite number, got nan"),
        ({"x": Part(Given(), 1.0, (1, 0))}, None, r"parts.x.range: expected finite numbers, the lower first, got \(1, 0\)"),
        ({"x": Part(Given(), 0.0)}, None, r"parts: expected at least one of non-zero weight, got \['x'\]"),
        ({}, None, r"parts: expected at least one of non-zero weight, got \[\]"),
    ],
    ids=["no range", "no such part", "weightless verifier", "weight", "range", "weightless", "empty"],
)  # fmt: skip
def test_parts_that_cannot_be_used(parts, verifier, message):
    with pytest.raises(ConfigError, match=message):
        WeightedReward(parts, verifier=verifier)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Given(1.5, 0.0), "style: expected values in its range, from 0 to 1, got 1.5"),
        (Given(0.0, -0.1), "style: expected values in its range, from 0 to 1, got -0.1"),
        (Given(0.0), r"style: expected a reward of shape \[2\], got \[1\]"),
    ],
)
def test_a_part_that_breaks_its_word_is_an_error(source, message):
    found = WeightedReward({"right": VERIFIER, "style": Part(source, 1.0, (0, 1))}, verifier="right")
    with pytest.raises(RewardError, match=message):
        found.reward(CONTEXTS[:2], OUTPUTS[:2])


def test_a_verifier_that_says_half_is_an_error():
    found = WeightedReward({"right": Part(Given(0.5, 1.0), 1.0, (0, 1))}, verifier="right")
    with pytest.raises(RewardError, match=r"right: expected 0 of a wrong output and 1 of a right one, .*, got 0.5"):
        found.reward(CONTEXTS[:2], OUTPUTS[:2])


def test_the_ends_of_a_range_lie_in_it_and_what_was_not_judged_may_be_anything():
    parts = {
        "right": Part(Given(0.1, 0.7, float("nan")), 1.0, (0.1, 0.7)),
        "style": Part(BoundedReward(Given(9.0, -9.0, 0.0), low=-0.1, high=0.2), 1.0, (-0.1, 0.2)),
    }
    reward = WeightedReward(parts, verifier="right").reward(CONTEXTS, OUTPUTS)
    assert reward.judged.tolist() == [True, True, False]
    torch.testing.assert_close(reward.value[:2], torch.tensor([0.1 + 0.2, 0.7 - 0.1]))


def test_the_state_is_that_of_the_parts():
    def make() -> WeightedReward:
        return WeightedReward(
            {"length": Part(NormalisedReward(FunctionReward(brevity))), "right": Part(FunctionReward(right))}
        )

    one, other = make(), make()
    one.reward(CONTEXTS, OUTPUTS)
    other.restore(one.state())
    assert other.state() == one.state()
    assert one.state()["length"]["count"] == 2
