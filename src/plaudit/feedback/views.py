"""From feedback records to training examples: pure functions, each of which says what it dropped and why.

Every view takes records of any kind in any order. A record gives at least one example or is counted under a reason in
`View.dropped`; where only parts of a record are of no use (a tie within a ranking, one mark of several), the parts are
counted and the other parts are used. Four rules hold in all views:

- A record of a kind that the view does not read is dropped as "kind: <its kind>", one that another of the records
  supersedes as "superseded", and a second copy of a record as "repeated".
- What nobody said is not made up: could not judge is no failure, not shown is no dislike, no reaction is no opinion.
- Sources may contradict each other. That is information: their statements stay side by side (`agreement` counts them),
  and statements of different sources are never mixed into one example.
- The set of examples does not depend on the order of the records; their order follows it.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from plaudit.errors import ConfigError
from plaudit.feedback.examples import (
    Demonstrated,
    ExampleT,
    Labelled,
    Pair,
    Posed,
    RankedList,
    Spanned,
    TokenSpan,
    View,
)
from plaudit.feedback.grading import (
    graded_by_comparisons,
    graded_by_exposure,
    graded_by_ranking,
    graded_by_ratings,
    graded_by_reactions,
    graded_by_verdicts,
    telling_reactions,
)
from plaudit.feedback.pairing import (
    Ties,
    check_settings,
    edited_output,
    pairs_of_comparison,
    pairs_of_edit,
    pairs_of_graded,
    spread,
)
from plaudit.feedback.records import (
    Comparison,
    Context,
    Demonstration,
    Edit,
    Exposure,
    FeedbackBase,
    Output,
    Ranking,
    Rating,
    Reaction,
    Spans,
    Tokens,
    Verdict,
)

Tokenize = Callable[[Output], tuple[Sequence[int], Sequence[tuple[int, int]]]]
RecordT = TypeVar("RecordT", bound=FeedbackBase)


def pairs(
    records: Iterable[FeedbackBase],
    *,
    ties: Ties = "drop",
    rating_margin: float = 0.0,
    aspect: str | None = None,
    max_pairs_per_ranking: int | None = None,
    edits: bool = True,
    verdicts: bool = True,
    reactions: bool = False,
) -> View[Pair]:
    """Pairs of a chosen and a rejected output of one context.

    - A comparison gives its pair; the margin is its strength.
    - A ranking gives every pair of outputs of two tiers; the margin is their distance in tiers, divided by the largest
      distance in that ranking, so that margins of all kinds lie in (0, 1]. Outputs in no tier are dropped ("not
      ranked").
    - Ratings of one context, aspect and source give the pairs whose ratings differ by more than `rating_margin`, where
      a rating counts as (value - low) / (high - low); the margin is the difference. Several ratings of one output by
      one source count as their mean. K rated outputs of a context give up to K (K - 1) / 2 pairs.
    - An edit is preferred to what it edits.
    - Verdicts of one context and source prefer each output that passed to each that failed. An output passed if none of
      the source's verdicts on it (stages, for instance) is a fail. "could_not_judge" is dropped.
    - Reactions of one context and source, if asked for, prefer each output with a positive one to each with a negative
      one. They are left out by default: a person who reacts to one answer today and to another tomorrow has compared
      nothing. An output with both from one source is dropped ("contradicts itself").

    "cannot_judge", "tie" and "identical outputs" (equal contents, whoever produced them) count the pairs that are left
    out for these reasons; "no partner" counts the rankings, ratings, verdicts and reactions that are in no pair at all.

    Args:
        records: feedback of any kind, in any order.
        ties: "keep" gives pairs with `tie` set for ties of comparisons, outputs of one tier and ratings within the
            margin, with the two outputs in the order of their addresses; "drop" counts them.
        rating_margin: in [0, 1); the larger, the fewer and clearer the pairs from ratings.
        aspect: keep only statements about this aspect; kinds without an aspect speak of "overall". None keeps all.
        max_pairs_per_ranking: at most so many pairs of one ranking, taken evenly from the most distant to the nearest.
        edits: read edits.
        verdicts: read verdicts.
        reactions: read reactions.

    Raises:
        ConfigError: `rating_margin`, `max_pairs_per_ranking` or `ties` is out of its range.
    """
    check_settings(ties, rating_margin, max_pairs_per_ranking)
    dropped: Counter[str] = Counter()
    optional = ((Edit, edits), (Verdict, verdicts), (Reaction, reactions))
    kinds = (Comparison, Ranking, Rating, *(kind for kind, is_read in optional if is_read))
    kept = _of_aspect(_of_kinds(_current(records, dropped), kinds, dropped), aspect, dropped)
    examples: list[Pair] = []
    for record in kept:
        if isinstance(record, Comparison):
            examples += pairs_of_comparison(record, ties, dropped)
        elif isinstance(record, Edit):
            examples += pairs_of_edit(record, dropped)
        elif isinstance(record, Ranking):
            tiers_apart = max(len(record.tiers) - 1, 1)
            found = pairs_of_graded(graded_by_ranking(record, dropped), dropped, ties=ties, margin_unit=tiers_apart)
            examples += spread(found, max_pairs_per_ranking, dropped)
    for rated in graded_by_ratings(kept):
        examples += pairs_of_graded(rated, dropped, ties=ties, indifference=rating_margin, margin_unit=1.0)
    for judged in (*graded_by_verdicts(kept, dropped), *graded_by_reactions(kept, dropped)):
        examples += pairs_of_graded(judged, dropped, ties=None)
    return View(tuple(examples), +dropped)


def labelled(records: Iterable[FeedbackBase]) -> View[Labelled]:
    """Single outputs that a source found desirable or not.

    - A reaction of sentiment 1 or -1 gives one example; others are dropped ("neutral reaction", "reaction of unknown
      meaning").
    - The verdicts of one source on one output give one example: desirable if none of them is a fail, since the stages
      of a check are passed together or not at all. "could_not_judge" is dropped and never a negative.
    """
    dropped: Counter[str] = Counter()
    kept = _of_kinds(_current(records, dropped), (Reaction, Verdict), dropped)
    examples = [
        Labelled(record.context, record.outputs[0], record.sentiment == 1, record.source.name, (record.id,))
        for record in telling_reactions(kept, dropped)
    ]
    examples += (
        Labelled(judged.context, entry.output, entry.grade > 0, judged.source, entry.record_ids)
        for judged in graded_by_verdicts(kept, dropped)
        for entry in judged.graded
    )
    return View(tuple(examples), +dropped)


def lists(
    records: Iterable[FeedbackBase],
    *,
    aspect: str | None = None,
    exposures: bool = False,
    comparisons: bool = False,
) -> View[RankedList]:
    """Lists of outputs of one context with graded gains.

    - A ranking gives a list; an output's gain is the number of tiers below its own. Outputs in no tier are dropped
      ("not ranked").
    - The ratings of one context, aspect and source give a list with the gains (value - low) / (high - low) in [0, 1],
      the mean of several for one output.
    - The comparisons of one context, aspect and source, if asked for, give a list whose gains are the shares of an output's
      comparisons that it won, a tie being half a win. Where not every two outputs were compared, an output that met
      weak ones only looks better than it is.
    - An exposure, if asked for, gives a list of what was shown: gain 1 if clicked, else 0. What was not shown is
      dropped
      ("not shown") and never a 0. Users click more at the top; these gains are not corrected for that.

    Lists of one output ("fewer than two outputs") and of equal gains ("all gains equal") say nothing and are dropped.
    `aspect` keeps only statements about this aspect; kinds without an aspect speak of "overall".
    """
    dropped: Counter[str] = Counter()
    optional = ((Comparison, comparisons), (Exposure, exposures))
    kinds = (Ranking, Rating, *(kind for kind, is_read in optional if is_read))
    kept = _of_aspect(_of_kinds(_current(records, dropped), kinds, dropped), aspect, dropped)
    found = [graded_by_ranking(record, dropped) for record in kept if isinstance(record, Ranking)]
    found += [*graded_by_ratings(kept), *graded_by_comparisons(kept, dropped)]
    found += [graded_by_exposure(record, dropped) for record in kept if isinstance(record, Exposure)]
    examples = []
    for group in found:
        outputs = tuple(entry.output for entry in group.graded)
        gains = tuple(entry.grade for entry in group.graded)
        if len(outputs) < 2:
            dropped["fewer than two outputs"] += len(group.record_ids)
        elif len(set(gains)) == 1:
            dropped["all gains equal"] += len(group.record_ids)
        else:
            examples.append(RankedList(group.context, outputs, gains, group.source, group.record_ids))
    return View(tuple(examples), +dropped)


def spans(records: Iterable[FeedbackBase], tokenize: Tokenize) -> View[Spanned]:
    """Outputs as tokens, with the marked characters as marked tokens.

    A mark covers every token that it shares at least one character with, whole. A record without marks says that the
    source found nothing to mark, and gives an example without spans. A mark on no token is dropped ("mark on no
    token"); a record whose every mark is on no token is dropped too ("no mark on a token"), since without them it would
    say that there was nothing to mark.

    Args:
        records: feedback of any kind, in any order.
        tokenize: gives an output's token ids and, for each, the characters `(start, end)` of `output.text` that it
            stands for; start == end for a token without text, such as an end-of-text mark. It gets the output and not
            only its text, because what was sampled is never tokenised again: for `Tokens` it must return the sampled
            ids, and find their characters by decoding.

    Raises:
        ValueError: `tokenize` returned ids other than the sampled ones, or not one pair of offsets for each id.
    """
    dropped: Counter[str] = Counter()
    examples = []
    for record in _of_kinds(_current(records, dropped), (Spans,), dropped):
        output = record.outputs[0]
        token_ids, offsets = _tokens_of(output, tokenize)
        marks = []
        for span in record.spans:
            covered = [i for i, (start, end) in enumerate(offsets) if max(start, span.start) < min(end, span.end)]
            if covered:
                marks.append(TokenSpan(covered[0], covered[-1] + 1, span.type, span.severity))
        dropped["mark on no token"] += len(record.spans) - len(marks)
        if record.spans and not marks:
            dropped["no mark on a token"] += 1
            continue
        examples.append(Spanned(record.context, output, token_ids, tuple(marks), record.source.name, (record.id,)))
    return View(tuple(examples), +dropped)


def demonstrations(records: Iterable[FeedbackBase]) -> View[Demonstrated]:
    """Outputs to imitate: demonstrations, and what edits made of an output (which then has no producer)."""
    dropped: Counter[str] = Counter()
    kept = _of_kinds(_current(records, dropped), (Demonstration, Edit), dropped)
    return View(
        tuple(
            Demonstrated(record.context, edited_output(record), record.source.name, (record.id,))
            if isinstance(record, Edit)
            else Demonstrated(record.context, record.outputs[0], record.source.name, (record.id,))
            for record in kept
        ),
        +dropped,
    )


def contexts(records: Iterable[FeedbackBase]) -> View[Posed]:
    """What a language model can be asked of all that records of any kind are about, each context once.

    "content: item" and "content: file" count the records whose context is no text, chat or tokens.
    """
    dropped: Counter[str] = Counter()
    ids: dict[str, list[str]] = defaultdict(list)
    found: dict[str, Context] = {}
    for record in _current(records, dropped):
        if record.context.content.type in ("item", "file"):
            dropped[f"content: {record.context.content.type}"] += 1
        else:
            found.setdefault(record.context.digest, record.context)
            ids[record.context.digest].append(record.id)
    return View(tuple(Posed(context, tuple(ids[digest])) for digest, context in found.items()), +dropped)


def split(
    examples: Iterable[ExampleT], *, held_out: float, seed: int
) -> tuple[tuple[ExampleT, ...], tuple[ExampleT, ...]]:
    """Examples to learn from and held-out ones, so that no context is on both sides.

    A context is held out if the hash of the seed and its digest, as a number in [0, 1), lies below `held_out`. So its
    side depends on nothing else: examples can be added, removed and reordered, and a larger share only moves contexts
    to the held-out side. The share holds for contexts and in expectation; with few contexts it is met roughly.

    Raises:
        ConfigError: `held_out` is not in [0, 1].
    """
    if not 0.0 <= held_out <= 1.0:
        raise ConfigError(f"held_out: expected a share from 0 to 1, got {held_out}")
    sides: tuple[list[ExampleT], list[ExampleT]] = ([], [])
    for example in examples:
        digest = hashlib.sha256(f"{seed}\x1f{example.context.digest}".encode()).digest()
        sides[int.from_bytes(digest[:8]) < held_out * 2**64].append(example)
    return tuple(sides[0]), tuple(sides[1])


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often two sources who judged the same pair of outputs chose alike."""

    alike: int
    compared: int

    @property
    def rate(self) -> float | None:
        """alike / compared; None if no pair was judged by two sources."""
        return self.alike / self.compared if self.compared else None


def agreement(examples: Iterable[Pair]) -> Agreement:
    """Count, over all outputs pairs of a context, the pairs of sources that judged them, and those that chose alike.

    A source's statements on one pair of outputs count once; where it said both, it is left out there. Ties are no
    choice and are left out.
    """
    chosen: dict[tuple[str, str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for pair in examples:
        if not pair.tie:
            first, second = sorted((pair.chosen.digest, pair.rejected.digest))
            chosen[pair.context.digest, first, second][pair.source].add(pair.chosen.digest)
    alike = compared = 0
    for by_source in chosen.values():
        votes = Counter(next(iter(said)) for said in by_source.values() if len(said) == 1)
        compared += votes.total() * (votes.total() - 1) // 2
        alike += sum(count * (count - 1) // 2 for count in votes.values())
    return Agreement(alike, compared)


# --- which records a view reads --------------------------------------------------------------------------------------


def _current(records: Iterable[FeedbackBase], dropped: Counter[str]) -> list[FeedbackBase]:
    """The records that stand: each once, and none that another one supersedes."""
    unique: dict[str, FeedbackBase] = {}
    for record in records:
        dropped["repeated"] += record.id in unique
        unique.setdefault(record.id, record)
    superseded = {record.supersedes for record in unique.values()} & unique.keys()
    dropped["superseded"] += len(superseded)
    return [record for record in unique.values() if record.id not in superseded]


def _of_kinds(
    records: Iterable[FeedbackBase], kinds: tuple[type[RecordT], ...], dropped: Counter[str]
) -> list[RecordT]:
    kept = []
    for record in records:
        if isinstance(record, kinds):
            kept.append(record)
        else:
            dropped[f"kind: {record.kind}"] += 1  # type: ignore[attr-defined]
    return kept


def _of_aspect(records: list[RecordT], aspect: str | None, dropped: Counter[str]) -> list[RecordT]:
    kept = [record for record in records if aspect in (None, getattr(record, "aspect", "overall"))]
    dropped["other aspect"] += len(records) - len(kept)
    return kept


# --- spans -----------------------------------------------------------------------------------------------------------


def _tokens_of(output: Output, tokenize: Tokenize) -> tuple[tuple[int, ...], Sequence[tuple[int, int]]]:
    token_ids, offsets = tokenize(output)
    if len(token_ids) != len(offsets):
        raise ValueError(
            f"tokenize: expected one (start, end) a token, got {len(token_ids)} ids and {len(offsets)} offsets"
        )
    if isinstance(output.content, Tokens) and tuple(token_ids) != output.content.ids:
        raise ValueError(
            f"tokenize: expected the {len(output.content.ids)} sampled ids of output {output.digest}, got "
            f"{len(token_ids)} other ids. Return output.content.ids and find their characters by decoding."
        )
    return tuple(token_ids), offsets
