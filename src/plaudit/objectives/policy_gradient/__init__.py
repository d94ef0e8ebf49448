"""Objectives of learning from sampled outputs.

Advantages, ratios to the behaviour policy and their clips, importance weights, and divergences from a reference.
"""

from plaudit.objectives.policy_gradient.advantages import (
    BaselinedReward,
    batch_scaled_grpo_advantage,
    dr_grpo_advantage,
    gpg_advantage,
    grpo_advantage,
    informative_groups,
    opo_advantage,
    reinforce_advantage,
    reinforce_plus_plus_baseline_advantage,
    rloo_advantage,
)
from plaudit.objectives.policy_gradient.clipped_ratio import dapo, dr_grpo, grpo, ppo_clip, ppo_dual_clip
from plaudit.objectives.policy_gradient.covariance import clip_cov, kl_cov
from plaudit.objectives.policy_gradient.divergences import (
    adaptive_kl_coefficient,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_k3_reweighted,
    kl_shaped_rewards,
)
from plaudit.objectives.policy_gradient.exact_divergences import forward_kl, gaussian_kl, generalised_jsd, reverse_kl
from plaudit.objectives.policy_gradient.importance import (
    masked_importance_weight,
    off_policy_sequence_weight,
    sequence_masked_importance_weight,
    sequence_truncated_importance_weight,
    truncated_importance_weight,
)
from plaudit.objectives.policy_gradient.nft import nft, nft_advantage, nft_dr_grpo_weight, nft_grpo_weight, nft_sequence
from plaudit.objectives.policy_gradient.policy_gradient import (
    cispo,
    entropy_bonus,
    policy_gradient,
    sapo,
    trpo_surrogate,
)
from plaudit.objectives.policy_gradient.sequence_ratio import gmpo, gspo, gspo_token, luspo, sequence_ppo_clip, vespo
from plaudit.objectives.policy_gradient.token_advantages import (
    AdvantageAndReturn,
    gae,
    reinforce_plus_plus_advantage,
    remax_advantage,
    reward_to_go,
    whiten,
)

__all__ = [
    "AdvantageAndReturn",
    "BaselinedReward",
    "adaptive_kl_coefficient",
    "batch_scaled_grpo_advantage",
    "cispo",
    "clip_cov",
    "dapo",
    "dr_grpo",
    "dr_grpo_advantage",
    "entropy_bonus",
    "forward_kl",
    "gae",
    "gaussian_kl",
    "generalised_jsd",
    "gmpo",
    "gpg_advantage",
    "grpo",
    "grpo_advantage",
    "gspo",
    "gspo_token",
    "informative_groups",
    "kl_cov",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kl_k3_reweighted",
    "kl_shaped_rewards",
    "luspo",
    "masked_importance_weight",
    "nft",
    "nft_advantage",
    "nft_dr_grpo_weight",
    "nft_grpo_weight",
    "nft_sequence",
    "off_policy_sequence_weight",
    "opo_advantage",
    "policy_gradient",
    "ppo_clip",
    "ppo_dual_clip",
    "reinforce_advantage",
    "reinforce_plus_plus_advantage",
    "reinforce_plus_plus_baseline_advantage",
    "remax_advantage",
    "reverse_kl",
    "reward_to_go",
    "rloo_advantage",
    "sapo",
    "sequence_masked_importance_weight",
    "sequence_ppo_clip",
    "sequence_truncated_importance_weight",
    "trpo_surrogate",
    "truncated_importance_weight",
    "vespo",
    "whiten",
]
