"""Rewards: numbers for (context, output), learned from feedback or computed by a program; and judges that are asked."""

from plaudit.rewards.adjusted import BoundedReward, EndedReward, NormalisedReward, OverlongPenalty
from plaudit.rewards.base import FunctionReward, Reward, RewardSource, Stateful, StreamingSource
from plaudit.rewards.contests import (
    GroupContest,
    OpponentContest,
    PreferenceOracle,
    RewardOracle,
    Tournament,
    oracle_of,
)
from plaudit.rewards.judge_reward import BaselineWins, GroupWinRate, PairJudge
from plaudit.rewards.judges import EndpointJudge, Judged
from plaudit.rewards.preference_model import PreferenceModel
from plaudit.rewards.reward_model import RewardModel
from plaudit.rewards.value_network import ValueNetwork
from plaudit.rewards.verifier import Finding, FunctionVerifier, Verifier, VerifierReward, verdicts
from plaudit.rewards.weighted import Part, WeightedReward
from plaudit.rewards.worker_reward import WorkerReward

__all__ = [
    "BaselineWins",
    "BoundedReward",
    "EndedReward",
    "EndpointJudge",
    "Finding",
    "FunctionReward",
    "FunctionVerifier",
    "GroupContest",
    "GroupWinRate",
    "Judged",
    "NormalisedReward",
    "OpponentContest",
    "OverlongPenalty",
    "PairJudge",
    "Part",
    "PreferenceModel",
    "PreferenceOracle",
    "Reward",
    "RewardModel",
    "RewardOracle",
    "RewardSource",
    "Stateful",
    "StreamingSource",
    "Tournament",
    "ValueNetwork",
    "Verifier",
    "VerifierReward",
    "WeightedReward",
    "WorkerReward",
    "oracle_of",
    "verdicts",
]
