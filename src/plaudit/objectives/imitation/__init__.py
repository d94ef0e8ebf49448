"""Objectives that raise the likelihood of given outputs.

Demonstrations, selected or weighted samples, outputs told with hindsight, and masked reconstruction.
"""

from plaudit.objectives.imitation.imitation import (
    best_of_n_divergence,
    chain_of_hindsight,
    past_token_mask,
    quark,
    rejection_fine_tuning,
    reward_quantile,
    superhf,
    top_outputs,
)
from plaudit.objectives.imitation.likelihood import negative_log_likelihood
from plaudit.objectives.imitation.self_supervision import masked_reconstruction
from plaudit.objectives.imitation.weighted_likelihood import (
    outcome_weighted,
    reward_weighted,
    step_weighted,
    verifier_weighted,
)

__all__ = [
    "best_of_n_divergence",
    "chain_of_hindsight",
    "masked_reconstruction",
    "negative_log_likelihood",
    "outcome_weighted",
    "past_token_mask",
    "quark",
    "rejection_fine_tuning",
    "reward_quantile",
    "reward_weighted",
    "step_weighted",
    "superhf",
    "top_outputs",
    "verifier_weighted",
]
