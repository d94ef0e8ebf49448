"""Where the studies of verified arithmetic start: a decoder that can do sums and often stops too early.

It has learned from answers that show every step, and after that from answers of which every second stops after the first step.
So half of what it lacks is one habit, the same for all problems, which a verifier can teach within a few thousand samples.
Where a decoder has learned from whole answers alone, what it lacks is a table of sums: in pilots with Dr. GRPO (seed 99, 40
rollouts of 384 answers) pass@1 of problems that were asked again and again rose from 0.23 to 0.87, and that of fresh problems,
from 0.25, ended at 0.26 with a learning rate of 1e-5, 0.25 with 1e-4 and 0.08 with 3e-4, for a table's entries teach nothing
about each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from plaudit.testbeds.decoders import DecoderConfig, decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A decoder and what it learns from.

    Attributes:
        base: what learns sums from whole answers.
        unequal: from how many answers, every second of which stops after the first step, it learns after that.
    """

    base: DecoderConfig = field(default_factory=DecoderConfig)
    unequal: int = 4800

    def folder(self) -> str:
        """The decoder in the transformers format; trained if need be."""
        base = str(decoder("arithmetic", self.base))
        config = DecoderConfig(base=base, demonstrations=self.unequal, learning_rate=3e-4)
        return str(decoder("arithmetic-unequal", config, seed=1))


SMALL = Start(
    base=DecoderConfig(layers=1, width=32, demonstrations=1600, batch_size=16, learning_rate=1e-2), unequal=320
)
"""For quick runs."""
