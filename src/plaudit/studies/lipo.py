"""LiPO (Liu et al., arXiv 2402.01878): do lists teach more than the best and the worst of them?

A decoder of 0.34 million parameters answers small instructions, K answers each. Their true utility with noise becomes labels in
[0, 1], each answer's mean win rate against the others of its list. All arms of a K have the same answers and labels:

    dpo-K            DPO on the best against the worst
    pair-logistic-8  DPO on all pairs of eight
    list-mle-8       the Plackett-Luce likelihood of the order of eight
    softmax-8        cross-entropy against the labels' shares
    lambda-K         LiPO-lambda

They start alike and make the same number of steps over the same instructions. K = 2 and 4 take the first answers of the
same lists.
"""

from __future__ import annotations

import json
from collections.abc import Sequence as Rows
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from plaudit.feedback.examples import Pair, RankedList
from plaudit.feedback.records import Output
from plaudit.methods import (
    DPO,
    DPOConfig,
    LiPO,
    LiPOConfig,
    encode_lists,
    encode_pairs,
    mean_win_rates,
)
from plaudit.methods.lipo import in_lists
from plaudit.methods.pairwise import sides
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.studies.instruction_wins import answers, scores, utilities
from plaudit.studies.study import Budget, Finding, Results, Study, Trial, TrialResult, better
from plaudit.testbeds import instructions
from plaudit.testbeds.decoders import DecoderConfig, decoder
from plaudit.training import RunFolder, TrainingConfig, train
from plaudit.training.randomness import torch_generator

SIZES = (2, 4, 8)
ARMS = ("dpo-8", "pair-logistic-8", "list-mle-8", "softmax-8", "lambda-8", "dpo-4", "lambda-4", "dpo-2", "lambda-2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done.

    Attributes:
        lists: instructions whose answers are ranked.
        noise: standard deviation of what is added to ten times the utility.
        held_out: instructions that are measured on.
        looks: answers to each of them.
        decoder: what learns.
    """

    lists: int = 1200
    noise: float = 1.0
    held_out: int = 400
    looks: int = 4
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(layers=3, width=96, demonstrations=24_000, learning_rate=3e-3)
    )


FULL = Size()
QUICK = Size(
    lists=24, held_out=8, looks=2, decoder=DecoderConfig(layers=1, width=32, demonstrations=640, learning_rate=1e-2)
)

BETA = 0.1
LEARNING_RATE = 3e-4


def training(*, seed: int) -> TrainingConfig:
    """One pass, as in the paper.

    With seed 91, DPO, LiPO-lambda and all pairs on lists of 8 won 0.62, 0.67 and 0.67 with 3e-4, and 0.54, 0.53 and 0.63 with
    1e-3; with seed 90 and 800 lists, DPO, LiPO-lambda and softmax won 0.58, 0.62 and 0.62 with 3e-4.
    """
    return TrainingConfig(
        batch_size=32, micro_batch_size=32, learning_rate=LEARNING_RATE, checkpoint_every=0, seed=seed
    )


def start(size: Size) -> CausalLM:
    """The decoder that all arms begin with."""
    return CausalLM.load(decoder("instructions", size.decoder), dtype="float32")


def share(size: Size, folder: Path, *, seed: int) -> None:
    """Write the answers of the start and their labels' rewards, which all arms learn from."""
    contexts = instructions.instructions(size.lists, seed=seed)
    given = answers(start(size), contexts, max(SIZES), seed=seed, what="to rank")
    truth = torch.tensor(utilities(contexts, given)) * instructions.SCALE
    noise = torch.randn(truth.shape, generator=torch_generator(seed, "lipo", "noise"))
    rows = [[output.model_dump(mode="json") for output in outputs] for outputs in given]
    (folder / "answers.json").write_text(
        json.dumps({"outputs": rows, "rewards": (truth + size.noise * noise).tolist()})
    )


def ranked(size: Size, folder: Path, count: int, *, seed: int) -> list[RankedList]:
    """Lists of the first so many answers, with mean win rates; of equal answers the first counts."""
    told = json.loads((folder / "answers.json").read_text())
    made = []
    contexts = instructions.instructions(size.lists, seed=seed)
    for context, rows, rewards in zip(contexts, told["outputs"], told["rewards"], strict=True):
        different: dict[str, tuple[Output, float]] = {}
        for row, reward in zip(rows[:count], rewards[:count], strict=True):
            output = Output.model_validate(row)
            different.setdefault(output.text, (output, reward))
        if len(different) > 1:
            outputs, values = zip(*different.values(), strict=True)
            labels = mean_win_rates(torch.tensor(values, dtype=torch.float64))
            made.append(RankedList(context, outputs, tuple(labels.tolist()), "utility with noise", ()))
    return made


def best_against_worst(lists: Rows[RankedList]) -> list[Pair]:
    """DPO's pair of each list."""

    def ends(one: RankedList) -> Pair:
        order = sorted(range(len(one.gains)), key=one.gains.__getitem__)
        return Pair(one.context, one.outputs[order[-1]], one.outputs[order[0]], one.source, (), None)

    return list(map(ends, lists))


def learner(arm: str, policy: CausalLM, lists: Rows[RankedList]) -> tuple[Any, list[Sequence], int]:
    """The method of an arm, what its reference has to be asked, and how many examples it has."""
    reference = Reference(policy, batch_size=64)
    kind = arm.rpartition("-")[0]
    if kind == "dpo":
        pairs, _ = encode_pairs(best_against_worst(lists), policy.encoder)
        return DPO(policy, reference, pairs, DPOConfig(beta=BETA)), sides(pairs), len(pairs)
    encoded, _ = encode_lists(lists, policy.encoder)
    config = LiPOConfig(objective=kind, beta=BETA)  # type: ignore[arg-type]
    return LiPO(policy, reference, encoded, config), in_lists(encoded), len(encoded)


def _prepare(quick: bool) -> None:
    decoder("instructions", (QUICK if quick else FULL).decoder)


def _share(seed: int, quick: bool, folder: Path) -> None:
    share(QUICK if quick else FULL, folder, seed=seed)


def _run(trial: Trial) -> TrialResult:
    assert trial.shared is not None
    size = QUICK if trial.quick else FULL
    count = int(trial.arm.rpartition("-")[2])
    policy = start(size)
    method, sequences, examples = learner(trial.arm, policy, ranked(size, trial.shared, count, seed=trial.seed))
    method.reference.prepare(sequences)
    config = training(seed=trial.seed)
    run = RunFolder.create(trial.folder / "run", {"method": asdict(method.config), "training": asdict(config)})
    train(method, run, config, steps=config.steps(examples))
    held_out = instructions.instructions(size.held_out, seed=trial.seed, held_out=True)
    found = scores(policy, start(size), held_out, size.looks, seed=trial.seed)
    last = [row["loss"] for row in run.metrics() if row["split"] == "train"][-8:]
    return TrialResult(found, count * size.lists, {"loss of the last steps": fmean(last), "lists": float(examples)})


def _gain(results: Results, seed: int, count: int) -> float:
    """LiPO-lambda's win rate above DPO's, both on lists of so many."""
    own, other = (results.found[f"{kind}-{count}", seed].scores["win rate"] for kind in ("lambda", "dpo"))
    return fmean(own) - fmean(other)


def _judge(results: Results) -> tuple[Finding, ...]:
    def above(arm: str, other: str) -> Finding:
        return better(f"{arm} ends above {other}", results.difference(arm, other, "win rate", unit="points"))

    grows = [_gain(results, seed, 8) - _gain(results, seed, 2) for seed in results.seeds]
    return (
        above("lambda-8", "dpo-8"),
        better(
            "LiPO-lambda's gain over DPO is larger with lists of 8 than of 2",
            results.per_seed(grows, what="growth of the gain", unit="points"),
        ),
        above("lambda-4", "lambda-2"),
        above("lambda-8", "lambda-4"),
        *(above(arm, "dpo-8") for arm in ("pair-logistic-8", "list-mle-8", "softmax-8")),
        above("lambda-8", "pair-logistic-8"),
    )


STUDY = Study(
    name="lipo",
    module=__name__,
    arxiv="2402.01878",
    title="LiPO — Listwise Preference Optimization through Learning-to-Rank",
    setting=(
        f"The instruction language; a decoder of 0.34 million parameters (the specification's world has 3 million); "
        f"{FULL.lists} instructions with 8 of its answers each; labels are mean win rates under ten times the utility plus "
        f"noise of standard deviation {FULL.noise:g}; one pass, beta {BETA:g}; {FULL.looks} answers to each of {FULL.held_out} "
        "held-out instructions against as many of the start. Lists of 2 and 4 are the first answers of the same lists, "
        "so that they have fewer outputs. Answers that are equal count once."
    ),
    criterion=(
        "The claim holds if LiPO-lambda's win rate against the start by the true utility is above that of DPO on the best and "
        "the worst of the same lists of 8: the difference's 95 % interval, over held-out instructions and seeds, lies above 0. "
        "The second claim, that the gain grows with K, holds if the difference LiPO-lambda minus DPO is larger at 8 than at 2, "
        "with an interval over seeds above 0. Reported and deciding nothing: LiPO-lambda with lists of 8, 4 and 2 against each "
        "other; the other objectives of lists against DPO; LiPO-lambda against all pairs with equal weights."
    ),
    arms=ARMS,
    metric=("win rate", "share"),
    seeds=5,
    budget=Budget(samples=8 * FULL.lists, seconds=300),
    prepare=_prepare,
    run=_run,
    judge=_judge,
    share=_share,
)
