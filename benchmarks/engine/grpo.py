"""GRPO: one whole step, ours and GRPOTrainer's: sampling, rewards, loss, gradients, optimiser, with LoRA and beta = 0.

Ours is what users run: `OnPolicy` with the recipe of GRPO collects, its loss is differentiated in the micro-batches that the
training loop would cut, and AdamW makes a step. All outputs are sampled at once and go on after an end of text, so that each
has exactly the case's length. As TRL does by default, the old log-probabilities are the policy's own, since one optimiser step
is made per batch; without a pull there is no reference. Both sides learn in micro-batches within one token budget; TRL samples
with transformers' generate and its default cache, which grows by copying.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from itertools import count
from typing import Any

import torch
from torch import Tensor

from plaudit import training
from plaudit.feedback.records import Context
from plaudit.methods import GRPOConfig, OnPolicy, grpo
from plaudit.methods.recipe import Experience
from plaudit.policies import CausalLM, Sequence
from plaudit.rewards import FunctionReward
from plaudit.sampling import Rollout
from plaudit.training.micro_batches import by_tokens

from . import peers
from .cases import TOKEN_BUDGET, Case, groups, load_policy
from .drawing import as_contexts, endless
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


def method_of(policy: CausalLM, case: Case, contexts: Rows[Context]) -> OnPolicy:
    """GRPO as users run it, asking all contexts at once."""
    config = GRPOConfig(
        contexts_per_rollout=len(contexts),
        outputs_per_context=case.outputs,
        max_new_tokens=case.output_tokens,
        rollout_batch_size=len(contexts) * case.outputs,
    )
    even = FunctionReward(lambda _, output: reward(list(output.content.ids)), name="even")
    return OnPolicy(policy, even, contexts, grpo(config), config)


def _ours(policy: CausalLM, case: Case, prompts: list[tuple[int, ...]]) -> Step:
    method = method_of(policy, case, as_contexts(endless(policy), prompts))
    optimiser = torch.optim.AdamW(_trained(policy.model), lr=LEARNING_RATE)
    sampling = _timed(policy, "stream")
    numbers = count()

    def step() -> dict[str, float]:
        sampling.clear()
        started = time.perf_counter()
        examples = method.collect(training.Step(next(numbers), 0, case.prompts))
        expect_equal_work(examples, case)
        differentiate(method, examples)
        differentiated = time.perf_counter()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return phases(started, started + sum(sampling), differentiated, time.perf_counter())

    return step


def differentiate(method: OnPolicy, examples: Rows[Experience]) -> Tensor:
    """The step's loss, differentiated in micro-batches within the token budget, as the training loop does it."""
    sequences = [method.sequences(example) for example in examples]
    total = weight = torch.zeros(())
    for batch in by_tokens(sequences, TOKEN_BUDGET, processes=1)[0]:
        found = method.loss([examples[index] for index in batch.indices])
        part = (found.value * found.weight).sum()
        part.backward()
        total, weight = total + part.detach(), weight + found.weight.sum()
    gradients = [parameter.grad for parameter in _trained(method.trainable.model) if parameter.grad is not None]
    torch._foreach_div_(gradients, float(weight))
    return total / weight


def expect_equal_work(examples: Rows[Experience], case: Case) -> None:
    """Raise a `ValueError` where a group was left out or an output is shorter, so that sides would do unequal work."""
    lengths = [len(example.rollout.sequence.output) for example in examples]
    if lengths != [case.output_tokens] * (case.prompts * case.outputs):
        raise ValueError(
            f"Expected {case.prompts * case.outputs} outputs of {case.output_tokens} tokens, got {len(lengths)} of {lengths}."
        )


def given_loss(policy: CausalLM, case: Case, group: list[Sequence], advantage: Tensor) -> Tensor:
    """The method's loss of given outputs with given advantages."""
    examples = [
        Experience(
            Rollout(
                0, sequence, (0.0,) * len(sequence.output), "", finished=True, reward=0.0, components={}, version=0
            ),
            {"advantage": float(value)},
        )
        for sequence, value in zip(group, advantage, strict=True)
    ]
    found = method_of(policy, case, as_contexts(policy, [group[0].context])).loss(examples)
    return (found.value * found.weight).sum() / found.weight.sum()


def _timed(owner: Any, name: str) -> list[float]:
    """From now on, the seconds that a method of `owner` takes: of each call, or of each part of what a call yields."""
    seconds: list[float] = []
    original: Callable[..., Any] = getattr(owner, name)

    def clocked(work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
        return found

    def yielded(parts: Iterator[Any]) -> Iterator[Any]:
        while (part := clocked(lambda: next(parts, None))) is not None:
            yield part

    def timed(*arguments: Any, **settings: Any) -> Any:
        found = clocked(lambda: original(*arguments, **settings))
        return yielded(found) if isinstance(found, Iterator) else found

    setattr(owner, name, timed)
    return seconds


def _theirs(trainer: Any, case: Case) -> Step:
    optimiser = torch.optim.AdamW(_trained(trainer.model), lr=LEARNING_RATE)
    batch = [{"prompt": str(number)} for number in range(case.prompts) for _ in range(case.outputs)]
    sampling = _timed(trainer, "_generate")

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
    ours: Side = (policy.model, lambda: given_loss(policy, case, group, advantage))
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
