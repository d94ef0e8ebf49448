"""Pairs and labels as demonstrations: what was preferred (FeedME), or both sides told apart by words in the context.

What comes out is learned with `plaudit.methods.SFT`, by its recipe.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from plaudit.errors import ConfigError
from plaudit.feedback.examples import Demonstrated, Labelled, Pair
from plaudit.feedback.records import Chat, Context, Text
from plaudit.methods.entry import PAIRS, POLICY, Axes, Entry
from plaudit.training.config import check


def feedme(pairs: Rows[Pair]) -> list[Demonstrated]:
    """FeedME: the preferred output of each pair, once per context and output; ties teach nothing.

    Reference:
        OpenAI's model index (2022) names the method; binary FeedME is AlpacaFarm's (arXiv 2305.14387): fine-tuning on the
        preferred output of each pair.
    """
    chosen = {(pair.context.digest, pair.chosen.digest): pair for pair in pairs if not pair.tie}
    return [Demonstrated(pair.context, pair.chosen, pair.source, pair.record_ids) for pair in chosen.values()]


@dataclass(frozen=True, kw_only=True)
class ConditioningConfig:
    """Settings of reward conditioning.

    Attributes:
        desirable: what stands before a context whose output was called good; and before every context later on.
        undesirable: what stands before a context whose output was called bad.
    """

    desirable: str = "[good] "
    undesirable: str = "[bad] "

    def __post_init__(self) -> None:
        check(self, "desirable", bool(self.desirable), "words that tell good from bad")
        check(
            self, "undesirable", self.undesirable != self.desirable, f"other words than desirable, {self.desirable!r}"
        )

    def asked(self, context: Context, *, desirable: bool = True) -> Context:
        """The context with the words before its (last) question; so the trained model is asked.

        Raises:
            ConfigError: the context is neither text nor a chat.
        """
        words = self.desirable if desirable else self.undesirable
        match context.content:
            case Text(text=text):
                return _with_content(context, Text(text=words + text))
            case Chat(messages=messages):
                last = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
                told = messages[last].model_copy(update={"content": words + messages[last].content})
                return _with_content(context, Chat(messages=(*messages[:last], told, *messages[last + 1 :])))
            case other:
                raise ConfigError(f"context: reward conditioning writes words into text or a chat, got {other.type}")


def conditioned(examples: Rows[Pair | Labelled], config: ConditioningConfig) -> list[Demonstrated]:
    """Every output as a demonstration whose context says whether it was called good; ties teach nothing.

    Reference:
        Binary reward conditioning of AlpacaFarm (Dubois et al., arXiv 2305.14387), whose control is a token; also Liu et al.,
        "Chain of hindsight", arXiv 2302.02676.
    """
    told = []
    for example in examples:
        if isinstance(example, Labelled):
            outputs = [(example.output, example.desirable)]
        else:
            outputs = [] if example.tie else [(example.chosen, True), (example.rejected, False)]
        for output, desirable in outputs:
            context = config.asked(example.context, desirable=desirable)
            told.append(Demonstrated(context, output, example.source, example.record_ids))
    return told


def _with_content(context: Context, content: Text | Chat) -> Context:
    return context.model_copy(update={"content": content})


ENTRIES = (
    Entry(
        "feedme", PAIRS, "the preferred outputs", "no", "off-policy", POLICY, "a baseline for every pairwise method",
        "Dubois et al., arXiv 2305.14387", Axes("pairs", "none", "imitation"),
    ),
    Entry(
        "conditioning", f"{PAIRS}; reactions, verdicts", "words in the context: good or bad", "no", "off-policy", POLICY,
        "bad outputs shall teach, too, by fine-tuning alone", "Dubois et al., arXiv 2305.14387",
        Axes("labels", "none", "imitation"),
    ),
)  # fmt: skip
