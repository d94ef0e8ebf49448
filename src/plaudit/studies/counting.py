"""Counts what a study's arm had judged, so that arms can be held to one budget."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

from plaudit.feedback.records import Context, Output
from plaudit.rewards import Reward


class Counting:
    """A reward that counts what it judges.

    Args:
        source: the reward, whose `reward` takes contexts and outputs.
        settings: what else it takes, such as ``batch_size``.

    Attributes:
        samples: outputs that it judged.
    """

    def __init__(self, source: Any, **settings: Any) -> None:
        self._source, self._settings, self.samples = source, settings, 0

    def reward(self, contexts: Rows[Context], outputs: Rows[Output]) -> Reward:
        """Rewards of N outputs given their N contexts."""
        self.samples += len(outputs)
        found: Reward = self._source.reward(contexts, outputs, **self._settings)
        return found
