"""The view of pairs: what is preferred to what, by what margin, and what says nothing."""

from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.errors import ConfigError
from plaudit.feedback import records as fb
from plaudit.feedback import views
from plaudit.feedback.examples import Pair

from .worlds import BEN, QUESTION, A, B, C, D, keys, rate, say, small_worlds, thorough


def test_a_comparison_gives_its_pair_with_its_strength():
    record = say("comparison", A, B, choice="b", strength=0.75)
    assert views.pairs([record]).examples == (Pair(QUESTION, B, A, "anna", (record.id,), 0.75),)
    assert views.pairs([say("comparison", A, B, choice="a")]).examples[0].margin is None


@thorough
@given(records=small_worlds(), keep=st.booleans())
def test_exchanging_the_outputs_and_the_choice_gives_the_same_pairs(records, keep):
    opposite = {"a": "b", "b": "a", "tie": "tie", "cannot_judge": "cannot_judge"}
    exchanged = [
        record.model_copy(update={"outputs": record.outputs[::-1], "choice": opposite[record.choice]})
        if isinstance(record, fb.Comparison)
        else record
        for record in records
    ]
    ties = "keep" if keep else "drop"
    assert keys(views.pairs(records, ties=ties)) == keys(views.pairs(exchanged, ties=ties))


def test_what_a_comparison_did_not_prefer_is_dropped_by_its_reason():
    same = fb.Output(content=A.content, producer=fb.Producer(model="another"))
    view = views.pairs(
        [
            say("comparison", A, B, choice="tie"),
            say("comparison", A, B, choice="cannot_judge"),
            say("comparison", A, same, choice="a"),
            say("critique", A, critique="dull"),
        ]
    )
    assert view.examples == ()
    assert view.dropped == {"tie": 1, "cannot_judge": 1, "identical outputs": 1, "kind: critique": 1}


def test_a_kept_tie_is_a_tie_in_the_order_of_the_addresses():
    for first, second in permutations((A, B)):
        (pair,) = views.pairs([say("comparison", first, second, choice="tie")], ties="keep").examples
        assert pair.tie
        assert pair.margin is None
        assert [pair.chosen, pair.rejected] == sorted((A, B), key=lambda output: output.digest)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4), keep=st.booleans())
def test_a_ranking_gives_every_pair_across_tiers(sizes, keep):
    outputs = tuple(fb.Output(content=str(i)) for i in range(sum(sizes)))
    start = [sum(sizes[:i]) for i in range(len(sizes))]
    tiers = tuple(tuple(range(begin, begin + size)) for begin, size in zip(start, sizes, strict=True))
    tier_of = {outputs[index].digest: place for place, tier in enumerate(tiers) for index in tier}
    view = views.pairs([say("ranking", *outputs, tiers=tiers)], ties="keep" if keep else "drop")
    across = [pair for pair in view.examples if not pair.tie]
    tied = sum(size * (size - 1) // 2 for size in sizes)
    assert len(across) == sum(x * y for x, y in combinations(sizes, 2))
    assert len(view.examples) - len(across) == (tied if keep else 0)
    assert view.dropped["tie"] == (0 if keep else tied)
    for pair in across:
        distance = tier_of[pair.rejected.digest] - tier_of[pair.chosen.digest]
        assert distance > 0
        assert pair.margin == pytest.approx(distance / (len(sizes) - 1))


def test_a_partial_ranking_says_nothing_about_what_it_leaves_out():
    view = views.pairs([say("ranking", A, B, C, D, tiers=((2,), (0,)))])
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in view.examples] == [(C, A, 1.0)]
    assert view.dropped == {"not ranked": 2}


@given(limit=st.integers(1, 20), outputs=st.integers(2, 6))
def test_a_limit_keeps_pairs_evenly_from_the_most_distant_on(limit, outputs):
    record = say("ranking", *(fb.Output(content=str(i)) for i in range(outputs)), tiers=[[i] for i in range(outputs)])
    everything, limited = views.pairs([record]), views.pairs([record], max_pairs_per_ranking=limit)
    available = outputs * (outputs - 1) // 2
    assert len(limited.examples) == min(limit, available)
    assert keys(limited) <= keys(everything)
    assert max(pair.margin for pair in limited.examples) == 1.0
    assert limited.dropped["over max_pairs_per_ranking"] == max(0, available - limit)


def test_ratings_of_one_source_and_aspect_are_compared_on_their_scales():
    view = views.pairs([rate(A, 2, low=1, high=5), rate(B, 10, low=0, high=20), rate(C, 9, low=0, high=10)])
    normalised = {A: (2 - 1) / (5 - 1), B: 10 / 20, C: 9 / 10}
    expected = {
        (better.text, worse.text): normalised[better] - normalised[worse]
        for better, worse in permutations((A, B, C), 2)
        if normalised[better] > normalised[worse]
    }
    assert {(p.chosen.text, p.rejected.text): pytest.approx(p.margin) for p in view.examples} == expected


def test_ratings_within_the_margin_are_ties():
    ratings = [rate(A, 1), rate(B, 3), rate(C, 8)]
    dropped = views.pairs(ratings, rating_margin=0.2)
    assert {(p.chosen.text, p.rejected.text) for p in dropped.examples} == {(C.text, A.text), (C.text, B.text)}
    assert dropped.dropped == {"tie": 1}
    kept = views.pairs(ratings, rating_margin=0.2, ties="keep")
    assert [{p.chosen.text, p.rejected.text} for p in kept.examples if p.tie] == [{A.text, B.text}]
    assert kept.dropped == {}


@pytest.mark.parametrize(
    "other", [{"source": BEN}, {"aspect": "tone"}, {"context": fb.Context(content="Why?")}], ids=lambda d: next(iter(d))
)
def test_ratings_of_other_sources_aspects_and_contexts_are_not_compared(other):
    view = views.pairs([rate(A, 1), rate(B, 9, **other)])
    assert view.examples == ()
    assert view.dropped == {"no partner": 2}


def test_several_ratings_of_one_output_count_as_their_mean():
    records = [rate(A, 1), rate(A, 3), rate(B, 6)]
    (pair,) = views.pairs(records).examples
    assert pair.margin == pytest.approx(6 / 10 - (1 + 3) / 2 / 10)
    assert set(pair.record_ids) == {record.id for record in records}


def test_an_edit_is_preferred_to_what_it_edits():
    record = say("edit", A, edited="a clearer answer")
    (pair,) = views.pairs([record]).examples
    assert (pair.chosen, pair.rejected) == (fb.Output(content="a clearer answer"), A)
    assert views.pairs([say("edit", A, edited=A.content)]).dropped == {"identical outputs": 1}
    assert views.pairs([record], edits=False).dropped == {"kind: edit": 1}


def test_what_passed_is_preferred_to_what_failed_and_never_to_what_could_not_be_judged():
    records = [
        say("verdict", A, outcome="pass"),
        say("verdict", B, outcome="fail"),
        say("verdict", C, outcome="could_not_judge"),
        say("verdict", D, outcome="pass"),
        say("verdict", C, outcome="pass", source=BEN),
    ]
    view = views.pairs(records)
    assert {(pair.chosen.text, pair.rejected.text) for pair in view.examples} == {(A.text, B.text), (D.text, B.text)}
    assert {pair.margin for pair in view.examples} == {None}
    assert view.dropped == {"could_not_judge": 1, "no partner": 1}
    assert views.pairs(records, verdicts=False).dropped == {"kind: verdict": 5}


def test_an_output_that_fails_one_stage_has_failed():
    records = [
        say("verdict", A, outcome="pass", stage="parses"),
        say("verdict", A, outcome="fail", stage="tests"),
        say("verdict", B, outcome="pass", stage="parses"),
        say("verdict", B, outcome="pass", stage="tests"),
    ]
    assert [(pair.chosen, pair.rejected) for pair in views.pairs(records).examples] == [(B, A)]
    assert {e.output.text: e.desirable for e in views.labelled(records).examples} == {A.text: False, B.text: True}


def test_reactions_are_compared_only_if_asked_for():
    up, down = say("reaction", A, symbol="👍"), say("reaction", B, symbol="👎")
    both = [say("reaction", C, symbol=symbol) for symbol in ("👍", "👎")]
    neutral = say("reaction", D, symbol="😐")
    assert views.pairs([up, down]).dropped == {"kind: reaction": 2}
    view = views.pairs([up, down, *both, neutral], reactions=True)
    assert [(pair.chosen, pair.rejected) for pair in view.examples] == [(A, B)]
    assert view.dropped == {"contradicts itself": 2, "neutral reaction": 1}


def test_an_aspect_keeps_what_speaks_of_it_and_kinds_without_aspect_speak_of_overall():
    records = [say("comparison", A, B, choice="a", aspect="tone"), say("edit", A, edited="x"), rate(C, 1), rate(D, 2)]
    tone, overall = views.pairs(records, aspect="tone"), views.pairs(records, aspect="overall")
    assert tone.record_ids == (records[0].id,)
    assert tone.dropped == {"other aspect": 3}
    assert set(overall.record_ids) == {record.id for record in records[1:]}


@thorough
@given(records=small_worlds())
def test_a_pair_has_two_contents_and_a_margin_above_0_and_up_to_1(records):
    for pair in views.pairs(records, ties="keep", reactions=True).examples:
        assert pair.chosen.content != pair.rejected.content
        assert pair.margin is None or (0 < pair.margin <= 1 and not pair.tie)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ties": "half"}, "ties: expected 'drop' or 'keep', got 'half'"),
        ({"rating_margin": 1.0}, "rating_margin: expected a number from 0 to less than 1, got 1.0"),
        ({"max_pairs_per_ranking": 0}, "max_pairs_per_ranking: expected 1 or more, or None for all, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        views.pairs([], **settings)
    assert str(error.value) == message
