"""A judge behind an address in a run: its setting, its verdicts on the answers and what they cost, kept in the folder."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

from plaudit.errors import ConfigError, PolicyError, require
from plaudit.evaluation import Judgements
from plaudit.feedback.records import Comparison, Output, Producer, Text
from plaudit.policies import Endpoint, ReplyCache, Sample, Sampling
from plaudit.policies.chat_completions import Usage
from plaudit.progress import track
from plaudit.rewards import EndpointJudge
from plaudit.training import RunFolder
from plaudit.workflows.measure import Answers, Asked

_FORM = re.compile(r"openai:(?P<model>.+)@(?P<url>https?://.+)")
_PREFERENCE = {"first": 1.0, "second": 0.0, "tie": 0.5}


def judge_endpoint(judge: str, key_env: str | None) -> Endpoint | None:
    """The endpoint that the setting of a judge names, openai:MODEL@URL; None where it is of another kind.

    Raises:
        ConfigError: it begins as one and is none, or its URL or the key's variable cannot be used.
    """
    if not judge.startswith("openai:"):
        if key_env is not None:
            raise ConfigError("judge_key_env: only a judge of the form openai:MODEL@URL has a key; leave it out")
        return None
    if (found := _FORM.fullmatch(judge)) is None:
        raise ConfigError("judge: expected openai:MODEL@URL, such as openai:qwen3@http://127.0.0.1:8000/v1")
    return Endpoint(found["url"], found["model"], api_key_env=key_env)


def expect_askable(endpoint: Endpoint) -> None:
    """Raise what would keep the judge from being asked, before hours of training and not after them."""
    require("httpx2", extra="endpoint")
    endpoint.key()


def kept_judgements(
    endpoint: Endpoint, answers: Answers, run: RunFolder, *, models: tuple[str, str], sampling: Sampling
) -> Asked:
    """What the judge says of each answer after (a) against that before (b): asked now, unless the folder keeps it.

    ``judgements.jsonl`` holds a feedback record for each pair, for `plaudit import`; ``judging.json`` what it cost.

    Args:
        endpoint: the judge.
        answers: before and after.
        run: the run's folder.
        models: names of the models before and after.
        sampling: how the answers were sampled.

    Raises:
        PolicyError: the judge cannot be asked, or could judge nothing.
    """
    kept, summary = run.path / "judgements.jsonl", run.path / "judging.json"
    if not summary.is_file():
        rows = answers.rows

        def output(sample: Sample, model: str) -> Output:
            sampler = {"finished": sample.finished, **sampling.settings()}
            return Output(content=Text(text=sample.text), producer=Producer(model=model, sampler=sampler))

        after = [output(sample, models[1]) for _, _, sample in rows]
        before = [output(sample, models[0]) for _, sample, _ in rows]
        with track("Judging in both orders", 2 * len(rows)) as bar:
            judged = EndpointJudge(endpoint, replies=ReplyCache()).compare(
                [row[0] for row in rows], after, before, progress=bar.advance
            )
        if all(record.choice == "cannot_judge" for record in judged.records):
            reasons = "; ".join(f"{reason}: {count}" for reason, count in judged.reasons.most_common(3))
            raise PolicyError(f"The judge {endpoint.model} gave no verdict on any of {len(rows)} pairs. {reasons}")
        run.write(kept.name, "".join(f"{record.model_dump_json()}\n" for record in judged.records))
        found = {"usage": asdict(endpoint.usage), "inconsistent": judged.inconsistent, "reasons": judged.reasons}
        run.write(summary.name, json.dumps(found, indent=2) + "\n")
    said = json.loads(summary.read_text(encoding="utf-8"))
    records = [Comparison.model_validate_json(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    return Asked(endpoint.model, _judgements(records), said["inconsistent"], str(Usage(**said["usage"])))


def _judgements(records: list[Comparison]) -> Judgements:
    """The answers in both orders as the probabilities that a wins."""
    orders: list[list[float | None]] = [[], []]
    for record in records:
        said: list[dict[str, str]] = record.attributes["orders"]  # type: ignore[assignment]
        a_first, b_first = (_PREFERENCE.get(order["answer"]) for order in said)
        orders[0].append(a_first)
        orders[1].append(None if b_first is None else 1.0 - b_first)
    return Judgements(tuple(orders[0]), tuple(orders[1]))
