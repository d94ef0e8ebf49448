"""Gathering and learning shared by two processes for `test_sharing_an_asking.py`: each writes what it got and judged."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from plaudit.errors import RewardError, TrainingError
from plaudit.feedback.records import Context, Output
from plaudit.methods import OnPolicy, RLOOConfig, rloo
from plaudit.policies import CausalLM, LoRA, Sampling
from plaudit.rewards import FunctionReward, NormalisedReward
from plaudit.sampling import gather
from plaudit.training import RunFolder, TrainingConfig, train

CONTEXTS = [Context(content=text) for text in ("Hi", "Say a vowel.", "Count to three, please.", "Why?", "And now?")]
TRAINING = TrainingConfig(learning_rate=0.01, schedule="constant", warmup_ratio=0, micro_batch_size=4)
STEPS = 2


def low(context: Context, output: Output) -> float | None:
    """The share of tokens below 130; it cannot judge an output whose first token is a multiple of 7."""
    ids = output.content.ids
    return None if ids[0] % 7 == 0 else sum(token < 130 for token in ids) / len(ids)


class Noting(FunctionReward):
    """Notes of what it was asked."""

    def __init__(self, function=low) -> None:
        super().__init__(function, name="low")
        self.asked: list[str] = []

    def reward(self, contexts, outputs):
        self.asked += [context.text for context in contexts]
        return super().reward(contexts, outputs)


class Remembering(NormalisedReward):
    """Normalised by all that was judged before, on top of a noting one."""

    def __init__(self) -> None:
        self.inner = Noting()
        super().__init__(self.inner)

    @property
    def asked(self) -> list[str]:
        return self.inner.asked


class OnlyOneCan:
    """Fails for one context, which one of the processes judges, or cannot judge any of its outputs."""

    def __init__(self, context: str, *, fails: bool) -> None:
        self.context, self.fails = context, fails

    def reward(self, contexts, outputs):
        texts = [context.text for context in contexts]
        if self.fails and self.context in texts:
            raise ValueError("the engine is gone")
        return FunctionReward(
            lambda context, output: None if context.text == self.context else float(len(output.text))
        ).reward(contexts, outputs)


def load(model: Path) -> CausalLM:
    return CausalLM.load(model, lora=LoRA(rank=2), dtype="float32")


def gathered(policy: CausalLM, reward: Any, *, contexts: int = 5, greedy: bool = False) -> dict[str, Any]:
    """Rollouts and counts as JSON takes them, and where the generator stands afterwards."""
    generator = torch.Generator().manual_seed(3)
    found = gather(
        policy, CONTEXTS[:contexts], 3, reward, generator=generator, sampling=Sampling(max_new_tokens=6), version=0,
        greedy=greedy,
    )  # fmt: skip
    return {
        "rollouts": [rollout.as_json() for rollout in found.rollouts],
        "dropped": dict(found.dropped),
        "reasons": dict(found.reasons),
        "next": int(torch.randint(2**31, (1,), generator=generator)),
    }


CASES: dict[str, Any] = {
    "plain": (Noting, {}),
    "greedy": (Noting, {"greedy": True}),
    "fewer-contexts-than-processes": (Noting, {"contexts": 1}),
    "remembering": (Remembering, {}),
    "one-context-unjudged": (lambda: OnlyOneCan("Hi", fails=False), {}),
}


def learned(model: Path, folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Weights and metrics after a few steps of RLOO."""
    policy, reward = load(model), Noting()
    config = RLOOConfig(contexts_per_rollout=3, outputs_per_context=4, max_new_tokens=5)
    folder.mkdir(exist_ok=True)
    train(OnPolicy(policy, reward, CONTEXTS, rloo(config), config), RunFolder(folder), TRAINING, steps=STEPS)
    weights = {name: weight.detach() for name, weight in policy.scorer.named_parameters() if weight.requires_grad}
    rows = RunFolder(folder).metrics() if os.environ.get("RANK", "0") == "0" else []
    return weights, rows


def main(folder: Path, model: Path) -> None:
    rank = os.environ["RANK"]
    weights, _ = learned(model, folder / "run")
    save_file(weights, folder / f"learned-{rank}.safetensors")
    policy, said = load(model), {}
    for name, (make, options) in CASES.items():
        reward = make()
        said[name] = {**gathered(policy, reward, **options), "asked": getattr(reward, "asked", [])}
        if isinstance(reward, Remembering):
            said[name]["state"] = reward.state()
    for name, context in (("first-fails", "Hi"), ("second-fails", "Why?")):
        try:
            gathered(policy, OnlyOneCan(context, fails=True))
        except (ValueError, RewardError, TrainingError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    (folder / f"said-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
