"""Learning from own samples in a run: the reward that is optimised, the learner, and what became of the reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from plaudit.feedback.examples import Pair, Posed
from plaudit.feedback.records import Context
from plaudit.methods import ONLINE, OnlineParts, OnPolicyConfig
from plaudit.policies import CausalLM, Reference, Sample
from plaudit.policies import Sequence as TokenSequence
from plaudit.profiling import phase
from plaudit.rewards import RewardModel, RewardSource
from plaudit.sharing import from_main
from plaudit.training import RunFolder, TrainingConfig, train
from plaudit.workflows.answers import distinct_contexts
from plaudit.workflows.comparing import log_ratios_to_start
from plaudit.workflows.config import AlignConfig
from plaudit.workflows.feedback_data import FeedbackData
from plaudit.workflows.looks import HeldOutLook
from plaudit.workflows.measure import Answers, JudgeQuality, Rewards
from plaudit.workflows.reward_models import reward_model
from plaudit.workflows.reward_sources import function_reward, readable_by


class OnlineLearner:
    """A method that learns from its own samples, on the policy, with the reward that it optimises.

    Attributes:
        policy: what learns.
        quality: what the reward's word is worth on the held-out comparisons, where it is a model and there are some.
    """

    def __init__(
        self,
        policy: CausalLM,
        config: AlignConfig,
        contexts: FeedbackData[Posed],
        pairs: FeedbackData[Pair],
        run: RunFolder,
        *,
        resuming: bool,
    ) -> None:
        assert config.reward is not None
        self.policy = policy
        self._config, self._contexts, self._run = config, contexts, run
        self._reward: RewardSource
        self.quality: JudgeQuality | None = None
        self._gold = self._second_reward()
        if config.reward.startswith("python:"):
            self._reward = function_reward(config.reward)
        else:
            path = run.path / "reward"
            model, self.quality = reward_model(config.reward, path, config, policy, pairs, resuming=resuming)
            self._reward = readable_by(model, policy)

    def learn(self, *, resuming: bool) -> None:
        """Train, from the newest checkpoint on when resuming."""
        config, online = self._config, self._config.online
        assert online is not None
        contexts = [posed.context for posed in self._contexts.train]
        named = ONLINE[config.method]
        reference = self._reference() if named.reference(online) else None
        method = named.make(OnlineParts(self.policy, self._reward, contexts, reference, self._value_source), online)
        steps = steps_of(config.training, online, len(contexts))
        train(
            method,
            self._run,
            config.training,
            steps=steps,
            look=self._look(reference),
            alarms=config.alarms.alarms,
            resume=resuming,
        )

    def log_ratios(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """log π - log π_ref of each output, summed over its tokens."""
        return log_ratios_to_start(self.policy, Reference(self.policy), self._config, sequences)

    def implicit_accuracy(self) -> None:
        """The policy learned from no comparison."""

    def rewards(self, answers: Answers) -> Rewards:
        """What the reward gives for the answers before and after."""
        return self._given(self._reward, answers)

    def gold_rewards(self, answers: Answers) -> Rewards | None:
        """What the second reward gives for them, where there is one."""
        return None if self._gold is None else self._given(self._gold, answers)

    def _given(self, source: RewardSource, answers: Answers) -> Rewards:
        sampling = self._config.evaluation.sampling

        def side(rows: list[tuple[Context, Sample]]) -> list[float | None]:
            outputs = [self.policy.output(sample, sampling) for _, sample in rows]
            with phase("reward"):
                found = source.reward([context for context, _ in rows], outputs)
            known = (found.judged & found.value.isfinite()).tolist()
            return [value if good else None for value, good in zip(found.value.tolist(), known, strict=True)]

        before, after = answers.sides
        return from_main(lambda: (side(before), side(after)))

    def asked(self, context: Context) -> Context:
        """What the trained model is asked for a context: the context."""
        return context

    def _second_reward(self) -> RewardSource | None:
        gold = self._config.gold
        if gold is None:
            return None
        if gold.startswith("python:"):
            return function_reward(gold, setting="gold")
        given = RewardModel.load(Path(gold).expanduser(), dtype=self._config.dtype, device=self._config.device)
        return readable_by(given, self.policy)

    def _look(self, reference: Reference | None) -> HeldOutLook | None:
        """The look at held-out contexts, the last of the order whose first are asked before and after.

        Its distance is measured where that takes no second model in memory: to the method's reference, or below adapters.
        """
        config = self._config
        if not config.training.evaluate_every:
            return None
        seed, held_out = config.training.seed, [posed.context for posed in self._contexts.held_out]
        contexts = distinct_contexts(held_out, len(held_out), seed=seed)[-config.evaluation.contexts_at_looks :]
        if reference is None and self.policy.has_adapters:
            reference = self._reference()
        return HeldOutLook(
            self.policy,
            self._reward,
            self._gold,
            contexts,
            config.evaluation,
            self._run,
            seed=seed,
            reference=reference,
        )

    @property
    def _value_source(self) -> RewardModel | CausalLM:
        return self._reward if isinstance(self._reward, RewardModel) else self.policy

    def _reference(self) -> Reference:
        """The model before; without adapters it is held in memory beside the policy, whose weights move."""
        config, policy = self._config, self.policy
        start = policy if policy.has_adapters else CausalLM.load(config.model, **config.loading)
        return Reference(start, batch_size=2 * config.training.micro_batch_size)


def steps_of(training: TrainingConfig, online: OnPolicyConfig, contexts: int) -> int:
    """Optimiser steps in all: `epochs` passes over the contexts, `steps_per_rollout` for each asking."""
    askings = replace(training, batch_size=online.contexts_per_rollout, max_steps=None).steps(contexts)
    steps = askings * online.steps_per_rollout
    return steps if training.max_steps is None else min(steps, training.max_steps)


def share_not_judged(run: RunFolder) -> float:
    """Of the outputs sampled in training, the share that the reward could not judge."""
    return fmean(row["not_judged"] for row in run.metrics() if row["split"] == "train")
