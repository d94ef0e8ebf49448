"""Compare two models on the same contexts, with a reward model or a model behind an address as the judge."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError, TrainingError
from plaudit.feedback import views
from plaudit.methods import encode_pairs
from plaudit.policies import CausalLM
from plaudit.policies import Sequence as TokenSequence
from plaudit.progress import console
from plaudit.rewards import RewardModel
from plaudit.sharing import expect_alone
from plaudit.training import RunFolder
from plaudit.workflows.answers import distinct_contexts, kept_answers
from plaudit.workflows.comparing import measure_answers
from plaudit.workflows.config import EvaluateConfig, to_mapping
from plaudit.workflows.feedback_data import new_run_folder, open_feedback, split_view, summarise
from plaudit.workflows.judging import expect_askable, judge_endpoint, kept_judgements
from plaudit.workflows.measure import Answers
from plaudit.workflows.reporting import begin_report, keep_report, with_comparison
from plaudit.workflows.train_reward import measure_reward_model


def evaluate(config: EvaluateConfig) -> RunFolder:
    """Sample answers of both models, let the judge compare them, and write a report.

    A reward model is tested on the same held-out comparisons, so that the report says what its word is worth.
    """
    expect_alone("Comparing two models")
    started = time.perf_counter()
    if (endpoint := judge_endpoint(config.judge, config.judge_key_env)) is not None:
        expect_askable(endpoint)
    elif not (Path(config.judge).expanduser() / "reward.json").is_file():
        raise ConfigError(
            "judge: expected the folder of a reward model, such as RUN/judge/model, or openai:MODEL@URL, "
            f"got {config.judge!r}"
        )
    config = replace(config, run=config.run or new_run_folder("evaluate"))
    assert config.run is not None
    run = RunFolder.create(config.run, {"workflow": "evaluate", **to_mapping(config)})
    with open_feedback(config.feedback, format_name=config.format, folder=run.path) as store:
        records = list(store.records())
    pairs = split_view(views.pairs(records), held_out=config.held_out, seed=config.seed)
    _, kept = views.split(views.demonstrations(records).examples, held_out=config.held_out, seed=config.seed)
    every = [*(pair.context for pair in pairs.held_out), *(shown.context for shown in kept)]
    contexts = distinct_contexts(every, config.evaluation.contexts, seed=config.seed)
    if not contexts:
        raise TrainingError("The feedback has no held-out contexts to ask; raise held_out.")
    loading: dict[str, Any] = {"dtype": config.dtype, "device": config.device}
    baseline = CausalLM.load(config.baseline, **loading)
    before = kept_answers("before", run, baseline, contexts, config.evaluation, seed=config.seed)
    policy = CausalLM.load(config.model, **loading)
    after = kept_answers("after", run, policy, contexts, config.evaluation, seed=config.seed)
    answers = Answers(contexts, before, after)
    judge = quality = asked = None
    if endpoint is not None:
        models, sampling = (config.baseline, config.model), config.evaluation.sampling
        asked = kept_judgements(endpoint, answers, run, models=models, sampling=sampling)
    else:
        judge = RewardModel.load(config.judge, **loading)
        encoded, _ = encode_pairs(pairs.held_out, judge.encoder)
        quality = measure_reward_model(judge, encoded, seed=config.seed)
    comparable = baseline.encoder.fingerprint == policy.encoder.fingerprint

    def log_ratios(sequences: list[TokenSequence]) -> list[float]:
        ratio = policy.sums_of_log_prob(sequences) - baseline.sums_of_log_prob(sequences)
        return ratio.tolist()

    comparison = measure_answers(
        answers, judge, log_ratios if comparable else None, policy, utility=None, seed=config.seed, asked=asked
    )
    report = begin_report(
        run,
        title=f"{config.model} against {config.baseline}",
        method="comparison",
        model=config.model,
        feedback=summarise(records, pairs),
        config={"workflow": "evaluate", **to_mapping(config)},
        seconds=time.perf_counter() - started,
    )
    report = with_comparison(report, comparison, answers, judge=quality)
    page = keep_report(report, run)
    console.print(f"{report.verdict}\nReport: {page}")
    return run
