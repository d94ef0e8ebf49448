"""Policies: what can be trained. A policy is a distribution over outputs given a context; it samples and it scores."""

from plaudit.policies.base import LogProb, Sample, Sampling
from plaudit.policies.causal_lm import CausalLM
from plaudit.policies.encoding import Encoder, Sequence
from plaudit.policies.loading import QUICKSTART_MODEL, LoRA
from plaudit.policies.reference import Reference
from plaudit.policies.reference_cache import ReferenceCache

__all__ = [
    "QUICKSTART_MODEL",
    "CausalLM",
    "Encoder",
    "LoRA",
    "LogProb",
    "Reference",
    "ReferenceCache",
    "Sample",
    "Sampling",
    "Sequence",
]
