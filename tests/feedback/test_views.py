"""Views: which examples records give, what is dropped and why, and what no view ever does."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.errors import ConfigError
from plaudit.feedback import records as fb
from plaudit.feedback import views
from plaudit.feedback.examples import Pair, TokenSpan

from .strategies import record_of
from .strategies import records as any_records
from .worlds import ANNA, BEN, A, B, C, D, keys, rate, say, small_worlds, thorough


def characters(output: fb.Output):
    """One token a character."""
    return [ord(character) for character in output.text], [(i, i + 1) for i in range(len(output.text))]


VIEWS = {
    "pairs": views.pairs,
    "all pairs": lambda records: views.pairs(
        records, ties="keep", rating_margin=0.25, max_pairs_per_ranking=2, reactions=True
    ),
    "pairs of an aspect": lambda records: views.pairs(records, aspect="overall"),
    "labelled": views.labelled,
    "lists": views.lists,
    "lists with exposures": lambda records: views.lists(records, exposures=True),
    "spans": lambda records: views.spans(records, tokens_of_anything),
    "demonstrations": views.demonstrations,
}


def tokens_of_anything(output: fb.Output):
    """One token a character; of sampled tokens each stands for the whole text."""
    if isinstance(output.content, fb.Tokens):
        return output.content.ids, [(0, len(output.text))] * len(output.content.ids)
    return characters(output)


# --- what holds for every view ---------------------------------------------------------------------------------------


@thorough
@given(records=small_worlds(), data=st.data())
def test_the_order_of_the_records_does_not_change_the_set_of_examples(records, data):
    shuffled = data.draw(st.permutations(records))
    for name, view_of in VIEWS.items():
        one, other = view_of(records), view_of(shuffled)
        assert keys(one) == keys(other), name
        assert one.dropped == other.dropped, name


@thorough
@given(records=small_worlds())
def test_examples_and_dropped_account_for_every_record(records):
    for name, view_of in VIEWS.items():
        view = view_of(records)
        used = set(view.record_ids)
        assert used <= {record.id for record in records}, name
        assert len(records) <= len(used) + view.dropped.total(), name
        assert all(count > 0 for count in view.dropped.values()), name


@thorough
@given(record=any_records())
def test_any_single_record_gives_an_example_or_is_counted(record):
    for name, view_of in VIEWS.items():
        view = view_of([record])
        assert set(view.record_ids) == {record.id} or view.dropped, name


@thorough
@given(records=small_worlds())
def test_no_example_mixes_contexts_or_sources_or_uses_what_was_superseded(records):
    by_id = {record.id: record for record in records}
    superseded = {record.supersedes for record in records}
    for view_of in VIEWS.values():
        for example in view_of(records).examples:
            for record_id in example.record_ids:
                assert record_id not in superseded
                assert by_id[record_id].source.name == example.source
                assert by_id[record_id].context.digest == example.context.digest


@pytest.mark.parametrize("name", VIEWS)
def test_a_second_copy_of_a_record_is_dropped(name):
    records = [say("comparison", A, B, choice="a"), say("edit", A, edited="x"), rate(A, 1), rate(B, 2)]
    once, twice = VIEWS[name](records), VIEWS[name](records * 2)
    assert keys(once) == keys(twice)
    assert twice.dropped - once.dropped == {"repeated": len(records)}


def test_a_correction_replaces_what_it_corrects_along_the_whole_chain():
    first = say("comparison", A, B, choice="a")
    second = say("comparison", A, B, choice="tie", supersedes=first.id)
    third = say("comparison", A, B, choice="b", supersedes=second.id)
    view = views.pairs([third, first, second])
    assert [(pair.chosen, pair.record_ids) for pair in view.examples] == [(B, (third.id,))]
    assert view.dropped == {"superseded": 2}


# --- labelled, lists, demonstrations ---------------------------------------------------------------------------------


def test_labels_come_from_reactions_and_verdicts_and_never_from_silence():
    records = [
        say("reaction", A, symbol="👍"),
        say("reaction", A, symbol="👎", source=BEN),
        say("reaction", B, symbol="😐"),
        say("reaction", C, symbol="🦆"),
        say("verdict", B, outcome="fail"),
        say("verdict", C, outcome="could_not_judge"),
        say("comparison", A, B, choice="a"),
    ]
    view = views.labelled(records)
    assert [(e.output, e.desirable, e.source) for e in view.examples] == [
        (A, True, "anna"), (A, False, "ben"), (B, False, "anna"),
    ]  # fmt: skip
    assert view.dropped == {
        "neutral reaction": 1, "reaction of unknown meaning": 1, "could_not_judge": 1, "kind: comparison": 1,
    }  # fmt: skip


def test_every_reaction_counts_even_if_they_share_a_source():
    records = [say("reaction", A, symbol=symbol) for symbol in ("👍", "👍", "👎")]
    assert [example.desirable for example in views.labelled(records).examples] == [True, True, False]


def test_a_rankings_gains_are_the_tiers_below():
    view = views.lists([say("ranking", A, B, C, D, tiers=((2,), (0, 3)))])
    (ranked,) = view.examples
    assert dict(zip(ranked.outputs, ranked.gains, strict=True)) == {C: 1, A: 0, D: 0}
    assert view.dropped == {"not ranked": 1}


def test_ratings_make_a_list_for_each_source_and_aspect():
    view = views.lists(
        [rate(A, 1), rate(B, 4), rate(A, 3, source=BEN), rate(B, 3, source=BEN), rate(A, 5, aspect="tone")]
    )
    (ranked,) = view.examples
    assert dict(zip(ranked.outputs, ranked.gains, strict=True)) == {A: 1 / 10, B: 4 / 10}
    assert view.dropped == {"all gains equal": 2, "fewer than two outputs": 1}


def test_a_list_of_ratings_does_not_depend_on_their_order():
    """Neither in the order of its outputs, nor in which of several producers of one content it names."""
    again = fb.Output(content=A.content, producer=fb.Producer(model="m"))
    ratings = [rate(A, 1), rate(again, 3), rate(B, 9), rate(C, 5)]
    assert len({repr(views.lists(order).examples) for order in permutations(ratings)}) == 1


def test_what_was_not_shown_is_not_in_the_list():
    record = say(
        "exposure", A, B, C, D, items=[{"output": 0}, {"output": 1, "clicked": True}, {"output": 2, "shown": False}]
    )
    view = views.lists([record], exposures=True)
    (ranked,) = view.examples
    assert dict(zip(ranked.outputs, ranked.gains, strict=True)) == {A: 0, B: 1}
    assert view.dropped == {"not shown": 2}
    assert views.lists([record]).dropped == {"kind: exposure": 1}


def test_lists_and_pairs_order_outputs_alike():
    records = [say("ranking", A, B, C, D, tiers=((3,), (0, 2), (1,))), rate(A, 3), rate(C, 7), rate(D, 7)]
    from_lists = {
        (x.text, y.text, ranked.record_ids == (records[0].id,))
        for ranked in views.lists(records).examples
        for (x, gain), (y, other) in permutations(list(zip(ranked.outputs, ranked.gains, strict=True)), 2)
        if gain > other
    }
    from_pairs = {
        (pair.chosen.text, pair.rejected.text, pair.record_ids == (records[0].id,))
        for pair in views.pairs(records).examples
    }
    assert from_lists == from_pairs


def test_each_context_that_can_be_asked_stands_once_with_all_records_about_it():
    other = fb.Context(content=[{"role": "user", "content": "Why?"}])
    shoe = fb.Context(content=fb.Item(id="shoe"))
    records = [
        say("comparison", A, B, choice="a"),
        say("demonstration", A, context=other),
        rate(A, 1),
        rate(B, 2, context=shoe),
    ]
    view = views.contexts(records)
    assert [example.context for example in view.examples] == [records[0].context, other]
    assert view.examples[0].record_ids == (records[0].id, records[2].id)
    assert view.dropped == {"content: item": 1}
    corrected = records[1].model_copy(update={"id": "later", "supersedes": records[1].id})
    assert views.contexts([*records, corrected]).examples[1].record_ids == ("later",)


def test_demonstrations_and_edits_are_imitated():
    view = views.demonstrations([say("demonstration", A), say("edit", B, edited="x"), rate(A, 1)])
    assert [example.output for example in view.examples] == [A, fb.Output(content="x")]
    assert view.dropped == {"kind: rating": 1}


# --- spans -----------------------------------------------------------------------------------------------------------


def words(output: fb.Output):
    """Tokens are words, with the blank before each; an end token stands for no text."""
    ids, offsets, start = [], [], 0
    for word in output.text.split(" "):
        end = start + len(word) + (start > 0)
        ids.append(len(ids) + 100)
        offsets.append((start, end))
        start = end
    return [*ids, 2], [*offsets, (start, start)]


@pytest.mark.parametrize(
    ("start", "end", "tokens"),
    [(0, 3, (0, 1)), (1, 2, (0, 1)), (2, 4, (0, 2)), (4, 7, (1, 2)), (0, 13, (0, 3)), (12, 13, (2, 3))],
)
def test_a_mark_covers_whole_every_token_that_it_touches(start, end, tokens):
    output = fb.Output(content="one two seven")
    record = say("spans", output, spans=[{"start": start, "end": end, "type": "wrong", "severity": 0.5}])
    (example,) = views.spans([record], words).examples
    assert example.token_ids == (100, 101, 102, 2)
    assert example.spans == (TokenSpan(*tokens, type="wrong", severity=0.5),)


@thorough
@given(record=record_of("spans"))
def test_with_one_token_a_character_tokens_are_characters(record):
    if not isinstance(record.outputs[0].content, fb.Tokens):
        (example,) = views.spans([record], characters).examples
        assert [(s.start, s.end, s.type) for s in example.spans] == [(s.start, s.end, s.type) for s in record.spans]


def test_marks_on_no_token_are_dropped_and_no_marks_at_all_is_a_statement():
    def without_blanks(output: fb.Output):
        return [1, 2], [(0, 3), (4, 7)]

    output = fb.Output(content="one two")
    blank, one = {"start": 3, "end": 4, "type": "x"}, {"start": 0, "end": 1, "type": "x"}
    records = [say("spans", output, spans=marks) for marks in ([blank, one], [blank], [])]
    view = views.spans(records, without_blanks)
    assert [(example.record_ids, len(example.spans)) for example in view.examples] == [
        ((records[0].id,), 1), ((records[2].id,), 0),
    ]  # fmt: skip
    assert view.dropped == {"mark on no token": 2, "no mark on a token": 1}


def test_sampled_tokens_keep_their_ids():
    sampled = fb.Output(content=fb.Tokens(ids=(7, 8, 2), tokenizer="t", text="ab"))
    record = say("spans", sampled, spans=[{"start": 1, "end": 2, "type": "wrong"}])
    (example,) = views.spans([record], lambda output: (output.content.ids, [(0, 1), (1, 2), (2, 2)])).examples
    assert (example.token_ids, example.spans[0].start, example.spans[0].end) == ((7, 8, 2), 1, 2)
    with pytest.raises(ValueError, match=r"expected the 3 sampled ids of output \w+, got 2 other ids"):
        views.spans([record], characters)


def test_a_tokenizer_without_an_offset_for_each_token_is_refused():
    with pytest.raises(ValueError, match=r"expected one \(start, end\) a token, got 2 ids and 1 offsets"):
        views.spans([say("spans", A, spans=[])], lambda output: ([1, 2], [(0, 1)]))


# --- split and agreement ---------------------------------------------------------------------------------------------


def examples_of(contexts: range) -> list[Pair]:
    return [
        Pair(fb.Context(content=str(i)), chosen, rejected, "anna", (f"{i}-{chosen.text}",))
        for i in contexts
        for chosen, rejected in ((A, B), (C, D))
    ]


@given(seed=st.integers(), share=st.floats(0, 1))
def test_a_context_lies_on_one_side_and_every_example_on_some(seed, share):
    examples = examples_of(range(30))
    train, held_out = views.split(examples, held_out=share, seed=seed)
    assert not {e.context.digest for e in train} & {e.context.digest for e in held_out}
    assert sorted(map(repr, (*train, *held_out))) == sorted(map(repr, examples))


@given(seed=st.integers(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_the_sides_are_stable_when_examples_are_added_and_grow_with_the_share(seed, shares):
    small, large = sorted(shares)
    _, few = views.split(examples_of(range(10)), held_out=small, seed=seed)
    _, more = views.split(examples_of(range(20)), held_out=small, seed=seed)
    _, most = views.split(examples_of(range(20)), held_out=large, seed=seed)
    digests = [{e.context.digest for e in side} for side in (few, more, most)]
    original = {e.context.digest for e in examples_of(range(10))}
    assert digests[0] == digests[1] & original
    assert digests[1] <= digests[2]


def test_the_share_is_met_in_expectation_and_depends_on_the_seed():
    examples = examples_of(range(1000))
    sides = [{e.context.digest for e in views.split(examples, held_out=0.3, seed=seed)[1]} for seed in (0, 1)]
    for side in sides:
        assert len(side) == pytest.approx(300, abs=4 * (1000 * 0.3 * 0.7) ** 0.5)
    assert sides[0] != sides[1]
    assert views.split(examples, held_out=0.0, seed=0)[1] == ()
    assert views.split(examples, held_out=1.0, seed=0)[0] == ()


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"held_out: expected a share from 0 to 1, got 1\.5"):
        views.split([], held_out=1.5, seed=0)


def test_sources_that_contradict_each_other_are_kept_and_counted():
    carl = fb.Source(name="carl")
    view = views.pairs(
        [say("comparison", A, B, choice="a", source=who) for who in (ANNA, BEN)]
        + [say("comparison", B, A, choice="a", source=carl), say("comparison", C, D, choice="a")]
    )
    assert len(view.examples) == 4
    agreement = views.agreement(view.examples)
    assert (agreement.alike, agreement.compared) == (1, 3)
    assert agreement.rate == pytest.approx(1 / 3)
    assert views.agreement([]).rate is None


def test_a_source_is_not_compared_with_itself():
    same = views.pairs([say("comparison", A, B, choice="a"), say("comparison", B, A, choice="b")])
    assert views.agreement(same.examples).compared == 0
    contradicting = views.pairs(
        [
            say("comparison", A, B, choice="a"),
            say("comparison", A, B, choice="b"),
            say("comparison", A, B, choice="a", source=BEN),
        ]
    )
    assert views.agreement(contradicting.examples).compared == 0
