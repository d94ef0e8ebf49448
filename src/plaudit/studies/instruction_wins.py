"""Studies on the instruction language whose measure is the win rate against the start, by the true utility."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from statistics import fmean

from plaudit.feedback.records import Context, Output
from plaudit.policies import CausalLM, Sampling
from plaudit.testbeds import instructions
from plaudit.training.randomness import torch_generator

SAMPLING = Sampling(max_new_tokens=instructions.MAX_NEW_TOKENS)


def answers(policy: CausalLM, contexts: Rows[Context], count: int, *, seed: int, what: str) -> list[list[Output]]:
    """So many answers to each instruction, at temperature 1."""
    generator = torch_generator(seed, "instruction wins", what)
    groups = policy.sample(contexts, count, generator=generator, sampling=SAMPLING, batch_size=512)
    return [[policy.output(sample, SAMPLING) for sample in group] for group in groups]


def utilities(contexts: Rows[Context], given: Rows[Rows[Output]]) -> list[list[float]]:
    """True utility of each answer."""
    return [
        [instructions.utility(context, output) for output in outputs]
        for context, outputs in zip(contexts, given, strict=True)
    ]


def win_shares(ours: Rows[Rows[float]], theirs: Rows[Rows[float]]) -> list[float]:
    """For each instruction the share of pairs of an answer of ours and one of theirs that ours wins; a tie is half a win."""
    return [
        fmean((mine > other) + 0.5 * (mine == other) for mine in row for other in others)
        for row, others in zip(ours, theirs, strict=True)
    ]


def scores(
    policy: CausalLM, start: CausalLM, contexts: Rows[Context], count: int, *, seed: int
) -> dict[str, Rows[float]]:
    """Win rate against the start and mean utility for each held-out instruction, of so many answers each."""
    ours, theirs = (
        utilities(contexts, answers(model, contexts, count, seed=seed, what=what))
        for model, what in ((policy, "after"), (start, "before"))
    )
    return {
        "win rate": win_shares(ours, theirs),
        "utility": list(map(fmean, ours)),
        "utility of the start": list(map(fmean, theirs)),
    }
