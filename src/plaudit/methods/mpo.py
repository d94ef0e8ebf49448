"""Mixed preference optimisation (Gou and Nguyen, arXiv 2403.19443): DPO on clear pairs, then reinforcement on the others.

A method made of methods: a reward model tells clear pairs from near ties, DPO learns the clear ones from the start, and a
method that samples goes on with the contexts of the others, pulled to the model that DPO made and not to the start.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from plaudit.errors import ConfigError
from plaudit.feedback.examples import Pair
from plaudit.feedback.records import Context
from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.encoding import encode_pairs
from plaudit.methods.entry import PAIRS, Axes, Entry
from plaudit.objectives.preferences import gap_threshold, is_easy, reward_gap
from plaudit.policies import CausalLM, Reference
from plaudit.rewards.base import RewardSource
from plaudit.sharing import from_main
from plaudit.training import Method, RunFolder, TrainingConfig, train
from plaudit.training.config import check, whole
from plaudit.training.randomness import torch_generator

Fit = Callable[[Rows[Pair], int], RewardSource]
"""From pairs and the number of their fold to a reward that was fitted to them."""

Online = Callable[[CausalLM, Reference, Rows[Context]], Method[Any]]
"""From the policy after DPO, its reference and what to ask to the method of the second stage, such as `PPO`."""


@dataclass(frozen=True, kw_only=True)
class MPOConfig:
    """Settings of MPO's split and of its first stage; the second stage has its method's own.

    Attributes:
        easy_share: share of the pairs, those with the largest gap in reward, that DPO learns; 0 leaves all to the second
            stage, 1 is DPO alone. A half is ours: the paper's threshold was not found, only that the parts are of like size.
        folds: parts of the pairs, by context, whose gaps come from a reward model that has not seen them. The paper takes
            the gaps of the pairs that the reward model was fitted to, which makes wrong labels look clear.
        beta: strength of DPO's pull to the start.
    """

    easy_share: float = 0.5
    folds: int = 2
    beta: float = 0.1

    def __post_init__(self) -> None:
        check(self, "easy_share", 0 <= self.easy_share <= 1, "a share in [0, 1]")
        check(self, "folds", whole(self.folds, 2), "a whole number >= 2")
        _ = self.dpo

    @property
    def dpo(self) -> DPOConfig:
        """The first stage's settings."""
        return DPOConfig(beta=self.beta)


@dataclass(frozen=True, slots=True)
class Curriculum:
    """What each stage learns from: pairs, and contexts, each once."""

    easy: tuple[Pair, ...]
    hard: tuple[Context, ...]


def cross_fitted_gaps(pairs: Rows[Pair], fit: Fit, config: MPOConfig, *, seed: int) -> Float[Tensor, " B"]:
    """The gap in reward of each pair, by a reward that was fitted to the pairs of other contexts alone.

    Gaps of different folds are in units of different reward models: each fold's are divided by their mean. A pair that
    its reward cannot judge has the gap 0, so that it is a hard one.

    Raises:
        ConfigError: fewer contexts than folds.
    """
    contexts = list(dict.fromkeys(pair.context.digest for pair in pairs))
    if len(contexts) < config.folds:
        raise ConfigError(f"folds: expected at most the number of contexts, {len(contexts)}, got {config.folds}")
    order = torch.randperm(len(contexts), generator=torch_generator(seed, "folds")).tolist()
    fold_of = {contexts[place]: number % config.folds for number, place in enumerate(order)}
    gap = torch.zeros(len(pairs))
    for fold in range(config.folds):
        inside = [index for index, pair in enumerate(pairs) if fold_of[pair.context.digest] == fold]
        reward = fit([pair for pair in pairs if fold_of[pair.context.digest] != fold], fold)
        asked = [pairs[index].context for index in inside]
        chosen, rejected = (
            reward.reward(asked, [getattr(pairs[index], side) for index in inside]) for side in ("chosen", "rejected")
        )
        known = torch.where(chosen.judged & rejected.judged, reward_gap(chosen.value, rejected.value), 0).cpu().float()
        gap[inside] = known / known.mean() if known.any() else known
    return gap


def by_gap(pairs: Rows[Pair], gap: Float[Tensor, " B"], config: MPOConfig) -> Curriculum:
    """The pairs with the largest gaps, and the contexts of the others; a tie is never easy.

    Raises:
        ConfigError: not one gap a pair.
    """
    if gap.shape != (len(pairs),):
        raise ConfigError(f"gap: expected one for each of {len(pairs)} pairs, got shape {list(gap.shape)}")
    clear = is_easy(gap, gap_threshold(gap, easy_share=config.easy_share)).tolist()
    easy = [good and not pair.tie for good, pair in zip(clear, pairs, strict=True)]
    hard = {pair.context.digest: pair.context for pair, good in zip(pairs, easy, strict=True) if not good}
    return Curriculum(tuple(pair for pair, good in zip(pairs, easy, strict=True) if good), tuple(hard.values()))


def learn_mpo(
    policy: CausalLM,
    curriculum: Curriculum,
    online: Online,
    config: MPOConfig,
    folder: Path,
    *,
    first: TrainingConfig,
    second: TrainingConfig,
    steps: int,
    start: CausalLM | None = None,
) -> None:
    """Run both stages, in ``folder/easy`` and ``folder/hard``, or the rest of them; one with nothing to learn is skipped.

    Args:
        policy: what learns.
        curriculum: what from.
        online: makes the second stage's method.
        config: the first stage's settings.
        folder: of both runs. Where it holds a checkpoint, training goes on from there.
        first: the first stage's training loop.
        second: the second stage's.
        steps: optimiser steps of the second stage.
        start: what the second stage is pulled to instead of the model that DPO made: the paper's ablation.
    """
    pairs, _ = encode_pairs(curriculum.easy, policy.encoder)
    if pairs:
        reference = Reference(policy, batch_size=64)
        reference.prepare([side for pair in pairs for side in (pair.chosen, pair.rejected)])
        method = DPO(policy, reference, pairs, config.dpo)
        train(method, _begun(folder / "easy"), first, steps=first.steps(len(pairs)), resume=True)
    if curriculum.hard and steps:
        pulled_to = start or _frozen(policy, folder / "reference")
        learner = online(policy, Reference(pulled_to, batch_size=64), curriculum.hard)
        train(learner, _begun(folder / "hard"), second, steps=steps, resume=True)


def _begun(path: Path) -> RunFolder:
    return (
        RunFolder.open(path) if from_main((path / "config.toml").is_file) else RunFolder.create(path, {"method": "mpo"})
    )


def _frozen(policy: CausalLM, folder: Path) -> CausalLM:
    """The policy as it is, adapters merged into its weights: it neither moves nor has adapters that could be left out."""
    policy.save(folder)
    dtype: Any = str(policy.compute_dtype).removeprefix("torch.")
    return CausalLM.load(folder, dtype=dtype, device=policy.device)


ENTRIES = (
    Entry(
        "mpo", PAIRS, "preference where it is clear, then a reward on samples", "yes", "on-policy",
        "a reward model; a copy of the model after DPO; what the second stage holds",
        "pairs of which many are near ties or wrong, and a reward model fitted to them",
        "Gou and Nguyen, arXiv 2403.19443", Axes("pairs", "model", "policy gradient"),
    ),
)  # fmt: skip
