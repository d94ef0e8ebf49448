"""Alarms: a metric that leaves its band is named once."""

from __future__ import annotations

import pytest

from methods.worlds import demonstrations, policy
from plaudit.errors import ConfigError
from plaudit.methods import SFT, SFTConfig
from plaudit.training import Alarm, RunFolder, TrainingConfig, train
from plaudit.training.alarms import Watch, reward_hacking


def test_a_metric_that_leaves_its_band_is_named_once():
    watch = Watch([Alarm("kl", high=5.0), Alarm("length", low=10.0, high=90.0)])
    assert watch.look(1, {"kl": 5.0, "length": 10.0}) == []
    assert watch.look(2, {"kl": 5.25, "length": 90.0}) == ["Step 2: kl is 5.25 and has left its band of -inf to 5."]
    assert watch.look(3, {"kl": 9.0, "length": 9.0}) == ["Step 3: length is 9 and has left its band of 10 to 90."]
    assert watch.look(4, {"kl": 9.0, "length": 1.0}) == []


def test_a_metric_that_is_no_number_has_left_its_band():
    assert Watch([Alarm("kl", high=5.0)]).look(1, {"kl": float("nan")}) == [
        "Step 1: kl is nan and has left its band of -inf to 5."
    ]


def test_a_name_that_no_metric_has_is_said_at_the_first_step():
    watch = Watch([Alarm("kll", high=5.0)])
    assert watch.look(1, {"loss": 0.0, "kl": 9.0}) == ["There is no metric kll for an alarm; there are kl, loss."]
    assert watch.look(2, {"loss": 0.0, "kl": 9.0}) == []


def test_a_band_that_is_empty_is_refused():
    with pytest.raises(ConfigError, match=r"alarm on kl: expected low <= high, got 2.0 and 1.0"):
        Alarm("kl", 2.0, 1.0)


def test_training_says_it_and_goes_on(tiny_model, tmp_path, capsys):
    method = SFT(policy(tiny_model), demonstrations(), SFTConfig())
    config = TrainingConfig(batch_size=4)
    train(method, RunFolder.create(tmp_path / "run", {}), config, steps=3, alarms=[Alarm("gradient_norm", high=0.0)])
    said = capsys.readouterr().err
    assert said.count("has left its band of -inf to 0.") == 1
    assert "Step 1: gradient_norm is" in said
    assert len(list(RunFolder.open(tmp_path / "run").metrics())) == 3


def looks(reward, gold, error=0.01):
    values = zip(reward, gold, strict=True)
    return [{"step": 5 * (n + 1), "reward": r, "gold": g, "gold_error": error} for n, (r, g) in enumerate(values)]


def test_a_reward_that_rises_while_a_second_one_falls_is_suspected():
    hacked = looks([1, 2, 3, 4, 5], [0, 1, 0.5, 0.4, 0.3])
    said = reward_hacking(hacked)
    assert said is not None
    assert said.startswith("Step 25: the reward that is optimised rose from 2 to 5 since step 10")
    assert "fell from 1 to 0.3" in said
    assert reward_hacking(hacked[:4]) is None


@pytest.mark.parametrize(
    "harmless",
    [
        [],
        [{"step": 1, "reward": 1.0}],
        looks([1, 2, 3, 4, 5], [0, 1, 2, 3, 4]),
        looks([5, 4, 3, 2, 1], [4, 3, 2, 1, 0]),
        looks([1, 2, 3, 4, 5], [0, 1, 0.5, 0.4, 0.3], error=1.0),
    ],
    ids=["none", "one-reward", "both-rise", "both-fall", "within-noise"],
)
def test_other_looks_are_not_suspected(harmless):
    assert reward_hacking(harmless) is None
