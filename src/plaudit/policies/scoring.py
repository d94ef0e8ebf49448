"""Token log-probabilities of given outputs: logits exist only where a loss reads them, and only a chunk at a time."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plaudit.errors import PolicyError
from plaudit.policies.base import LogProb
from plaudit.policies.batches import Batch, PaddedBatch
from plaudit.policies.encoding import Sequence
from plaudit.policies.head import Head, gathered, token_log_prob
from plaudit.profiling import count


class TokenScorer(nn.Module):
    """A causal language model as a module that returns log-probabilities of given tokens.

    This is what the training loop wraps for several processes; its `forward` is the one way to a gradient.
    """

    def __init__(self, model: Any, *, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self.compute_dtype = compute_dtype
        self.whole_logits = False

    def forward(
        self, batch: Batch, *, entropy: bool = False, reference: Float[Tensor, "M _"] | None = None
    ) -> Float[Tensor, "2 M"]:
        """Log-probability of each target token and the entropy there (0 where not asked for), in float32 at least.

        In the order of the batch's positions. With what `states` gave under a reference, the divergence from it stands in
        the entropy's place.
        """
        tokens = batch.input_ids.numel()
        count(tokens=tokens, positions=tokens if self.whole_logits else len(batch.targets))
        with autocast(self.compute_dtype, batch.input_ids.device):
            states = self._states(batch)
            if self.whole_logits:
                return gathered(states, batch.targets, entropy=entropy, ref_logits=reference)
            head = Head.of(causal_lm_of(self.model))
            return token_log_prob(head, states, batch.targets, entropy=entropy, ref_hidden=reference)

    @torch.no_grad()
    def states(self, batch: Batch) -> Float[Tensor, "M _"]:
        """What the head makes the predictions of each target of; the logits where the model's own head is asked.

        Raises:
            PolicyError: the head is trained, so that it makes another distribution of a reference's states.
        """
        if not (self.whole_logits or Head.of(causal_lm_of(self.model)).frozen):
            raise PolicyError("The divergence from the reference needs a head that is not trained: use LoRA adapters.")
        count(tokens=batch.input_ids.numel(), positions=len(batch.targets) if self.whole_logits else 0)
        with autocast(self.compute_dtype, batch.input_ids.device):
            return self._states(batch)

    def _states(self, batch: Batch) -> Float[Tensor, "M _"]:
        if self.whole_logits:
            return batch.predicting(self.model(**batch.inputs).logits)
        return batch.predicting(decoder_of(causal_lm_of(self.model))(**batch.inputs).last_hidden_state)

    def next_logits(
        self,
        input_ids: Int[Tensor, "N S"],
        attention_mask: Int[Tensor, "N P"],
        position_ids: Int[Tensor, "N S"],
        cache: Any,
    ) -> tuple[Float[Tensor, "N V"], Any]:
        """Logits of the token after the last column, and the cache that holds all columns so far.

        Raises:
            PolicyError: the model keeps no cache of keys and values.
        """
        count(tokens=input_ids.numel(), positions=len(input_ids))
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        with autocast(self.compute_dtype, input_ids.device):
            if self.whole_logits:
                result = self.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
                return result.logits[:, -1].float(), self._cache_of(result)
            model = causal_lm_of(self.model)
            result = decoder_of(model)(**inputs, past_key_values=cache, use_cache=True)
            # contiguous: a strided [N, 1, D] slice would send the head through a batched product, many times slower
            return Head.of(model).logits(result.last_hidden_state[:, -1].contiguous()).float(), self._cache_of(result)

    def _cache_of(self, result: Any) -> Any:
        cache = getattr(result, "past_key_values", None)
        if cache is None:
            name = type(causal_lm_of(self.model)).__name__
            raise PolicyError(
                f"{name} returns no cache of keys and values (past_key_values), so it cannot be sampled from token by token. "
                "It can be trained on outputs that are there already."
            )
        return cache

    def packed_logits(self, inputs: dict[str, Any], rows: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N V"]:
        """Logits at some places of a packed pass, or at all of them."""
        tokens = inputs["input_ids"].numel()
        count(tokens=tokens, positions=tokens if rows is None or self.whole_logits else len(rows))
        model = causal_lm_of(self.model)
        with autocast(self.compute_dtype, inputs["input_ids"].device):
            if self.whole_logits:
                logits: Tensor = self.model(**inputs).logits[0]
                return (logits if rows is None else logits[rows]).float()
            hidden = decoder_of(model)(**inputs).last_hidden_state[0]
            return Head.of(model).logits(hidden if rows is None else hidden[rows]).float()

    def check_head(self, vocabulary: int) -> None:
        """Compare the chunked head with the model's own logits once; an architecture that differs takes the plain path."""
        device = next(self.model.parameters()).device
        probe = tuple(index % vocabulary for index in (5, 3, 7, 2, 11))
        batch = PaddedBatch.of([Sequence(probe[:2], probe[2:], (True,) * 3)], device=device)
        with torch.no_grad():
            chunked = self(batch)
            self.whole_logits = True
            plain = self(batch)
        self.whole_logits = not torch.allclose(chunked, plain, atol=1e-2, rtol=1e-2)


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Matrix products in `dtype`; in float32, nothing changes."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def padded_log_prob(
    values: Float[Tensor, "2 M"], batch: Batch, *, entropy: bool = False, divergence: bool = False
) -> LogProb:
    """Scatter what a scorer says of a batch's positions into rows of steps."""
    rows = torch.zeros(batch.mask.shape, dtype=values.dtype, device=values.device)
    per_step = rows.masked_scatter(batch.mask, values[0])
    statistic = rows.masked_scatter(batch.mask, values[1])
    return LogProb(per_step, batch.mask, statistic if entropy else None, statistic if divergence else None)


def causal_lm_of(model: Any) -> Any:
    """The transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_of(model: Any) -> Any:
    """The trunk of a transformers causal LM: everything but the head."""
    return getattr(model, model.base_model_prefix)
