"""Figures with intervals: win rates, preference accuracy and calibration, divergence, lengths, likeness, and reports.

What belongs here takes numbers, texts or a judge and returns an `Estimate`; nothing here trains, samples or reads a
store.
"""

from plaudit.evaluation.annotation import (
    Leanings,
    agreement_with,
    krippendorff_alpha,
    leanings,
    leave_one_out_agreement,
)
from plaudit.evaluation.best_of_n import expected_best_of_n
from plaudit.evaluation.divergence import Divergence, divergence_from_reference
from plaudit.evaluation.exploitability import Exploitability, best_responses, exploitability, mean_win, win_matrix
from plaudit.evaluation.frontier import frontier, reward_within
from plaudit.evaluation.intervals import (
    Estimate,
    bootstrap_mean,
    bootstrap_ratio,
    clopper_pearson,
    paired_difference,
    permutation_p_value,
)
from plaudit.evaluation.intransitivity import (
    Intransitivity,
    intransitivity,
    intransitivity_of_matrices,
    intransitivity_of_records,
)
from plaudit.evaluation.length_control import LengthControlledWinRate, length_controlled_win_rate
from plaudit.evaluation.lengths import (
    LengthChange,
    LengthHistogram,
    length_change,
    length_histogram,
    text_lengths,
)
from plaudit.evaluation.matched_divergence import Checkpoints, CurveBand, MatchedDivergence, matched_divergence
from plaudit.evaluation.meteor import meteor, meteor_similarity
from plaudit.evaluation.overoptimisation import Overoptimisation, proxy_up_gold_down
from plaudit.evaluation.preference import (
    ReliabilityBin,
    brier_score,
    expected_calibration_error,
    overconfidence,
    preference_accuracy,
    preference_log_loss,
    reliability_curve,
)
from plaudit.evaluation.rank_correlation import RankCorrelation, rank_correlation
from plaudit.evaluation.unimodal import unimodal_fit
from plaudit.evaluation.validation import EvaluationError
from plaudit.evaluation.win_rate import Judge, Judgements, RewardJudge, from_rewards, judge_both_orders, win_rate

__all__ = [
    "Checkpoints",
    "CurveBand",
    "Divergence",
    "Estimate",
    "EvaluationError",
    "Exploitability",
    "Intransitivity",
    "Judge",
    "Judgements",
    "Leanings",
    "LengthChange",
    "LengthControlledWinRate",
    "LengthHistogram",
    "MatchedDivergence",
    "Overoptimisation",
    "RankCorrelation",
    "ReliabilityBin",
    "RewardJudge",
    "agreement_with",
    "best_responses",
    "bootstrap_mean",
    "bootstrap_ratio",
    "brier_score",
    "clopper_pearson",
    "divergence_from_reference",
    "expected_best_of_n",
    "expected_calibration_error",
    "exploitability",
    "from_rewards",
    "frontier",
    "intransitivity",
    "intransitivity_of_matrices",
    "intransitivity_of_records",
    "judge_both_orders",
    "krippendorff_alpha",
    "leanings",
    "leave_one_out_agreement",
    "length_change",
    "length_controlled_win_rate",
    "length_histogram",
    "matched_divergence",
    "mean_win",
    "meteor",
    "meteor_similarity",
    "overconfidence",
    "paired_difference",
    "permutation_p_value",
    "preference_accuracy",
    "preference_log_loss",
    "proxy_up_gold_down",
    "rank_correlation",
    "reliability_curve",
    "reward_within",
    "text_lengths",
    "unimodal_fit",
    "win_matrix",
    "win_rate",
]
