"""How the answers before and after a run compare: their rewards, and how far the policy moved from where it began."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from plaudit.feedback.records import Context, Output, Text
from plaudit.policies import CausalLM, Reference, Sample
from plaudit.policies import Sequence as TokenSequence
from plaudit.profiling import phase
from plaudit.rewards import RewardModel
from plaudit.training.randomness import numpy_generator
from plaudit.workflows.config import AlignConfig
from plaudit.workflows.measure import Answers, Asked, Comparison, Rewards, Utility, compare_answers


def measure_answers(
    answers: Answers,
    judge: RewardModel | None,
    log_ratios: Callable[[list[TokenSequence]], list[float]] | None,
    policy: CausalLM,
    *,
    utility: Utility | None,
    seed: int,
    asked: Asked | None = None,
    optimised: Rewards | None = None,
) -> Comparison:
    """Compare the answers before and after.

    Args:
        answers: before and after.
        judge: a reward model that scores them.
        log_ratios: of token sequences, log π - log π_ref, summed over their tokens.
        policy: whose tokens the answers are.
        utility: the true worth of an answer, where it is known.
        seed: of the intervals.
        asked: the word of a judge that was asked.
        optimised: rewards that the policy was trained to raise, where there is no other judge.
    """
    before, after = ([_as_sequence(policy, *answer) for answer in side] for side in answers.sides)
    rewards = optimised
    if judge is not None:
        if judge.encoder.fingerprint == policy.encoder.fingerprint:
            scored = [judge.reward_of(side) for side in (before, after)]
        else:
            scored = [_reward_of_text(judge, side) for side in answers.sides]
        rewards = (scored[0].tolist(), scored[1].tolist())
    return compare_answers(
        answers,
        rewards=rewards,
        log_ratios=None
        if log_ratios is None
        else log_ratios([_as_sequence(policy, *pair) for pair in answers.as_posed]),
        utility=utility,
        generator=numpy_generator(seed, "intervals"),
        asked=asked,
        judge_name="the judge" if optimised is None else "the reward that was optimised",
    )


def log_ratios_to_start(
    policy: CausalLM, reference: Reference, config: AlignConfig, sequences: Sequence[TokenSequence]
) -> list[float]:
    """log π - log π_ref of each output, summed over its tokens; π_ref is the model that the run began with.

    Without adapters its weights are gone, and it is loaded again.
    """
    if policy.has_adapters:
        start = reference.log_prob_of(sequences).sum().cpu()
    else:
        untrained = CausalLM.load(config.model, **config.loading)
        with phase("reference"):
            start = untrained.sums_of_log_prob(sequences)
    with phase("forward"):
        return (policy.sums_of_log_prob(sequences) - start).tolist()


def _as_sequence(policy: CausalLM, context: Context, sample: Sample) -> TokenSequence:
    ids = sample.token_ids
    return TokenSequence(policy.encoder.context(context), ids, (True,) * len(ids))


def _reward_of_text(judge: RewardModel, side: list[tuple[Context, Sample]]) -> torch.Tensor:
    """A judge with another tokenizer reads the answers as text."""
    outputs = [Output(content=Text(text=sample.text)) for _, sample in side]
    return judge.reward([context for context, _ in side], outputs).value
