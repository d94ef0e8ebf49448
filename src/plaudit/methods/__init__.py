"""Methods: training procedures. Each is a short file with a frozen configuration, what it collects, and its loss."""

from plaudit.methods.best_of_n import BestOfNConfig, best_of_n
from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.encoding import EncodedLabel, EncodedPair, encode_demonstrations, encode_labelled, encode_pairs
from plaudit.methods.grpo import GRPOConfig, grpo
from plaudit.methods.hindsight import ConditioningConfig, conditioned, feedme
from plaudit.methods.kto import KTO, KTOConfig
from plaudit.methods.nft import NFTConfig, nft
from plaudit.methods.on_policy import OnPolicy
from plaudit.methods.online import ONLINE, OnlineMethod
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
    "ONLINE",
    "ORPO",
    "PPO",
    "SFT",
    "BestOfNConfig",
    "ConditioningConfig",
    "DPOConfig",
    "EncodedLabel",
    "EncodedPair",
    "GRPOConfig",
    "KTOConfig",
    "NFTConfig",
    "ORPOConfig",
    "OnPolicy",
    "OnPolicyConfig",
    "OnlineDPO",
    "OnlineDPOConfig",
    "OnlineMethod",
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
    "conditioned",
    "encode_demonstrations",
    "encode_labelled",
    "encode_pairs",
    "feedme",
    "grpo",
    "nft",
    "quark",
    "reinforce",
    "reinforce_plus_plus",
    "remax",
    "rloo",
    "superhf",
]
