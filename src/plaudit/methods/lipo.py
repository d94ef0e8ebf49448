"""LiPO (Liu et al., arXiv 2402.01878): the policy learns to rank lists of outputs by its log-ratios to the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from plaudit.errors import ConfigError, RewardError
from plaudit.feedback.examples import RankedList
from plaudit.feedback.records import Context, Output
from plaudit.methods.encoding import EncodedList, padded
from plaudit.methods.entry import Axes, Entry
from plaudit.objectives.preferences import (
    lipo_lambda,
    list_mle,
    list_softmax,
    pair_hinge,
    pair_logistic,
    pointwise_sigmoid,
    pointwise_squared,
)
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.rewards import RewardSource
from plaudit.training import ExampleLoss, Stateless, Step
from plaudit.training.config import check
from plaudit.training.randomness import batch_indices

Ranking = Literal[
    "pointwise-squared", "pointwise-sigmoid", "pair-logistic", "pair-hinge", "list-mle", "softmax", "lambda"
]
Objective = Callable[[Float[Tensor, "B K"], Float[Tensor, "B K"], Bool[Tensor, "B K"]], Float[Tensor, " B"]]


@dataclass(frozen=True, kw_only=True)
class LiPOConfig:
    """Settings of LiPO.

    Attributes:
        objective: the loss of a list, see `plaudit.objectives.preferences.listwise`. ``lambda`` is the paper's proposal.
            ``pair-logistic`` and ``list-mle`` are DPO on lists of two.
        beta: of the score ``s_i = beta log(pi(y_i|x) / pi_ref(y_i|x))``; raising it keeps the policy nearer to where it
            started. The default is the paper's, as remembered.
        scaling: ``sum`` over the outputs or pairs of a list, as in the paper, so that a list of K outputs weighs as its pairs
            do; or their ``mean``, so that every list weighs the same.
    """

    objective: Ranking = "lambda"
    beta: float = 0.05
    scaling: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        check(self, "objective", self.objective in _OBJECTIVES, f"one of {', '.join(_OBJECTIVES)}")
        check(self, "beta", self.beta > 0, "a number > 0")
        check(self, "scaling", self.scaling in ("sum", "mean"), "sum or mean")
        whole_list = self.objective in ("list-mle", "softmax")
        check(self, "scaling", self.scaling == "sum" or not whole_list, f"sum: {self.objective} is one term a list")

    @property
    def loss(self) -> Objective:
        """From scores, labels and mask to the loss of each list."""
        return _OBJECTIVES[self.objective](self.scaling)


_OBJECTIVES: Mapping[Ranking, Callable[[Literal["sum", "mean"]], Objective]] = {
    "pointwise-squared": lambda how: partial(pointwise_squared, outputs=how),
    "pointwise-sigmoid": lambda how: partial(pointwise_sigmoid, outputs=how),
    "pair-logistic": lambda how: partial(pair_logistic, pairs=how),
    "pair-hinge": lambda how: partial(pair_hinge, pairs=how),
    "list-mle": lambda _: list_mle,
    "softmax": lambda _: list_softmax,
    "lambda": lambda how: partial(lipo_lambda, pairs=how),
}


class LiPO(Stateless):
    """LiPO on lists of outputs, which may differ in length.

    At the start all scores are 0, and a rule that gave equal scores their average rank would make LiPO-lambda's gradient 0 for
    ever; `lipo_lambda` takes the mean over the orders of tied scores, which the order of the list does not change.
    """

    name = "lipo"

    def __init__(self, policy: CausalLM, reference: Reference, lists: Rows[EncodedList], config: LiPOConfig) -> None:
        reference.expect_tokens_of(policy)
        self.trainable = policy
        self.reference = reference
        self.lists = lists
        self.config = config

    def collect(self, step: Step) -> list[EncodedList]:
        """The step's lists."""
        indices = batch_indices(len(self.lists), step.batch_size, step.index, seed=step.seed)
        return [self.lists[index] for index in indices]

    def sequences(self, example: EncodedList) -> tuple[Sequence, ...]:
        """All outputs of a list; side by side they share their context's computation."""
        return example.outputs

    def loss(self, examples: Rows[EncodedList]) -> ExampleLoss:
        """Loss of each list."""
        sequences = in_lists(examples)
        log_prob = self.trainable.log_prob_of(sequences).sum()
        lengths = [len(example.outputs) for example in examples]
        score, mask = padded(self.config.beta * (log_prob - self.reference.log_prob_of(sequences).sum()), lengths)
        label, _ = padded(score.new_tensor([label for example in examples for label in example.labels]), lengths)
        value = self.config.loss(score, label, mask)
        metrics = {"accuracy": order_share(score, label, mask), **_ends(score, label, mask)}
        return ExampleLoss(value, torch.ones_like(value), metrics, tokens=sum(map(len, sequences)))


def in_lists(lists: Rows[EncodedList]) -> list[Sequence]:
    """The outputs of all lists, those of one list side by side."""
    return [output for ranked in lists for output in ranked.outputs]


def order_share(
    score: Float[Tensor, "B K"], label: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """Share of a list's pairs of different labels that the scores order alike; equal scores count half."""
    counts = (label[:, :, None] > label[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    ahead = score[:, :, None] - score[:, None, :]
    alike = (ahead > 0).float() + 0.5 * (ahead == 0).float()
    return torch.where(counts, alike, 0).sum((1, 2)) / counts.sum((1, 2))


def _ends(
    score: Float[Tensor, "B K"], label: Float[Tensor, "B K"], mask: Bool[Tensor, "B K"]
) -> dict[str, Float[Tensor, " B"]]:
    """Scores of the output with the best and of the one with the worst label."""
    best = torch.where(mask, label, -torch.inf).argmax(-1, keepdim=True)
    worst = torch.where(mask, label, torch.inf).argmin(-1, keepdim=True)
    chosen, rejected = score.gather(1, best)[:, 0], score.gather(1, worst)[:, 0]
    return {"reward_chosen": chosen, "reward_rejected": rejected, "reward_margin": chosen - rejected}


def mean_win_rates(reward: Float[Tensor, " K"]) -> Float[Tensor, " K"]:
    """LiPO's labels from a Bradley-Terry reward: ``psi_i = mean_{j != i} sigmoid(r_i - r_j)``.

    Raises:
        RewardError: fewer than two rewards, or one that is not finite.
    """
    if len(reward) < 2:
        raise RewardError(f"reward: expected at least two outputs to compare, got {len(reward)}")
    if not bool(reward.isfinite().all()):
        raise RewardError(f"reward: expected finite numbers, got {reward[~reward.isfinite()][0].item()}")
    wins = torch.sigmoid(reward[:, None] - reward[None, :])
    return (wins.sum(-1) - 0.5) / (len(reward) - 1)  # against itself an output has 1/2


def judged_lists(
    contexts: Rows[Context], outputs: Rows[Rows[Output]], reward: RewardSource, *, source: str = "reward"
) -> list[RankedList]:
    """Lists of each context's outputs with their mean win rates under a reward model; outputs of equal content count once.

    Raises:
        ConfigError: an output could not be judged, a context has fewer than two different outputs, or all its rewards are
            equal.
    """
    made = []
    for place, (context, given) in enumerate(zip(contexts, outputs, strict=True)):
        different = list({output.content: output for output in given}.values())
        if len(different) < 2:
            raise ConfigError(f"outputs[{place}]: expected at least two different ones to rank, got {len(different)}")
        found = reward.reward([context] * len(different), different)
        if not bool(found.judged.all()):
            raise ConfigError(
                f"outputs[{place}]: expected all to be judged, got {int((~found.judged).sum())} that were not"
            )
        labels = tuple(mean_win_rates(found.value.double()).tolist())
        if len(set(labels)) == 1:
            raise ConfigError(f"outputs[{place}]: expected rewards that differ, got {len(labels)} times the same")
        made.append(RankedList(context, tuple(different), labels, source, ()))
    return made


ENTRIES = (
    Entry(
        "lipo", "rankings, ratings, comparisons of several outputs of a context", "graded order of a list", "yes",
        "off-policy", "log-probabilities of the reference, computed once",
        "more than two outputs of a context are ranked or graded", "Liu et al., arXiv 2402.01878",
        Axes("scores", "implicit", "direct loss"),
    ),
)  # fmt: skip
