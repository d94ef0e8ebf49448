"""Looks at held-out contexts while a method learns from own samples: their reward, a second one, and the answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch

from plaudit.errors import RewardError
from plaudit.evaluation.report import Climb, Watched, WatchedAnswer
from plaudit.feedback.records import Context, Output
from plaudit.policies import CausalLM, Reference
from plaudit.progress import console
from plaudit.rewards import Reward, RewardSource
from plaudit.rewards.base import restore, state_of
from plaudit.sampling import Gathered, gather
from plaudit.training import RunFolder
from plaudit.training.alarms import reward_hacking
from plaudit.training.randomness import torch_generator
from plaudit.workflows.config import EvaluationConfig

FILE = "looks.jsonl"


class WithSecond:
    """A reward that tells, beside its own, what a second one gives: a component named gold, NaN where it could not judge."""

    def __init__(self, reward: RewardSource, second: RewardSource | None) -> None:
        self._reward, self._second = reward, second

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        found = self._reward.reward(contexts, outputs)
        if self._second is None:
            return replace(found, components={})
        gold = self._second.reward(contexts, outputs)
        if gold.value.shape != (len(outputs),):
            raise RewardError(f"gold: expected a reward of shape [{len(outputs)}], got {list(gold.value.shape)}")
        known = torch.where(gold.judged, gold.value, math.nan)
        return replace(found, components={"gold": known.to(found.value.device)})


class HeldOutLook:
    """A look: the same held-out contexts, answered with the same random numbers each time, so that looks are comparable.

    Early stopping goes by the mean over contexts of their mean reward. Answers and rewards are kept in ``looks.jsonl``. A
    reward that depends on what it judged before is put back to where it was: looking changes nothing.

    Args:
        policy: what answers.
        reward: what is optimised.
        gold: what is meant, where there is a second reward.
        contexts: what is asked.
        config: how answers are sampled.
        run: where they are kept.
        seed: of the samples.
        reference: what the distance is measured to, where it is at hand.
    """

    def __init__(
        self,
        policy: CausalLM,
        reward: RewardSource,
        gold: RewardSource | None,
        contexts: Rows[Context],
        config: EvaluationConfig,
        run: RunFolder,
        *,
        seed: int,
        reference: Reference | None = None,
    ) -> None:
        self._reference = reference
        self._policy, self._contexts, self._config, self._run, self._seed = policy, contexts, config, run, seed
        self._sources = [source for source in (reward, gold) if source is not None]
        self._both = WithSecond(reward, gold)

    def __call__(self, step: int) -> tuple[Mapping[str, float], float]:
        """Metrics after so many steps, and minus the mean reward."""
        before = [state_of(source) for source in self._sources]
        gathered = gather(
            self._policy,
            self._contexts,
            self._config.outputs_per_context,
            self._both,
            generator=torch_generator(self._seed, "look"),
            sampling=self._config.sampling,
            version=step,
            batch_size=self._config.batch_size,
        )
        for source, state in zip(self._sources, before, strict=True):
            restore(source, state)
        log_ratios = self._log_ratios(gathered)
        metrics = look_metrics(gathered) | ({"kl": fmean(log_ratios)} if log_ratios else {})
        self._keep(step, gathered, log_ratios)
        history = [row for row in self._run.metrics() if row["split"] == "held_out" and row["step"] < step]
        said, earlier = reward_hacking([*history, {"step": step, **metrics}]), reward_hacking(history)
        if said is not None and earlier is None:
            console.print(f"[yellow]{said}[/yellow]")
        return metrics, -metrics["reward"]

    @torch.no_grad()
    def _log_ratios(self, gathered: Gathered) -> list[float]:
        """log π - log π_ref of each answer, whose mean estimates their KL in nats; nothing without a reference."""
        if self._reference is None:
            return []
        found, sequences = list[float](), [rollout.sequence for rollout in gathered.rollouts]
        for start in range(0, len(sequences), self._config.batch_size):
            part = sequences[start : start + self._config.batch_size]
            now, before = self._policy.log_prob_of(part), self._reference.log_prob_of(part)
            found.extend((now.sum() - before.sum()).tolist())
        self._reference.forget()
        return found

    def _keep(self, step: int, gathered: Gathered, log_ratios: Rows[float]) -> None:
        file = self._run.path / FILE
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        kept = [line for line in lines if json.loads(line)["step"] < step]  # later ones are of before an interruption
        rows: dict[int, list[dict[str, Any]]] = {}
        for place, one in enumerate(gathered.rollouts):
            distance = {"log_ratio": log_ratios[place]} if log_ratios else {}
            answer = {"text": one.text, "reward": one.reward, **_known(one.components), **distance}
            rows.setdefault(one.group, []).append(answer)
        for group, answers in rows.items():
            row = {"step": step, "context": self._contexts[group].text, "answers": answers}
            kept.append(json.dumps(row, ensure_ascii=False))
        self._run.write(FILE, "".join(f"{line}\n" for line in kept))


def look_metrics(gathered: Gathered) -> dict[str, float]:
    """Means over contexts of their answers' means; the standard error of the gold one is over contexts.

    Answers that were not judged are left out of all but not_judged; of gold, those that it could not judge are.
    """
    groups = gathered.groups()
    dropped = gathered.dropped["could not be judged"]
    found = {
        "reward": fmean(fmean(one.reward for one in group) for group in groups),
        "length": fmean(fmean(len(one.sequence.output) for one in group) for group in groups),
        "not_judged": dropped / (len(gathered.rollouts) + dropped),
    }
    given = [[_known(one.components)["gold"] for one in group if _known(one.components)] for group in groups]
    gold = [fmean(values) for values in given if values]
    if gold:
        error = stdev(gold) / math.sqrt(len(gold)) if len(gold) > 1 else 0.0
        found |= {"gold": fmean(gold), "gold_error": error}
    return found


def watched(run: RunFolder, *, contexts: int = 4, looks: int = 8) -> tuple[Watched, ...]:
    """The first answer to a few contexts at each look, or at looks evenly spread where there are many."""
    file = run.path / FILE
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    steps = sorted({row["step"] for row in rows})
    shown = steps if len(steps) <= looks else [steps[i * (len(steps) - 1) // (looks - 1)] for i in range(looks)]
    names = list(dict.fromkeys(row["context"] for row in rows))[:contexts]

    def answer(row: dict[str, Any]) -> WatchedAnswer:
        first = row["answers"][0]
        return WatchedAnswer(row["step"], first["text"], first["reward"], first.get("gold"))

    return tuple(
        Watched(name, tuple(answer(row) for row in rows if row["context"] == name and row["step"] in shown))
        for name in names
    )


def _known(components: Mapping[str, float]) -> dict[str, float]:
    """The gold reward, where there is one and it could judge."""
    return {name: value for name, value in components.items() if name == "gold" and math.isfinite(value)}


def climb(run: RunFolder) -> Climb | None:
    """What the distance from the reference bought, where at least two looks measured it."""
    looks = [row for row in run.metrics() if row["split"] == "held_out" and {"kl", "reward"} <= row.keys()]
    if len(looks) < 2:
        return None
    steps, divergence, reward = zip(*((row["step"], row["kl"], row["reward"]) for row in looks), strict=True)
    gold = tuple(row["gold"] for row in looks) if all("gold" in row for row in looks) else None
    return Climb(steps, divergence, reward, gold)
