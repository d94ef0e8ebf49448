"""The methods that learn from the policy's own samples, by the names that they have on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import Any

from plaudit.feedback.records import Context
from plaudit.methods.best_of_n import BestOfNConfig, best_of_n
from plaudit.methods.brain import BRAIn, BRAInConfig
from plaudit.methods.gpg import GPGConfig, gpg
from plaudit.methods.grpo import GRPOConfig, grpo
from plaudit.methods.nft import NFTConfig, nft
from plaudit.methods.on_policy import OnPolicy
from plaudit.methods.online_dpo import OnlineDPO, OnlineDPOConfig
from plaudit.methods.ppo import PPO, PPOConfig
from plaudit.methods.quark import QuarkConfig, quark
from plaudit.methods.recipe import OnPolicyConfig, Recipe
from plaudit.methods.reinforce import REINFORCEConfig, reinforce
from plaudit.methods.reinforce_plus_plus import REINFORCEPlusPlusConfig, reinforce_plus_plus
from plaudit.methods.remax import ReMaxConfig, remax
from plaudit.methods.rloo import RLOOConfig, rloo
from plaudit.methods.superhf import SuperHFConfig, superhf
from plaudit.policies import CausalLM, Reference
from plaudit.rewards import RewardModel, RewardSource, ValueNetwork
from plaudit.training import Method


@dataclass(frozen=True, slots=True)
class OnlineParts:
    """What a method that learns from own samples is made of.

    Attributes:
        policy: what samples and learns.
        reward: what judges.
        contexts: what to ask.
        reference: the model before, where the method reads it.
        value_source: what a value network starts as: the reward, where that reads the policy's tokens, or the policy.
    """

    policy: CausalLM
    reward: RewardSource
    contexts: Rows[Context]
    reference: Reference | None
    value_source: RewardModel | CausalLM


def _where_pulled(config: OnPolicyConfig) -> bool:
    return config.kl_coefficient > 0


@dataclass(frozen=True, slots=True)
class OnlineMethod:
    """A method, and how it is made.

    Attributes:
        make: from parts and settings to the method.
        config: the settings' class.
        fewest: how many outputs of a context the method compares, by its settings.
        given: settings that its name decides.
        reference: whether it reads the model before, by its settings.
        adapters: whether the model before must be the frozen weights below adapters.
    """

    make: Callable[[OnlineParts, Any], Method[Any]]
    config: type[OnPolicyConfig]
    fewest: Callable[[Any], int] = lambda _: 1
    given: Mapping[str, Any] = field(default_factory=dict)
    reference: Callable[[Any], bool] = _where_pulled
    adapters: bool = False


def _of(
    recipe: Callable[[Any], Recipe], config: type[OnPolicyConfig], *, adapters: bool = False, **given: Any
) -> OnlineMethod:
    """A method whose recipe is all that there is to it."""

    def make(parts: OnlineParts, settings: OnPolicyConfig) -> Method[Any]:
        made = recipe(settings)
        return OnPolicy(parts.policy, parts.reward, parts.contexts, made, settings, reference=parts.reference)

    def fewest(settings: OnPolicyConfig) -> int:
        return recipe(settings).fewest

    return OnlineMethod(make, config, fewest, given, adapters=adapters)


def _ppo(parts: OnlineParts, config: PPOConfig) -> Method[Any]:
    value = ValueNetwork.of(parts.value_source)
    return PPO(parts.policy, value, parts.reward, parts.contexts, config, reference=parts.reference)


def _online_dpo(parts: OnlineParts, config: OnlineDPOConfig) -> Method[Any]:
    assert parts.reference is not None
    return OnlineDPO(parts.policy, parts.reference, parts.reward, parts.contexts, config)


def _brain(parts: OnlineParts, config: BRAInConfig) -> Method[Any]:
    assert parts.reference is not None
    return BRAIn(parts.policy, parts.reference, parts.reward, parts.contexts, config)


ONLINE: dict[str, OnlineMethod] = {
    **{name: _of(grpo, GRPOConfig, variant=name) for name in ("grpo", "dr_grpo", "dapo", "gspo", "cispo")},
    "nft": _of(nft, NFTConfig),
    "rft": _of(nft, NFTConfig, negative_weight=0.0),
    "ppo": OnlineMethod(_ppo, PPOConfig),
    "reinforce": _of(reinforce, REINFORCEConfig),
    "rloo": _of(rloo, RLOOConfig),
    "remax": _of(remax, ReMaxConfig),
    "reinforce_plus_plus": _of(reinforce_plus_plus, REINFORCEPlusPlusConfig),
    "reinforce_plus_plus_baseline": _of(reinforce_plus_plus, REINFORCEPlusPlusConfig, baseline=True),
    "best_of_n": _of(best_of_n, BestOfNConfig),
    "gpg": _of(gpg, GPGConfig),
    "superhf": _of(superhf, SuperHFConfig, adapters=True),
    "quark": _of(quark, QuarkConfig, adapters=True),
    "brain": OnlineMethod(_brain, BRAInConfig, fewest=lambda _: 2, reference=lambda _: True),
    "online_dpo": OnlineMethod(
        _online_dpo, OnlineDPOConfig, fewest=lambda _: 2, reference=lambda _: True, adapters=True
    ),
}
