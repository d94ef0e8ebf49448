"""Policies: what can be trained. A policy is a distribution over outputs given a context; it samples and it scores."""

from plaudit.policies.base import LogProb, Sample, Sampling
from plaudit.policies.causal_lm import CausalLM
from plaudit.policies.encoding import Encoder, Sequence
from plaudit.policies.endpoint import Endpoint, TextSample
from plaudit.policies.loading import QUICKSTART_MODEL, LoRA
from plaudit.policies.reference import Reference
from plaudit.policies.reference_cache import ReferenceCache
from plaudit.policies.reply_cache import ReplyCache
from plaudit.policies.rows import AllowedTokens, LogitsProcessor, Row
from plaudit.policies.tabular import Tabular
from plaudit.policies.vllm_sampler import VLLMSampler

__all__ = [
    "QUICKSTART_MODEL",
    "AllowedTokens",
    "CausalLM",
    "Encoder",
    "Endpoint",
    "LoRA",
    "LogProb",
    "LogitsProcessor",
    "Reference",
    "ReferenceCache",
    "ReplyCache",
    "Row",
    "Sample",
    "Sampling",
    "Sequence",
    "Tabular",
    "TextSample",
    "VLLMSampler",
]
