"""Rewards: numbers for (context, output), learned from feedback or computed by a program."""

from plaudit.rewards.reward_model import Reward, RewardModel

__all__ = ["Reward", "RewardModel"]
