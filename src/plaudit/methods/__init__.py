"""Methods: training procedures. Each is a short file with a frozen configuration, what it collects, and its loss."""

from plaudit.methods.best_of_n import BestOfNConfig, best_of_n
from plaudit.methods.brain import BRAIn, BRAInConfig
from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.encoding import (
    EncodedLabel,
    EncodedList,
    EncodedPair,
    encode_demonstrations,
    encode_labelled,
    encode_lists,
    encode_pairs,
)
from plaudit.methods.gpg import GPGConfig, gpg
from plaudit.methods.grpo import GRPOConfig, grpo
from plaudit.methods.hindsight import ConditioningConfig, conditioned, feedme
from plaudit.methods.kto import KTO, KTOConfig
from plaudit.methods.lipo import LiPO, LiPOConfig, judged_lists, mean_win_rates
from plaudit.methods.mpo import MPOConfig, by_gap, cross_fitted_gaps, learn_mpo
from plaudit.methods.nft import NFTConfig, nft
from plaudit.methods.offline import OFFLINE, OfflineMethod
from plaudit.methods.on_policy import OnPolicy
from plaudit.methods.online import ONLINE, OnlineMethod, OnlineParts
from plaudit.methods.online_dpo import OnlineDPO, OnlineDPOConfig
from plaudit.methods.orpo import ORPO, ORPOConfig
from plaudit.methods.ppo import PPO, PPOConfig
from plaudit.methods.quark import QuarkConfig, quark
from plaudit.methods.recipe import OnPolicyConfig, Recipe
from plaudit.methods.reinforce import REINFORCEConfig, reinforce
from plaudit.methods.reinforce_plus_plus import REINFORCEPlusPlusConfig, reinforce_plus_plus
from plaudit.methods.remax import ReMaxConfig, remax
from plaudit.methods.reward_modelling import RewardConfig, RewardModelling
from plaudit.methods.rloo import RLOOConfig, rloo
from plaudit.methods.sft import SFT, SFTConfig
from plaudit.methods.simpo import SimPO, SimPOConfig
from plaudit.methods.superhf import SuperHFConfig, superhf

__all__ = [
    "DPO",
    "KTO",
    "OFFLINE",
    "ONLINE",
    "ORPO",
    "PPO",
    "SFT",
    "BRAIn",
    "BRAInConfig",
    "BestOfNConfig",
    "ConditioningConfig",
    "DPOConfig",
    "EncodedLabel",
    "EncodedList",
    "EncodedPair",
    "GPGConfig",
    "GRPOConfig",
    "KTOConfig",
    "LiPO",
    "LiPOConfig",
    "MPOConfig",
    "NFTConfig",
    "ORPOConfig",
    "OfflineMethod",
    "OnPolicy",
    "OnPolicyConfig",
    "OnlineDPO",
    "OnlineDPOConfig",
    "OnlineMethod",
    "OnlineParts",
    "PPOConfig",
    "QuarkConfig",
    "REINFORCEConfig",
    "REINFORCEPlusPlusConfig",
    "RLOOConfig",
    "ReMaxConfig",
    "Recipe",
    "RewardConfig",
    "RewardModelling",
    "SFTConfig",
    "SimPO",
    "SimPOConfig",
    "SuperHFConfig",
    "best_of_n",
    "by_gap",
    "conditioned",
    "cross_fitted_gaps",
    "encode_demonstrations",
    "encode_labelled",
    "encode_lists",
    "encode_pairs",
    "feedme",
    "gpg",
    "grpo",
    "judged_lists",
    "learn_mpo",
    "mean_win_rates",
    "nft",
    "quark",
    "reinforce",
    "reinforce_plus_plus",
    "remax",
    "rloo",
    "superhf",
]
