"""Tiny random models of families that differ in what happens after the head, in attention windows and in positions."""

from __future__ import annotations

from typing import Any

import torch

_SIZE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 4},
    "phi3": {},
    "gemma2": {"final_logit_softcapping": 0.5, "attn_logit_softcapping": 1.0, "head_dim": 8, "sliding_window": 4},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "cohere": {"logit_scale": 0.25},
}
FAMILIES = sorted([*_OWN, "gpt2"])


def build(family: str, *, seed: int = 0) -> Any:
    """A model of this family with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if family == "gpt2":
        size = {
            "vocab_size": 61,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 2048,
            "initializer_range": 0.2,
        }
        config = AutoConfig.for_model("gpt2", **size, bos_token_id=None, eos_token_id=1, pad_token_id=0)
    else:
        config = AutoConfig.for_model(family, **{**_SIZE, **_OWN[family]})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()
