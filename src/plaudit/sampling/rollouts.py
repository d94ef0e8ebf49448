"""Rollouts: outputs that a policy sampled, with everything that learning from them needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from plaudit.errors import RewardError
from plaudit.feedback.records import Context, Output
from plaudit.policies import CausalLM, Sample, Sampling, Sequence
from plaudit.policies.rows import skip_rows
from plaudit.profiling import phase
from plaudit.rewards.base import Reward, RewardSource, StreamingSource, remembers
from plaudit.sharing import own_part, processes, together

_Drawn = tuple[int, int, Sample]  # the context's index, which of its outputs it is, and the output


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
    """Rollouts that were judged, group by group.

    Attributes:
        rollouts: the outputs.
        dropped: how many outputs were left out, by what became of them.
        reasons: why outputs could not be judged, as the reward says it in few words.
    """

    rollouts: tuple[Rollout, ...]
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

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

    Several processes share the contexts: each samples and judges its part, and all get all rollouts, which are those of one
    process up to rounding, since every output has random numbers of its own. Only a reward that remembers what it judged
    judges all of them in every process, so that its state is the same everywhere.

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
        RewardError: nothing could be judged, the rewards do not fit the outputs, or another process failed.
    """
    settings: dict[str, Any] = {"greedy": greedy, "generator": generator, "batch_size": batch_size}
    draw = partial(_sampled, policy, contexts, own_part(len(contexts)), n, sampling, **settings)
    samples, judged = _shared(draw, contexts, reward, partial(policy.output, sampling=sampling))
    if judged is None:
        return Gathered(())
    _expect_judged(judged)
    drawn = [place < n for _, place, _ in samples]
    baselines = {
        number: float(judged.value[place])
        for place, (number, _, _) in enumerate(samples)
        if not drawn[place] and bool(judged.judged[place])
    }
    kept = []
    for place, (number, _, one) in enumerate(samples):
        if drawn[place] and bool(judged.judged[place]):
            sequence = Sequence(policy.encoder.context(contexts[number]), one.token_ids, (True,) * len(one.token_ids))
            components = {name: float(values[place]) for name, values in judged.components.items()}
            value = float(judged.value[place])
            plain = (number, sequence, one.log_prob, one.text, one.finished, value, components, version)
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
    return Gathered(whole, dropped, Counter(judged.reasons))


def _shared(
    draw: Callable[[], Iterator[_Drawn]],
    contexts: Rows[Context],
    reward: RewardSource,
    as_output: Callable[[Sample], Output],
) -> tuple[list[_Drawn], Reward | None]:
    """The outputs of all processes in order, and their rewards; None of no outputs."""
    apart = processes() > 1 and remembers(reward)
    stream = reward if isinstance(reward, StreamingSource) and not apart else None

    def own() -> tuple[list[_Drawn], Reward | None]:
        found: dict[tuple[int, int], tuple[Sample, Any]] = {}
        with phase("sampling"):
            for number, place, sample in draw():
                output = as_output(sample)
                found[number, place] = sample, stream.submit(contexts[number], output) if stream else output
        order = sorted(found)
        rows = [(number, place, found[number, place][0]) for number, place in order]
        if apart or not rows:
            return rows, None
        return rows, _judged(
            reward, stream, [contexts[number] for number, _ in order], [found[key][1] for key in order]
        )

    parts = together(own)
    samples = [row for rows, _ in parts for row in rows]
    if not samples:
        return [], None
    if not apart:
        return samples, _joined([found for _, found in parts if found is not None])
    asked, outputs = [contexts[number] for number, _, _ in samples], [as_output(sample) for _, _, sample in samples]
    return samples, together(lambda: _judged(reward, None, asked, outputs))[0]


def _judged(reward: RewardSource, stream: StreamingSource | None, asked: Rows[Context], given: Rows[Any]) -> Reward:
    """Rewards of outputs, or of the tickets of a stream, that fit them."""
    with phase("reward"):
        found = stream.result(given) if stream else reward.reward(asked, given)
    for name, values in {"value": found.value, "judged": found.judged, **found.components}.items():
        if values.shape != (len(given),):
            raise RewardError(f"{name}: expected a reward of shape [{len(given)}], got {list(values.shape)}")
    components = {name: values.cpu() for name, values in found.components.items()}
    return replace(found, value=found.value.cpu(), judged=found.judged.cpu(), per_step=None, components=components)


def _joined(parts: Rows[Reward]) -> Reward:
    """Rewards of the outputs of all parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    names = [set(part.components) for part in parts]
    if any(own != names[0] for own in names):
        raise RewardError(
            f"components: expected the same of every process, got {' and '.join(map(str, map(sorted, names)))}"
        )
    return Reward(
        torch.cat([part.value for part in parts]),
        torch.cat([part.judged for part in parts]),
        components={name: torch.cat([part.components[name] for part in parts]) for name in parts[0].components},
        errors=tuple(error for part in parts for error in part.errors),
        reasons=sum((Counter(part.reasons) for part in parts), Counter[str]()),
    )


def _expect_judged(found: Reward) -> None:
    """Raise a `RewardError` where no output could be judged, or one has no finite reward."""
    if not bool(found.judged.any()):
        first = found.errors[0] if found.errors else "no reason was given"
        raise RewardError(f"None of {len(found.judged)} outputs could be judged. The first: {first}")
    if bool((found.judged & ~found.value.isfinite()).any()):
        raise RewardError("value: expected finite rewards of the outputs that were judged, got NaN or infinite ones")


def _sampled(
    policy: CausalLM,
    contexts: Rows[Context],
    part: range,
    n: int,
    sampling: Sampling,
    *,
    greedy: bool,
    generator: torch.Generator,
    batch_size: int,
) -> Iterator[_Drawn]:
    """The context's index, the output's place and the output, as each ends; a greedy output stands after the n others.

    Of a part of the contexts only, with the random numbers that its outputs have when all are sampled.
    """
    passes = [(n, 0, sampling), (1, n, replace(sampling, temperature=0.0))]
    for each, first, settings in passes if greedy else passes[:1]:
        skip_rows(part.start * each, generator)
        own = contexts[part.start : part.stop]
        for number, place, found in (
            policy.stream(own, each, generator=generator, sampling=settings, batch_size=batch_size) if own else ()
        ):
            yield part.start + number, first + place, found
        skip_rows((len(contexts) - part.stop) * each, generator)


def by_reward(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Best first; of equals, the one that was sampled first."""
    return sorted(rollouts, key=lambda rollout: -rollout.reward)
