"""A reward function in processes of its own: what hangs, crashes or lies costs the reward of one output."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Rows
from concurrent.futures import Future
from types import TracebackType

import torch

from plaudit.feedback.records import Context, Output
from plaudit.rewards.base import Reward
from plaudit.workers import Outcome, Workers

Ticket = tuple[Future[Outcome], Output]


class WorkerReward:
    """A function of (context, output) as a reward, called in worker processes; see `plaudit.workers.Workers`.

    An output whose call takes too long, ends its worker, raises, or gives no finite number could not be judged. Close it, or
    use it in a with-statement, to end the workers before the program ends.

    Args:
        function: ``"module:name"``, or a callable that can be imported in the workers; it may return None where it cannot tell.
        name: of the component.
        count: processes, and so outputs that are judged at a time.
        time_limit_s: for each output.
        memory_bytes: the address space of a worker; None sets no limit. A function that imports torch needs gigabytes.

    Attributes:
        reasons: how often outputs could not be judged so far, by why.

    Raises:
        ConfigError: a setting is out of range, or the function cannot be called in a worker.
    """

    def __init__(
        self,
        function: str | Callable[[Context, Output], float | None],
        *,
        name: str = "",
        count: int = 2,
        time_limit_s: float = 10.0,
        memory_bytes: int | None = None,
    ) -> None:
        self._workers = Workers(function, count=count, time_limit_s=time_limit_s, memory_bytes=memory_bytes)
        own = function.rpartition(":")[2] if isinstance(function, str) else getattr(function, "__name__", "reward")
        self.name = name or own
        self.reasons: Counter[str] = Counter()

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        return self.result([self.submit(*pair) for pair in zip(contexts, outputs, strict=True)])

    def submit(self, context: Context, output: Output) -> Ticket:
        """Begin to judge an output."""
        return self._workers.submit(context, output), output

    def result(self, tickets: Rows[Ticket]) -> Reward:
        """Rewards of the outputs that were submitted, once all are there: each call ends at its time limit."""
        values, errors, reasons = [], [], Counter[str]()
        for future, output in tickets:
            given, reason, trouble = _read(future.result())
            values.append(given)
            if trouble:
                reasons[reason] += 1
                errors.append(f"{self.name} {trouble}: {output.text[:80]!r}")
        self.reasons.update(reasons)
        value = torch.tensor(values, dtype=torch.float32)
        return Reward(value, ~value.isnan(), components={self.name: value}, errors=tuple(errors), reasons=reasons)

    def close(self) -> None:
        """End the workers."""
        self._workers.close()

    def __enter__(self) -> WorkerReward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(outcome: Outcome) -> tuple[float, str, str]:
    """The value, the short reason and the sentence why there is none."""
    if outcome.failure is not None:
        return math.nan, outcome.failure, outcome.reason
    if outcome.value is None:
        return math.nan, "could not judge", "could not judge"
    if not math.isfinite(outcome.value):
        return math.nan, "not finite", f"gave {outcome.value}, and a finite number was expected"
    return outcome.value, "", ""
