"""A causal language model as a policy: it samples outputs, scores them token by token, and knows its reference."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from plaudit.errors import PolicyError
from plaudit.feedback.records import Context, Output, Producer, Tokens
from plaudit.policies.adapters import keeping_trained
from plaudit.policies.base import LogProb, Sample, Sampling, by_context
from plaudit.policies.decoding import decode
from plaudit.policies.encoding import Encoder, Sequence
from plaudit.policies.limits import expect_positions
from plaudit.policies.loading import (
    DType,
    LoRA,
    add_adapters,
    fast_dtype,
    load_model,
    quiet_transformers,
    recompute_layers,
    save_adapters,
    vocabulary_of,
)
from plaudit.policies.packing import Packer
from plaudit.policies.rows import LogitsProcessor, new_rows
from plaudit.policies.scoring import TokenScorer, causal_lm_of, padded_log_prob


class CausalLM:
    """A language model that is asked with a `Context` and answers with an `Output`.

    Attributes:
        name: what it was loaded from; it goes into the producer of every output.
        encoder: contexts and outputs as token ids.
        scorer: the module that the training loop trains.
        packer: makes the batches of token ids that the scorer takes.
    """

    def __init__(self, model: Any, encoder: Encoder, *, name: str, compute_dtype: torch.dtype = torch.float32) -> None:
        self.name = name
        self.encoder = encoder
        self.compute_dtype = compute_dtype
        expect_positions(model, context=encoder.max_context_tokens, output=encoder.max_output_tokens)
        scorer = TokenScorer(model.eval(), compute_dtype=compute_dtype)
        scorer.check_head(causal_lm_of(model).config.vocab_size)
        self.scorer: nn.Module = scorer
        self.packer = Packer(model, compute_dtype=compute_dtype)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        lora: LoRA | None = None,
        dtype: DType = "auto",
        device: str | torch.device | None = None,
        max_context_tokens: int = 1024,
        max_output_tokens: int = 1024,
        gradient_checkpointing: bool = False,
        seed: int = 0,
    ) -> CausalLM:
        """Load a policy.

        Args:
            source: a folder (a transformers model, or what `save` wrote), a ``.gguf`` file, a hub name, or
                ``"smollm2-135m-instruct"``, the quickstart's model.
            lora: put fresh adapters on every linear layer and train only these; None trains all weights. Adapters that
                `source` itself carries are merged into the weights first, so that the reference is the model as given.
            dtype: the type of matrix products and of frozen weights; weights that are trained stay float32. ``"auto"`` is
                bfloat16 where the hardware multiplies it natively, and float32 elsewhere.
            device: where to run; by default the GPU where there is one.
            max_context_tokens: longer contexts lose their beginning.
            max_output_tokens: longer outputs lose their end.
            gradient_checkpointing: keep only each layer's input and compute the rest again in the backward pass.
            seed: of the adapters' initial weights.

        Raises:
            PolicyError: the model cannot be loaded.
            ConfigError: the model has fewer positions than the longest context and output need.
            MissingExtra: transformers or peft is not installed.
        """
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        compute_dtype = fast_dtype(place) if dtype == "auto" else getattr(torch, dtype)
        model, tokenizer = load_model(source, dtype=compute_dtype if lora is not None else torch.float32)
        if lora is not None:
            model = add_adapters(model, lora, seed=seed)
            model.peft_config["default"].base_model_name_or_path = str(source)
        if gradient_checkpointing:
            recompute_layers(model)
        encoder = Encoder(
            tokenizer,
            max_context_tokens=max_context_tokens,
            max_output_tokens=max_output_tokens,
            vocabulary=vocabulary_of(model),
        )
        return cls(model.to(place), encoder, name=str(source), compute_dtype=compute_dtype)

    @property
    def model(self) -> Any:
        """The transformers (or peft) model."""
        return unwrapped(self.scorer).model

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return torch.device(next(iter(self.model.parameters())).device)

    @property
    def has_adapters(self) -> bool:
        """Whether the weights are frozen below adapters."""
        return hasattr(self.model, "disable_adapter")

    def expect_room(self, max_new_tokens: int) -> None:
        """Check that outputs of this length can be sampled after contexts of any length.

        Raises:
            ConfigError: the model has too few positions.
        """
        context = self.encoder.max_context_tokens
        expect_positions(self.model, context=context, output=max_new_tokens, output_name="max_new_tokens")

    def log_prob(self, contexts: Rows[Context], outputs: Rows[Output]) -> LogProb:
        """Log-probability of every token of N outputs, given their N contexts; with gradients where they are enabled."""
        if len(contexts) != len(outputs):
            raise ValueError(f"Expected as many contexts as outputs, got {len(contexts)} and {len(outputs)}.")
        return self.log_prob_of(
            [self.encoder.sequence(context, output) for context, output in zip(contexts, outputs, strict=True)]
        )

    def log_prob_of(self, sequences: Rows[Sequence], *, entropy: bool = False) -> LogProb:
        """The same of outputs that are token ids already, in one forward pass; with the entropy of each step where asked."""
        batch = self.packer.batch(sequences, device=self.device)
        # without a gradient there is nothing to synchronise, and a process whose reference is cached asks less often
        scorer = self.scorer if torch.is_grad_enabled() else unwrapped(self.scorer)
        return padded_log_prob(scorer(batch, entropy=entropy), batch, entropy=entropy)

    @torch.no_grad()
    def sums_of_log_prob(self, sequences: Rows[Sequence], *, batch_size: int = 16) -> Float[Tensor, " N"]:
        """log π of each output, summed over its tokens, on the CPU: in portions, and without a gradient."""
        values = torch.empty(len(sequences))
        for indices in by_context([sequence.context for sequence in sequences], batch_size):
            values[indices] = self.log_prob_of([sequences[index] for index in indices]).sum().cpu()
        return values

    def divergence_of(self, sequences: Rows[Sequence]) -> LogProb:
        """The same with the exact divergence of the frozen weights below the adapters from the policy at each step.

        ``KL(p0 || π)`` over the vocabulary, with a gradient through π only. It costs one more pass of the trunk, and logits a
        chunk at a time.

        Raises:
            PolicyError: there are no adapters, or they lie on the head.
        """
        batch = self.packer.batch(sequences, device=self.device)
        scorer = self.scorer if torch.is_grad_enabled() else unwrapped(self.scorer)
        with self.without_adapters():
            reference = unwrapped(self.scorer).states(batch)
        return padded_log_prob(scorer(batch, reference=reference), batch, divergence=True)

    def next_logits(
        self, input_ids: Int[Tensor, "N S"], mask: Int[Tensor, "N S"], positions: Int[Tensor, "N S"]
    ) -> Float[Tensor, "N V"]:
        """Logits of the token after the last column; rows are padded on the left, where `mask` is 0."""
        logits: Tensor = unwrapped(self.scorer).next_logits(input_ids, mask, positions, None)[0]
        return logits

    def sample(
        self,
        contexts: Rows[Context],
        n: int,
        *,
        generator: torch.Generator,
        sampling: Sampling | None = None,
        batch_size: int = 64,
        processors: Rows[LogitsProcessor] = (),
    ) -> list[list[Sample]]:
        """Sample n outputs of each context, in the order of the contexts.

        Args:
            contexts: what to ask.
            n: outputs of each context.
            generator: a CPU generator; the same generator state, contexts and n give the same samples, whatever the batch
                size, but for rounding (see `plaudit.policies.decoding.decode`).
            sampling: temperature, top-p, top-k, ..., and the length limit.
            batch_size: rows that are sampled side by side.
            processors: change the logits before each draw, such as `AllowedTokens` for constrained decoding.
        """
        found: list[list[Sample | None]] = [[None] * n for _ in contexts]
        for index, place, sample in self.stream(
            contexts, n, generator=generator, sampling=sampling, batch_size=batch_size, processors=processors
        ):
            found[index][place] = sample
        return [[sample for sample in group if sample is not None] for group in found]

    def stream(
        self,
        contexts: Rows[Context],
        n: int,
        *,
        generator: torch.Generator,
        sampling: Sampling | None = None,
        batch_size: int = 64,
        processors: Rows[LogitsProcessor] = (),
    ) -> Iterator[tuple[int, int, Sample]]:
        """The same, as each output ends: the context's index, which of its n outputs it is, and the output.

        So a verifier can look at the first outputs while the last are being sampled.
        """
        if n < 1:
            raise ValueError(f"n: expected a whole number >= 1, got {n}")
        sampling = sampling or Sampling()
        encoded = [self.encoder.context(context) for context in contexts]
        longest = max(map(len, encoded), default=0)
        expect_positions(self.model, context=longest, output=sampling.max_new_tokens, output_name="max_new_tokens")
        rows = new_rows(encoded, n, generator)
        ends = self.encoder.ends(sampling.stop)
        outputs = decode(
            unwrapped(self.scorer),
            rows,
            slots=batch_size,
            sampling=sampling,
            ends=ends,
            device=self.device,
            shares=self.packer.shares_cache and self.packer.fits(longest + sampling.max_new_tokens),
            processors=processors,
        )
        idle = self._untrained()
        while True:
            # not around the loop: whoever asks for the outputs may use the policy between two of them
            with self.without_adapters() if idle else contextlib.nullcontext():
                row = next(outputs, None)
            if row is None:
                return
            ids = tuple(row.token_ids)
            text = self.encoder.text_before(ids, sampling.stop)
            yield row.prompt, row.number % n, Sample(ids, text, tuple(row.log_prob), ends(ids))

    def output(self, sample: Sample, sampling: Sampling) -> Output:
        """A sample as the output of a feedback record, with its tokens and what made it."""
        return Output(
            content=Tokens(ids=sample.token_ids, tokenizer=self.encoder.fingerprint, text=sample.text),
            producer=Producer(model=self.name, sampler={"finished": sample.finished, **sampling.settings()}),
        )

    @contextlib.contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Inside, the policy is its own reference: the frozen weights below the adapters."""
        if not self.has_adapters:
            raise PolicyError(
                "A policy without adapters has no frozen weights below it; use plaudit.policies.Reference."
            )
        with keeping_trained(self.model), self.model.disable_adapter():
            yield

    def _untrained(self) -> bool:
        """Whether there are adapters that change nothing yet; then sampling need not spend time on them."""
        ends = [weight for name, weight in self.model.named_parameters() if ".lora_B.default." in name]
        return bool(ends) and not any(bool(weight.any()) for weight in ends)

    def save(self, folder: Path) -> None:
        """Write the model (or only its adapters) and the tokenizer in the transformers format."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet_transformers():
            if self.has_adapters:
                save_adapters(self.model, folder, name="default")
            else:
                self.model.save_pretrained(folder)
        self.encoder.tokenizer.save_pretrained(folder)
        limits = {
            "max_context_tokens": self.encoder.max_context_tokens,
            "max_output_tokens": self.encoder.max_output_tokens,
        }
        (folder / "plaudit.json").write_text(json.dumps({"policy": "causal-lm", **limits}, indent=2) + "\n")


def unwrapped(module: nn.Module) -> Any:
    """The scorer inside what accelerate wrapped around it for several processes."""
    return getattr(module, "module", module)
