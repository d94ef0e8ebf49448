"""Nash learning from preferences on own samples: what its methods share.

A method says who judges the samples (a knock-out, the others of the group, an opponent) and what a group then costs. The
oracle only compares; it may run in circles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context, Output
from plaudit.methods.encoding import padded
from plaudit.methods.on_policy import Asker
from plaudit.methods.recipe import Experience, Groups, OnPolicyConfig, Signalling, Signals
from plaudit.policies import CausalLM, LogitsProcessor, Reference, Sequence
from plaudit.rewards.base import RewardSource
from plaudit.rewards.contests import GroupContest, OpponentContest, PreferenceOracle, Tournament
from plaudit.sampling.rollouts import Gathered, by_reward
from plaudit.training import ExampleLoss, Step
from plaudit.training.config import check, whole


@dataclass(frozen=True, kw_only=True)
class GameConfig(OnPolicyConfig):
    """Settings that the methods of games share; beta is the pull to the reference, kl_coefficient stays 0.

    Attributes:
        outputs_per_context: samples of the policy to each context; they are compared.
        beta: strength of the pull to the reference, the regularisation of the game.
        opponent_outputs: samples of the opponent to each context, where there is one; the win rate is the mean over them.
    """

    outputs_per_context: int = 2
    beta: float = 0.1
    opponent_outputs: int = 2

    def __post_init__(self) -> None:
        OnPolicyConfig.__post_init__(self)
        check(self, "outputs_per_context", self.outputs_per_context >= 2, "at least 2: outputs are compared")
        check(self, "beta", 0 < self.beta < float("inf"), "a number > 0")
        check(self, "opponent_outputs", whole(self.opponent_outputs, 1), "a whole number >= 1")
        check(self, "kl_coefficient", self.kl_coefficient == 0, "0: beta is the pull to the reference")


@dataclass(frozen=True, slots=True)
class Board:
    """B groups of at most K outputs of one context each; what `mask` excludes is no output.

    Attributes:
        log_prob: ``log π(y|x)``, summed over tokens.
        ref_log_prob: the same under the reference, without gradient.
        old_log_prob: the same under the policy that sampled, or the centre of a proximal step, without gradient.
        win_rate: how often each output wins, by whoever judges.
    """

    log_prob: Float[Tensor, "B K"]
    ref_log_prob: Float[Tensor, "B K"]
    old_log_prob: Float[Tensor, "B K"]
    win_rate: Float[Tensor, "B K"]
    mask: Bool[Tensor, "B K"]

    @property
    def log_ratio(self) -> Float[Tensor, "B K"]:
        """``log π(y|x) - log π_ref(y|x)``."""
        return self.log_prob - self.ref_log_prob


@dataclass(frozen=True, slots=True)
class Rules:
    """What a method of this family differs in.

    Attributes:
        name: of the method.
        judged: who judges: a knock-out, of which the best and the worst are kept, in this order; the first two of a group
            each other; or an opponent all of a group.
        objective: from a board to the loss of each group.
    """

    name: str
    judged: Literal["tournament", "each other", "opponent"]
    objective: Callable[[Board], Float[Tensor, " B"]]


@dataclass(frozen=True, slots=True)
class Played:
    """Outputs of one context that were judged.

    Attributes:
        sequences: context and output.
        win_rate: of each.
        old: ``log π_old`` of each, summed.
        asking: figures over all that was sampled together; see `plaudit.methods.on_policy.figures`.
    """

    sequences: tuple[Sequence, ...]
    win_rate: tuple[float, ...]
    old: tuple[float, ...]
    asking: Mapping[str, float]


class Opposed(Asker):
    """Asks the policy, and first an opponent, against which the samples are judged; see `Asker`.

    `opponent` is called with contexts and a generator and gives its outputs; it is set before each step.
    """

    opponent: Callable[[Rows[Context], torch.Generator], list[list[Output]]]

    def __init__(
        self,
        policy: CausalLM,
        oracle: PreferenceOracle,
        contexts: Rows[Context],
        recipe: Signalling,
        config: OnPolicyConfig,
    ) -> None:
        self._contest = OpponentContest(oracle)
        self.generator_of: Callable[[str], torch.Generator] | None = None
        super().__init__(policy, self._contest, contexts, recipe, config)

    def ask(self, step: Step, opposing: Step) -> list[Experience]:
        """The experiences of one asking, the step's, with the opponent's random numbers those of the step `opposing`.

        Two steps with one `step` and the same weights see the same outputs of the policy.
        """
        self.generator_of = opposing.generator
        self._groups = self._experiences(step, step.index)
        return [experience for group in self._groups for experience in group]

    def _gather(self, contexts: Rows[Context], step: Step, attempt: int) -> Gathered:
        generator = (self.generator_of or step.generator)(f"opponent-{attempt}")
        outputs = self.opponent(contexts, generator)
        self._contest.opponents = {context.digest: own for context, own in zip(contexts, outputs, strict=True)}
        return super()._gather(contexts, step, attempt)


class Game:
    """A method that learns from who beats whom among its own samples; see `Rules`.

    Args:
        policy: what samples and learns; it has adapters, so that the reference can be asked about new outputs.
        reference: the policy as it was.
        oracle: who says which of two outputs is better.
        contexts: what to ask; each is asked once before any is asked again.
        rules: the method.
        config: its settings.
    """

    def __init__(
        self,
        policy: CausalLM,
        reference: Reference,
        oracle: PreferenceOracle,
        contexts: Rows[Context],
        rules: Rules,
        config: GameConfig,
    ) -> None:
        if not policy.has_adapters:
            raise ConfigError(
                f"policy: {rules.name} asks the reference about new outputs, which LoRA adapters keep possible"
            )
        reference.expect_tokens_of(policy)
        self.trainable = policy
        self.config = config
        self.name = rules.name
        self._rules, self._reference = rules, reference
        # all equal groups teach as well: their log-ratios are pulled together
        signalling = Signalling(rules.name, _rewards, contrast=False)
        self._asking: Asker
        if rules.judged == "opponent":
            self._asking = Opposed(policy, oracle, contexts, signalling, config)
        else:
            judge: RewardSource = Tournament(oracle) if rules.judged == "tournament" else GroupContest(oracle)
            self._asking = Asker(policy, judge, contexts, signalling, config)

    def collect(self, step: Step) -> list[Played]:
        """The step's groups of outputs."""
        self._reference.forget()  # a step that is done again computes every value in the batch that it had before
        return self._played(self._asking.collect(step))

    def sequences(self, example: Played) -> tuple[Sequence, ...]:
        """The outputs of a group."""
        return example.sequences

    def loss(self, examples: Rows[Played]) -> ExampleLoss:
        """Loss of each group."""
        board = self._board(examples)
        value = self._rules.objective(board)
        metrics = {
            "win_rate_spread": _spread(board.win_rate, board.mask),
            "log_ratio": _mean(board.log_ratio.detach(), board.mask),
            **{name: value.new_tensor([played.asking[name] for played in examples]) for name in examples[0].asking},
        }
        tokens = sum(len(sequence) for played in examples for sequence in played.sequences)
        return ExampleLoss(
            value, torch.ones_like(value), {k: v.to(value.device) for k, v in metrics.items()}, tokens=tokens
        )

    def state(self) -> Mapping[str, Any]:
        """The outputs that the next steps will learn from."""
        return self._asking.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the outputs of a checkpoint."""
        self._asking.restore(state)

    def _played(self, experiences: Rows[Experience]) -> list[Played]:
        """Groups of experiences as examples; the log-probability of each output is that under which it was drawn."""
        found = []
        for _, group in groupby(experiences, key=lambda experience: experience.rollout.sequence.context):
            own = list(group)
            asking = own[0].asking
            rollouts = [experience.rollout for experience in own]
            if self._rules.judged == "tournament":
                ranked = by_reward(rollouts)
                rollouts = [ranked[0], ranked[-1]]
            elif self._rules.judged == "each other":
                rollouts = rollouts[:2]
            found.append(
                Played(
                    tuple(rollout.sequence for rollout in rollouts),
                    tuple(rollout.reward for rollout in rollouts),
                    tuple(sum(rollout.log_prob) for rollout in rollouts),
                    asking,
                )
            )
        return found

    def _board(self, examples: Rows[Played]) -> Board:
        flat = [sequence for played in examples for sequence in played.sequences]
        sizes = [len(played.sequences) for played in examples]
        log_prob, mask = padded(self.trainable.log_prob_of(flat).sum(), sizes)
        reference, _ = padded(self._reference.log_prob_of(flat).sum(), sizes)
        old, _ = padded(log_prob.new_tensor([value for played in examples for value in played.old]), sizes)
        wins, _ = padded(log_prob.new_tensor([value for played in examples for value in played.win_rate]), sizes)
        return Board(log_prob, reference, old, wins, mask)


def sampler(
    policy: CausalLM, config: GameConfig, *, processors: Rows[LogitsProcessor] = ()
) -> Callable[[Rows[Context], torch.Generator], list[list[Output]]]:
    """Outputs of the policy as it is, as an opponent's."""

    def outputs(contexts: Rows[Context], generator: torch.Generator) -> list[list[Output]]:
        groups = policy.sample(
            contexts, config.opponent_outputs, generator=generator, sampling=config.sampling,
            batch_size=config.rollout_batch_size, processors=processors,
        )  # fmt: skip
        return [[policy.output(sample, config.sampling) for sample in group] for group in groups]

    return outputs


def pair(values: Float[Tensor, "B K"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The first and the second of each group."""
    return values[:, 0], values[:, 1]


def _rewards(groups: Groups) -> Signals:
    return {"reward": groups.reward}


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    highest = values.masked_fill(~mask, -torch.inf).amax(-1)
    return highest - values.masked_fill(~mask, torch.inf).amin(-1)
