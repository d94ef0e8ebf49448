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
    PPO,
    SFT,
    DPOConfig,
    EncodedPair,
    PPOConfig,
    RewardConfig,
    RewardModelling,
    SFTConfig,
)
from plaudit.methods.on_policy import Experience
from plaudit.policies import CausalLM, LoRA, Reference
from plaudit.policies import Sequence as TokenSequence
from plaudit.rewards import FunctionReward, RewardModel, ValueNetwork
from plaudit.sampling import Rollout
from plaudit.training import RunFolder, TrainingConfig, train

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


def policy(model: Path) -> CausalLM:
    made = CausalLM.load(model, lora=LoRA(rank=2), dtype="float32")
    perturb(made.scorer)
    return made


def reward_model(model: Path) -> RewardModel:
    made = RewardModel.load(model, lora=LoRA(rank=2), dtype="float32")
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


CASES = {
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
