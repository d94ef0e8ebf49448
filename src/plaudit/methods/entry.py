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
class Axes:
    """Where a method stands in the survey's taxonomy (Srivastava and Aggarwal, arXiv 2507.04136).

    Attributes:
        feedback: the form in which it reads feedback: outputs to imitate, pairs, labels of single outputs, or scores.
        reward: what stands between feedback and policy: nothing, the policy's own log-probabilities, a model fitted to the
            feedback, or whatever judges a whole output (a model, a verifier, a function).
        optimiser: what moves the policy.
    """

    feedback: Literal["demonstrations", "pairs", "labels", "scores"]
    reward: Literal["none", "implicit", "model", "outcome"]
    optimiser: Literal["imitation", "direct loss", "policy gradient"]


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
        axes: where it stands among the others.
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
    axes: Axes
    making: Making | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What the table shows, in its order."""
        return (self.name, self.feedback, self.signal, self.reference, self.data, self.memory, self.when, self.paper)


GRADIENT = Axes("scores", "outcome", "policy gradient")


def on_policy(
    name: str,
    making: Making,
    signal: str,
    when: str,
    paper: str,
    *,
    memory: str = SAMPLES,
    axes: Axes = GRADIENT,
) -> Entry:
    """The row of a recipe that needs no reference."""
    return Entry(name, ANSWERS, signal, "optional", "on-policy", memory, when, paper, axes, making)
