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
from plaudit.profiling import phase


class Reference:
    """Log-probabilities under the policy as it was when this was made, cached by the tokens they belong to.

    Under adapters the frozen weights below them are the reference and are asked whenever a sequence is new. Without adapters
    the weights themselves are the reference until they change: what training will read is computed beforehand with
    `prepare`, and a sequence that was not prepared is an error once the weights have moved.
    """

    def __init__(self, policy: CausalLM, *, batch_size: int = 16) -> None:
        self._policy = policy
        self._batch_size = batch_size
        self._cache: dict[str, Tensor] = {}
        self._versions = None if policy.has_adapters else self._weight_versions()

    def prepare(self, sequences: Rows[Sequence], *, progress: Callable[[int], None] | None = None) -> None:
        """Compute what is not cached yet; `progress` is told how many sequences each pass finished."""
        missing = list({sequence.key: sequence for sequence in sequences if sequence.key not in self._cache}.values())
        if progress and len(missing) < len(sequences):
            progress(len(sequences) - len(missing))
        if missing and self._versions is not None and self._versions != self._weight_versions():
            raise PolicyError(
                "The weights have changed since the reference was taken, and "
                f"{len(missing)} sequences were not prepared before. Prepare every sequence before training, or use LoRA."
            )
        for indices in by_context([sequence.context for sequence in missing], self._batch_size):
            batch = [missing[index] for index in indices]
            values = self._compute(batch)
            for sequence, row, mask in zip(batch, values.per_step.cpu(), values.mask.cpu(), strict=True):
                self._cache[sequence.key] = row[mask].clone()
            if progress:
                progress(len(batch))

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

    @torch.no_grad()
    def _compute(self, sequences: list[Sequence]) -> LogProb:
        with phase("reference"), self._policy.without_adapters() if self._policy.has_adapters else nullcontext():
            return self._policy.log_prob_of(sequences)

    def _weight_versions(self) -> str:
        """Changes whenever an optimiser or a loaded checkpoint writes into a weight."""
        counters: Iterator[bytes] = (str(weight._version).encode() for weight in self._policy.model.parameters())
        return hashlib.sha256(b",".join(counters)).hexdigest()
