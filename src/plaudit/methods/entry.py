"""What a method says of itself; `registry` collects it from every module of this package that has ENTRIES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from plaudit.methods.recipe import OnPolicyConfig, Recipe

ANSWERS = "none of its own; a reward judges samples"
SAMPLES = "samples; no second model"
PAIRS = "comparisons, rankings, ratings, edits"
POLICY = "the policy alone"


@dataclass(frozen=True, slots=True)
class Making:
    """How the method of a name is made for `OnPolicy`.

    Attributes:
        recipe: from settings to the recipe.
        config: the settings' class.
        given: settings that the name decides.
    """

    recipe: Callable[[Any], Recipe]
    config: type[OnPolicyConfig]
    given: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, **settings: Any) -> OnPolicyConfig:
        """The settings that the name decides, and these in place of the other defaults."""
        return self.config(**{**self.given, **settings})


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table of methods.

    Attributes:
        name: the method's name.
        feedback: the feedback that it starts from.
        signal: what the feedback is turned into.
        reference: whether it needs the frozen policy that it started as: no, optional (kl_coefficient), yes.
        data: whether outputs must come from the policy as it is.
        memory: what it holds or computes beside the policy.
        when: when to use it.
        paper: authors and arXiv id.
        making: how it is made, where it is a recipe.
    """

    name: str
    feedback: str
    signal: str
    reference: Literal["no", "optional", "yes"]
    data: Literal["on-policy", "off-policy"]
    memory: str
    when: str
    paper: str
    making: Making | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What the table shows, in its order."""
        return (self.name, self.feedback, self.signal, self.reference, self.data, self.memory, self.when, self.paper)


def on_policy(name: str, making: Making, signal: str, when: str, paper: str, *, memory: str = SAMPLES) -> Entry:
    """The row of a recipe that needs no reference."""
    return Entry(name, ANSWERS, signal, "optional", "on-policy", memory, when, paper, making)
