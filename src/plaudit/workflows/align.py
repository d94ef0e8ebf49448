"""Align a model with feedback: learn from it, and measure the change on contexts that were kept aside."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plaudit.errors import ConfigError
from plaudit.evaluation import preference_accuracy
from plaudit.evaluation.report import Row, RunReport, write_report
from plaudit.feedback import views
from plaudit.feedback.examples import Pair
from plaudit.feedback.records import Context, Feedback, Output, Text
from plaudit.methods import DPO, SFT, EncodedPair, RewardConfig, encode_demonstrations, encode_pairs
from plaudit.policies import CausalLM, Reference, ReferenceCache, Sample
from plaudit.policies import Sequence as TokenSequence
from plaudit.policies.base import by_context
from plaudit.profiling import phase
from plaudit.progress import console, track
from plaudit.rewards import RewardModel
from plaudit.training import RunFolder, train
from plaudit.training.randomness import batch_indices, numpy_generator
from plaudit.workflows.answers import distinct_contexts, kept_answers
from plaudit.workflows.config import AlignConfig, to_mapping
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
from plaudit.workflows.measure import Answers, Asked, Comparison, JudgeQuality, Utility, compare_answers
from plaudit.workflows.profile import keep_profile, profiled_run
from plaudit.workflows.reporting import begin_report, reward_curves, training_curves, with_comparison
from plaudit.workflows.train_reward import fit_reward_model, measure_reward_model


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
        with open_feedback(config.feedback, format_name=config.format, folder=run.path) as store:
            records = load_records(store, run, resuming=resuming)
        data, pairs = _views(records, config)
        expect_examples(data, held_out=config.held_out)
        _check_judge(config)
        run.write_feedback_ids(dict.fromkeys((*data.record_ids, *pairs.record_ids)))
        if policy is None:
            console.print(f"Loading {config.model} ...")
            policy = CausalLM.load(
                config.model, **config.loading, gradient_checkpointing=config.gradient_checkpointing, seed=seed
            )
    if config.evaluation.contexts:
        policy.expect_room(config.evaluation.max_new_tokens)
    asked = distinct_contexts(
        contexts or [example.context for example in (*data.held_out, *pairs.held_out)],
        config.evaluation.contexts,
        seed=seed,
    )
    before = kept_answers("before", run, policy, asked, config.evaluation, seed=seed) if asked else ()
    judge, quality = _judge(config, policy, pairs, run, resuming=resuming)
    learner = _Learner(policy, config, data, pairs, run)
    learner.learn(resuming=resuming)
    policy.save(run.model)
    after = kept_answers("after", run, policy, asked, config.evaluation, seed=seed) if asked else ()
    comparison = answers = None
    if asked:
        answers = Answers(asked, before, after)
        word = _asked(config, answers, run)
        comparison = measure_answers(answers, judge, learner.log_ratios, policy, utility=utility, seed=seed, asked=word)
    report = begin_report(
        run,
        title=f"{config.method.upper()} on {Path(config.feedback).name}",
        method=config.method,
        model=config.model,
        feedback=summarise(records, data),
        config=to_mapping(config),
        seconds=time.perf_counter() - started,
    )
    report = with_comparison(report, comparison, answers, judge=quality, implicit=learner.implicit_accuracy())
    judged_curves = reward_curves(RunFolder(run.path / "judge")) if judge is not None else {}
    report = replace(report, curves={**training_curves(run), **judged_curves})
    page, _ = write_report(report, run.path)
    keep_profile(report, run)
    console.print(f"{report.verdict}\nModel: {run.model}\nReport: {page}")
    return AlignResult(run, page, report, comparison)


def measure_answers(
    answers: Answers,
    judge: RewardModel | None,
    log_ratios: Callable[[list[TokenSequence]], list[float]] | None,
    policy: CausalLM,
    *,
    utility: Utility | None,
    seed: int,
    asked: Asked | None = None,
) -> Comparison:
    """Let the judge score the answers before and after, or take the word of one that was asked, and compare them."""
    after = [_as_sequence(policy, context, sample) for context, _, sample in answers.rows]
    before = [_as_sequence(policy, context, sample) for context, sample, _ in answers.rows]
    rewards = None
    if judge is not None:
        if judge.encoder.fingerprint == policy.encoder.fingerprint:
            scored = [judge.reward_of(side) for side in (before, after)]
        else:
            scored = [_reward_of_text(judge, answers, side) for side in (1, 2)]
        rewards = (scored[0].tolist(), scored[1].tolist())
    return compare_answers(
        answers,
        rewards=rewards,
        log_ratios=None if log_ratios is None else log_ratios(after),
        utility=utility,
        generator=numpy_generator(seed, "intervals"),
        asked=asked,
    )


class _Learner:
    """The method on the policy, with its reference."""

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
        reference = self._sums_under_reference(sequences)
        with phase("forward"):
            return (sums_of_log_prob(self.policy, sequences) - reference).tolist()

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

    def _sums_under_reference(self, sequences: Sequence[TokenSequence]) -> torch.Tensor:
        if self.policy.has_adapters:
            return self.reference.log_prob_of(sequences).sum().cpu()
        untrained = CausalLM.load(self.config.model, **self.config.loading)
        with phase("reference"):
            return sums_of_log_prob(untrained, sequences)


def _views(records: list[Feedback], config: AlignConfig) -> tuple[FeedbackData[Any], FeedbackData[Pair]]:
    """The method's own examples, and the pairs for the judge and the policy's accuracy, split alike."""
    split = partial(split_view, held_out=config.held_out, seed=config.training.seed)
    pairs = split(config.pairs(records, ties="drop"))
    return (pairs if config.method == "dpo" else split(views.demonstrations(records))), pairs


def _check_judge(config: AlignConfig) -> None:
    judge = config.judge
    if (endpoint := judge_endpoint(judge, config.judge_key_env)) is not None:
        expect_askable(endpoint)
    elif judge not in ("train", "none") and not (Path(judge).expanduser() / "reward.json").is_file():
        raise ConfigError(
            "judge: expected train, none, or the folder of a reward model (RUN/model of `plaudit train reward`), or "
            f"openai:MODEL@URL, got {judge!r}"
        )


def _judge(
    config: AlignConfig, policy: CausalLM, pairs: FeedbackData[Pair], run: RunFolder, *, resuming: bool
) -> tuple[RewardModel | None, JudgeQuality | None]:
    """The judge of the answers: loaded, or trained on the training side of the comparisons."""
    if config.judge == "none" or config.judge.startswith("openai:") or (config.judge == "train" and not pairs.train):
        return None, None
    seed = config.training.seed
    path = run.path / "judge"
    given = Path(config.judge).expanduser() if config.judge != "train" else path / "model"
    if (given / "reward.json").is_file():
        model = RewardModel.load(given, dtype=config.dtype, device=config.device)
        held_out, _ = encode_pairs(pairs.held_out, model.encoder)
        return model, measure_reward_model(model, held_out, seed=seed)
    begun = (path / "config.toml").is_file()
    judge_run = RunFolder.open(path) if begun else RunFolder.create(path, to_mapping(config))
    if policy.has_adapters:  # the frozen weights serve both; the judge has adapters of its own
        model = RewardModel.on(policy, config.lora, seed=seed)
    else:
        model = RewardModel.load(config.model, **config.loading, seed=seed)
    training = replace(config.judge_training, seed=seed)
    quality = fit_reward_model(model, pairs, judge_run, training, RewardConfig(), resuming=resuming and begun)
    return model, quality


def _asked(config: AlignConfig, answers: Answers, run: RunFolder) -> Asked | None:
    """What a judge behind an address says of the answers."""
    if (endpoint := judge_endpoint(config.judge, config.judge_key_env)) is None:
        return None
    models = (config.model, str(run.model))
    return kept_judgements(endpoint, answers, run, models=models, sampling=config.evaluation.sampling)


@torch.no_grad()
def sums_of_log_prob(policy: CausalLM, sequences: Sequence[TokenSequence], *, batch_size: int = 16) -> torch.Tensor:
    """log π of each output, summed over its tokens, in portions and without a gradient."""
    values = torch.empty(len(sequences))
    for indices in by_context([sequence.context for sequence in sequences], batch_size):
        values[indices] = policy.log_prob_of([sequences[index] for index in indices]).sum().cpu()
    return values


def _as_sequence(policy: CausalLM, context: Context, sample: Sample) -> TokenSequence:
    ids = sample.token_ids
    return TokenSequence(policy.encoder.context(context), ids, (True,) * len(ids))


def _reward_of_text(judge: RewardModel, answers: Answers, side: int) -> torch.Tensor:
    """A judge with another tokenizer reads the answers as text."""
    rows = answers.rows
    outputs = [Output(content=Text(text=row[side].text)) for row in rows]
    return judge.reward([row[0] for row in rows], outputs).value
