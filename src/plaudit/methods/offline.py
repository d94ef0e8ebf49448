"""The methods that learn from stored feedback, by the names that they have on the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

from plaudit.feedback import views
from plaudit.feedback.examples import Labelled, Pair, View
from plaudit.feedback.records import Context, FeedbackBase
from plaudit.methods.dpo import DPO, DPOConfig
from plaudit.methods.encoding import (
    EncodedLabel,
    encode_demonstrations,
    encode_labelled,
    encode_lists,
    encode_pairs,
)
from plaudit.methods.hindsight import ConditioningConfig, conditioned, feedme
from plaudit.methods.kto import KTO, KTOConfig, mismatched
from plaudit.methods.lipo import LiPO, LiPOConfig, in_lists
from plaudit.methods.orpo import ORPO, ORPOConfig
from plaudit.methods.pairwise import sides
from plaudit.methods.sft import SFT, SFTConfig
from plaudit.methods.simpo import SimPO, SimPOConfig
from plaudit.policies import CausalLM, Reference, Sequence
from plaudit.policies.encoding import Encoder
from plaudit.training import Method

Encoded = tuple[list[Any], Counter[str]]


def _as_it_is(_: Any, context: Context) -> Context:
    return context


@dataclass(frozen=True, slots=True)
class OfflineMethod:
    """A method, and how it is made.

    Attributes:
        config: the settings' class.
        view: from records, and the pairs among them, to what the method learns from.
        encode: examples as token ids, and how many were left out by reason.
        make: from policy, reference, encoded examples and settings to the method.
        reads: the sequences whose log-probabilities under the reference a step on these examples reads; None for no reference.
        asked: from settings and a context to what the trained model is asked.
    """

    config: type[Any]
    view: Callable[[Rows[FeedbackBase], View[Pair]], View[Any]]
    encode: Callable[[Rows[Any], Encoder, Any], Encoded]
    make: Callable[[CausalLM, Reference, Rows[Any], Any], Method[Any]]
    reads: Callable[[Rows[Any]], Rows[Sequence]] | None = None
    asked: Callable[[Any, Context], Context] = _as_it_is


def _pairs(records: Rows[FeedbackBase], pairs: View[Pair]) -> View[Pair]:
    del records
    return pairs


def _pairs_and_labels(records: Rows[FeedbackBase], pairs: View[Pair]) -> View[Any]:
    """Both; left out is what neither of them takes."""
    labels = views.labelled(records)
    return View((*pairs.examples, *labels.examples), pairs.dropped & labels.dropped)


def _conditioned(examples: Rows[Pair | Labelled], encoder: Encoder, config: ConditioningConfig) -> Encoded:
    """Each output once under each word, also where a pair and a label say the same of it."""
    told = conditioned(examples, config)
    different = {(example.context.digest, example.output.digest): example for example in told}
    return encode_demonstrations(list(different.values()), encoder)


def _read_by_kto(examples: Rows[EncodedLabel]) -> list[Sequence]:
    return [*(example.sequence for example in examples), *mismatched(examples)]


def _imitates(policy: CausalLM, reference: Reference, examples: Rows[Sequence], config: Any) -> SFT:
    del reference
    return SFT(policy, examples, config if isinstance(config, SFTConfig) else SFTConfig())


OFFLINE: dict[str, OfflineMethod] = {
    "dpo": OfflineMethod(DPOConfig, _pairs, lambda rows, encoder, _: encode_pairs(rows, encoder), DPO, reads=sides),
    "sft": OfflineMethod(
        SFTConfig,
        lambda records, _: views.demonstrations(records),
        lambda rows, encoder, _: encode_demonstrations(rows, encoder),
        _imitates,
    ),
    "kto": OfflineMethod(
        KTOConfig,
        lambda records, _: views.labelled(records),
        lambda rows, encoder, _: encode_labelled(rows, encoder),
        KTO,
        reads=_read_by_kto,
    ),
    "lipo": OfflineMethod(
        LiPOConfig,
        lambda records, _: views.lists(records, comparisons=True),
        lambda rows, encoder, _: encode_lists(rows, encoder),
        LiPO,
        reads=in_lists,
    ),
    "orpo": OfflineMethod(
        ORPOConfig,
        _pairs,
        lambda rows, encoder, _: encode_pairs(rows, encoder),
        lambda policy, _, rows, config: ORPO(policy, rows, config),
    ),
    "simpo": OfflineMethod(
        SimPOConfig,
        _pairs,
        lambda rows, encoder, _: encode_pairs(rows, encoder),
        lambda policy, _, rows, config: SimPO(policy, rows, config),
    ),
    "feedme": OfflineMethod(
        SFTConfig, _pairs, lambda rows, encoder, _: encode_demonstrations(feedme(rows), encoder), _imitates
    ),
    "conditioning": OfflineMethod(
        ConditioningConfig, _pairs_and_labels, _conditioned, _imitates, asked=ConditioningConfig.asked
    ),
}
