"""Objectives of values, and of what acts on them.

Temporal differences, offline learning, path consistency, control from preferences, branching in solvers, and search trees.
"""

from plaudit.objectives.values.branching import (
    attention_importance,
    fathoming_reward,
    redistributed_reward,
    revibranch,
    sensitivity_importance,
    subtree_importance,
    tree_return,
    tree_size_reward,
)
from plaudit.objectives.values.control import cpl, cpl_bc, cpl_kl, cpl_ranked
from plaudit.objectives.values.inverse_reward import adversarial_imitation, choice_regret, max_entropy_irl, prompt_oirl
from plaudit.objectives.values.offline_value import (
    advantage_weight,
    expectile,
    ilql,
    ilql_log_prob,
    iql_policy,
    iql_q,
    iql_value,
)
from plaudit.objectives.values.path_consistency import (
    oreo_policy,
    oreo_response_policy,
    oreo_value,
    pcl,
    soft_bellman_error,
)
from plaudit.objectives.values.q_learning import cql, double_dqn, double_q_target, dqn, q_target
from plaudit.objectives.values.segment_rewards import (
    goal_baseline_reward,
    preference_disagreement,
    preference_mean,
    segment_preference,
    segment_preference_with_errors,
    similarity_reward,
)
from plaudit.objectives.values.split_states import split_state_target, tree_dqn
from plaudit.objectives.values.strategies import strategy_likelihood
from plaudit.objectives.values.tree_search import (
    Backup,
    StepGroup,
    maximum_backup,
    mean_backup,
    puct_score,
    search_prior,
    step_group_reward,
    uct_score,
)
from plaudit.objectives.values.value import a2c_value, lambda_return, n_step_return, ppo_value, td_error
from plaudit.objectives.values.verifier_values import verifier_q, verifier_q_target

__all__ = [
    "Backup",
    "StepGroup",
    "a2c_value",
    "advantage_weight",
    "adversarial_imitation",
    "attention_importance",
    "choice_regret",
    "cpl",
    "cpl_bc",
    "cpl_kl",
    "cpl_ranked",
    "cql",
    "double_dqn",
    "double_q_target",
    "dqn",
    "expectile",
    "fathoming_reward",
    "goal_baseline_reward",
    "ilql",
    "ilql_log_prob",
    "iql_policy",
    "iql_q",
    "iql_value",
    "lambda_return",
    "max_entropy_irl",
    "maximum_backup",
    "mean_backup",
    "n_step_return",
    "oreo_policy",
    "oreo_response_policy",
    "oreo_value",
    "pcl",
    "ppo_value",
    "preference_disagreement",
    "preference_mean",
    "prompt_oirl",
    "puct_score",
    "q_target",
    "redistributed_reward",
    "revibranch",
    "search_prior",
    "segment_preference",
    "segment_preference_with_errors",
    "sensitivity_importance",
    "similarity_reward",
    "soft_bellman_error",
    "split_state_target",
    "step_group_reward",
    "strategy_likelihood",
    "subtree_importance",
    "td_error",
    "tree_dqn",
    "tree_return",
    "tree_size_reward",
    "uct_score",
    "verifier_q",
    "verifier_q_target",
]
