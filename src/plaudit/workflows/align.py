"""Align a model with feedback or a reward: learn from it, and measure the change on contexts that were kept aside."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from plaudit.errors import ConfigError
from plaudit.evaluation import preference_accuracy
from plaudit.evaluation.report import Row, RunReport, write_report
from plaudit.feedback import views
from plaudit.feedback.examples import Pair
from plaudit.feedback.records import Context, Feedback
from plaudit.methods import DPO, SFT, EncodedPair, encode_demonstrations, encode_pairs
from plaudit.policies import CausalLM, Reference, ReferenceCache
from plaudit.policies import Sequence as TokenSequence
from plaudit.progress import console, track
from plaudit.rewards import RewardModel
from plaudit.training import RunFolder, train
from plaudit.training.randomness import batch_indices, numpy_generator
from plaudit.workflows.answers import distinct_contexts, kept_answers
from plaudit.workflows.comparing import log_ratios_to_start, measure_answers
from plaudit.workflows.config import AlignConfig, to_mapping
from plaudit.workflows.contexts import contexts_to_ask
from plaudit.workflows.feedback_data import (
    FeedbackData,
    expect_examples,
    load_records,
    new_run_folder,
    open_feedback,
    split_view,
    summarise,
)
from plaudit.workflows.judging import expect_askable, judge_endpoint, kept_judgements
from plaudit.workflows.measure import Answers, Asked, Comparison, JudgeQuality, Optimised, Utility, reward_gain
from plaudit.workflows.online import OnlineLearner, share_not_judged
from plaudit.workflows.profile import keep_profile, profiled_run
from plaudit.workflows.reporting import begin_report, reward_curves, training_curves, with_comparison
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

    Every stage leaves its result in the run's folder; `plaudit resume` continues after the last one that is whole.

    Args:
        config: all settings.
        resuming: continue the run in ``config.run``.
        policy: the model, where it is loaded already and untrained.
        utility: the true worth of an answer, where it is known (in a testbed).
        contexts: what to ask before and after, instead of the feedback's held-out contexts.
    """
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
    config = replace(config, run=config.run or new_run_folder(config.method))
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
    learner: _Learner | OnlineLearner
    if config.online is None:
        learner = _Learner(policy, config, data, pairs, run)
    else:
        learner = OnlineLearner(policy, config, data, pairs, run, resuming=resuming)
    learner.learn(resuming=resuming)
    policy.save(run.model)
    after = kept_answers("after", run, policy, asked, config.evaluation, seed=seed) if asked else ()
    measured = _measure(config, learner, Answers(asked, before, after), judge, run, utility) if asked else _Measured()
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
    judged = [reward_curves(RunFolder(run.path / part)) for part in ("judge", "reward")]
    report = replace(report, curves={**training_curves(run), **judged[0], **judged[1]})
    page, _ = write_report(report, run.path)
    keep_profile(report, run)
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
    learner: _Learner | OnlineLearner,
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
        optimised = Optimised(gain, judges=alone, not_judged=share_not_judged(run))
    return _Measured(answers, comparison, optimised)


class _Learner:
    """A method that learns from feedback as it is, on the policy, with its reference."""

    quality = None

    def __init__(
        self,
        policy: CausalLM,
        config: AlignConfig,
        data: FeedbackData[Any],
        pairs: FeedbackData[Pair],
        run: RunFolder,
    ) -> None:
        self.policy, self.config, self.run = policy, config, run
        self.held_out_pairs, _ = encode_pairs([pair for pair in pairs.held_out if not pair.tie], policy.encoder)
        self.examples, self.held_out = self._encode(data)
        batch_size = 2 * config.training.micro_batch_size
        self.reference = Reference(policy, batch_size=batch_size, shared=ReferenceCache())

    def learn(self, *, resuming: bool) -> None:
        """Prepare the reference, then train."""
        self._prepare_reference()
        method: Any
        if self.config.method == "dpo":
            method = DPO(self.policy, self.reference, self.examples, self.config.dpo)
        else:
            method = SFT(self.policy, self.examples, self.config.sft)
        steps = self.config.training.steps(len(self.examples))
        train(method, self.run, self.config.training, steps=steps, held_out=self.held_out, resume=resuming)

    def implicit_accuracy(self) -> Row | None:
        """How often the policy's own implicit reward, the log-ratio, agrees with held-out comparisons."""
        pairs = self.held_out_pairs
        if not pairs:
            return None
        sequences = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        ratio = np.array(self.log_ratios(sequences))
        estimate = preference_accuracy(
            ratio[: len(pairs)] - ratio[len(pairs) :],
            generator=numpy_generator(self.config.training.seed, "implicit"),
            clusters=[pair.chosen.context for pair in pairs],
        )
        return Row(
            "Policy's implicit reward: held-out accuracy",
            estimate,
            "up",
            0.5,
            f"Share of {len(pairs)} held-out comparisons whose winner the training made likelier; chance is 50 %.",
        )

    def log_ratios(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """log π - log π_ref of each output, summed over its tokens."""
        return log_ratios_to_start(self.policy, self.reference, self.config, sequences)

    def rewards(self, answers: Answers) -> None:
        """No reward is optimised."""

    def _encode(self, data: FeedbackData[Any]) -> tuple[list[Any], list[Any]]:
        encoder = self.policy.encoder
        if self.config.method == "dpo":
            found, _ = encode_pairs(data.train, encoder)
            return found, self.held_out_pairs
        shown, _ = encode_demonstrations(data.train, encoder)
        kept, _ = encode_demonstrations(data.held_out, encoder)
        return shown, kept

    def _prepare_reference(self) -> None:
        file = self.run.path / "reference.safetensors"
        if file.is_file():
            self.reference.load(file)
        needed = [*self.held_out_pairs, *(self._visited() if self.config.method == "dpo" else ())]
        sequences = [side for pair in needed for side in (pair.chosen, pair.rejected)]
        with track("Reference log-probabilities", len(sequences)) as bar:
            self.reference.prepare(sequences, progress=bar.advance)
        if sequences and not file.is_file():
            self.reference.save(file)

    def _visited(self) -> list[EncodedPair]:
        """The pairs that training will come to; a run of few steps does not see them all."""
        training, count = self.config.training, len(self.examples)
        steps = range(training.steps(count))
        seen = {i for step in steps for i in batch_indices(count, training.batch_size, step, seed=training.seed)}
        return [self.examples[index] for index in sorted(seen)]


def _records(config: AlignConfig, run: RunFolder, *, resuming: bool) -> list[Feedback]:
    if config.feedback is None:
        return []
    with open_feedback(config.feedback, format_name=config.format, folder=run.path) as store:
        return load_records(store, run, resuming=resuming)


def views_of(
    records: list[Feedback], config: AlignConfig, run: RunFolder | None = None
) -> tuple[FeedbackData[Any], FeedbackData[Pair]]:
    """The method's own examples, and the pairs for judge, reward and the policy's accuracy, split alike."""
    split = partial(split_view, held_out=config.held_out, seed=config.training.seed)
    pairs = split(config.pairs(records, ties="drop"))
    if config.online is not None:
        return contexts_to_ask(records, config, run), pairs
    return (pairs if config.method == "dpo" else split(views.demonstrations(records))), pairs


def expect_learnable(config: AlignConfig, data: FeedbackData[Any], pairs: FeedbackData[Pair]) -> None:
    """Raise what would keep the run from its end: nothing to learn from, or a judge or reward that cannot judge."""
    expect_examples(data, held_out=config.held_out)
    if config.reward is not None:
        check_reward(config.reward)
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
    return kept_judgements(endpoint, answers, run, models=models, sampling=config.evaluation.sampling)
