"""Whether a model's trunk can be given packed sequences, found out once by comparing it with itself on padded ones."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import torch

from plaudit.policies.batches import Batch, PackedBatch, PaddedBatch
from plaudit.policies.encoding import Sequence
from plaudit.policies.scoring import autocast, causal_lm_of, decoder_of
from plaudit.policies.tree_attention import use_tree_attention
from plaudit.progress import console


class Packer:
    """Makes batches for one trunk: packed where its attention can be told about trees, padded where not.

    Attributes:
        packs: whether the trunk gives the same states for packed sequences as for padded ones.
        window: how far back its attention sees, where that is limited; longer sequences are padded.
    """

    def __init__(self, model: Any, *, compute_dtype: torch.dtype) -> None:
        config = causal_lm_of(model).config
        limited = getattr(config, "use_sliding_window", True)
        self.window: int | None = getattr(config, "sliding_window", None) if limited else None
        self._on_cpu = next(model.parameters()).device.type == "cpu"
        self.packs = _agrees(model, config.vocab_size, compute_dtype)
        if not self.packs:
            console.print(
                f"{type(causal_lm_of(model)).__name__} cannot share a prompt among its outputs: "
                "every output is computed with a prompt of its own."
            )

    @property
    def shares_cache(self) -> bool:
        """Whether sampling can read a prompt's keys once for all its rows: where it packs, with the CPU's kernel only."""
        return self.packs and self._on_cpu

    def fits(self, length: int) -> bool:
        """Whether sequences up to this length can be packed."""
        return self.packs and (self.window is None or length <= self.window)

    def batch(self, sequences: Rows[Sequence], *, device: torch.device, whole: bool = False) -> Batch:
        """The sequences as the trunk takes them; `whole` where the state at the last token is wanted."""
        if self.fits(max(map(len, sequences), default=0)):
            return PackedBatch.of(sequences, device=device, whole=whole)
        return PaddedBatch.of(sequences, device=device)


@torch.no_grad()
def _agrees(model: Any, vocabulary: int, compute_dtype: torch.dtype) -> bool:
    """Let the trunk attend over trees, and keep it so where packed and padded sequences give the same states."""
    causal_lm = causal_lm_of(model)
    own = getattr(causal_lm.config, "_attn_implementation", None)
    try:
        if not use_tree_attention(causal_lm):
            return False
        device = next(model.parameters()).device
        sequences = _probe(vocabulary)
        batches: tuple[Batch, ...] = (
            PackedBatch.of(sequences, device=device, whole=True),
            PaddedBatch.of(sequences, device=device),
        )
        with autocast(compute_dtype, device):
            packed, padded = (batch.final(decoder_of(causal_lm)(**batch.inputs).last_hidden_state) for batch in batches)
        # bfloat16's rounding grows with every layer, on both sides alike
        tolerance = 1e-3 if compute_dtype == torch.float32 else 0.5
        same = bool((packed - padded).norm() <= tolerance * padded.norm())
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError):
        same = False  # an architecture with another idea of attention, whatever it chokes on
    if not same:
        causal_lm.set_attn_implementation(own)
    return same


def _probe(vocabulary: int) -> list[Sequence]:
    """A prompt with three outputs, two of which begin alike, and another prompt."""
    prompt = tuple(index % vocabulary for index in (5, 3, 7, 2, 11, 13))
    outputs = ((1, 4, 6, 8, 9), (1, 4, 6, 8, 10, 12, 14), (15, 2))
    found = [tuple(index % vocabulary for index in output) for output in outputs]
    sequences = [Sequence(prompt, output, (True,) * len(output)) for output in found]
    return [*sequences, Sequence(found[0], prompt, (True,) * len(prompt))]
