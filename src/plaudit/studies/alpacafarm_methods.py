"""AlpacaFarm's reference methods on the instruction language: from one pool's comparisons to something that answers.

All start from the same decoder, and learn from the same pairs of its own answers; see `plaudit.studies.alpacafarm`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plaudit.feedback.annotators import AnnotatorPool
from plaudit.feedback.examples import Demonstrated, Pair
from plaudit.feedback.records import Context, Output
from plaudit.feedback.views import pairs
from plaudit.methods import (
    DPO,
    PPO,
    SFT,
    BestOfNConfig,
    ConditioningConfig,
    DPOConfig,
    OnPolicy,
    PPOConfig,
    QuarkConfig,
    RewardConfig,
    RewardModelling,
    SFTConfig,
    best_of_n,
    conditioned,
    encode_demonstrations,
    encode_pairs,
    feedme,
    quark,
)
from plaudit.policies import CausalLM, Reference, Sampling
from plaudit.rewards import RewardModel, ValueNetwork
from plaudit.studies.counting import Counting
from plaudit.testbeds import instructions
from plaudit.testbeds.decoders import DecoderConfig
from plaudit.training import RunFolder, TrainingConfig, train
from plaudit.training.randomness import torch_generator

CONTROL = ConditioningConfig(desirable="+ ", undesirable="- ")
"""The control words, of characters that the decoder knows."""

SAMPLING = Sampling(max_new_tokens=instructions.MAX_NEW_TOKENS)

POOLS: dict[str, Callable[[], AnnotatorPool]] = {
    "simulated": instructions.simulated_pool,
    "human": instructions.human_pool,
    "single": instructions.single_judge,
}
"""Who labels."""

Answerer = Callable[[Rows[Context]], list[Output]]
"""What a method makes: one answer to each instruction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done.

    Attributes:
        pairs: instructions whose two answers are compared.
        askings: times that PPO and Quark sample, `asked` instructions each.
        asked: instructions of an asking.
        imitated: instructions of expert iteration.
        best_of: answers that best-of-n and expert iteration choose from.
        held_out: instructions that are measured on.
        curve: how many of them the curve of best-of-n has, `curve_samples` answers each.
        decoder: what learns.
    """

    pairs: int = 4800
    askings: int = 40
    asked: int = 128
    imitated: int = 800
    best_of: int = 16
    held_out: int = 400
    curve: int = 48
    curve_samples: int = 1024
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(layers=3, width=96, demonstrations=24_000, learning_rate=3e-3)
    )

    @property
    def samples(self) -> int:
        """The most answers that an arm learns from: those to compare, and for two pools those that a reward judges."""
        return 2 * (self.pairs + max(self.askings * self.asked, self.imitated * self.best_of))


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long a method learns: passes over what there is (for PPO and Quark, over all askings), and how fast."""

    learning_rate: float
    epochs: float = 1.0
    batch_size: int = 32


RECIPES = {
    "sft": Recipe(5e-4, epochs=2),
    "reward": Recipe(5e-4),
    "dpo": Recipe(2e-4),
    "ppo": Recipe(3e-4),
    "quark": Recipe(1e-4),
}
"""How each learns. Pilots with seed 90, 200 instructions and simulated annotators, SFT winning 0.39: Quark at 5e-4 unlearned to
answer rightly and won 0.30, at 1e-4 0.43; PPO won 0.47, DPO 0.43. Reward models of 1,200 pairs knew length and not correctness
(best of 16: utility 0.66 after 0.63); of 4,800 they know both (0.74)."""


class Farm:
    """A seed's instructions, the decoder's own answers that every pool compares, and the pools' reward models.

    Args:
        start: the decoder's folder.
        shared: what `share` wrote.
        size: how much is done.
        seed: of instructions, samples, labels and training.
        folder: for the runs.

    Attributes:
        labelled: whether a method asked for the pairs, or for a reward model that was trained on them.
        judged: answers that a reward model judged for a method to learn from.
    """

    def __init__(self, start: Path, shared: Path, size: Size, *, seed: int, folder: Path) -> None:
        self.start, self.shared, self.size, self.seed, self.folder = start, shared, size, seed, folder
        self.labelled, self.judged, self.runs = False, 0, 0
        contexts = instructions.instructions(size.pairs + size.askings * size.asked, seed=seed)
        self.compared, self.unlabelled = contexts[: size.pairs], contexts[size.pairs :]

    @property
    def samples(self) -> int:
        """Answers that were sampled to learn from: those to compare, which are the same for all pools, and the judged ones."""
        return 2 * len(self.compared) * self.labelled + self.judged

    def share(self) -> None:
        """Write what all methods start from: answers to compare, and a reward model of each pool."""
        answers = self.sample(self.policy(), self.compared, 2, "to compare")
        rows = [[output.model_dump(mode="json") for output in both] for both in answers]
        (self.shared / "answers.json").write_text(json.dumps(rows))
        for pool in POOLS:
            model = RewardModel.load(self.start, dtype="float32", seed=self.seed)
            encoded, _ = encode_pairs(self.preferences(pool), model.encoder)
            self.train(RewardModelling(model, encoded, RewardConfig()), "reward", len(encoded))
            model.save(self.shared / f"reward-{pool}")

    def preferences(self, pool: str) -> list[Pair]:
        """Two answers of the decoder to each instruction, as the pool compares them."""
        people = POOLS[pool]()
        rows = json.loads((self.shared / "answers.json").read_text())
        answers = [[Output.model_validate(output) for output in both] for both in rows]
        self.labelled = True
        compared = zip(self.compared, answers, strict=True)
        return list(pairs([people.compare(context, a, b, seed=self.seed) for context, (a, b) in compared]).examples)

    def price(self, pool: str) -> float:
        """What the pool's comparisons cost."""
        people = POOLS[pool]()
        pairs_of = self.preferences(pool)
        return sum(people.price(pair.context, pair.chosen, pair.rejected, seed=self.seed) for pair in pairs_of)

    def reward_model(self, pool: str) -> RewardModel:
        """Trained on the pool's comparisons, on a trunk that started as the decoder."""
        self.labelled = True
        return RewardModel.load(self.shared / f"reward-{pool}", dtype="float32")

    def policy(self) -> CausalLM:
        """The decoder as it was."""
        return CausalLM.load(self.start, dtype="float32")

    def sample(self, policy: CausalLM, contexts: Rows[Context], n: int, what: str) -> list[list[Output]]:
        """n answers to each instruction at temperature 1."""
        generator = torch_generator(self.seed, "alpacafarm", what)
        groups = policy.sample(contexts, n, generator=generator, sampling=SAMPLING, batch_size=512)
        return [[policy.output(sample, SAMPLING) for sample in group] for group in groups]

    def imitate(self, demonstrations: Rows[Demonstrated]) -> CausalLM:
        """The decoder after fine-tuning on these, by the recipe that all imitating methods share."""
        policy = self.policy()
        sequences, _ = encode_demonstrations(demonstrations, policy.encoder)
        self.train(SFT(policy, sequences, SFTConfig()), "sft", len(sequences))
        return policy

    def train(self, method: Any, recipe: str, examples: int, *, steps: int | None = None) -> None:
        """Train by a recipe; over all examples, or for so many steps at a constant rate."""
        own = RECIPES[recipe]
        config = TrainingConfig(
            epochs=own.epochs, batch_size=own.batch_size, micro_batch_size=max(examples, 1) if steps else own.batch_size,
            learning_rate=own.learning_rate, schedule="constant" if steps else "cosine", checkpoint_every=0, seed=self.seed,
        )  # fmt: skip
        run = RunFolder.create(self.folder / f"run-{self.runs}", {"training": asdict(config)})
        self.runs += 1
        train(method, run, config, steps=steps or config.steps(examples))

    def answerer(self, policy: CausalLM) -> Answerer:
        """One sample of a policy for each instruction."""
        return lambda contexts: [group[0] for group in self.sample(policy, contexts, 1, "held out")]


def answer_as_sft(farm: Farm, pool: str) -> Answerer:  # noqa: ARG001 - as every method
    """The decoder itself."""
    return farm.answerer(farm.policy())


def answer_as_feedme(farm: Farm, pool: str) -> Answerer:
    """Fine-tuning on what was preferred."""
    return farm.answerer(farm.imitate(feedme(farm.preferences(pool))))


def answer_conditioned(farm: Farm, pool: str) -> Answerer:
    """Fine-tuning on both answers, told apart by a word; asked for good ones."""
    answer = farm.answerer(farm.imitate(conditioned(farm.preferences(pool), CONTROL)))
    return lambda contexts: answer([CONTROL.asked(context) for context in contexts])


def answer_with_best_of_n(farm: Farm, pool: str) -> Answerer:
    """The decoder's answer that the reward model likes best."""
    reward, policy = farm.reward_model(pool), farm.policy()

    def answer(contexts: Rows[Context]) -> list[Output]:
        groups = farm.sample(policy, contexts, farm.size.best_of, "best of n")
        asked = [context for context, group in zip(contexts, groups, strict=True) for _ in group]
        values = reward.reward(asked, [output for group in groups for output in group], batch_size=128).value
        best = values.view(len(contexts), -1).argmax(-1).tolist()
        return [group[place] for group, place in zip(groups, best, strict=True)]

    return answer


def answer_after_expert_iteration(farm: Farm, pool: str) -> Answerer:
    """Imitation of the best of n on instructions without labels, sampled once: in the passes that fine-tuning makes."""
    size, recipe = farm.size, RECIPES["sft"]
    config = BestOfNConfig(
        contexts_per_rollout=size.imitated, outputs_per_context=size.best_of, epochs_per_rollout=round(recipe.epochs),
        updates_per_rollout=max(1, size.imitated // recipe.batch_size), max_new_tokens=SAMPLING.max_new_tokens,
        rollout_batch_size=512,
    )  # fmt: skip
    policy, reward = farm.policy(), Counting(farm.reward_model(pool), batch_size=128)
    method = OnPolicy(policy, reward, farm.unlabelled[: size.imitated], best_of_n(config), config)
    farm.train(method, "sft", size.imitated, steps=config.steps_per_rollout)
    farm.judged += reward.samples
    return farm.answerer(policy)


def answer_after_ppo(farm: Farm, pool: str) -> Answerer:
    """PPO with AlpacaFarm's settings, but for sizes: two passes of two steps over each asking."""
    size = farm.size
    config = PPOConfig(
        contexts_per_rollout=size.asked, updates_per_rollout=2, epochs_per_rollout=2, kl_coefficient=0.02, clamp_kl=True,
        trace=1.0, max_new_tokens=SAMPLING.max_new_tokens, rollout_batch_size=512,
    )  # fmt: skip
    policy, model = farm.policy(), farm.reward_model(pool)
    reward, reference = Counting(model, batch_size=128), Reference(farm.policy(), batch_size=128)
    method = PPO(policy, ValueNetwork.of(model), reward, farm.unlabelled, config, reference=reference)
    farm.train(method, "ppo", size.asked, steps=size.askings * config.steps_per_rollout)
    farm.judged += reward.samples
    return farm.answerer(policy)


def answer_after_quark(farm: Farm, pool: str) -> Answerer:
    """Quark as AlpacaFarm has it: the best quarter, one step an asking; the pull to the decoder by its estimate."""
    size = farm.size
    config = QuarkConfig(
        contexts_per_rollout=size.asked, beta=0.0, kl_coefficient=0.05, max_new_tokens=SAMPLING.max_new_tokens,
        rollout_batch_size=512,
    )  # fmt: skip
    policy, reward = farm.policy(), Counting(farm.reward_model(pool), batch_size=128)
    reference = Reference(farm.policy(), batch_size=128)
    method = OnPolicy(policy, reward, farm.unlabelled, quark(config), config, reference=reference)
    farm.train(method, "quark", size.asked, steps=size.askings)
    farm.judged += reward.samples
    return farm.answerer(policy)


def answer_after_dpo(farm: Farm, pool: str) -> Answerer:
    """DPO with beta 0.1."""
    policy = farm.policy()
    encoded, _ = encode_pairs(farm.preferences(pool), policy.encoder)
    method = DPO(policy, Reference(farm.policy(), batch_size=128), encoded, DPOConfig(beta=0.1))
    farm.train(method, "dpo", len(encoded))
    return farm.answerer(policy)


METHODS: dict[str, Callable[[Farm, str], Answerer]] = {
    "sft": answer_as_sft,
    "feedme": answer_as_feedme,
    "conditioning": answer_conditioned,
    "best-of-16": answer_with_best_of_n,
    "expert-iteration": answer_after_expert_iteration,
    "ppo": answer_after_ppo,
    "quark": answer_after_quark,
    "dpo": answer_after_dpo,
}
