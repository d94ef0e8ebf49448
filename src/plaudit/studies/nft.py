"""NFT (Chen et al., arXiv 2505.18116): does a likelihood of right and wrong answers match reinforcement learning?

The paper shows that NFT's gradient equals GRPO's where it is strictly on-policy, and reports like results off-policy, above
fine-tuning on right answers alone (RFT). Here a decoder of 0.8 million parameters learns chained arithmetic (see `Start`). That
the two take the same path on-policy is a test of this package, not a part of the study.

Left out of DAPO, for all arms alike: contexts whose answers are all right or all wrong teach nothing, but are not replaced,
so that every arm samples the same number of answers; and no answer is long enough for overlong shaping.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from plaudit.methods import GRPOConfig, NFTConfig, OnPolicy, grpo, nft
from plaudit.policies import CausalLM, Sampling, Sequence
from plaudit.studies.arithmetic_start import SMALL, Start
from plaudit.studies.counting import Counting
from plaudit.studies.study import Budget, Finding, Results, Study, Trial, TrialResult, better, equivalent
from plaudit.testbeds import arithmetic
from plaudit.training import RunFolder, TrainingConfig, train
from plaudit.training.randomness import torch_generator

MARGIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done.

    Attributes:
        rollouts: times that answers are sampled to learn from.
        contexts: problems asked each time.
        outputs: answers of each.
        updates: optimiser steps with them.
        held_out: problems that are measured on, and `looks` the answers of each.
        start: what learns.
    """

    rollouts: int = 60
    contexts: int = 48
    outputs: int = 8
    updates: int = 4
    held_out: int = 1000
    looks: int = 4
    start: Start = field(default_factory=Start)

    @property
    def samples(self) -> int:
        """Answers that an arm learns from."""
        return self.rollouts * self.contexts * self.outputs


FULL = Size()
QUICK = Size(rollouts=3, contexts=12, held_out=64, looks=2, start=SMALL)

ARMS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "nft": (nft, NFTConfig, {"aggregation": "token-sum"}),
    "rft": (nft, NFTConfig, {"aggregation": "token-sum", "negative_weight": 0.0, "prompt_weight": "none"}),
    "rft-weighted": (nft, NFTConfig, {"aggregation": "token-sum", "negative_weight": 0.0}),
    "dr_grpo": (grpo, GRPOConfig, {"variant": "dr_grpo"}),
    "grpo": (grpo, GRPOConfig, {"variant": "grpo"}),
    "dapo": (grpo, GRPOConfig, {"variant": "dapo"}),
}
"""Recipe, its configuration, and what is set. NFT's w is 1 - r and its floor 1 by default; `rft-weighted` keeps that w."""


def arm_method(arm: str, policy: CausalLM, reward: Counting, size: Size, *, seed: int) -> OnPolicy:
    """The method of an arm; each problem is asked once."""
    recipe, kind, own = ARMS[arm]
    config = kind(
        contexts_per_rollout=size.contexts, outputs_per_context=size.outputs, updates_per_rollout=size.updates,
        max_new_tokens=arithmetic.MAX_NEW_TOKENS, rollout_batch_size=size.contexts * size.outputs, **own,
    )  # fmt: skip
    contexts = arithmetic.problems(size.rollouts * size.contexts, seed=seed)
    return OnPolicy(policy, reward, contexts, recipe(config), config)


def training_config(size: Size, *, seed: int) -> TrainingConfig:
    """The same for all arms.

    With Dr. GRPO, seed 99 and 40 rollouts, a learning rate of 3e-5 took pass@1 of 300 held-out problems from 0.16 to 0.30, with
    most of it in the first 15 rollouts, and 1e-4 to 0.28. No other arm was tried.
    """
    return TrainingConfig(
        learning_rate=3e-5, schedule="constant", warmup_ratio=0.02, micro_batch_size=size.contexts * size.outputs,
        checkpoint_every=0, seed=seed,
    )  # fmt: skip


def measure(policy: CausalLM, size: Size, *, seed: int) -> dict[str, list[float]]:
    """Of each held-out problem: the share of its answers that are right, and their mean entropy per token in nats."""
    contexts = arithmetic.problems(size.held_out, seed=seed, held_out=True)
    sampling = Sampling(max_new_tokens=arithmetic.MAX_NEW_TOKENS)
    groups = policy.sample(
        contexts, size.looks, generator=torch_generator(seed, "held out"), sampling=sampling, batch_size=512
    )
    scores: dict[str, list[float]] = {"pass@1": [], "entropy": []}
    for context, group in zip(contexts, groups, strict=True):
        right = [arithmetic.right(context, policy.output(sample, sampling)) for sample in group]
        scores["pass@1"].append(sum(right) / len(right))
        tokens = policy.encoder.context(context)
        sequences = [Sequence(tokens, sample.token_ids, (True,) * len(sample.token_ids)) for sample in group]
        with torch.no_grad():
            found = policy.log_prob_of(sequences, entropy=True)
        assert found.entropy is not None
        scores["entropy"].append(float(found.entropy[found.mask].mean()))
    return scores


def _prepare(quick: bool) -> None:
    (QUICK if quick else FULL).start.folder()


def _run(trial: Trial) -> TrialResult:
    size = QUICK if trial.quick else FULL
    policy, reward = CausalLM.load(size.start.folder(), dtype="float32"), Counting(arithmetic.verifier())
    before = measure(policy, size, seed=trial.seed)
    method = arm_method(trial.arm, policy, reward, size, seed=trial.seed)
    config = training_config(size, seed=trial.seed)
    run = RunFolder.create(trial.folder / "run", {"method": asdict(method.config), "training": asdict(config)})
    train(method, run, config, steps=size.rollouts * size.updates)
    figures = {f"{name} before": sum(values) / len(values) for name, values in before.items()}
    after = measure(policy, size, seed=trial.seed)
    gain = [late - early for late, early in zip(after["pass@1"], before["pass@1"], strict=True)]
    return TrialResult({**after, "gain": gain}, reward.samples, figures)


def _judge(results: Results) -> tuple[Finding, ...]:
    ended = results.difference("nft", "dr_grpo", "pass@1", unit="points", level=0.9)
    gain = results.difference("nft", "rft", "pass@1", unit="points")
    entropy = results.difference("nft", "rft", "entropy", unit="nats")
    learned = better("Dr. GRPO ends above where it began", results.mean("dr_grpo", "gain", unit="points"))
    alike = equivalent("off-policy, NFT ends within 2 points of Dr. GRPO", ended, margin=MARGIN)
    if learned.decision != "holds":  # arms that learn nothing end alike whatever they are
        alike = replace(alike, decision="inconclusive")
    return (
        alike,
        learned,
        better("NFT ends above RFT", gain),
        better("NFT keeps more entropy per token than RFT", entropy),
    )


STUDY = Study(
    name="nft",
    module=__name__,
    arxiv="2505.18116",
    title="NFT — Bridging Supervised Learning and Reinforcement Learning in Math Reasoning",
    setting=(
        f"Chained arithmetic modulo 97; a decoder of 0.8 million parameters after worked examples, some of which stop too "
        f"early; {FULL.rollouts} rollouts (the specification has 150) of {FULL.contexts} problems with {FULL.outputs} answers, "
        f"{FULL.updates} updates each; measured on {FULL.held_out} held-out problems with {FULL.looks} answers each."
    ),
    criterion=(
        "The claim holds if held-out pass@1 of NFT and Dr. GRPO differ by less than 2 points (two one-sided tests at 5 %: the "
        "90 % interval of the paired difference lies inside +-2 points, seeds being the independent units). It does not hold "
        "if that interval lies outside. Nothing is decided unless Dr. GRPO ends above where it began, at 95 %. NFT above RFT "
        "in pass@1 and in entropy are reported at 95 % and decide nothing."
    ),
    arms=tuple(ARMS),
    metric=("pass@1", "share"),
    seeds=5,
    budget=Budget(samples=FULL.samples, seconds=3600),
    prepare=_prepare,
    run=_run,
    judge=_judge,
)
