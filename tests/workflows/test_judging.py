"""A judge behind an address in `align` and `evaluate`: asked in both orders, kept, counted, and never with its key."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from chat_server import Reply, error, says, serving
from plaudit.errors import ConfigError, PolicyError
from plaudit.evaluation.report import RunReport
from plaudit.feedback.records import parse_feedback_json
from plaudit.policies import LoRA
from plaudit.training import RunFolder, TrainingConfig
from plaudit.workflows import AlignConfig, EvaluateConfig, EvaluationConfig, align, evaluate, resume

ANSWERS = EvaluationConfig(contexts=4, max_new_tokens=6)


def shown(asked: dict) -> list[str]:
    """Both answers, in the order in which the judge sees them."""
    user = asked["messages"][1]["content"]
    found = re.findall(r"^--- (?:first|second) answer \w+ ---\n(.*)", user, re.MULTILINE)
    return [json.loads(text) for text in found]


def likes_the_later_in_the_alphabet(asked: dict) -> Reply:
    first, second = shown(asked)
    return says("Verdict: " + ("tie" if first == second else "first" if first > second else "second"))


def align_settings(model, feedback, run, judge: str) -> AlignConfig:
    training = TrainingConfig(batch_size=8, micro_batch_size=4, learning_rate=5e-3, epochs=2)
    return AlignConfig(
        model=str(model), feedback=str(feedback), run=run, judge=judge, dtype="float32", held_out=0.3,
        lora=LoRA(rank=4), training=training, evaluation=ANSWERS,
    )  # fmt: skip


def test_align_asks_a_judge_behind_an_address_once_and_keeps_its_verdicts(
    tiny_model, preferences, tmp_path, monkeypatch
):
    """More than five seconds: a whole alignment, and its resumption."""
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret-0123456789")
    with serving(likes_the_later_in_the_alphabet) as server:
        judge = f"openai:small@judge@{server.url}"
        config = replace(align_settings(tiny_model, preferences, tmp_path / "run", judge), judge_key_env="JUDGE_KEY")
        result = align(config)
        assert len(server.requests) == 8
        assert {asked["model"] for asked in server.requests} == {"small@judge"}
        assert resume(tmp_path / "run").path == result.run.path
        assert len(server.requests) == 8
    rows = {row.name: row for row in result.report.headline}
    won = rows["Win rate against the model before"]
    assert "Mean preference of small@judge for the new model's answer" in won.explanation
    assert "over 4 of 4 pairs. Could not be judged, and left out: 0." in won.explanation
    assert "It took 8 requests, 80 prompt and 24 completion tokens." in won.explanation
    assert rows["Judge's bias for the answer shown first"].estimate.value == 0
    records = [parse_feedback_json(line) for line in (result.run.path / "judgements.jsonl").read_text().splitlines()]
    texts = [(record.outputs[0].text, record.outputs[1].text) for record in records]
    assert [record.choice for record in records] == ["a" if after > before else "b" for after, before in texts]
    assert won.estimate.value == sum(after > before for after, before in texts) / 4
    assert {record.source.name for record in records} == {"small@judge"}
    assert {record.outputs[0].producer.model for record in records} == {str(result.run.model)}
    assert {record.outputs[1].producer.model for record in records} == {str(tiny_model)}
    files = [file for file in result.run.path.rglob("*") if file.is_file()]
    assert not [file for file in files if b"very-secret" in file.read_bytes()]


def test_evaluate_leaves_out_what_could_not_be_judged_and_counts_it(tiny_model, preferences, tmp_path):
    """The judge falls silent on one pair; the two models are the same: both orders are one question, and all others ties."""
    refused: list[str] = []

    def answer(asked: dict) -> Reply:
        if not refused:
            refused.append(shown(asked)[0])
            return says("I prefer not to say.")
        return says("Verdict: first")

    with serving(answer) as server:
        config = EvaluateConfig(
            model=str(tiny_model), baseline=str(tiny_model), feedback=str(preferences), run=tmp_path / "compared",
            judge=f"openai:m@{server.url}", held_out=0.3, dtype="float32", evaluation=ANSWERS,
        )  # fmt: skip
        run = evaluate(config)
    report = RunReport.from_json((run.path / "report.json").read_bytes())
    rows = {row.name: row for row in report.headline}
    won = rows["Win rate against the model before"]
    assert (won.estimate.value, won.estimate.n) == (0.5, 3)
    assert (
        "over 3 of 4 pairs. Could not be judged, and left out: 1. Verdict changed with the order: 3." in won.explanation
    )
    assert rows["Judge's bias for the answer shown first"].estimate.value == 0.5
    assert json.loads((run.path / "judging.json").read_text())["reasons"] == {
        "the reply does not end in one verdict": 2
    }


def test_a_judge_that_judges_nothing_is_an_error_that_says_why(tiny_model, preferences, tmp_path):
    """More than five seconds: a whole alignment up to its judge, and its resumption."""
    with serving([says("Hm.")]) as server:
        config = align_settings(tiny_model, preferences, tmp_path / "run", f"openai:m@{server.url}")
        with pytest.raises(
            PolicyError, match=r"no verdict on any of 4 pairs\. the reply does not end in one verdict: 8"
        ):
            align(config)
    with serving(likes_the_later_in_the_alphabet) as server:  # asked again on resuming, with the model trained already
        values = (tmp_path / "run" / "config.toml").read_text()
        RunFolder(tmp_path / "run").write("config.toml", re.sub(r"http://[^\"]+", server.url, values))
        assert "report.html" in [file.name for file in resume(tmp_path / "run").path.iterdir()]


@pytest.mark.parametrize(
    ("judge", "key_env", "message"),
    [
        ("openai:gpt-5", None, "judge: expected openai:MODEL@URL, such as"),
        ("openai:m@https://me:secret@host/v1", None, "url: expected no user name, password"),
        ("openai:m@http://host/v1", "sk-secret", "api_key_env: expected the name of an environment variable"),
        ("none", "JUDGE_KEY", "judge_key_env: only a judge of the form openai:MODEL@URL has a key"),
    ],
)
def test_settings_of_the_judge_are_checked_before_anything_is_stored(judge, key_env, message):
    with pytest.raises(ConfigError, match=message) as caught:
        AlignConfig(model="m", feedback="f", judge=judge, judge_key_env=key_env)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(model="m", baseline="b", feedback="f", judge=judge, judge_key_env=key_env)


def test_a_missing_key_is_found_before_training(tiny_model, preferences, tmp_path, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with serving([error(401, "no")]) as server:
        config = align_settings(tiny_model, preferences, tmp_path / "run", f"openai:m@{server.url}")
        with pytest.raises(ConfigError, match="the environment variable JUDGE_KEY is not set"):
            align(replace(config, judge_key_env="JUDGE_KEY"))
    assert not (tmp_path / "run").exists()
    assert server.requests == []
