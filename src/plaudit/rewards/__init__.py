"""Rewards: numbers for (context, output), learned from feedback or computed by a program; and judges that are asked."""

from plaudit.rewards.base import FunctionReward, Reward, RewardSource
from plaudit.rewards.judges import EndpointJudge, Judged
from plaudit.rewards.reward_model import RewardModel

__all__ = ["EndpointJudge", "FunctionReward", "Judged", "Reward", "RewardModel", "RewardSource"]
