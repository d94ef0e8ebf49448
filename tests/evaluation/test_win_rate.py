"""Judges, both orders, could not judge, and the win rate."""

import numpy as np
import pytest

from plaudit.evaluation import EvaluationError, Judgements, from_rewards, judge_both_orders, win_rate


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Written:
    """A judge that answers by rule, and remembers what it was asked."""

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def prefer(self, contexts, a, b):
        self.asked.append((list(a), list(b)))
        return [self.rule(context, first, second) for context, first, second in zip(contexts, a, b, strict=True)]


def test_both_orders_are_asked_and_averaged():
    judge = Written(lambda context, first, second: 0.9 if first == "good" else 0.4)
    judgements = judge_both_orders(judge, ["c"], ["good"], ["bad"])
    assert judge.asked == [(["good"], ["bad"]), (["bad"], ["good"])]
    assert judgements.a_shown_first == (0.9,)
    assert judgements.b_shown_first == pytest.approx((0.6,))
    assert judgements.preferences == pytest.approx((0.75,))


def test_a_judge_that_always_takes_the_first_says_nothing():
    judge = Written(lambda *_: 1.0)
    judgements = judge_both_orders(judge, list("abcdefghijkl"), ["x"] * 12, ["y"] * 12)
    assert win_rate(judgements, generator=rng()).value == 0.5
    assert judgements.position_bias(generator=rng()).value == 0.5
    assert judgements.position_bias(generator=rng()).unit == "points"


def test_swapping_the_models_mirrors_the_win_rate():
    judge = Written(lambda context, first, second: (hash((context, first, second)) % 101) / 100)
    contexts, a, b = list(range(40)), [f"a{i}" for i in range(40)], [f"b{i}" for i in range(40)]
    forward = win_rate(judge_both_orders(judge, contexts, a, b), generator=rng())
    backward = win_rate(judge_both_orders(judge, contexts, b, a), generator=rng())
    assert forward.value + backward.value == pytest.approx(1.0)


def test_could_not_judge_is_left_out_and_counted_never_a_loss():
    judgements = Judgements((1.0, None, 1.0, 0.0), (1.0, 1.0, None, 0.0))
    assert judgements.preferences == (1.0, None, None, 0.0)
    assert judgements.could_not_judge == 2
    estimate = win_rate(judgements, generator=rng(), clusters=["a", "b", "c", "d"])
    assert (estimate.value, estimate.n, estimate.clusters) == (0.5, 2, 2)
    assert judgements.position_bias(generator=rng()).n == 2


def test_rewards_as_judge():
    rewards = {"low": 0.0, "high": 2.0, "same": 2.0, "broken": None}
    judge = from_rewards(lambda contexts, outputs: [rewards[output] for output in outputs])
    answers = judge.prefer([0] * 4, ["high", "low", "same", "broken"], ["low", "high", "high", "high"])
    assert answers == (1.0, 0.0, 0.5, None)
    soft = from_rewards(lambda contexts, outputs: [rewards[output] for output in outputs], bradley_terry=True)
    assert soft.prefer([0], ["high"], ["low"])[0] == pytest.approx(1 / (1 + np.exp(-2)))


def test_win_rate_is_the_mean_with_ties_at_one_half():
    estimate = win_rate([1.0, 0.5, 0.0, 1.0, None], generator=rng())
    assert (estimate.value, estimate.n, estimate.unit) == (2.5 / 4, 4, "share")


def test_all_wins_is_not_certainty():
    estimate = win_rate([1.0] * 20, generator=rng())
    assert (estimate.low, estimate.high) == pytest.approx((0.025 ** (1 / 20), 1.0))


def test_messages():
    with pytest.raises(EvaluationError, match="at least one pair that could be judged, got none"):
        win_rate([None, None], generator=rng())
    with pytest.raises(EvaluationError, match=r"values\[0\]: expected a value from 0.0 to 1.0, got 1.5"):
        win_rate([1.5], generator=rng())
    with pytest.raises(EvaluationError, match=r"the judge's answers\[1\]: expected a probability .* got 7"):
        judge_both_orders(Written(lambda context, *_: 7 if context else 0.5), [0, 1], ["a"] * 2, ["b"] * 2)
    with pytest.raises(EvaluationError, match="a: expected as many values as contexts has, 2, got 1"):
        judge_both_orders(Written(lambda *_: 0.5), [0, 1], ["a"], ["b"] * 2)
    nan = from_rewards(lambda contexts, outputs: [float("nan")] * len(outputs))
    with pytest.raises(EvaluationError, match="reward: expected finite numbers or None, got nan"):
        nan.prefer([0], ["a"], ["b"])
    with pytest.raises(EvaluationError, match="clusters: expected as many values as preferences has, 3, got 2"):
        win_rate([1.0, None, 0.0], clusters=["a", "b"], generator=rng())
