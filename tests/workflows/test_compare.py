"""Runs compared by their looks: what is read, what is matched, and what cannot be compared."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest

from plaudit.cli import main
from plaudit.errors import CheckpointError, ConfigError
from plaudit.methods import BestOfNConfig, RLOOConfig
from plaudit.policies import LoRA
from plaudit.training import RunFolder, TrainingConfig
from plaudit.workflows import AlignConfig, EvaluationConfig, align, compare

CONTEXTS = tuple(f"Question {index}?" for index in range(8))
ROLLOUTS = {"contexts_per_rollout": 4, "outputs_per_context": 4, "max_new_tokens": 6}


def a_run(
    path: Path,
    *,
    gap=0.0,
    nats=(0.5, 1.0, 2.0, 4.0),
    contexts=CONTEXTS,
    gold="python:judges:gold",
    ratios=True,
    **settings,
):
    """A folder as align leaves it, whose score is sqrt(KL) + gap + what is the context's own."""
    config = {
        "workflow": "align", "model": "m", "method": "rloo", "reward": "python:judges:low", "gold": gold, "run": str(path),
        "evaluation": {"temperature": 1.0}, **settings,
    }  # fmt: skip
    run = RunFolder.create(path, config)
    lines = []
    for step, distance in enumerate(nats, 1):
        run.log(step, "held_out", {"kl": distance, "reward": 0.0})
        for place, context in enumerate(contexts):
            answers = [
                {"text": "a", "reward": -distance, "gold": math.sqrt(distance) + gap + place + side}
                | ({"log_ratio": distance + side * 0.1} if ratios else {})
                for side in (-1, 1)
            ]
            lines.append(json.dumps({"step": step, "context": context, "answers": answers}))
    run.write("looks.jsonl", "".join(f"{line}\n" for line in lines))
    return path


def test_at_equal_kl_the_gap_is_found_that_the_last_looks_hide(tmp_path):
    """The second run is better by 0.3 at any KL, and has moved less: its last score is lower."""
    first = a_run(tmp_path / "fast", nats=(0.5, 1, 4, 9))
    second = a_run(tmp_path / "slow", nats=(0.25, 1, 1.5, 2), gap=0.3)
    made, page = compare([first, second], tmp_path / "out")
    (one,) = made.against_first
    assert one.matched.difference.value == pytest.approx(0.3, abs=1e-2)
    assert one.last.value == pytest.approx(math.sqrt(2) + 0.3 - 3)
    assert (one.matched.divergence[0], one.matched.divergence[-1]) == pytest.approx((0.5, 2))
    assert [row.reading for row in made.rows] == ["better", "worse"]
    assert made.runs[0].last_divergence.value == pytest.approx(9)
    assert made.contexts == 8
    assert made.settings == {}
    assert made.warnings == ()
    assert page == tmp_path / "out" / "compare.html"


def test_looks_that_kept_no_ratios_are_placed_by_the_mean_kl_of_their_metrics(tmp_path):
    runs = [a_run(tmp_path / "a", ratios=False), a_run(tmp_path / "b", ratios=False, gap=-0.2)]
    (one,) = compare(runs, tmp_path / "out")[0].against_first
    assert one.matched.difference.value == pytest.approx(-0.2)


def test_the_pages_say_the_same_and_escape_what_people_wrote(tmp_path):
    first = a_run(tmp_path / "a")
    second = a_run(tmp_path / "b", method="grpo", training={"learning_rate": 0.1, "note": "<script>x</script>"})
    third = a_run(tmp_path / "c", nats=(7, 8))
    made, page = compare([first, second, third], tmp_path / "out")
    html, markdown = page.read_text(), (page.parent / "compare.md").read_text()
    stored = json.loads((page.parent / "compare.json").read_text())
    assert made.settings["method"] == ("rloo", "grpo", "rloo")
    assert made.settings["training.learning_rate"] == ("none", "0.1", "none")
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert not re.search(r'(src|href)="(?!#)', html)
    assert html.count('<svg class="plot"') == 2
    assert made.against_first[1].matched is None
    for text in (html, markdown):
        assert "not matched" in text.lower()
        assert "training.learning" in text.replace("\\", "")
    kept = stored["against_first"][0]["matched"]
    assert kept["difference"]["value"] == made.against_first[0].matched.difference.value
    assert len(kept["divergence"]) == len(kept["a"]["low"]) == len(kept["b"]["value"])
    assert stored["against_first"][1]["matched"] is None


def test_without_a_common_second_reward_the_optimised_one_is_used_with_a_warning(tmp_path):
    runs = [a_run(tmp_path / "a"), a_run(tmp_path / "b", gold="python:judges:other")]
    made, _ = compare(runs, tmp_path / "out")
    assert made.score_name == "the reward"
    assert made.runs[0].score[-1] == -4
    assert [warning.rule for warning in made.warnings] == ["compared by the reward that was optimised"]


def test_sampling_that_differs_is_a_warning(tmp_path):
    runs = [a_run(tmp_path / "a"), a_run(tmp_path / "b", evaluation={"temperature": 0.7})]
    rules = [warning.rule for warning in compare(runs, tmp_path / "out")[0].warnings]
    assert rules == ["sampled unequally", "no KL"]


def test_contexts_that_one_look_could_not_judge_are_left_out_and_counted(tmp_path):
    first, second = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    lines = (second / "looks.jsonl").read_text().splitlines(keepends=True)
    (second / "looks.jsonl").write_text("".join(lines[1:]))
    made, _ = compare([first, second], tmp_path / "out")
    assert made.contexts == 7
    assert "1 of 8 held-out contexts" in made.warnings[0].sentence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"method": "dpo"},
            r"expected a run of a method that looks at its own answers \(.*\), got dpo, which samples none",
        ),
        (
            {"nats": (1.0,)},
            "at least two looks at held-out contexts, got 1; run it again with --training.evaluate-every",
        ),
        (
            {"contexts": (*CONTEXTS[:4], "Other?")},
            "got 8 in a and 5 in b, of which 4 are the same. Give all runs the same",
        ),
        (
            {"gold": "python:judges:other", "reward": "train"},
            "expected runs that the same reward judged, got a: reward python",
        ),
        ({"model": "n"}, "model: expected the same start, which the KL is measured to, got m in a and n in b"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_what_to_change(tmp_path, changes, message):
    runs = [a_run(tmp_path / "a"), a_run(tmp_path / "b", **changes)]
    with pytest.raises(ConfigError, match=message):
        compare(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_rewards_that_were_trained_in_the_runs_are_not_the_same(tmp_path):
    runs = [a_run(tmp_path / name, gold=None, reward="train") for name in "ab"]
    with pytest.raises(ConfigError, match="train makes each run a reward model of its own"):
        compare(runs, tmp_path / "out")


def test_looks_without_a_distance_name_what_to_turn_on(tmp_path):
    first, second = a_run(tmp_path / "a"), a_run(tmp_path / "b")
    rows = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    (second / "metrics.jsonl").write_text(
        "".join(json.dumps({k: row[k] for k in row if k != "kl"}) + "\n" for row in rows)
    )
    with pytest.raises(ConfigError, match=r"run it again with adapters .* or with the method's kl_coefficient above 0"):
        compare([first, second], tmp_path / "out")


def test_one_run_twice_or_none_is_refused(tmp_path):
    one = a_run(tmp_path / "a")
    for runs in ([one], [one, tmp_path / "." / "a"]):
        with pytest.raises(ConfigError, match="runs: expected at least two different ones"):
            compare(runs, tmp_path / "out")
    with pytest.raises(CheckpointError, match="is no run"):
        compare([one, tmp_path], tmp_path / "out")


def test_the_command_compares_real_runs(tiny_model, tmp_path, monkeypatch, capsys):
    """Two methods on a tiny model; 23 s on a busy core, since two whole runs are trained and reported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("compared_rewards.py").write_text(
        "def low(context, output):\n    return sum(c < 'p' for c in output) / max(1, len(output))\n\n\n"
        "def long(context, output):\n    return float(len(output))\n"
    )
    Path("prompts.txt").write_text("".join(f"Question {index}?\n" for index in range(24)))
    for method in ("rloo", "best_of_n"):
        align(AlignConfig(
            model=str(tiny_model), run=Path(method), method=method, reward="python:compared_rewards:low", judge="none",
            gold="python:compared_rewards:long", contexts=Path("prompts.txt"), dtype="float32", held_out=0.4,
            lora=LoRA(rank=4), rloo=RLOOConfig(**ROLLOUTS), best_of_n=BestOfNConfig(**ROLLOUTS),
            training=TrainingConfig(learning_rate=0.02, schedule="constant", warmup_ratio=0, checkpoint_every=0, max_steps=3,
                                    evaluate_every=1),
            evaluation=EvaluationConfig(contexts=2, contexts_at_looks=6, max_new_tokens=6, outputs_per_context=2),
        ))  # fmt: skip
    sys.modules.pop("compared_rewards", None)
    capsys.readouterr()
    assert main(["compare", "rloo", "best_of_n", "--no-open"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "best_of_n: the second reward (gold) at the last look, minus rloo's:" in told
    assert "rloo/compare/compare.html" in told
    stored = json.loads(Path("rloo/compare/compare.json").read_text())
    looks = [json.loads(line) for line in Path("best_of_n/looks.jsonl").read_text().splitlines()]
    last = [answer["gold"] for row in looks if row["step"] == 3 for answer in row["answers"]]
    assert stored["runs"][1]["last_score"]["value"] == pytest.approx(sum(last) / len(last))
    assert stored["settings"]["method"] == ["rloo", "best_of_n"]


def test_the_command_says_what_it_needs(tmp_path, capsys):
    assert main(["compare"]) == 2
    assert "expected at least two folders" in " ".join(capsys.readouterr().err.split())
    assert main(["compare", "--help"]) == 0
    assert "plaudit compare runs/grpo runs/online-dpo" in "".join(capsys.readouterr())
