"""Objectives: pure functions from tensors to one loss per example. No model, no text, no reduction, no global state."""

from plaudit.objectives.aggregation import Aggregation, aggregate
from plaudit.objectives.likelihood import negative_log_likelihood
from plaudit.objectives.pairwise import dpo
from plaudit.objectives.reward_models import bradley_terry, rao_kupper

__all__ = ["Aggregation", "aggregate", "bradley_terry", "dpo", "negative_log_likelihood", "rao_kupper"]
