"""The frozen policy that log-ratios are taken against: no second copy of the weights, and nothing computed twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from plaudit.errors import CheckpointError, PolicyError
from plaudit.policies.base import LogProb, by_context
from plaudit.policies.causal_lm import CausalLM
from plaudit.policies.encoding import Sequence
from plaudit.policies.reference_cache import ReferenceCache, cache_key, reference_fingerprint
from plaudit.profiling import phase
from plaudit.sharing import own_part, together


class Reference:
    """Log-probabilities under the policy as it was when this was made, cached by the tokens they belong to.

    Under adapters the frozen weights below them are the reference and are asked whenever a sequence is new. Without adapters
    the weights themselves are the reference until they change: what training will read is computed beforehand with
    `prepare`, and a sequence that was not prepared is an error once the weights have moved.

    Args:
        policy: whose reference this is.
        batch_size: sequences that are computed at once.
        shared: what other runs computed under the same weights and settings is taken from here, and what is new goes there.
            Such values are equal to own ones up to rounding, since other sequences shared their batch.

    Attributes:
        batch_size: sequences that are computed at once; who wants bit-equal values of equal weights makes the same batches.
    """

    def __init__(self, policy: CausalLM, *, batch_size: int = 16, shared: ReferenceCache | None = None) -> None:
        self._policy = policy
        self.batch_size = batch_size
        self._shared = shared
        self._fingerprint: bytes | None = None
        self._cache: dict[str, Tensor] = {}
        self._versions = None if policy.has_adapters else self._weight_versions()

    def expect_tokens_of(self, policy: CausalLM) -> None:
        """Raise a `PolicyError` where the policy's token ids mean other text to the reference."""
        own, wanted = self._policy.encoder.fingerprint, policy.encoder.fingerprint
        if own != wanted:
            raise PolicyError(
                f"reference: expected the policy's tokenizer {wanted}, got {own}: the same token ids would mean other text. "
                "Take a reference of the policy's family."
            )

    def prepare(self, sequences: Rows[Sequence], *, progress: Callable[[int], None] | None = None) -> None:
        """Compute what is not cached yet; `progress` is told how many sequences each pass finished."""
        missing = self._missing(sequences)
        if missing and self._versions is not None and self._versions != self._weight_versions():
            raise PolicyError(
                "The weights have changed since the reference was taken, and "
                f"{len(missing)} sequences were not prepared before. Prepare every sequence before training, or use LoRA."
            )
        if missing and self._shared is not None:
            self._take(missing, self._shared)
            missing = self._missing(missing)
        if progress and len(missing) < len(sequences):
            progress(len(sequences) - len(missing))
        for indices in by_context([sequence.context for sequence in missing], self.batch_size):
            batch = [missing[index] for index in indices]
            values = self._compute(batch)
            for sequence, row, mask in zip(batch, values.per_step.cpu(), values.mask.cpu(), strict=True):
                self._cache[sequence.key] = row[mask].clone()
            if self._shared is not None:
                self._shared.put({self._shared_key(sequence): self._cache[sequence.key] for sequence in batch})
            if progress:
                progress(len(batch))

    def prepare_together(self, sequences: Rows[Sequence], *, progress: Callable[[int], None] | None = None) -> None:
        """`prepare`, where each of several processes computes its part and gets the others'; all call it with the same."""
        missing = self._missing(sequences)
        own = [missing[index] for index in own_part(len(missing))]

        def part() -> dict[str, Tensor]:
            self.prepare(own, progress=progress)
            return {sequence.key: self._cache[sequence.key] for sequence in own}

        for found in together(part):
            self._cache.update(found)
        if progress and len(own) < len(sequences):
            progress(len(sequences) - len(own))

    def log_prob_of(self, sequences: Rows[Sequence]) -> LogProb:
        """Log-probability of every token under the reference; no gradient."""
        self.prepare(sequences)
        steps = max((len(sequence.output) for sequence in sequences), default=0)
        per_step = torch.zeros(len(sequences), steps)
        mask = torch.zeros(len(sequences), steps, dtype=torch.bool)
        for row, sequence in enumerate(sequences):
            mask[row, : len(sequence.output)] = torch.tensor(sequence.mask, dtype=torch.bool)
            per_step[row, mask[row]] = self._cache[sequence.key]
        return LogProb(per_step.to(self._policy.device), mask.to(self._policy.device))

    def forget(self) -> None:
        """Drop what was computed, for outputs that are seen in one step only.

        Memory does not grow then, and a step that is done again computes every value in the batch that it had before.
        """
        self._cache.clear()

    def save(self, path: Path) -> None:
        """Write the cache to a safetensors file."""
        save_file(dict(sorted(self._cache.items())), path, metadata={"policy": json.dumps(self._policy.name)})

    def load(self, path: Path) -> None:
        """Read what `save` wrote for the same policy."""
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("policy") != json.dumps(self._policy.name):
                    raise CheckpointError(
                        f"{path} holds the reference log-probabilities of another model than {self._policy.name}."
                    )
                self._cache.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"Cannot read the reference log-probabilities in {path}: {error}") from error

    def _missing(self, sequences: Rows[Sequence]) -> list[Sequence]:
        return list({sequence.key: sequence for sequence in sequences if sequence.key not in self._cache}.values())

    def _take(self, sequences: Rows[Sequence], shared: ReferenceCache) -> None:
        """Take what the shared cache has of these sequences."""
        by_key = {self._shared_key(sequence): sequence for sequence in sequences}
        for key, values in shared.get(list(by_key)).items():
            if len(values) == sum(by_key[key].mask):
                self._cache[by_key[key].key] = values

    def _shared_key(self, sequence: Sequence) -> bytes:
        """Asked only while the weights are the reference's, so that the fingerprint is taken when first needed."""
        if self._fingerprint is None:
            policy = self._policy
            settings = {
                "compute_dtype": str(policy.compute_dtype),
                "device": policy.device.type,
                "packs": policy.packer.packs,
            }
            self._fingerprint = reference_fingerprint(policy.model, settings=settings)
        return cache_key(self._fingerprint, sequence.key)

    @torch.no_grad()
    def _compute(self, sequences: list[Sequence]) -> LogProb:
        with phase("reference"), self._policy.without_adapters() if self._policy.has_adapters else nullcontext():
            return self._policy.log_prob_of(sequences)

    def _weight_versions(self) -> str:
        """Changes whenever an optimiser or a loaded checkpoint writes into a weight."""
        counters: Iterator[bytes] = (str(weight._version).encode() for weight in self._policy.model.parameters())
        return hashlib.sha256(b",".join(counters)).hexdigest()
