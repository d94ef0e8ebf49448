"""Each objective's forward and backward pass beside TRL's own loss code, on 8 prompts x 8 outputs x 1,024 tokens.

    python benchmarks/objectives.py [--rounds 15] [--threads 2]

Both sides get the same token log-probabilities, float32, with unequal lengths, in one process and in turn. TRL's losses live in
its trainers' methods, which also gather the metrics that they log; what they compute from a model is given to them. The
model's forward pass, which costs thousands of times as much, is on neither side.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from objectives import policy_batches, trl_peer
from plaudit.objectives.policy_gradient.clipped_ratio import dapo, dr_grpo, grpo, ppo_clip
from plaudit.objectives.policy_gradient.exact_divergences import generalised_jsd
from plaudit.objectives.policy_gradient.policy_gradient import cispo, sapo
from plaudit.objectives.policy_gradient.sequence_ratio import gspo
from plaudit.objectives.preferences.pairwise import disco_pop, dpo, exo, hinge
from plaudit.objectives.preferences.pairwise_anchored import apo_down, apo_zero, nca, sppo_hard
from plaudit.objectives.preferences.pointwise import kto

PROMPTS, OUTPUTS, STEPS = 8, 8, 1024
ROWS = PROMPTS * OUTPUTS
Work = Callable[[], object]


def batch() -> dict[str, Tensor]:
    """Token log-probabilities under policy, behaviour and reference, advantages, and a mask of 512 to 1,024 tokens."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    log_prob = -normal(ROWS, STEPS, scale=1.0).exp()
    lengths = torch.randint(STEPS // 2, STEPS + 1, (ROWS, 1), generator=generator)
    return {
        "token_log_prob": log_prob,
        "old_token_log_prob": log_prob + normal(ROWS, STEPS, scale=0.05),
        "ref_token_log_prob": log_prob + normal(ROWS, STEPS, scale=0.2),
        "advantage": normal(ROWS, 1, scale=1.0),
        "mask": torch.arange(STEPS) < lengths,
    }


def on_policy(call: dict[str, Tensor]) -> dict[str, tuple[Work, Work]]:
    """(ours, TRL's) for losses of tokens with importance ratios."""
    plain = {name: value for name, value in call.items() if name != "ref_token_log_prob"}
    output = plain | {"advantage": plain["advantage"][:, 0]}

    def pair(function: Any, ours: dict[str, Any], theirs: dict[str, Any], data: dict[str, Tensor] = plain) -> Any:
        trl_data = {**data, "advantage": call["advantage"][:, 0]}
        return partial(policy_batches.ours, function, data, **ours), partial(
            policy_batches.trl_grpo, trl_data, **theirs
        )

    clips = {"clip_low": 0.2, "clip_high": 0.2}
    return {
        "grpo, beta 0.04": pair(grpo, {"beta": 0.04}, {"loss_type": "grpo", "beta": 0.04}, call),
        "ppo_clip": pair(ppo_clip, {}, {"loss_type": "bnpo"}),
        "dr_grpo": pair(dr_grpo, {"longest": STEPS}, {"loss_type": "dr_grpo"}),
        "dapo": pair(dapo, {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
        "cispo": pair(cispo, {"clip_high": 4.0}, {"loss_type": "cispo", "epsilon_high": 5.0}),
        "sapo": pair(sapo, {}, {"loss_type": "sapo"}),
        "gspo": pair(gspo, clips, {"loss_type": "grpo", "importance_sampling_level": "sequence"}, output),
    }


def from_pairs(call: dict[str, Tensor]) -> dict[str, tuple[Work, Work]]:
    """(ours, TRL's) for losses of 32 pairs: the log-probabilities of the outputs are sums over their tokens."""
    token_log_prob, reference, mask = (call[name] for name in ("token_log_prob", "ref_token_log_prob", "mask"))

    def pair(loss_type: str, function: Any, **settings: Any) -> tuple[Work, Work]:
        def ours() -> Tensor:
            leaf = token_log_prob.clone().requires_grad_()
            log_ratio = torch.where(mask, leaf, 0).sum(-1) - torch.where(mask, reference, 0).sum(-1)
            return torch.autograd.grad(function(*log_ratio.chunk(2), **settings).mean(), leaf)[0]

        def theirs() -> Tensor:
            leaf = token_log_prob.clone().requires_grad_()
            loss = trl_peer.trl_dpo(loss_type, leaf, reference, mask, beta=settings["beta"])
            return torch.autograd.grad(loss, leaf)[0]

        return ours, theirs

    return {
        "dpo": pair("sigmoid", dpo, beta=0.1),
        "hinge": pair("hinge", hinge, beta=0.1),
        "exo": pair("exo_pair", partial(exo, label_smoothing=1e-3), beta=0.1),
        "nca": pair("nca_pair", nca, beta=0.1),
        "sppo_hard": pair("sppo_hard", sppo_hard, beta=0.1),
        "apo_zero": pair("apo_zero", apo_zero, beta=0.1),
        "apo_down": pair("apo_down", apo_down, beta=0.1),
        "disco_pop": pair("discopop", disco_pop, beta=0.1),
        "kto": _kto(token_log_prob, reference, mask),
    }


def _kto(token_log_prob: Tensor, reference: Tensor, mask: Tensor) -> tuple[Work, Work]:
    ref_log_prob = torch.where(mask, reference, 0).sum(-1)
    desirable = torch.arange(ROWS) % 2 == 0
    mismatched = ref_log_prob + 0.3
    baseline = (mismatched - ref_log_prob).mean().clamp(min=0)

    def ours() -> Tensor:
        leaf = token_log_prob.clone().requires_grad_()
        log_ratio = torch.where(mask, leaf, 0).sum(-1) - ref_log_prob
        return torch.autograd.grad(kto(log_ratio, desirable, baseline, beta=0.1).mean(), leaf)[0]

    def theirs() -> Tensor:
        leaf = token_log_prob.clone().requires_grad_()
        loss = trl_peer.trl_kto(leaf, ref_log_prob, mask, desirable, mismatched, ref_log_prob, beta=0.1)
        return torch.autograd.grad(loss, leaf)[0]

    return ours, theirs


def from_vocabulary() -> dict[str, tuple[Work, Work]]:
    """(ours, TRL's) for distillation: the divergence of two distributions over 256 tokens at every step."""
    from trl.experimental.gkd import GKDTrainer

    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(ROWS, STEPS, 256, generator=generator) for _ in range(2))
    mask = torch.ones(ROWS, STEPS, dtype=torch.bool)

    def ours() -> Tensor:
        leaf = student.clone().requires_grad_()
        value, weight = generalised_jsd(leaf, teacher, mask, mixture=0.5)
        return torch.autograd.grad((value * weight).sum() / weight.sum(), leaf)[0]

    def theirs() -> Tensor:
        leaf = student.clone().requires_grad_()
        return torch.autograd.grad(GKDTrainer.generalized_jsd_loss(leaf, teacher, beta=0.5), leaf)[0]

    return {"generalised_jsd, V = 256": (ours, theirs)}


def seconds(work: Work) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Run both sides of every pair in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "objectives.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    call = batch()
    rows = []
    print(f"{'objective':28} {'plaudit':>10} {'TRL':>10} {'TRL / plaudit':>24}")
    for name, sides in {**from_pairs(call), **on_policy(call), **from_vocabulary()}.items():
        times: list[list[float]] = [[], []]
        for index in range(options.rounds + 2):
            for side in (0, 1) if index % 2 else (1, 0):
                spent = seconds(sides[side])
                if index >= 2:
                    times[side].append(spent)
        ratios = sorted(theirs / ours for ours, theirs in zip(*times, strict=True))
        quartiles = (ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4])
        ours, theirs, ratio = statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)
        print(
            f"{name:28} {1e3 * ours:7.2f} ms {1e3 * theirs:7.2f} ms {ratio:10.2f} [{quartiles[0]:.2f}, {quartiles[1]:.2f}]"
        )
        rows.append({"objective": name, "plaudit_s": ours, "trl_s": theirs, "ratio": ratio, "quartiles": quartiles})
    machine = {"platform": platform.platform(), "torch": torch.__version__, "threads": options.threads}
    report = {"machine": machine, "shape": [PROMPTS, OUTPUTS, STEPS], "rounds": options.rounds, "rows": rows}
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
