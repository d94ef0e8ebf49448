"""How fast this machine multiplies matrices and copies memory, and which share of that a training pass reaches.

The ceiling is measured twice: products of 2,048 x 2,048 matrices, and the model's own products at the pass's number of
tokens, forward and backward (of the activations), each product's time weighted by how often the model makes it. The pass is the
log-probability of DPO's outputs, forward and backward, without a reference. Its FLOP are those of the floor (`flops`): what is
computed twice does not count.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from plaudit.policies.loading import quiet_transformers

from .cases import Case, groups, load_policy
from .flops import Amount, Floor, distinct
from .measuring import Results, machine

SQUARE = 2048
COPIED_BYTES = 2**28


def cases(model: str, dtypes: list[str]) -> list[Case]:
    """Four pairs, prompt 512 and outputs 64."""
    return [
        Case(workload="ceiling", model=model, dtype=dtype, prompts=4, outputs=2, prompt_tokens=512, output_tokens=64)
        for dtype in dtypes
    ]


def run(case: Case, *, rounds: int, results: Results) -> None:
    """Measure products, copies and the pass in turn, so that a busy moment of the machine hits all alike."""
    with quiet_transformers():
        policy = load_policy(case)
    sequences = [sequence for group in groups(case) for sequence in group]
    amount = distinct(sequences)
    costs = Floor(policy.model.config, bytes_per_number=case.torch_dtype.itemsize)
    flop = costs.forward(amount) + costs.backward(amount)

    def training_pass() -> None:
        policy.log_prob_of(sequences).sum().sum().backward()
        policy.model.zero_grad(set_to_none=True)

    training_pass()
    square, own, copied, reached = [], [], [], []
    for number in range(rounds):
        square.append(2 * SQUARE**3 / product_seconds([(SQUARE, SQUARE, SQUARE)], case.torch_dtype))
        own.append(own_rate(costs, amount, case.torch_dtype))
        copied.append(copy_rate())
        reached.append(flop / seconds(training_pass))
        print(
            f"{case}: round {number + 1} of {rounds}: GFLOP/s: square {square[-1] / 1e9:.0f}, own shapes "
            f"{own[-1] / 1e9:.0f}, forward and backward {reached[-1] / 1e9:.0f}; copy {copied[-1] / 1e9:.1f} GB/s",
            flush=True,
        )
        entry: dict[str, Any] = {
            "machine": machine(),
            "floor": {"tokens": amount.tokens, "flop": flop},
            "square_flop_per_s": statistics.median(square),
            "own_shapes_flop_per_s": statistics.median(own),
            "copy_bytes_per_s": statistics.median(copied),
            "pass_flop_per_s": statistics.median(reached),
            "share_of_square": statistics.median(a / b for a, b in zip(reached, square, strict=True)),
            "share_of_own_shapes": statistics.median(a / b for a, b in zip(reached, own, strict=True)),
            "rounds": {"square": square, "own_shapes": own, "copy": copied, "pass": reached},
        }
        results.put(case, entry)


def own_rate(costs: Floor, amount: Amount, dtype: torch.dtype) -> float:
    """FLOP per second of the model's products of a forward and a backward pass, the head's at the predicted tokens only."""
    layer = [(amount.tokens, a, b) for a, b in costs.products]
    width, vocabulary = costs.head
    head = [(amount.predicted, width, vocabulary)]
    once, at_end = ([*forward, *((m, n, k) for m, k, n in forward)] for forward in (layer, head))
    flop = 2 * sum(m * k * n for m, k, n in costs.layers * once + at_end)
    return flop / (costs.layers * product_seconds(once, dtype) + product_seconds(at_end, dtype))


def product_seconds(shapes: list[tuple[int, int, int]], dtype: torch.dtype) -> float:
    """Seconds of these products, one after another, after a warm-up: the least of three."""
    operands = [(torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)) for m, k, n in shapes]

    def multiply() -> None:
        for left, right in operands:
            torch.mm(left, right)

    multiply()
    return min(seconds(multiply) for _ in range(3))


def copy_rate() -> float:
    """Bytes per second of a copy, counting what is read and what is written."""
    source = torch.ones(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPIED_BYTES / min(seconds(lambda: target.copy_(source)) for _ in range(3))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
