"""Looks at held-out contexts while a method learns from own samples: early stopping, the best weights, the second reward."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plaudit.errors import TrainingError
from plaudit.evaluation.report import RunReport, render_html, render_markdown
from plaudit.feedback.records import Context
from plaudit.methods import BestOfNConfig, RLOOConfig
from plaudit.policies import CausalLM, LoRA, Reference, Sequence
from plaudit.rewards import FunctionReward, NormalisedReward
from plaudit.training import RunFolder, TrainingConfig
from plaudit.training.randomness import torch_generator
from plaudit.workflows import AlignConfig, AlignResult, EvaluationConfig, align, resume
from plaudit.workflows.looks import HeldOutLook, climb
from plaudit.workflows.plan import plan

TRAINING = TrainingConfig(
    learning_rate=0.02, schedule="constant", warmup_ratio=0, checkpoint_every=2, keep_checkpoints=9, max_steps=6,
    evaluate_every=1,
)  # fmt: skip
ROLLOUTS = {"contexts_per_rollout": 4, "outputs_per_context": 6, "max_new_tokens": 6}
REWARDS = """
def low(context, output):
    return sum(character < "p" for character in output) / max(1, len(output))

def high(context, output):
    return -low(context, output)

def same(context, output):
    return 1.0
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    Path("look_rewards.py").write_text(REWARDS)
    Path("prompts.txt").write_text("".join(f"Question {index}?\n" for index in range(40)))
    yield tmp_path
    sys.modules.pop("look_rewards", None)


def settings(model: Path, run: str, **changes) -> AlignConfig:
    return AlignConfig(
        **{
            "model": str(model), "run": Path(run), "method": "rloo", "reward": "python:look_rewards:low",
            "contexts": Path("prompts.txt"), "judge": "none", "dtype": "float32", "held_out": 0.4, "lora": LoRA(rank=4),
            "training": TRAINING, "rloo": RLOOConfig(**ROLLOUTS), "best_of_n": BestOfNConfig(**ROLLOUTS),
            "evaluation": EvaluationConfig(contexts=6, contexts_at_looks=8, max_new_tokens=6, outputs_per_context=2),
            **changes,
        }
    )  # fmt: skip


def looks_of(result: AlignResult | RunFolder) -> list[dict]:
    run = result.run if isinstance(result, AlignResult) else result
    return [row for row in run.metrics() if row["split"] == "held_out"]


def adapters(file: Path) -> list[torch.Tensor]:
    return [value for _, value in sorted(load_file(file).items())]


def is_model_of_step(run: RunFolder, step: int) -> bool:
    kept = adapters(run.checkpoints / f"step-{step:08d}" / "weights.safetensors")
    saved = adapters(run.model / "adapter_model.safetensors")
    return len(kept) == len(saved) and all(torch.equal(one, two) for one, two in zip(kept, saved, strict=True))


def test_training_stops_early_and_the_best_weights_are_saved_and_measured(tiny_model, here):
    """A reward that never rises: the first look is the best, and imitation of any sample moves the weights on."""
    config = settings(
        tiny_model, "run", method="best_of_n", reward="python:look_rewards:same",
        training=replace(TRAINING, patience=2, checkpoint_every=1),
    )  # fmt: skip
    result = align(config)
    assert [row["step"] for row in looks_of(result)] == [1, 2, 3]
    assert {row["reward"] for row in looks_of(result)} == {1.0}
    assert is_model_of_step(result.run, 1)
    assert not is_model_of_step(result.run, 3)


def test_the_best_weights_are_those_of_the_highest_held_out_reward(tiny_model, here):
    """More than five seconds: a whole run."""
    result = align(settings(tiny_model, "run", training=replace(TRAINING, patience=9, checkpoint_every=1)))
    rows = looks_of(result)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["reward"] > rows[0]["reward"]
    best = max(rows, key=lambda row: row["reward"])["step"]
    assert is_model_of_step(result.run, best)
    assert result.report.curves["Held-out reward"].values == tuple(row["reward"] for row in rows)


def test_looks_leave_training_as_it_is_and_an_interrupted_run_looks_again(tiny_model, here, monkeypatch):
    """More than five seconds: three runs."""
    whole = align(settings(tiny_model, "whole", training=replace(TRAINING, patience=3)))
    blind = align(settings(tiny_model, "blind", training=replace(TRAINING, evaluate_every=0)))
    module = sys.modules["plaudit.workflows.online"]
    original = module.train

    def interrupted(*args, **options):
        original(*args, **{**options, "stop_after": 3})
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        align(settings(tiny_model, "broken", training=replace(TRAINING, patience=3)))
    monkeypatch.setattr(module, "train", original)
    run = resume(Path("broken"))

    def lines(folder: RunFolder, *splits: str) -> list:
        rows = [row for row in folder.metrics() if row["split"] in splits]
        return [{name: row[name] for name in row if name != "tokens_per_s"} for row in rows]

    assert lines(run, "train", "held_out") == lines(whole.run, "train", "held_out")
    count = len(lines(whole.run, "train"))
    assert lines(whole.run, "train") == lines(blind.run, "train")[:count]
    assert (run.path / "looks.jsonl").read_text() == (whole.run.path / "looks.jsonl").read_text()
    saved = [adapters(folder.model / "adapter_model.safetensors") for folder in (run, whole.run)]
    assert all(torch.equal(one, two) for one, two in zip(*saved, strict=True))


def test_a_second_reward_that_falls_is_an_alarm_and_stands_in_the_report(tiny_model, here, capsys):
    """The second reward is minus the first. More than five seconds: a whole run."""
    training = replace(TRAINING, max_steps=10, epochs=2)
    result = align(settings(tiny_model, "run", gold="python:look_rewards:high", training=training))
    for row in looks_of(result):
        assert row["gold"] == pytest.approx(-row["reward"], abs=1e-6)
        assert row["gold_error"] > 0
    assert capsys.readouterr().err.count("suspicion of reward hacking") == 1
    rules = {warning.rule for warning in result.report.warnings}
    assert {"reward hacking suspected", "over-optimisation"} <= rules
    rows = {row.name: row for row in result.report.headline}
    assert rows["Second reward (gold), gain"].reading == "worse"
    assert rows["Reward that was optimised, gain"].reading == "better"
    asked = {json.loads(line)["context"] for line in Path("run/answers_before.jsonl").read_text().splitlines()}
    looked = {json.loads(line)["context"] for line in Path("run/looks.jsonl").read_text().splitlines()}
    assert len(looked) == 8
    assert not asked & looked
    assert [len(item.answers) for item in result.report.watched] == [8] * 4
    assert {answer.step for answer in result.report.watched[0].answers} >= {1, 10}
    assert RunReport.from_json((result.run.path / "report.json").read_bytes()) == result.report
    climbed = result.report.climb
    assert climbed.steps == tuple(row["step"] for row in looks_of(result))
    assert climbed.gold == tuple(row["gold"] for row in looks_of(result))
    assert climbed.divergence[-1] > climbed.divergence[0]
    for page in (render_html(result.report), render_markdown(result.report)):
        assert "Held-out answers while it learned" in page
        assert "What the distance from the model before bought" in page


def test_looking_does_not_change_a_reward_that_remembers(tiny_model, tmp_path):
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    reward = NormalisedReward(FunctionReward(lambda context, output: float(len(output.text))))
    contexts = [Context(content=f"Question {index}?") for index in range(3)]
    run = RunFolder.create(tmp_path / "run", {})
    config = EvaluationConfig(max_new_tokens=4)
    look = HeldOutLook(policy, reward, None, contexts, config, run, seed=0)
    before = dict(reward.state())
    first = look(1)
    assert reward.state() == before
    assert look(2) == first
    assert [json.loads(line)["step"] for line in (run.path / "looks.jsonl").read_text().splitlines()] == [1] * 3 + [
        2
    ] * 3
    look(2)
    assert len((run.path / "looks.jsonl").read_text().splitlines()) == 6


def test_the_distance_is_the_mean_log_ratio_to_the_reference(tiny_model, tmp_path):
    """0 with fresh adapters; of others, that of the answers that were kept."""
    policy = CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32")
    reference, run = Reference(policy), RunFolder.create(tmp_path / "run", {})
    contexts = [Context(content=f"Question {index}?") for index in range(5)]
    config = EvaluationConfig(max_new_tokens=4, batch_size=2)
    reward = FunctionReward(lambda context, output: 1.0)
    look = HeldOutLook(policy, reward, None, contexts, config, run, seed=0, reference=reference)
    assert look(0)[0]["kl"] == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.05)
    found = look(1)[0]["kl"]
    generator = torch_generator(0, "look")
    groups = policy.sample(
        contexts, config.outputs_per_context, generator=generator, sampling=config.sampling, batch_size=2
    )
    sequences = [
        Sequence(policy.encoder.context(context), sample.token_ids, (True,) * len(sample.token_ids))
        for context, group in zip(contexts, groups, strict=True)
        for sample in group
    ]
    with torch.no_grad():
        ratios = policy.log_prob_of(sequences).sum() - reference.log_prob_of(sequences).sum()
    assert found == pytest.approx(float(ratios.mean()), rel=1e-4)
    assert abs(found) > 1e-3
    rows = [json.loads(line) for line in (run.path / "looks.jsonl").read_text().splitlines()][len(contexts) :]
    kept = [answer["log_ratio"] for row in rows for answer in row["answers"]]
    assert kept == pytest.approx(ratios.tolist(), abs=1e-4)
    assert climb(run) is None  # the looks' metrics are the training loop's to write


def test_looks_need_held_out_contexts(here):
    with pytest.raises(TrainingError, match=r"held_out: 0\.0 keeps no contexts aside, and training\.evaluate_every"):
        plan(settings(Path("m"), "run", held_out=0.0))
