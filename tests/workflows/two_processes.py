"""Whole runs shared by two processes, started by `test_two_processes.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from plaudit.methods import GRPOConfig
from plaudit.policies import CausalLM, LogProb, LoRA, Reference, Sequence
from plaudit.sharing import own_part
from plaudit.training import TrainingConfig
from plaudit.workflows import AlignConfig, AlignResult, EvaluationConfig, align

TRAINING = TrainingConfig(batch_size=8, micro_batch_size=4, learning_rate=5e-3, max_steps=3, evaluate_every=2)


def low(prompt: str, output: str) -> float:
    """The share of signs before the letter n, and a little for the prompt's length, so that contexts differ."""
    return sum(sign < "n" for sign in output) / max(1, len(output)) + len(prompt) / 1000


def config_of(method: str, model: Path, feedback: Path, run: Path) -> AlignConfig:
    """Settings of a run; those of an offline method train a judge, too."""
    online = method == "grpo"
    return AlignConfig(
        model=str(model),
        feedback=str(feedback),
        run=run,
        method=method,
        reward="python:workflows.two_processes:low" if online else None,
        grpo=GRPOConfig(contexts_per_rollout=4, outputs_per_context=4, max_new_tokens=6, kl_coefficient=0.1),
        dtype="float32",
        held_out=0.3,
        lora=LoRA(rank=4),
        training=TRAINING,
        judge_training=TRAINING,
        evaluation=EvaluationConfig(contexts=6, max_new_tokens=6, outputs_per_context=2, batch_size=4),
    )


def learned(method: str, model: Path, feedback: Path, run: Path) -> AlignResult:
    """One run to its end."""
    return align(config_of(method, model, feedback, run))


class Counting(Reference):
    """Counts what is computed here."""

    computed = 0

    def _compute(self, sequences: list[Sequence]) -> LogProb:
        self.computed += len(sequences)
        return super()._compute(sequences)


def expect_shared_reference(model: Path) -> None:
    """Each process computes its part and gets the others'."""
    policy = CausalLM.load(model, lora=LoRA(rank=2), dtype="float32")
    reference = Counting(policy)
    sequences = [Sequence((5, 6), (token, token + 1), (True, True)) for token in range(10, 15)]
    reference.prepare_together(sequences)
    assert reference.computed == len(own_part(5)) < 5
    found = reference.log_prob_of(sequences)
    assert reference.computed == len(own_part(5))
    torch.testing.assert_close(found.per_step, Reference(policy).log_prob_of(sequences).per_step)


if __name__ == "__main__":
    folder, model, feedback = map(Path, sys.argv[1:])
    for name in ("dpo", "grpo"):
        result = learned(name, model, feedback, folder / name)
        assert result.comparison is not None
        assert result.page.parent == folder / name
    expect_shared_reference(model)
