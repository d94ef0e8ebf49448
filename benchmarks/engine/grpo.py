"""GRPO: one whole step, ours and GRPOTrainer's: sampling, rewards, loss, gradients, optimiser, with LoRA and beta = 0.

All outputs are sampled at once and go on after an end of text, so that each has exactly the case's length. As TRL does by
default, the old log-probabilities are the policy's own, since one optimiser step is made per batch; without a pull there is no
reference. Both sides learn in micro-batches within one token budget; TRL samples with transformers' generate and its default
cache, which grows by copying.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plaudit.objectives.policy_gradient import grpo_advantage, ppo_clip
from plaudit.policies import CausalLM, Sequence

from . import peers
from .cases import TOKEN_BUDGET, Case, groups, load_policy, within_budget
from .drawing import as_contexts, endless, sample_ids
from .flops import Floor, distinct
from .losses import Side, agreement
from .measuring import OURS, Step

SIDES = (OURS, "trl")
LEARNING_RATE = 1e-6  # TRL's default


def cases(model: str, dtypes: list[str], prompt_tokens: list[int]) -> list[Case]:
    """Eight prompts with eight outputs of 64 tokens."""
    return [
        Case(workload="grpo", model=model, dtype=dtype, prompts=8, outputs=8, prompt_tokens=length, output_tokens=64)
        for length in prompt_tokens
        for dtype in dtypes
    ]


def reward(ids: list[int]) -> float:
    """The share of even tokens."""
    return sum(token % 2 == 0 for token in ids) / len(ids)


def build(case: Case, side: str) -> Step:
    """The whole step, with the seconds of its phases."""
    prompts = [group[0].context for group in groups(case)]
    if side == OURS:
        return _ours(load_policy(case), case, prompts)
    rows = rows_within_budget(case)
    trainer = peers.grpo_trainer(case, prompts, reward, rows=rows)
    return _theirs(trainer, case)


def _ours(policy: CausalLM, case: Case, prompts: list[tuple[int, ...]]) -> Step:
    generator = torch.Generator().manual_seed(0)
    contexts = as_contexts(endless(policy), prompts)
    optimiser = torch.optim.AdamW(_trained(policy.model), lr=LEARNING_RATE)

    def step() -> dict[str, float]:
        started = time.perf_counter()
        drawn = sample_ids(policy, contexts, case.outputs, length=case.output_tokens, generator=generator)
        sampled = time.perf_counter()
        rewards = torch.tensor([[reward(list(ids)) for ids in group] for group in drawn])
        advantage = grpo_advantage(rewards, epsilon=1e-4)
        found = [
            [Sequence(prompt, ids, (True,) * len(ids)) for ids in group]
            for prompt, group in zip(prompts, drawn, strict=True)
        ]
        for part in within_budget([case.prompt_tokens + case.outputs * case.output_tokens] * case.prompts):
            (policy_loss(policy, found[part], advantage[part]) * len(found[part]) / case.prompts).backward()
        differentiated = time.perf_counter()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return phases(started, sampled, differentiated, time.perf_counter())

    return step


def policy_loss(policy: CausalLM, found: list[list[Sequence]], advantage: Tensor) -> Tensor:
    """The mean over outputs of GRPO's loss without KL."""
    log_prob = policy.log_prob_of([sequence for group in found for sequence in group])
    value, weight = ppo_clip(
        log_prob.per_step,
        log_prob.per_step.detach(),
        advantage.reshape(-1, 1),
        log_prob.mask,
        aggregation="sequence-mean",
    )
    return (value * weight).sum() / weight.sum()


def _theirs(trainer: Any, case: Case) -> Step:
    optimiser = torch.optim.AdamW(_trained(trainer.model), lr=LEARNING_RATE)
    batch = [{"prompt": str(number)} for number in range(case.prompts) for _ in range(case.outputs)]
    sampling: list[float] = []
    generate: Callable[..., Any] = trainer._generate

    def timed(*arguments: Any, **settings: Any) -> Any:
        started = time.perf_counter()
        drawn = generate(*arguments, **settings)
        sampling.append(time.perf_counter() - started)
        return drawn

    trainer._generate = timed

    def step() -> dict[str, float]:
        sampling.clear()
        started = time.perf_counter()
        for _ in range(trainer.args.gradient_accumulation_steps):
            trainer.training_step(trainer.model, batch, None)
        differentiated = time.perf_counter()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return phases(started, started + sum(sampling), differentiated, time.perf_counter())

    return step


def phases(started: float, sampled: float, differentiated: float, ended: float) -> dict[str, float]:
    """Seconds of the parts of a step."""
    return {
        "sampling": sampled - started,
        "forward and backward": differentiated - sampled,
        "optimiser": ended - differentiated,
    }


def rows_within_budget(case: Case) -> int:
    """Rows of a padded micro-batch: the greatest power of two that the token budget and the batch hold."""
    most = min(case.prompts * case.outputs, TOKEN_BUDGET // (case.prompt_tokens + case.output_tokens))
    return 1 << (most.bit_length() - 1)


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def check(case: Case) -> dict[str, Any]:
    """Loss and gradients of one given group on both sides, with advantages that do not cancel; raises where they differ."""
    group = groups(case)[0]
    advantage = torch.linspace(-1.0, 2.0, case.outputs)
    policy = load_policy(case)
    trainer = peers.grpo_trainer(case, [group[0].context], reward, rows=case.outputs)
    trainer.current_gradient_accumulation_steps = 1
    batch = peers.grpo_batch(group, advantage)
    ours: Side = (policy.model, lambda: policy_loss(policy, [group], advantage))
    return {"trl": agreement(case, ours, (trainer.model, lambda: peers.loss_of(trainer, batch)))}


def floor(case: Case, config: Any) -> dict[str, int]:
    """What the step cannot do without: sampling, then one forward and one backward pass."""
    amount = distinct([sequence for group in groups(case) for sequence in group])
    costs = Floor(config, bytes_per_number=case.torch_dtype.itemsize)
    drawing = costs.sampling(case.prompts, case.outputs, case.prompt_tokens, case.output_tokens)
    training = costs.forward(amount) + costs.backward(amount)
    return {
        "tokens": amount.tokens,
        "flop": drawing["flop"] + training,
        "bytes": drawing["bytes"] + costs.training_bytes(amount),
    }
