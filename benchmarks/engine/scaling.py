"""The cost of a group's forward and backward pass, as the prompt grows and as outputs are added.

plaudit  the prompt once, the outputs packed behind it
padded   transformers' model on one row per output, logits of the outputs' tokens only: what sharing alone saves
trl      TRL's forward on the same rows: its head scores the prompts' tokens too, see `peers`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .cases import ADAPTERS, Case, fill_adapters, groups, load_base, load_policy, within_budget
from .flops import Floor, distinct
from .losses import Side, agreement
from .measuring import OURS, Step

SIDES = (OURS, "padded", "trl")


def cases(model: str, dtypes: list[str]) -> list[Case]:
    """One prompt of 64 to 1,024 tokens with 2 to 16 outputs of 64 tokens."""
    return [
        Case(workload="scaling", model=model, dtype=dtype, prompts=1, outputs=n, prompt_tokens=length, output_tokens=64)
        for dtype in dtypes
        for length in (64, 256, 512, 1024)
        for n in (2, 4, 8, 16)
    ]


class Padded(nn.Module):
    """Log-probabilities of equally long outputs, one row each, by transformers' model or by TRL's head on it."""

    def __init__(self, case: Case, *, trl: bool) -> None:
        super().__init__()
        from plaudit.policies.loading import add_adapters

        base, _ = load_base(case)
        if trl:
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(base)
        self.model = add_adapters(base, ADAPTERS, seed=0)
        fill_adapters(self.model)
        self.case, self.trl = case, trl

    def forward(self, ids: Tensor) -> Tensor:
        """Summed log-probability of the outputs of rows."""
        steps = self.case.output_tokens
        mask = torch.ones_like(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.case.dtype == "bfloat16"):
            if self.trl:
                labels = ids.clone()
                labels[:, :-steps] = -100
                return self.model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs.sum()
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=steps + 1).logits
        targets = ids[:, -steps:].flatten()
        return -nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction="sum")


def build(case: Case, side: str) -> Step:
    """Forward and backward pass of the outputs' summed log-probability, in passes within the token budget."""
    module, passes = _passes(case, side)

    def step() -> None:
        for loss in passes:
            loss().backward()
        module.zero_grad(set_to_none=True)

    return step


def _passes(case: Case, side: str) -> tuple[nn.Module, list[Callable[[], Tensor]]]:
    """The trained module of a side, and the losses that add up to the group's."""
    (group,) = groups(case)
    if side == OURS:
        policy = load_policy(case)
        return policy.model, [lambda: -policy.log_prob_of(group).sum().sum()]
    padded = Padded(case, trl=side == "trl")
    rows = torch.tensor([[*sequence.context, *sequence.output] for sequence in group])
    parts = within_budget([rows.shape[1]] * len(rows))
    return padded.model, [lambda part=part: -padded(rows[part]) for part in parts]


def check(case: Case) -> dict[str, Any]:
    """Ours beside both peers where there are two outputs; raises where they differ in float32."""
    if case.outputs > 2:
        return {}
    sides: dict[str, Side] = {}
    for side in SIDES:
        module, (loss,) = _passes(case, side)
        sides[side] = (module, loss)
    return {side: agreement(case, sides[OURS], sides[side]) for side in SIDES[1:]}


def floor(case: Case, config: Any) -> dict[str, int]:
    """What the two passes cannot do without."""
    (group,) = groups(case)
    amount = distinct(group)
    costs = Floor(config, bytes_per_number=case.torch_dtype.itemsize)
    flop = costs.forward(amount) + costs.backward(amount)
    return {"tokens": amount.tokens, "flop": flop, "bytes": costs.training_bytes(amount)}
