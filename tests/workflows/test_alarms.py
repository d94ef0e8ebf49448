"""Alarms of runs that learn from own samples: what is watched, said at once and in the report."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from plaudit.errors import ConfigError
from plaudit.evaluation.report import render_html
from plaudit.methods import RLOOConfig
from plaudit.policies import LoRA
from plaudit.training import Alarm, RunFolder, TrainingConfig
from plaudit.workflows import AlignConfig, EvaluationConfig, align
from plaudit.workflows.alarms import AlarmsConfig, alarm_warnings


def test_each_setting_is_a_band_and_nothing_watches_nothing():
    assert AlarmsConfig(least_entropy=None).alarms == ()
    assert AlarmsConfig().alarms == (Alarm("sampled_entropy", 0.01, math.inf),)
    assert AlarmsConfig(least_entropy=None, most_kl=5.0, longest=90).alarms == (
        Alarm("kl", -math.inf, 5.0),
        Alarm("sampled_length", -math.inf, 90),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"most_kl": -1.0}, "most_kl: expected a number >= 0, or nothing, got -1.0"),
        ({"least_entropy": math.nan}, "least_entropy: expected a number >= 0, or nothing, got nan"),
        ({"shortest": 9.0, "longest": 3.0}, "longest: expected at least shortest, 9.0, got 3.0"),
    ],
)
def test_a_band_must_be_one(settings, message):
    with pytest.raises(ConfigError) as caught:
        AlarmsConfig(**settings)
    assert message in str(caught.value)


def test_the_report_says_what_left_its_band_the_first_time_and_nothing_of_what_was_not_measured(tmp_path):
    run = RunFolder.create(tmp_path / "run", {})
    for step, entropy in ((1, 0.5), (2, 0.004), (3, 0.001)):
        run.log(step, "train", {"sampled_entropy": entropy})
    (warning,) = alarm_warnings(AlarmsConfig(most_kl=3.0), run)
    assert warning.sentence == "Step 2: sampled_entropy is 0.004 and has left its band of 0.01 to inf."


def test_a_run_watches_its_samples(tiny_model, tmp_path, monkeypatch, capsys):
    """More than five seconds on a busy core: a whole run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("alarm_rewards.py").write_text("def score(context, output):\n    return float(len(output))\n")
    Path("prompts.txt").write_text("".join(f"Question {index}?\n" for index in range(8)))
    config = AlignConfig(
        model=str(tiny_model), run=Path("run"), method="rloo", reward="python:alarm_rewards:score",
        contexts=Path("prompts.txt"), judge="none", dtype="float32", held_out=0.4, lora=LoRA(rank=2),
        training=TrainingConfig(max_steps=2, micro_batch_size=8, checkpoint_every=0),
        rloo=RLOOConfig(contexts_per_rollout=2, outputs_per_context=2, max_new_tokens=4),
        alarms=AlarmsConfig(longest=1.0),
        evaluation=EvaluationConfig(contexts=2, max_new_tokens=4),
    )  # fmt: skip
    result = align(config)
    sys.modules.pop("alarm_rewards", None)
    assert capsys.readouterr().err.count("sampled_length is 4 and has left its band of -inf to 1") == 1
    assert "out of its band" in {warning.rule for warning in result.report.warnings}
    assert "sampled_length is 4" in render_html(result.report)
    entropies = [row["sampled_entropy"] for row in result.run.metrics() if row["split"] == "train"]
    assert len(entropies) == 2
    assert all(0 < entropy < 10 for entropy in entropies)
