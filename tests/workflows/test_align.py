"""The whole of alignment on a tiny model: what lands in the run's folder, and that an interruption changes nothing."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file

from plaudit.errors import CheckpointError, ConfigError, TrainingError
from plaudit.evaluation.report import RunReport
from plaudit.feedback.store import FeedbackStore
from plaudit.policies import CausalLM, LoRA
from plaudit.rewards import RewardModel
from plaudit.training import RunFolder, TrainingConfig
from plaudit.training.run_folder import without_none
from plaudit.workflows import (
    AlignConfig,
    EvaluateConfig,
    EvaluationConfig,
    TrainRewardConfig,
    align,
    evaluate,
    resume,
    train_reward,
)
from plaudit.workflows.config import read_config, to_mapping

TRAINING = TrainingConfig(batch_size=8, micro_batch_size=4, learning_rate=5e-3, epochs=2, checkpoint_every=2)


def settings(model: Path, feedback: Path, run: Path, **changes) -> AlignConfig:
    config = AlignConfig(
        model=str(model),
        feedback=str(feedback),
        run=run,
        dtype="float32",
        held_out=0.3,
        lora=LoRA(rank=4),
        training=TRAINING,
        judge_training=TRAINING,
        evaluation=EvaluationConfig(contexts=6, max_new_tokens=6, outputs_per_context=2),
    )
    return replace(config, **changes)


def weights_of(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(next(run.model.glob("*.safetensors")))


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_alignment_teaches_the_preference_and_reports_it(tiny_model, preferences, tmp_path, full):
    config = settings(tiny_model, preferences, tmp_path / "run", full=full)
    result = align(config)
    rows = {row.name: row for row in result.report.headline}
    assert rows["Policy's implicit reward: held-out accuracy"].estimate.value == 1.0
    assert rows["Reward model: held-out accuracy"].estimate.value == 1.0
    assert rows["Distance from the reference"].estimate.value > 0
    assert {"Win rate against the model before", "Length-controlled win rate"} <= rows.keys()
    report = RunReport.from_json((result.run.path / "report.json").read_bytes())
    assert report == result.report
    assert "<html" in result.page.read_text()
    with FeedbackStore.open(result.run.path / "feedback.db", create=False) as store:
        assert result.run.feedback_ids == {record.id for record in store.records()}
    trained = CausalLM.load(result.run.model, dtype="float32")
    assert trained.encoder.tokenizer.chat_template
    judge = RewardModel.load(result.run.path / "judge" / "model", dtype="float32")
    assert judge.encoder.fingerprint == trained.encoder.fingerprint


def test_a_run_resumed_after_an_interruption_is_the_run_that_never_was(tiny_model, preferences, tmp_path, monkeypatch):
    whole = align(settings(tiny_model, preferences, tmp_path / "whole"))
    module = sys.modules["plaudit.workflows.offline"]
    original = module.train

    def interrupted(*args, **options):
        original(*args, **{**options, "stop_after": 3})
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupted)
    broken = settings(tiny_model, preferences, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        align(broken)
    monkeypatch.setattr(module, "train", original)
    run = resume(tmp_path / "broken")
    expected, found = weights_of(whole.run), weights_of(run)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)

    def losses(folder: Path):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [(row["step"], row["split"], row["loss"]) for row in map(json.loads, lines)]

    assert losses(run.path) == losses(whole.run.path)
    assert (run.path / "answers_after.jsonl").read_text() == (whole.run.path / "answers_after.jsonl").read_text()


def test_a_run_whose_feedback_was_forgotten_cannot_go_on(tiny_model, preferences, tmp_path):
    align(settings(tiny_model, preferences, tmp_path / "run", judge="none"))
    with FeedbackStore.open(tmp_path / "run" / "feedback.db") as store:
        (source,) = store.sources()
        store.forget(source.name)
    values = RunFolder.open(tmp_path / "run").config
    values["feedback"] = str(tmp_path / "run" / "feedback.db")
    RunFolder(tmp_path / "run").write("config.toml", tomli_w.dumps(values))
    with pytest.raises(CheckpointError, match="were forgotten since it began"):
        resume(tmp_path / "run")


def test_supervised_fine_tuning_learns_from_demonstrations(tiny_model, tmp_path):
    file = tmp_path / "shown.jsonl"
    rows = [{"prompt": f"Question {index}?", "completion": "hello"} for index in range(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = align(settings(tiny_model, file, tmp_path / "run", method="sft", judge="none"))
    held_out = [row["loss"] for row in result.run.metrics() if row["split"] == "held_out"]
    first = next(row["loss"] for row in result.run.metrics() if row["split"] == "train")
    assert held_out[-1] < first


def test_evaluate_compares_two_models(tiny_model, preferences, tmp_path):
    result = align(settings(tiny_model, preferences, tmp_path / "run"))
    config = EvaluateConfig(
        model=str(result.run.model),
        baseline=str(tiny_model),
        feedback=str(preferences),
        judge=str(result.run.path / "judge" / "model"),
        run=tmp_path / "compared",
        held_out=0.3,
        dtype="float32",
        evaluation=EvaluationConfig(contexts=5, max_new_tokens=5),
    )
    run = evaluate(config)
    report = RunReport.from_json((run.path / "report.json").read_bytes())
    assert report.headline[0].name == "Win rate against the model before"
    same = evaluate(replace(config, model=config.baseline, run=tmp_path / "same"))
    rows = {row.name: row for row in RunReport.from_json((same.path / "report.json").read_bytes()).headline}
    assert rows["Distance from the reference"].estimate.value == 0.0
    assert rows["Win rate against the model before"].estimate.value == 0.5


def test_reward_model_learns_ties_and_is_found_again(tiny_model, preferences, tmp_path):
    config = TrainRewardConfig(
        model=str(tiny_model), feedback=str(preferences), run=tmp_path / "reward", dtype="float32", held_out=0.3,
        lora=LoRA(rank=4), training=TRAINING,
    )  # fmt: skip
    run = train_reward(config)
    report = RunReport.from_json((run.path / "report.json").read_bytes())
    assert report.headline[0].estimate.value == 1.0
    assert "predicts" in report.verdict
    saved = load_file(run.model / "head.safetensors")
    assert resume(run.path).path == run.path
    assert torch.equal(load_file(run.model / "head.safetensors")["weight"], saved["weight"])


def test_a_run_folder_in_use_is_not_overwritten(tiny_model, preferences, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="already holds something"):
        align(settings(tiny_model, preferences, tmp_path / "run"))


def test_feedback_without_pairs_says_what_it_has(tiny_model, tmp_path):
    file = tmp_path / "thumbs.jsonl"
    file.write_text(json.dumps({"prompt": "q", "completion": "a", "label": True}) + "\n")
    with pytest.raises(TrainingError, match="kind: reaction"):
        align(settings(tiny_model, file, tmp_path / "run"))


def test_a_judge_that_is_no_reward_model_is_refused(tiny_model, preferences, tmp_path):
    with pytest.raises(ConfigError, match="judge: expected train, none, or the folder"):
        align(settings(tiny_model, preferences, tmp_path / "run", judge="gpt-4"))


def test_a_configuration_survives_its_file(tmp_path):
    config = settings(Path("m"), Path("f"), tmp_path)
    assert read_config(AlignConfig, tomllib.loads(tomli_w.dumps(without_none(to_mapping(config))))) == config
    with pytest.raises(ConfigError, match=r"learning_rat: .* Did you mean learning_rate"):
        read_config(AlignConfig, {"model": "m", "feedback": "f", "training": {"learning_rat": 1}})
