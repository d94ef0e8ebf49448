"""Objectives of rankings and retrieval.

Clicks and who was shown what, noisy labels, document identifiers, and private selection.
"""

from plaudit.objectives.recommendation.noisy_votes import (
    hidden_positive_probability,
    nbpo,
    nbpo_likelihood,
    nbpo_probability,
)
from plaudit.objectives.recommendation.private_selection import (
    Pairs,
    gaussian_noise_multiplier,
    gaussian_privacy_delta,
    gaussian_privacy_epsilon,
    private_vote,
    ranked_pairs,
    renyi_privacy_epsilon,
)
from plaudit.objectives.recommendation.propensity import (
    click_rate_propensity,
    doubly_robust,
    expomf_exposure,
    exposure_prior,
    inverse_propensity_weight,
    ips,
    off_policy_weight,
    popularity_propensity,
    snips,
)
from plaudit.objectives.recommendation.recommendation import (
    bpo,
    bpr,
    dual_unbiased,
    expomf,
    ideal_pointwise,
    rel_mf,
    wmf,
)
from plaudit.objectives.recommendation.retrieval import (
    constrained_token_log_prob,
    ddro,
    list_quality,
    listwide_ordinal,
    pistis_alignment,
    rankformer_listwise,
)
from plaudit.objectives.recommendation.unbiased_pairs import ideal_pairwise, ubpr, upl

__all__ = [
    "Pairs",
    "bpo",
    "bpr",
    "click_rate_propensity",
    "constrained_token_log_prob",
    "ddro",
    "doubly_robust",
    "dual_unbiased",
    "expomf",
    "expomf_exposure",
    "exposure_prior",
    "gaussian_noise_multiplier",
    "gaussian_privacy_delta",
    "gaussian_privacy_epsilon",
    "hidden_positive_probability",
    "ideal_pairwise",
    "ideal_pointwise",
    "inverse_propensity_weight",
    "ips",
    "list_quality",
    "listwide_ordinal",
    "nbpo",
    "nbpo_likelihood",
    "nbpo_probability",
    "off_policy_weight",
    "pistis_alignment",
    "popularity_propensity",
    "private_vote",
    "ranked_pairs",
    "rankformer_listwise",
    "rel_mf",
    "renyi_privacy_epsilon",
    "snips",
    "ubpr",
    "upl",
    "wmf",
]
