"""Every method on the tiny model with a handful of examples of very unequal lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from plaudit.feedback.records import Context
from plaudit.methods import (
    DPO,
    KTO,
    ORPO,
    PPO,
    SFT,
    BestOfNConfig,
    BRAIn,
    BRAInConfig,
    DPOConfig,
    EncodedLabel,
    EncodedList,
    EncodedPair,
    GRPOConfig,
    KTOConfig,
    LiPO,
    LiPOConfig,
    NFTConfig,
    OnlineDPO,
    OnlineDPOConfig,
    OnPolicy,
    OnPolicyConfig,
    ORPOConfig,
    PPOConfig,
    QuarkConfig,
    Recipe,
    REINFORCEConfig,
    REINFORCEPlusPlusConfig,
    ReMaxConfig,
    RewardConfig,
    RewardModelling,
    RLOOConfig,
    SFTConfig,
    SimPO,
    SimPOConfig,
    SuperHFConfig,
    best_of_n,
    grpo,
    nft,
    quark,
    reinforce,
    reinforce_plus_plus,
    remax,
    rloo,
    superhf,
)
from plaudit.methods.brain import SampledGroup
from plaudit.methods.egpo import EGPOConfig, egpo
from plaudit.methods.games import Game, Played
from plaudit.methods.inpo import INPOConfig, inpo
from plaudit.methods.nash_md import NashMD, NashMDConfig
from plaudit.methods.nash_mp import NashMPConfig, nash_mp
from plaudit.methods.online_dpo import SampledPair
from plaudit.methods.online_ipo import OnlineIPOConfig, online_ipo
from plaudit.methods.preference_modelling import PreferenceConfig, PreferenceModelling
from plaudit.methods.recipe import Experience, as_groups
from plaudit.methods.registry import ENTRIES
from plaudit.methods.sppo import SPPOConfig, sppo
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.policies import Sequence as TokenSequence
from plaudit.rewards import FunctionReward, PreferenceModel, RewardModel, ValueNetwork
from plaudit.sampling import Rollout
from plaudit.training import RunFolder, Step, TrainingConfig, train

LENGTHS = ((3, 4), (9, 2), (1, 1), (4, 40), (5, 6), (60, 7), (2, 3))  # of contexts and of outputs


def perturb(module: torch.nn.Module, *, seed: int = 0, size: float = 0.1) -> None:
    """Move the trained weights: fresh adapters would make most losses the same."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=generator))


def demonstrations() -> list[TokenSequence]:
    """One of them has masked tokens, and one's all are."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())

    made = [TokenSequence(ids(context), ids(output), (True,) * output) for context, output in LENGTHS]
    made[3] = TokenSequence(made[3].context, made[3].output, (True, False) * 20)
    made[4] = TokenSequence(made[4].context, made[4].output, (False,) * 6)
    return made


def pairs_of_two_contexts() -> list[EncodedPair]:
    """Their contexts alternate, so that a budget of tokens changes their order."""
    made = pairs()
    contexts = (made[0].chosen.context, made[5].chosen.context)
    return [
        EncodedPair(*(replace(side, context=contexts[number % 2]) for side in (pair.chosen, pair.rejected)))
        for number, pair in enumerate(made)
    ]


def pairs(*, ties: bool = False, margins: bool = False) -> list[EncodedPair]:
    generator = torch.Generator().manual_seed(1)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())

    made = []
    for number, (context, output) in enumerate(LENGTHS):
        asked, lengths = ids(context), (output, 1 + 3 * number)
        sides = [TokenSequence(asked, ids(length), (True,) * length) for length in lengths]
        margin = number / 2 if margins and number % 2 else None
        made.append(EncodedPair(*sides, tie=ties and number % 3 == 0, margin=margin))
    return made


def ranked_lists() -> list[EncodedList]:
    """Lists of two to five outputs, with ties, of contexts and outputs of very unequal lengths."""
    generator = torch.Generator().manual_seed(2)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 250, (length,), generator=generator).tolist())

    made = []
    for number, (context, output) in enumerate(LENGTHS):
        asked, lengths = ids(context), [1 + (output + 3 * place) % 11 for place in range(2 + number % 4)]
        outputs = tuple(TokenSequence(asked, ids(length), (True,) * length) for length in lengths)
        labels = tuple((place * (number + 1)) % 3 / 2 for place in range(len(outputs)))
        labels = labels if len(set(labels)) > 1 else (1.0, *labels[1:])
        made.append(EncodedList(outputs, labels))
    return made


def sampled_groups() -> list[SampledGroup]:
    """The lists as if they had been sampled, at log-probabilities near those of the tiny model."""
    return [
        SampledGroup(
            one.outputs,
            tuple(-5.5 * len(output.output) - place for place, output in enumerate(one.outputs)),
            one.labels,
        )
        for one in ranked_lists()
    ]


def policy(model: Path) -> CausalLM:
    made = CausalLM.load(model, lora=LoRA(rank=2), dtype="float32")
    perturb(made.scorer)
    return made


def reward_model(model: Path) -> RewardModel:
    made = RewardModel.load(model, lora=LoRA(rank=2), dtype="float32")
    perturb(made.scorer)
    return made


def preference_model(model: Path) -> PreferenceModel:
    made = PreferenceModel.load(model, lora=LoRA(rank=2), dtype="float32")
    perturb(made.scorer)
    return made


def _dpo(model: Path, examples: Any, config: DPOConfig) -> DPO:
    learner = policy(model)
    return DPO(learner, Reference(learner), examples, config)


@dataclass(frozen=True)
class Case:
    """A method, how it is made from a model's folder and examples, and its examples."""

    make: Callable[[Path, Any], Any]
    examples: Callable[[], list[Any]]


def _sft(how: str) -> Case:
    return Case(lambda model, examples: SFT(policy(model), examples, SFTConfig(aggregation=how)), demonstrations)


def _reward(config: RewardConfig, **kinds: bool) -> Case:
    return Case(lambda model, examples: RewardModelling(reward_model(model), examples, config), lambda: pairs(**kinds))


def _ppo(model: Path, examples: Any, *, own_trunk: bool = False, entropy: float = 0.0) -> PPO:
    """With these outputs instead of what it would sample, credited before policy and value network moved a little."""
    learner = policy(model)
    value = ValueNetwork.of(reward_model(model) if own_trunk else learner)
    credited = [_credited(learner, value, sequence) for sequence in examples]
    perturb(value.scorer, seed=1, size=0.05)
    config = PPOConfig(kl_coefficient=0.0, value_coefficient=0.5, entropy_coefficient=entropy)
    method = PPO(learner, value, FunctionReward(lambda *_: 0.0), [Context(content="Hi")], config)
    method.collect = lambda step: credited  # type: ignore[method-assign]
    return method


@torch.no_grad()
def _credited(learner: CausalLM, value: ValueNetwork, sequence: TokenSequence) -> Experience:
    found = learner.log_prob_of([sequence])
    (values,) = value.values_of([sequence])
    noise = torch.randn(3, len(values), generator=torch.Generator().manual_seed(len(sequence)))
    per_token = {"advantage": noise[0], "value": values, "value_target": values + noise[1]}
    old = found.per_step[found.mask] + 0.1 * noise[2]
    number = float(len(sequence))
    rollout = Rollout(0, sequence, (0.0,) * len(sequence.output), "", len(sequence) > 9, number, {"own": number}, 0)
    signal = {"score": number, "kl": 0.5 * number, "kl_coefficient": 0.05}
    tokens = {name: tuple(row.tolist()) for name, row in per_token.items()}
    return Experience(rollout, signal, tuple(old.tolist()), per_token=tokens)


def rollouts() -> list[Rollout]:
    """Two groups: of four outputs and of three, each with a right and a wrong one and a greedy one beside them."""
    rewards = (1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0)
    return [
        Rollout(
            group=int(number >= 4),
            sequence=sequence,
            log_prob=(-1.0,) * len(sequence.output),
            text="",
            finished=number % 2 == 0,
            reward=reward,
            components={"given": reward},
            version=0,
            greedy_reward=0.25,
        )
        for number, (sequence, reward) in enumerate(zip(demonstrations(), rewards, strict=True))
    ]


def labelled() -> list[EncodedLabel]:
    """The demonstrations, two in three called good; the baseline is what a step's `collect` would have laid beside each."""
    return [EncodedLabel(sequence, number % 3 > 0, baseline=2.5) for number, sequence in enumerate(demonstrations())]


class Sampled(OnPolicy):
    """Learns from given experiences, as if it had sampled them."""

    given: Sequence[Experience]

    def collect(self, step: Step) -> list[Experience]:
        return list(self.given)


class Labelled(KTO):
    """Learns from labels with given baselines, which a real step would compute under its policy."""

    def collect(self, step: Step) -> list[EncodedLabel]:
        return list(self.labelled)


class Paired(OnlineDPO):
    """Learns from given pairs, as if it had sampled them."""

    given: Sequence[SampledPair]

    def collect(self, step: Step) -> list[SampledPair]:
        return list(self.given)


def sampled_pairs() -> list[SampledPair]:
    found = enumerate(pairs(ties=True, margins=True))
    return [
        SampledPair(pair.chosen, pair.rejected, tie=pair.tie, margin=pair.margin, reward=number / 7)
        for number, pair in found
    ]


def experiences(recipe: Recipe) -> list[Experience]:
    """The rollouts with a recipe's signals, and an old policy that a clip cuts here and there."""
    made = rollouts()
    signals = recipe.signals(as_groups([made[:4], made[4:]]))
    found = []
    for number, rollout in enumerate(made):
        b, k = divmod(number, 4)
        signal = {name: float(values[b, k]) for name, values in signals.items()}
        if "kept" in signal:
            signal["group_reward"] = 0.5 + b / 6
        old = tuple(-4.0 - 0.1 * (step % 7) for step in range(sum(rollout.sequence.mask)))
        found.append(Experience(rollout, signal, old))
    return found


_NO_REWARD = FunctionReward(lambda context, output: 0.0)
_ASKED = [Context(content="Asked.")]


def _sampled(recipe: Callable[[Any], Recipe], config: OnPolicyConfig, *, kl: bool = False) -> Case:
    def make(model: Path, examples: Sequence[Experience]) -> Sampled:
        learner = policy(model)
        reference = Reference(learner) if kl else None
        made = Sampled(learner, _NO_REWARD, _ASKED, recipe(config), config, reference=reference)
        made.given = examples
        return made

    return Case(make, lambda: experiences(recipe(config)))


def _kto(model: Path, examples: Sequence[EncodedLabel]) -> Labelled:
    learner = policy(model)
    return Labelled(learner, Reference(learner), examples, KTOConfig(beta=0.2, undesirable_weight=1.5))


def _online_dpo(model: Path, examples: Sequence[SampledPair]) -> Paired:
    learner = policy(model)
    config = OnlineDPOConfig(beta=0.4)
    made = Paired(learner, Reference(learner), _NO_REWARD, _ASKED, config)
    made.given = examples
    return made


class Even:
    """An oracle that is not asked: what was played is given."""

    def prefer(self, contexts: Sequence[Context], a: Sequence[Any], b: Sequence[Any]) -> list[float | None]:
        return [0.5] * len(a)


GAMES: dict[str, Callable[..., Game]] = {
    "inpo": lambda *parts: inpo(*parts, INPOConfig(beta=0.2, eta=0.5)),
    "sppo": lambda *parts: sppo(*parts, SPPOConfig(beta=0.4)),
    "online-ipo": lambda *parts: online_ipo(*parts, OnlineIPOConfig(beta=0.15)),
    "nash-md": lambda *parts: NashMD(*parts, NashMDConfig(beta=0.3)),
    "nash-mp": lambda *parts: nash_mp(*parts, NashMPConfig(beta=0.2, eta=0.7)),
    "egpo": lambda *parts: egpo(*parts, EGPOConfig(beta=0.25)),
}


def played() -> list[Played]:
    """Pairs of very unequal lengths, with win rates and log-probabilities of an older policy."""
    return [
        Played((pair.chosen, pair.rejected), (0.9 - number / 20, 0.1 + number / 30), (-5.0 * number, -3.0), {})
        for number, pair in enumerate(pairs())
    ]


def _game(make: Callable[..., Game]) -> Case:
    def made(model: Path, examples: Sequence[Played]) -> Game:
        learner = policy(model)
        game = make(learner, Reference(learner), Even(), _ASKED)
        game.collect = lambda step: list(examples)  # type: ignore[method-assign]  # as if it had sampled them
        return game

    return Case(made, played)


def _lipo(objective: str) -> Case:
    def make(model: Path, examples: Sequence[EncodedList]) -> LiPO:
        learner = policy(model)
        return LiPO(learner, Reference(learner), examples, LiPOConfig(objective=objective, beta=0.3))

    return Case(make, ranked_lists)


class Posterior(BRAIn):
    """Learns from given groups, as if it had sampled them."""

    given: Sequence[SampledGroup]

    def collect(self, step: Step) -> list[SampledGroup]:
        return list(self.given)


def _brain(*, baseline: bool) -> Case:
    def make(model: Path, examples: Sequence[SampledGroup]) -> Posterior:
        learner = policy(model)
        config = BRAInConfig(baseline=baseline, reward_temperature=0.5)
        made = Posterior(learner, Reference(learner), _NO_REWARD, _ASKED, config)
        made.given = examples
        return made

    return Case(make, sampled_groups)


CASES = {
    "lipo": _lipo("lambda"),
    "lipo-softmax": _lipo("softmax"),
    "brain": _brain(baseline=True),
    "brain-without-baseline": _brain(baseline=False),
    "orpo": Case(lambda model, examples: ORPO(policy(model), examples, ORPOConfig(odds_weight=0.5)), pairs),
    "simpo": Case(lambda model, examples: SimPO(policy(model), examples, SimPOConfig()), pairs),
    "kto": Case(_kto, labelled),
    "online-dpo": Case(_online_dpo, sampled_pairs),
    "grpo": _sampled(grpo, GRPOConfig(kl_coefficient=0.3), kl=True),
    "dr_grpo": _sampled(grpo, GRPOConfig(variant="dr_grpo")),
    "dapo": _sampled(grpo, GRPOConfig(variant="dapo")),
    "gspo": _sampled(grpo, GRPOConfig(variant="gspo", clip_low=0.5, clip_high=0.9)),
    "cispo": _sampled(grpo, GRPOConfig(variant="cispo")),
    "nft": _sampled(nft, NFTConfig(floor=0.2)),
    "rft": _sampled(nft, NFTConfig(negative_weight=0.0, prompt_weight="none")),
    "reinforce": _sampled(reinforce, REINFORCEConfig()),
    "rloo": _sampled(rloo, RLOOConfig(clip_low=0.9, clip_high=9.0)),
    "remax": _sampled(remax, ReMaxConfig()),
    "reinforce++": _sampled(reinforce_plus_plus, REINFORCEPlusPlusConfig()),
    "reinforce++-baseline": _sampled(reinforce_plus_plus, REINFORCEPlusPlusConfig(baseline=True)),
    "best-of-n": _sampled(best_of_n, BestOfNConfig(top_k=2, aggregation="sequence-mean")),
    "superhf": _sampled(superhf, SuperHFConfig(beta=0.5)),
    "quark": _sampled(quark, QuarkConfig(beta=0.5, quantiles=2)),
    "dpo": Case(lambda model, examples: _dpo(model, examples, DPOConfig(beta=0.3)), pairs),
    "dpo-shared": Case(lambda model, examples: _dpo(model, examples, DPOConfig()), pairs_of_two_contexts),
    "dpo-smoothed": Case(lambda model, examples: _dpo(model, examples, DPOConfig(label_smoothing=0.2)), pairs),
    "sft-token-mean": _sft("token-mean"),
    "sft-sequence-mean": _sft("sequence-mean"),
    "sft-sequence-sum": _sft("sequence-sum"),
    "ppo": Case(_ppo, demonstrations),
    "ppo-own-trunk": Case(lambda model, examples: _ppo(model, examples, own_trunk=True, entropy=0.3), demonstrations),
    "reward": _reward(RewardConfig()),
    "reward-margins": _reward(RewardConfig(margin_weight=0.5), margins=True),
    "reward-ties": _reward(RewardConfig(tie_width=0.4, margin_weight=0.5), ties=True, margins=True),
}

CASES |= {name: _game(make) for name, make in GAMES.items()}
CASES["preference"] = Case(
    lambda model, examples: PreferenceModelling(preference_model(model), examples, PreferenceConfig()),
    lambda: pairs(ties=True),
)
CASES |= {
    row.name: _sampled(row.making.recipe, row.making.settings())
    for row in ENTRIES
    if row.making is not None and row.name not in CASES
}


@dataclass
class Stepped:
    """What one optimiser step did."""

    gradients: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    metrics: dict[str, float]


def one_step(
    name: str,
    model: Path,
    folder: Path,
    *,
    size: int = 100,
    tokens: int | None = None,
    order: Sequence[int] | None = None,
) -> Stepped:
    """One step of `train` on all examples, in micro-batches of `size` examples or of at most so many `tokens`.

    AdamW's first moment after one step is ``(1 - beta1) * gradient``, and it is in the checkpoint. With an epsilon of 1 the
    step is nearly proportional to the gradient, so that weights can be compared as well.
    """
    case = CASES[name]
    examples = case.examples()
    if order is not None:
        examples = [examples[index] for index in order]
    method = case.make(model, examples)
    config = TrainingConfig(
        batch_size=len(examples),
        micro_batch_size=size,
        micro_batch_tokens=tokens,
        max_grad_norm=0.0,
        adam_epsilon=1.0,
        learning_rate=1.0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    train(method, RunFolder(folder), config, steps=1)
    moments = load_file(folder / "checkpoints" / "step-00000001" / "optimizer.safetensors")
    names = [name for name, weight in method.trainable.scorer.named_parameters() if weight.requires_grad]
    gradients = {key: moments[f"{index}.exp_avg"] / (1 - config.adam_beta1) for index, key in enumerate(names)}
    (metrics,) = RunFolder(folder).metrics()
    metrics = {key: value for key, value in metrics.items() if key not in ("split", "tokens_per_s")}
    weights = {key: method.trainable.scorer.get_parameter(key).detach().clone() for key in names}
    return Stepped(gradients, weights, metrics)
