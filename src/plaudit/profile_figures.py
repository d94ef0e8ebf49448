"""What a profile of a run found: seconds, tokens and floating-point operations by phase, as a table and as metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

Phase = Literal["sampling", "reward", "reference", "forward", "backward", "optimiser", "idle"]
PHASES: tuple[Phase, ...] = get_args(Phase)
COLUMNS = ("phase", "time", "share", "tokens", "head positions", "TFLOP", "GFLOP/s", "of ceiling")


@dataclass(slots=True)
class PhaseCounts:
    """What happened in one phase.

    Attributes:
        seconds: time that was spent in it, and not in a phase inside it.
        tokens: tokens that went through a trunk, those that sequences share once, padding included where there is any.
        positions: positions at which a head was read.
        flop: floating-point operations of linear layers.
    """

    seconds: float = 0.0
    tokens: int = 0
    positions: int = 0
    flop: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a profile found.

    Attributes:
        phases: counts by phase; the time outside of all others is idle.
        ceiling_flop_per_s: what one matrix product reaches on this machine in `precision`.
        precision: the type of matrix products.
        peak_memory_bytes: see `plaudit.profiling.peak_memory_bytes`.
    """

    phases: dict[Phase, PhaseCounts]
    ceiling_flop_per_s: float
    precision: str
    peak_memory_bytes: int

    @property
    def total(self) -> PhaseCounts:
        """The sums over all phases; its seconds are the wall time."""
        names = ("seconds", "tokens", "positions", "flop")
        return PhaseCounts(*(sum(getattr(counts, name) for counts in self.phases.values()) for name in names))

    def share(self, name: Phase) -> float:
        """A phase's share of the wall time."""
        return rate(self.phases[name].seconds, self.total.seconds)

    def of_ceiling(self, counts: PhaseCounts) -> float:
        """Operations per second over what the machine reaches in one matrix product."""
        return rate(counts.flop, counts.seconds) / self.ceiling_flop_per_s

    def metrics(self) -> dict[str, float]:
        """The same as one flat line of metrics."""
        total = self.total
        by_phase = {f"{name}_{key}": value for name in PHASES for key, value in asdict(self.phases[name]).items()} | {
            f"{name}_share": self.share(name) for name in PHASES
        }
        return {
            **by_phase,
            "seconds": total.seconds,
            "tokens_per_s": rate(total.tokens, total.seconds),
            "flop_per_s": rate(total.flop, total.seconds),
            "ceiling_flop_per_s": self.ceiling_flop_per_s,
            "of_ceiling": self.of_ceiling(total),
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def rows(self) -> list[tuple[str, ...]]:
        """A table of the phases that took time and of their total, in the order of `COLUMNS`."""
        taken: list[tuple[str, PhaseCounts]] = [
            (name, counts) for name, counts in self.phases.items() if counts.seconds
        ]
        wall = self.total.seconds
        return [
            (
                name,
                f"{counts.seconds:.1f} s",
                f"{100 * counts.seconds / wall:.1f} %",
                f"{counts.tokens:,}",
                f"{counts.positions:,}",
                f"{counts.flop / 1e12:.3g}",
                f"{rate(counts.flop, counts.seconds) / 1e9:.3g}",
                f"{100 * self.of_ceiling(counts):.1f} %",
            )
            for name, counts in (*taken, ("all", self.total))
        ]

    def sentence(self) -> str:
        """What the whole run reached."""
        total = self.total
        return (
            f"{rate(total.tokens, total.seconds):,.0f} tokens/s, {100 * self.of_ceiling(total):.1f} % of the "
            f"{self.ceiling_flop_per_s / 1e9:,.0f} GFLOP/s that one matrix product reaches in {self.precision}; "
            f"peak memory {self.peak_memory_bytes / 2**30:.2f} GiB."
        )


def rate(amount: float, seconds: float) -> float:
    """Amount per second; 0 where there was no time."""
    return amount / seconds if seconds else 0.0
