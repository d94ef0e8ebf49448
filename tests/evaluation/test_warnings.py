"""Each rule speaks where it should, with its figure and what to do, and is silent elsewhere."""

import math

import pytest

from plaudit.evaluation import Divergence, Estimate, LengthChange, LengthControlledWinRate
from plaudit.evaluation.report import FeedbackSummary, Row, WarningThresholds, find_warnings


def estimate(value, low, high, unit="", n=200) -> Estimate:
    return Estimate(value, low, high, n, 0.95, "m", unit)


def rules(**evidence) -> list[str]:
    return [warning.rule for warning in find_warnings(**evidence)]


def feedback(**fields) -> FeedbackSummary:
    defaults = {
        "by_kind": {"comparison": 500}, "by_source": {"ana": 300, "ben": 200}, "comparisons": 500, "ties": 50,
        "examples_used": 400, "held_out": 150,
    }  # fmt: skip
    return FeedbackSummary(**{**defaults, **fields})


def lengths(growth: Estimate | None) -> LengthChange:
    tokens = estimate(100.0, 95.0, 105.0, "tokens")
    return LengthChange(tokens, estimate(130.0, 124.0, 136.0, "tokens"), estimate(30.0, 25.0, 35.0, "tokens"), growth)


WIN = Row("Win rate", estimate(0.62, 0.55, 0.69, "share"), "up", 0.5, "")
LOSS = Row("Win rate", estimate(0.38, 0.31, 0.45, "share"), "up", 0.5, "")
OPEN = Row("Win rate", estimate(0.52, 0.45, 0.59, "share"), "up", 0.5, "")
RISE, FALL = estimate(0.8, 0.5, 1.1), estimate(-0.8, -1.1, -0.5)


def test_nothing_given_nothing_found():
    assert find_warnings() == ()


def test_a_good_run_has_no_warnings():
    assert rules(
        headline=[WIN], feedback=feedback(), proxy_reward_change=RISE, utility=WIN,
        divergence=estimate(5, 4, 6, "nats"),
        lengths=lengths(estimate(0.1, 0.05, 0.15, "share")), overconfidence=estimate(0.01, -0.02, 0.04, "points"),
        length_controlled=LengthControlledWinRate(WIN.estimate, WIN.estimate, RISE, None),
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    ("proxy", "utility", "found"),
    [(RISE, LOSS, True), (RISE, OPEN, False), (RISE, WIN, False), (FALL, LOSS, False), (None, LOSS, False)],
)
def test_over_optimisation_needs_a_rising_proxy_and_a_falling_utility(proxy, utility, found):
    assert ("over-optimisation" in rules(proxy_reward_change=proxy, utility=utility)) == found


def test_who_judges_by_the_reward_that_was_optimised_is_told_so_before_all_else_but_over_optimisation():
    found = find_warnings(judged_by_itself=True, headline=[LOSS], proxy_reward_change=RISE, utility=LOSS)
    assert [warning.rule for warning in found] == [
        "over-optimisation",
        "judged by the reward that was optimised",
        "worse",
    ]


@pytest.mark.parametrize(("share", "found"), [(0.05, False), (0.0501, True), (0.0, False)])
def test_outputs_that_could_not_be_judged_are_a_warning_when_they_are_many(share, found):
    assert ("outputs without a reward" in rules(not_judged=share)) == found


def test_over_optimisation_says_both_figures():
    warning = find_warnings(proxy_reward_change=RISE, utility=LOSS)[0]
    assert warning.sentence == (
        "The reward that was optimised rose by 0.80 [0.50, 1.10], n = 200, while Win rate fell to "
        "38.0 % [31.0, 45.0], n = 200: the model learned to please the reward, not the people."
    )
    assert warning.advice.startswith("Use an earlier checkpoint, raise beta")


def test_far_from_the_reference():
    far, near = estimate(31.0, 28.0, 34.0, "nats"), estimate(5.0, 4.0, 6.0, "nats")
    assert rules(divergence=far) == rules(divergence=Divergence(far, near)) == ["far from the reference"]
    assert rules(divergence=Divergence(near, far)) == []
    assert rules(divergence=near, thresholds=WarningThresholds(divergence_nats=3)) == ["far from the reference"]


@pytest.mark.parametrize(
    ("growth", "word"),
    [
        (estimate(0.3, 0.2, 0.4, "share"), "30 % longer"),
        (estimate(-0.3, -0.4, -0.2, "share"), "30 % shorter"),
        (estimate(0.3, -0.1, 0.7, "share"), None),
        (estimate(0.15, 0.1, 0.2, "share"), None),
        (None, None),
    ],
)
def test_length_needs_size_and_an_interval_without_zero(growth, word):
    found = find_warnings(lengths=lengths(growth))
    assert [warning.rule for warning in found] == (["length"] if word else [])
    assert all(word in warning.sentence.replace(".0 %", " %") for warning in found)


def test_won_by_length():
    lost_at_equal_length = LengthControlledWinRate(OPEN.estimate, WIN.estimate, RISE, None)
    assert rules(length_controlled=lost_at_equal_length) == ["won by length"]


@pytest.mark.parametrize(
    ("by_source", "found"),
    [
        ({"ana": 300, "ben": 200}, False),
        ({"ana": 400, "ben": 100}, False),
        ({"ana": 401, "ben": 99}, True),
        ({"ana": 10}, True),
        ({}, False),
    ],
)
def test_few_sources(by_source, found):
    assert ("few sources" in rules(feedback=feedback(by_source=by_source))) == found


def test_few_sources_names_the_source_and_its_share():
    warning = find_warnings(feedback=feedback(by_source={"ana": 90, "ben": 10}))[0]
    assert "90 % of the feedback (90 of 100 records) comes from one source, ana" in warning.sentence


@pytest.mark.parametrize(("ties", "found"), [(150, False), (151, True)])
def test_many_ties(ties, found):
    assert ("many ties" in rules(feedback=feedback(ties=ties))) == found


@pytest.mark.parametrize(("held_out", "found"), [(100, False), (99, True), (0, True)])
def test_few_held_out_examples(held_out, found):
    assert ("few held-out examples" in rules(feedback=feedback(held_out=held_out))) == found


def test_an_interval_with_no_change_and_one_that_got_worse():
    neutral = Row("Length", estimate(0.0, -1.0, 1.0, "tokens"), None, 0.0, "")
    unknown = Row("One user", estimate(1.0, -math.inf, math.inf), "up", 0.0, "")
    found = find_warnings(headline=[OPEN, LOSS, neutral, unknown, WIN])
    assert [warning.rule for warning in found] == ["worse", "no clear change"]
    assert found[0].sentence == "Got worse: Win rate 38.0 % [31.0, 45.0], n = 200."
    assert found[1].sentence == (
        "The interval includes no change: Win rate 52.0 % [45.0, 59.0], n = 200; One user 1.00 [no interval], n = 200."
    )


@pytest.mark.parametrize(
    ("overconfidence", "word"),
    [
        (estimate(0.12, 0.06, 0.18, "points"), "12.0 points more sure"),
        (estimate(-0.12, -0.18, -0.06, "points"), "12.0 points less sure"),
        (estimate(0.12, -0.01, 0.25, "points"), None),
        (estimate(0.03, 0.02, 0.04, "points"), None),
    ],
)
def test_miscalibration_needs_size_and_an_interval_without_zero(overconfidence, word):
    found = find_warnings(overconfidence=overconfidence)
    assert [warning.rule for warning in found] == (["miscalibrated reward model"] if word else [])
    assert all(word in warning.sentence for warning in found)
