"""Align a model with feedback or a reward: learn from it, and measure the change on contexts that were kept aside."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from plaudit.errors import ConfigError, TrainingError
from plaudit.evaluation.report import RunReport
from plaudit.feedback.examples import Pair
from plaudit.feedback.records import Context, Feedback
from plaudit.methods import OFFLINE
from plaudit.policies import CausalLM
from plaudit.progress import console
from plaudit.rewards import RewardModel
from plaudit.sharing import from_main, is_main, join
from plaudit.training import RunFolder
from plaudit.training.alarms import reward_hacking
from plaudit.training.randomness import numpy_generator
from plaudit.workflows.alarms import alarm_warnings
from plaudit.workflows.answers import distinct_contexts, kept_answers
from plaudit.workflows.comparing import measure_answers
from plaudit.workflows.config import AlignConfig, to_mapping
from plaudit.workflows.contexts import contexts_to_ask
from plaudit.workflows.feedback_data import (
    FeedbackData,
    expect_examples,
    new_run_folder,
    records_of,
    split_view,
    summarise,
)
from plaudit.workflows.judging import expect_askable, judge_endpoint, kept_judgements
from plaudit.workflows.looks import climb, watched
from plaudit.workflows.measure import GOLD, Answers, Asked, Comparison, JudgeQuality, Optimised, Utility, reward_gain
from plaudit.workflows.offline import OfflineLearner
from plaudit.workflows.online import OnlineLearner, share_not_judged
from plaudit.workflows.profile import profiled_run
from plaudit.workflows.reporting import begin_report, keep_report, reward_curves, training_curves, with_comparison
from plaudit.workflows.reward_models import reward_model
from plaudit.workflows.reward_sources import check_reward, is_reward_model


@dataclass(frozen=True)
class AlignResult:
    """The run's folder, its report, and the figures behind it."""

    run: RunFolder
    page: Path
    report: RunReport
    comparison: Comparison | None


def align(
    config: AlignConfig,
    *,
    resuming: bool = False,
    policy: CausalLM | None = None,
    utility: Utility | None = None,
    contexts: Sequence[Context] | None = None,
) -> AlignResult:
    """Run the whole of it: feedback, model, answers before, judge, training, answers after, report.

    Every stage leaves its result in the run's folder; `plaudit resume` continues after the last one that is whole. Under
    torchrun or accelerate launch the processes share the work; the first one writes, and every one returns the result.

    Args:
        config: all settings.
        resuming: continue the run in ``config.run``.
        policy: the model, where it is loaded already and untrained.
        utility: the true worth of an answer, where it is known (in a testbed).
        contexts: what to ask before and after, instead of the feedback's held-out contexts.
    """
    join()
    with profiled_run(config.profile, dtype=config.dtype, device=config.device):
        return _align(config, resuming=resuming, policy=policy, utility=utility, contexts=contexts)


def _align(
    config: AlignConfig,
    *,
    resuming: bool,
    policy: CausalLM | None,
    utility: Utility | None,
    contexts: Sequence[Context] | None,
) -> AlignResult:
    started = time.perf_counter()
    config = replace(config, run=config.run or from_main(lambda: new_run_folder(config.method)))
    assert config.run is not None
    seed = config.training.seed
    with RunFolder.begin(config.run, {"workflow": "align", **to_mapping(config)}, resuming=resuming) as run:
        records = _records(config, run, resuming=resuming)
        data, pairs = views_of(records, config, run)
        expect_learnable(config, data, pairs)
        run.write_feedback_ids(dict.fromkeys((*data.record_ids, *pairs.record_ids)))
        if policy is None:
            console.print(f"Loading {config.model} ...")
            policy = CausalLM.load(
                config.model, **config.loading, gradient_checkpointing=config.gradient_checkpointing, seed=seed
            )
        if config.online is not None:
            policy.expect_room(config.online.max_new_tokens)
    if config.evaluation.contexts:
        policy.expect_room(config.evaluation.max_new_tokens)
    others = () if config.contexts is not None else pairs.held_out
    asked = distinct_contexts(
        contexts or [example.context for example in (*data.held_out, *others)],
        config.evaluation.contexts,
        seed=seed,
    )
    before = kept_answers("before", run, policy, asked, config.evaluation, seed=seed) if asked else ()
    judge, quality = _judge(config, policy, pairs, run, resuming=resuming)
    learner: OfflineLearner | OnlineLearner
    if config.online is None:
        learner = OfflineLearner(policy, config, data, pairs, run)
    else:
        learner = OnlineLearner(policy, config, data, pairs, run, resuming=resuming)
    learner.learn(resuming=resuming)
    if is_main():
        policy.save(run.model)
    posed = tuple(map(learner.asked, asked))
    after = kept_answers("after", run, policy, posed, config.evaluation, seed=seed) if asked else ()
    answers = Answers(asked, before, after, posed)
    measured = _measure(config, learner, answers, judge, run, utility) if asked else _Measured()
    report = begin_report(
        run,
        title=f"{config.method.upper()} on {config.about}",
        method=config.method,
        model=config.model,
        feedback=summarise(records, data),
        config=to_mapping(config),
        seconds=time.perf_counter() - started,
    )
    report = with_comparison(
        report,
        measured.comparison,
        measured.answers,
        judge=quality or learner.quality,
        implicit=learner.implicit_accuracy(),
        optimised=measured.optimised,
    )
    if config.online is not None:
        report = replace(report, warnings=(*report.warnings, *alarm_warnings(config.alarms, run)))
    judged = [reward_curves(RunFolder(run.path / part)) for part in ("judge", "reward")]
    curves = {**training_curves(run), **judged[0], **judged[1]}
    report = replace(report, curves=curves, watched=watched(run), climb=climb(run))
    page = keep_report(report, run)
    console.print(f"{report.verdict}\nModel: {run.model}\nReport: {page}")
    return AlignResult(run, page, report, measured.comparison)


@dataclass(frozen=True)
class _Measured:
    """What the answers show; nothing where none were sampled."""

    answers: Answers | None = None
    comparison: Comparison | None = None
    optimised: Optimised | None = None


def _measure(
    config: AlignConfig,
    learner: OfflineLearner | OnlineLearner,
    answers: Answers,
    judge: RewardModel | None,
    run: RunFolder,
    utility: Utility | None,
) -> _Measured:
    """Compare the answers by the judge, and by the reward that was optimised where there is one."""
    seed = config.training.seed
    asked = _asked(config, answers, run)
    rewards = learner.rewards(answers)
    alone = rewards is not None and judge is None and asked is None
    comparison = measure_answers(
        answers,
        judge,
        learner.log_ratios,
        learner.policy,
        utility=utility,
        seed=seed,
        asked=asked,
        optimised=rewards if alone else None,
    )
    optimised = None
    if rewards is not None:
        gain = reward_gain(rewards, answers, generator=numpy_generator(seed, "gain"))
        second = learner.gold_rewards(answers)
        gold = second and reward_gain(second, answers, generator=numpy_generator(seed, "gold"), name=GOLD)
        hacking = reward_hacking([row for row in run.metrics() if row["split"] == "held_out"])
        optimised = Optimised(gain, alone, share_not_judged(run), gold or None, hacking)
    return _Measured(answers, comparison, optimised)


def _records(config: AlignConfig, run: RunFolder, *, resuming: bool) -> list[Feedback]:
    if config.feedback is None:
        return []
    return records_of(config.feedback, run, format_name=config.format, resuming=resuming)


def views_of(
    records: list[Feedback], config: AlignConfig, run: RunFolder | None = None
) -> tuple[FeedbackData[Any], FeedbackData[Pair]]:
    """The method's own examples, and the pairs for judge, reward and the policy's accuracy, split alike."""
    split = partial(split_view, held_out=config.held_out, seed=config.training.seed)
    pairs = config.pairs(records, ties="drop")
    if (method := OFFLINE.get(config.method)) is None:
        return contexts_to_ask(records, config, run), split(pairs)
    return split(method.view(records, pairs)), split(pairs)


def expect_learnable(config: AlignConfig, data: FeedbackData[Any], pairs: FeedbackData[Pair]) -> None:
    """Raise what would keep the run from its end: nothing to learn from, or a judge or reward that cannot judge."""
    expect_examples(data, held_out=config.held_out)
    if config.reward is not None:
        check_reward(config.reward)
        if config.gold is not None:
            check_reward(config.gold, setting="gold")
        if config.training.evaluate_every and not data.held_out:
            raise TrainingError(
                f"held_out: {config.held_out} keeps no contexts aside, and training.evaluate_every looks at such; raise it, or "
                "set training.evaluate_every to 0."
            )
        if config.reward == "train":
            expect_examples(pairs, held_out=config.held_out)
    judge = config.judge
    if (endpoint := judge_endpoint(judge, config.judge_key_env)) is not None:
        expect_askable(endpoint)
    elif judge not in ("train", "none") and not is_reward_model(judge):
        raise ConfigError(
            "judge: expected train, none, or the folder of a reward model (RUN/model of `plaudit train reward`), or "
            f"openai:MODEL@URL, got {judge!r}"
        )


def _judge(
    config: AlignConfig, policy: CausalLM, pairs: FeedbackData[Pair], run: RunFolder, *, resuming: bool
) -> tuple[RewardModel | None, JudgeQuality | None]:
    """The judge of the answers, where it is a reward model and another one than is optimised."""
    if config.judge == "none" or config.judge.startswith("openai:") or (config.judge == "train" and not pairs.train):
        return None, None
    if config.judge == config.reward or _same_folder(config.judge, config.reward):
        return None, None
    return reward_model(config.judge, run.path / "judge", config, policy, pairs, resuming=resuming)


def _same_folder(judge: str, reward: str | None) -> bool:
    return reward is not None and Path(judge).expanduser().resolve() == Path(reward).expanduser().resolve()


def _asked(config: AlignConfig, answers: Answers, run: RunFolder) -> Asked | None:
    """What a judge behind an address says of the answers."""
    if (endpoint := judge_endpoint(config.judge, config.judge_key_env)) is None:
        return None
    models = (config.model, str(run.model))
    sampling = config.evaluation.sampling
    return from_main(lambda: kept_judgements(endpoint, answers, run, models=models, sampling=sampling))
