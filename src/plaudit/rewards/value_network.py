"""A value network: what reward is still to come, estimated at every token of an output from the state that predicts it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence as Rows
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plaudit.policies.adapters import using_adapters
from plaudit.policies.base import by_context
from plaudit.policies.batches import Batch
from plaudit.policies.causal_lm import CausalLM
from plaudit.policies.encoding import Encoder, Sequence
from plaudit.policies.loading import copy_adapters, freeze_untied_head
from plaudit.policies.packing import Packer
from plaudit.policies.scoring import autocast, causal_lm_of, decoder_of
from plaudit.profiling import count, phase
from plaudit.rewards.reward_model import ADAPTER as REWARD_ADAPTER
from plaudit.rewards.reward_model import RewardModel

ADAPTER = "value"


class ValueScorer(nn.Module):
    """The trunk's hidden states that predict tokens through a linear head: one number per token of an output.

    The head begins at 0, as in the code of Ziegler et al. (arXiv 1909.08593), unless a reward model's is put in its place.
    """

    def __init__(self, model: Any, *, compute_dtype: torch.dtype, adapter: str | None) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype
        self.adapter = adapter
        # made without values, since Linear would draw them from the global generator
        self.head = nn.Linear(causal_lm_of(model).config.hidden_size, 1, device="meta").to_empty(device="cpu")
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Float[Tensor, " M"]:
        """Value of the state before each target token, in the order of the batch's positions, float32."""
        count(tokens=batch.input_ids.numel(), positions=len(batch.targets))
        adapters = using_adapters(self.model, self.adapter) if self.adapter else contextlib.nullcontext()
        with adapters, autocast(self.compute_dtype, batch.input_ids.device):
            hidden = decoder_of(causal_lm_of(self.model))(**batch.inputs).last_hidden_state
        values: Tensor = self.head(batch.predicting(hidden).to(self.head.weight.dtype))
        return values.squeeze(-1)


class ValueNetwork:
    """Estimates the return of an output from each of its tokens on; a method trains it beside the policy.

    Attributes:
        scorer: the module that is trained.
        encoder: contexts and outputs as token ids.
        packer: makes the batches that the scorer takes.
    """

    def __init__(self, scorer: ValueScorer, encoder: Encoder, packer: Packer) -> None:
        self.scorer: nn.Module = scorer
        self.encoder = encoder
        self.packer = packer

    @classmethod
    def of(cls, source: RewardModel | CausalLM) -> ValueNetwork:
        """A value network that starts as a reward model or as a policy, and is a transformer of its own from there on.

        Adapters get a twin over the same frozen weights; a trunk without adapters is copied. From a reward model it has the
        head as well, so that its values are rewards from the beginning, and learns faster (Stiennon et al., arXiv 2009.01325,
        section 3.4). The reward model itself is not trained any more.

        Raises:
            PolicyError: the source's trunk has a value network's adapters already.
        """
        reward = source if isinstance(source, RewardModel) else None
        theirs: Any = getattr(source.scorer, "module", source.scorer)
        model, packer, adapter = theirs.model, source.packer, None
        if hasattr(model, "peft_config"):
            adapter = ADAPTER
            model = copy_adapters(model, REWARD_ADAPTER if reward else "default", name=adapter)
        else:
            model = copy.deepcopy(model)
            freeze_untied_head(model)
            packer = Packer(model, compute_dtype=theirs.compute_dtype)
        scorer = ValueScorer(model, compute_dtype=theirs.compute_dtype, adapter=adapter)
        if reward:
            with torch.no_grad():
                scorer.head.weight.copy_(theirs.head.weight)
                scorer.head.bias.fill_(-reward.offset)
            for name, weight in theirs.named_parameters():
                if adapter is None or f".{REWARD_ADAPTER}." in name or name.startswith("head."):
                    weight.requires_grad_(False)
        return cls(scorer.to(next(theirs.parameters()).device), source.encoder, packer)

    @torch.no_grad()
    def values_of(self, sequences: Rows[Sequence], *, batch_size: int = 16) -> list[Float[Tensor, " t"]]:
        """Values at the masked-in tokens of each output; no gradient. A profile counts them with the rewards."""
        found: list[Tensor] = [torch.empty(0)] * len(sequences)
        device = self._device
        with phase("reward"):
            for indices in by_context([sequence.context for sequence in sequences], batch_size):
                batch = self.packer.batch([sequences[index] for index in indices], device=device)
                rows = padded(self.scorer(batch), batch)
                for index, row, mask in zip(indices, rows.cpu(), batch.mask.cpu(), strict=True):
                    found[index] = row[mask]
        return found

    @property
    def _device(self) -> torch.device:
        return torch.device(next(iter(self.scorer.parameters())).device)


def padded(values: Float[Tensor, " M"], batch: Batch) -> Float[Tensor, "N T"]:
    """Scatter values of a batch's positions into rows of steps; 0 where masked."""
    return values.new_zeros(batch.mask.shape).masked_scatter(batch.mask, values)
