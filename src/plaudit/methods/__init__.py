"""Methods: training procedures. Each is a short file with a frozen configuration, what it collects, and its loss."""

from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.encoding import EncodedPair, encode_demonstrations, encode_pairs
from plaudit.methods.grpo import GRPOConfig, grpo
from plaudit.methods.nft import NFTConfig, nft
from plaudit.methods.on_policy import OnPolicy, OnPolicyConfig, Recipe
from plaudit.methods.online import ONLINE, OnlineMethod
from plaudit.methods.ppo import PPO, PPOConfig
from plaudit.methods.reward_modelling import RewardConfig, RewardModelling
from plaudit.methods.sft import SFT, SFTConfig

__all__ = [
    "DPO",
    "ONLINE",
    "PPO",
    "SFT",
    "DPOConfig",
    "EncodedPair",
    "GRPOConfig",
    "NFTConfig",
    "OnPolicy",
    "OnPolicyConfig",
    "OnlineMethod",
    "PPOConfig",
    "Recipe",
    "RewardConfig",
    "RewardModelling",
    "SFTConfig",
    "encode_demonstrations",
    "encode_pairs",
    "grpo",
    "nft",
]
