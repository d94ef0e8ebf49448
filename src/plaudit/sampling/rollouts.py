"""Rollouts: outputs that a policy sampled, with everything that learning from them needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from plaudit.errors import RewardError
from plaudit.feedback.records import Context
from plaudit.policies import CausalLM, Sample, Sampling, Sequence
from plaudit.profiling import phase
from plaudit.rewards.base import Reward, RewardSource, StreamingSource


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled output of one context.

    Attributes:
        group: number of the context among those asked together; the outputs of one context are a group.
        sequence: tokens of context and output; where its mask is False the environment wrote the token, not the policy.
        log_prob: of each token of the output under the distribution that it was drawn from; 0 where the policy drew none.
        text: the output as a person reads it.
        finished: whether it ended by itself, and not at the length limit.
        reward: what it was given.
        components: what the reward is made of, by name.
        version: optimiser steps that the policy had made when it sampled this.
        greedy_reward: reward of the likeliest output of the same context, token by token, where that was asked for.
    """

    group: int
    sequence: Sequence
    log_prob: tuple[float, ...]
    text: str
    finished: bool
    reward: float
    components: Mapping[str, float]
    version: int
    greedy_reward: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As JSON takes it, without loss."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "sequence"}
        tokens = self.sequence
        return {**values, "context": tokens.context, "output": tokens.output, "mask": tokens.mask}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rollout:
        """What `as_json` gave."""
        plain = dict(values)
        sequence = Sequence(*(tuple(plain.pop(name)) for name in ("context", "output", "mask")))
        return cls(sequence=sequence, **{**plain, "log_prob": tuple(plain["log_prob"])})


@dataclass(frozen=True, slots=True)
class Gathered:
    """Rollouts that were judged, group by group, and how many outputs were left out by reason."""

    rollouts: tuple[Rollout, ...]
    dropped: Counter[str] = field(default_factory=Counter)

    def groups(self) -> list[list[Rollout]]:
        """The rollouts of each context, in the order of the contexts."""
        found: dict[int, list[Rollout]] = {}
        for rollout in self.rollouts:
            found.setdefault(rollout.group, []).append(rollout)
        return list(found.values())


def gather(
    policy: CausalLM,
    contexts: Rows[Context],
    n: int,
    reward: RewardSource,
    *,
    generator: torch.Generator,
    sampling: Sampling,
    version: int,
    batch_size: int = 64,
    fewest: int = 1,
    greedy: bool = False,
) -> Gathered:
    """Sample n outputs of each context and judge them.

    An output that could not be judged is left out, and so is a group of which fewer than `fewest` remain; both are counted.
    A `StreamingSource` is given each output as it ends, and judges while the others are sampled; the result is the same.

    Args:
        policy: what samples.
        contexts: what to ask.
        n: outputs of each context.
        reward: what judges.
        generator: of the samples.
        sampling: the sampler's settings.
        version: the policy's optimiser steps so far.
        batch_size: outputs that are sampled side by side.
        fewest: the least size of a group.
        greedy: also take the greedy output of each context (temperature 0) and keep its reward beside the others'. It is
            in no group; a group whose greedy output could not be judged is left out.

    Raises:
        RewardError: nothing could be judged, or the rewards do not fit the outputs.
    """
    found: dict[tuple[int, int], tuple[Sample, Any]] = {}
    stream = reward if isinstance(reward, StreamingSource) else None
    with phase("sampling"):
        settings: dict[str, Any] = {"generator": generator, "batch_size": batch_size}
        for number, place, sample in _sampled(policy, contexts, n, sampling, greedy=greedy, **settings):
            output = policy.output(sample, sampling)
            found[number, place] = sample, stream.submit(contexts[number], output) if stream else output
    order = sorted(found)
    samples = [(number, found[number, place][0]) for number, place in order]
    drawn = [place < n for _, place in order]
    given = [found[key][1] for key in order]
    with phase("reward"):
        asked = [contexts[number] for number, _ in samples]
        judged = stream.result(given) if stream else reward.reward(asked, given)
    _expect_fit(judged, len(samples))
    baselines = {
        number: float(judged.value[place])
        for place, (number, _) in enumerate(samples)
        if not drawn[place] and bool(judged.judged[place])
    }
    kept = []
    for place, (number, sample) in enumerate(samples):
        if drawn[place] and bool(judged.judged[place]):
            sequence = Sequence(
                policy.encoder.context(contexts[number]), sample.token_ids, (True,) * len(sample.token_ids)
            )
            components = {name: float(values[place]) for name, values in judged.components.items()}
            value = float(judged.value[place])
            plain = (number, sequence, sample.log_prob, sample.text, sample.finished, value, components, version)
            kept.append(Rollout(*plain, greedy_reward=baselines.get(number)))
    sizes = Counter(rollout.group for rollout in kept)
    large = [rollout for rollout in kept if sizes[rollout.group] >= fewest]
    whole = tuple(rollout for rollout in large if not greedy or rollout.group in baselines)
    dropped = Counter(
        {
            "could not be judged": sum(drawn) - len(kept),
            "in too small a group": len(kept) - len(large),
            "beside a greedy output that could not be judged": len(large) - len(whole),
        }
    )
    return Gathered(whole, dropped)


def _expect_fit(judged: Reward, count: int) -> None:
    """Raise a `RewardError` where rewards do not fit so many outputs, or none of them could be judged."""
    for name, part in {"value": judged.value, "judged": judged.judged, **judged.components}.items():
        if part.shape != (count,):
            raise RewardError(f"{name}: expected a reward of shape [{count}], got {list(part.shape)}")
    if count and not bool(judged.judged.any()):
        first = judged.errors[0] if judged.errors else "no reason was given"
        raise RewardError(f"None of {count} outputs could be judged. The first: {first}")
    if bool((judged.judged & ~judged.value.isfinite()).any()):
        raise RewardError("value: expected finite rewards of the outputs that were judged, got NaN or infinite ones")


def _sampled(
    policy: CausalLM, contexts: Rows[Context], n: int, sampling: Sampling, *, greedy: bool, **settings: Any
) -> Iterator[tuple[int, int, Sample]]:
    """The context's index, the output's place and the output, as each ends; a greedy output stands after the n others."""
    yield from policy.stream(contexts, n, sampling=sampling, **settings)
    if greedy:
        likeliest = replace(sampling, temperature=0.0)
        for number, _, sample in policy.stream(contexts, 1, sampling=likeliest, **settings):
            yield number, n, sample


def by_reward(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Best first; of equals, the one that was sampled first."""
    return sorted(rollouts, key=lambda rollout: -rollout.reward)
