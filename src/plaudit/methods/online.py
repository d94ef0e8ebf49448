"""The methods that learn from the policy's own samples, by the names that they have on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plaudit.methods.grpo import GRPOConfig, grpo
from plaudit.methods.nft import NFTConfig, nft
from plaudit.methods.recipe import OnPolicyConfig, Recipe


@dataclass(frozen=True, slots=True)
class OnlineMethod:
    """A method, and how it is made.

    Attributes:
        recipe: from settings to the recipe.
        config: the settings' class.
        paper: where it comes from.
        given: settings that its name decides.
    """

    recipe: Callable[[Any], Recipe]
    config: type[OnPolicyConfig]
    paper: str
    given: Mapping[str, Any] = field(default_factory=dict)


def _variant(name: str, paper: str) -> OnlineMethod:
    return OnlineMethod(grpo, GRPOConfig, paper, {"variant": name})


ONLINE: dict[str, OnlineMethod] = {
    "grpo": _variant("grpo", "Shao et al., arXiv 2402.03300"),
    "dr_grpo": _variant("dr_grpo", "Liu et al., arXiv 2503.20783"),
    "dapo": _variant("dapo", "Yu et al., arXiv 2503.14476"),
    "gspo": _variant("gspo", "Zheng et al., arXiv 2507.18071"),
    "cispo": _variant("cispo", "MiniMax, arXiv 2506.13585"),
    "nft": OnlineMethod(nft, NFTConfig, "Chen et al., arXiv 2505.18116"),
    "rft": OnlineMethod(nft, NFTConfig, "as NFT, right outputs only", {"negative_weight": 0.0}),
}
