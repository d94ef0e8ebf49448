"""Sampling through vLLM, with the weights of a policy in training pushed into it in place.

vLLM was not installed where this was written: what builds the engine, pushes weights and reads its samples follows vLLM's
documentation and TRL's colocated mode, and has not been run. Run here were the mapping of the settings and the merging
of adapters into the weights that are pushed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from typing import Any

import torch
from torch import Tensor

from plaudit.errors import PolicyError, require
from plaudit.feedback.records import Context, Output
from plaudit.policies.base import Sample, Sampling
from plaudit.policies.causal_lm import CausalLM

_ADAPTER = "default"


class VLLMSampler:
    """Samples like the policy it is made for, with vLLM's kernels and batching, on one GPU.

    The engine runs in this process beside the policy and starts with the policy's weights as they are. After they change,
    `push` brings them over; samples say nothing of when that was last done. It does not see adapters: their product
    is merged into the weights that are pushed, as `merged_weights` says.

    Args:
        policy: whose weights, tokenizer and context limit are used.
        memory_share: share of the GPU's memory that vLLM may take, for its copy of the weights and the cache; the rest
            is left to training.
        max_length: longest context and output together, in tokens.
    """

    def __init__(self, policy: CausalLM, *, memory_share: float = 0.3, max_length: int = 2048) -> None:
        vllm = require("vllm", extra="vllm")
        self.policy = policy
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the weights are pushed within this process
        self._folder = tempfile.TemporaryDirectory(prefix="plaudit-vllm-")
        _base(policy.model).config.save_pretrained(self._folder.name)
        policy.encoder.tokenizer.save_pretrained(self._folder.name)
        self._engine = vllm.LLM(
            model=self._folder.name,
            load_format="dummy",  # the weights come from the policy, whatever it was loaded from
            dtype=str(policy.compute_dtype).removeprefix("torch."),
            gpu_memory_utilization=memory_share,
            max_model_len=max_length,
            logprobs_mode="processed_logprobs",  # of the distribution sampled from; by default they are the raw model's
            generation_config="vllm",  # the model's own defaults would be mixed into ours
            enable_prefix_caching=True,
        )
        self.push()

    def push(self) -> None:
        """Copy the policy's weights into the engine, and drop what was cached under the old ones."""

        def load(model: Any) -> None:
            model.load_weights(merged_weights(self.policy.model))

        self._engine.apply_model(load)
        self._engine.reset_prefix_cache()

    def sample(
        self, contexts: Rows[Context], n: int, *, generator: torch.Generator, sampling: Sampling | None = None
    ) -> list[list[Sample]]:
        """Sample n outputs of each context, in the order of the contexts.

        Args:
            contexts: what to ask.
            n: outputs of each context.
            generator: a CPU generator; each output has a seed of its own from it. vLLM's own batches still change its
                logits in the last bits, so that equal seeds give equal outputs mostly, not always.
            sampling: as `CausalLM.sample` takes it.
        """
        if n < 1:
            raise ValueError(f"n: expected a whole number >= 1, got {n}")
        if not contexts:
            return []
        vllm = require("vllm", extra="vllm")
        sampling = sampling or Sampling()
        encoder = self.policy.encoder
        encoded = [encoder.context(context) for context in contexts for _ in range(n)]
        seeds = torch.randint(2**31 - 1, (len(encoded),), generator=generator).tolist()
        found = self._engine.generate(
            [vllm.TokensPrompt(prompt_token_ids=list(ids)) for ids in encoded],
            [
                vllm.SamplingParams(**sampling_parameters(sampling, stop_ids=encoder.stop_ids, seed=seed))
                for seed in seeds
            ],
            use_tqdm=False,
        )
        samples = [self._sample(request.outputs[0], sampling) for request in found]
        return [samples[start : start + n] for start in range(0, len(samples), n)]

    def output(self, sample: Sample, sampling: Sampling) -> Output:
        """A sample as the output of a feedback record, as the policy's own."""
        return self.policy.output(sample, sampling)

    def _sample(self, completion: Any, sampling: Sampling) -> Sample:
        ids = tuple(completion.token_ids)
        if sampling.temperature == 0:
            log_prob = (0.0,) * len(ids)  # vLLM tells the model's own, but the likeliest token was certain
        else:
            log_prob = tuple(float(step[token].logprob) for token, step in zip(ids, completion.logprobs, strict=True))
        text = completion.text if sampling.stop else self.policy.encoder.text(ids)
        return Sample(ids, text.strip(), log_prob, completion.finish_reason == "stop")


def sampling_parameters(sampling: Sampling, *, stop_ids: frozenset[int], seed: int) -> dict[str, Any]:
    """The arguments of ``vllm.SamplingParams`` for one output.

    An output that ends with a stop token keeps it as its last id. Without stop texts vLLM need not make text at all.
    """
    return {
        "n": 1,
        "seed": seed,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0 if sampling.top_k is None else sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop": list(sampling.stop),
        "stop_token_ids": sorted(stop_ids),
        "logprobs": 0,  # of the sampled token only
        "detokenize": bool(sampling.stop),
        "skip_special_tokens": True,
    }


@torch.no_grad()
def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights of a transformers model under their own names, one by one, with its default adapters merged in.

    The frozen weights are put back bit by bit after each layer: taking a product off again in low precision would move
    them, and with them the reference. Take a tensor before asking for the next.
    """
    if not hasattr(model, "peft_config"):
        yield from model.named_parameters()
        return
    base = model.get_base_model()
    layers = {name: module for name, module in base.named_modules() if hasattr(module, "lora_A")}
    for name, layer in layers.items():
        if layer.merged:
            raise PolicyError(f"The adapters of {name} are merged already; unmerge them before pushing the weights.")
        weight = layer.get_base_layer().weight
        kept = weight.detach().clone()
        layer.merge(adapter_names=[_ADAPTER])
        merged = weight.detach().clone()
        layer.unmerge()
        weight.data.copy_(kept)
        yield f"{name}.weight", merged
    for name, weight in base.named_parameters():
        if ".base_layer." in name:
            owner, _, kind = name.rpartition(".base_layer.")
            if kind != "weight":  # a bias, which adapters leave alone
                yield f"{owner}.{kind}", weight
        elif not any(name.startswith(f"{owner}.") for owner in layers):
            yield name, weight


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "peft_config") else model
