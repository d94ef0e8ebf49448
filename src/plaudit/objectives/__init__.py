"""Objectives: pure functions from tensors to one value per example. No model, no text, no reduction, no global state.

They stand in families, by what is learned from what; ``plaudit objectives`` lists them, ``plaudit objectives NAME`` explains
one. `aggregation` turns token values into examples, `catalogue` holds a row about each objective.
"""

from plaudit.objectives import (
    denoising,
    imitation,
    policy_gradient,
    preferences,
    recommendation,
    reward_models,
    reward_terms,
    values,
)
from plaudit.objectives.aggregation import Aggregation, aggregate

__all__ = [
    "Aggregation",
    "aggregate",
    "denoising",
    "imitation",
    "policy_gradient",
    "preferences",
    "recommendation",
    "reward_models",
    "reward_terms",
    "values",
]
