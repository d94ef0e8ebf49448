"""Verifiers: programs that say pass, fail or could not judge; as rewards, and as feedback that can be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import JsonValue

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.records import Context, Output, Source, Verdict, new_record_id
from plaudit.objectives.reward_terms import verdict_reward
from plaudit.rewards.base import Reward

PassOrNot = Literal["pass", "fail", "could_not_judge"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a verifier found of one output.

    Attributes:
        outcome: could_not_judge where the verifier, and not the output, is at fault: a time-out, a crash of the engine.
        stage: how far it came, such as ``compile``.
        reason: why, in a sentence.
        details: what else it measured.
    """

    outcome: PassOrNot
    stage: str | None = None
    reason: str = ""
    details: Mapping[str, JsonValue] = field(default_factory=dict)


@runtime_checkable
class Verifier(Protocol):
    """A program that says whether outputs are right."""

    @property
    def name(self) -> str:
        """Who says it: the source of its verdicts."""

    def verify(self, contexts: Rows[Context], outputs: Rows[Output]) -> Rows[Finding]:
        """What it finds of N outputs given their N contexts."""


class FunctionVerifier:
    """A function of (context, output) as a verifier: True passes, False fails; None, or raising, could not judge.

    The function runs in this process: it must not run what the output holds.
    """

    def __init__(self, function: Callable[[Context, Output], bool | None], *, name: str = "") -> None:
        self._function = function
        self.name = name or getattr(function, "__name__", "verifier")

    def verify(self, contexts: Rows[Context], outputs: Rows[Output]) -> list[Finding]:
        """What it finds of N outputs given their N contexts."""
        return [self._find(context, output) for context, output in zip(contexts, outputs, strict=True)]

    def _find(self, context: Context, output: Output) -> Finding:
        try:
            right = self._function(context, output)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the other outputs are judged
            return Finding("could_not_judge", reason=f"raised {type(error).__name__} ({error})")
        if right is None:
            return Finding("could_not_judge", reason="could not judge")
        return Finding("pass" if right else "fail")


class VerifierReward:
    """What a verifier says as a reward; see `verdict_reward`.

    Args:
        verifier: what judges.
        reward_pass: the reward of a pass.
        reward_fail: the reward of a fail, below it.
        keep: is given the verdicts as feedback records, those that could not judge as well: such as a store's `add`.

    Attributes:
        outcomes: how often each was said so far.

    Raises:
        ConfigError: a pass is not worth more than a fail.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        reward_pass: float = 1.0,
        reward_fail: float = 0.0,
        keep: Callable[[list[Verdict]], object] | None = None,
    ) -> None:
        self._verifier, self._keep = verifier, keep
        self._paid = {"reward_pass": reward_pass, "reward_fail": reward_fail}
        nothing = torch.zeros(0, dtype=torch.bool)
        try:
            verdict_reward(nothing, nothing, **self._paid)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.outcomes: Counter[PassOrNot] = Counter()

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        findings = self._verifier.verify(contexts, outputs)
        if len(findings) != len(outputs):
            raise RewardError(f"{self._verifier.name}: expected {len(outputs)} findings, got {len(findings)}")
        self.outcomes.update(finding.outcome for finding in findings)
        if self._keep is not None:
            self._keep(verdicts(contexts, outputs, findings, source=self._verifier.name))
        passed, judged = (
            torch.tensor([finding.outcome in outcomes for finding in findings], dtype=torch.bool)
            for outcomes in (("pass",), ("pass", "fail"))
        )
        paid = verdict_reward(passed, judged, **self._paid)
        value = torch.where(paid.judged, paid.reward, torch.nan)
        errors = tuple(
            f"{self._verifier.name} could not judge ({finding.reason or 'no reason given'}): {output.text[:80]!r}"
            for finding, output in zip(findings, outputs, strict=True)
            if finding.outcome == "could_not_judge"
        )
        reasons = {"could not judge": len(errors)} if errors else {}
        return Reward(value, judged, components={self._verifier.name: value}, errors=errors, reasons=reasons)


def verdicts(contexts: Rows[Context], outputs: Rows[Output], findings: Rows[Finding], *, source: str) -> list[Verdict]:
    """What a program found, as feedback: one record an output, with the reason among its details."""
    return [
        Verdict(
            id=new_record_id(),
            time=datetime.now(UTC),
            source=Source(name=source, kind="program"),
            context=context,
            outputs=(output,),
            outcome=finding.outcome,
            stage=finding.stage,
            details={**finding.details, **({"reason": finding.reason} if finding.reason else {})},
        )
        for context, output, finding in zip(contexts, outputs, findings, strict=True)
    ]
