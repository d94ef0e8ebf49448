"""The cut into micro-batches: every example once, the budget kept, equally many for every process, deterministic."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from plaudit.policies import Sequence
from plaudit.policies.prefix_tree import PrefixTree
from plaudit.training.micro_batches import MicroBatch, by_size, by_tokens


def sequence(context: tuple[int, ...], output: tuple[int, ...]) -> Sequence:
    return Sequence(context, output, (True,) * len(output))


def distinct(examples, indices) -> int:
    """Tokens of different contexts and of their different outputs, counted in another way: by text."""
    sides = [side for index in indices for side in examples[index]]
    contexts = {str(side.context): len(side.context) for side in sides}
    outputs = {f"{side.context} {side.output}": len(side.output) for side in sides}
    return sum(contexts.values()) + sum(outputs.values())


# few different first tokens, so that contexts and whole sequences repeat
contexts = st.sampled_from([(1,), (2, 2), (3,) * 5, (4,) * 20])
outputs = st.lists(st.integers(5, 6), max_size=6).map(tuple)
lists_of_pairs = st.lists(st.tuples(contexts, outputs, outputs), max_size=14)


def pairs(rows) -> list[tuple[Sequence, Sequence]]:
    return [(sequence(context, one), sequence(context, other)) for context, one, other in rows]


@given(lists_of_pairs, st.integers(1, 60), st.integers(1, 5))
def test_every_example_counts_once_and_every_process_gets_equally_many(rows, budget, processes):
    examples = pairs(rows)
    cut = by_tokens(examples, budget, processes=processes)
    assert len(cut) == processes
    assert len({len(own) for own in cut}) == 1
    batches = list(itertools.chain(*cut))
    assert all(batch.indices and len(batch.indices) == len(batch.counts) for batch in batches)
    counted = [index for batch in batches for index, counts in zip(batch.indices, batch.counts, strict=True) if counts]
    assert sorted(counted) == list(range(len(examples)))
    idle = [batch for batch in batches if not any(batch.counts)]
    assert len(idle) < processes
    if idle:  # only where no micro-batch could be divided instead
        assert all(len(batch.indices) == 1 for batch in batches)


@given(lists_of_pairs, st.integers(1, 60), st.integers(1, 5))
def test_the_budget_is_kept_unless_an_example_is_alone(rows, budget, processes):
    examples = pairs(rows)
    for batch in itertools.chain(*by_tokens(examples, budget, processes=processes)):
        assert len(batch.indices) == 1 or distinct(examples, batch.indices) <= budget


@given(lists_of_pairs, st.integers(1, 60))
def test_on_one_process_no_two_neighbours_would_have_fitted_together(rows, budget):
    examples = pairs(rows)
    (batches,) = by_tokens(examples, budget, processes=1)
    for one, other in itertools.pairwise(batches):
        assert distinct(examples, (*one.indices, other.indices[0])) > budget
    order = [examples[index][0].context for batch in batches for index in batch.indices]
    assert order == sorted(order)


def test_examples_of_one_context_share_a_micro_batch_and_count_its_tokens_once():
    """Two contexts of 10 tokens in turn, outputs of 2: 10 + 3 x 2 a micro-batch, where one by one would hold 12 each."""
    long, other = (7,) * 10, (8,) * 10
    examples = [[sequence((long, other)[number % 2], (number, number))] for number in range(6)]
    assert by_tokens(examples, 16, processes=1) == [
        [MicroBatch((0, 2, 4), (True,) * 3), MicroBatch((1, 3, 5), (True,) * 3)]
    ]
    packed = PrefixTree.of([example[0].context + example[0].output for example in examples[::2]])
    assert len(packed) == 16
    assert [len(batch.indices) for batch in by_tokens(examples, 15, processes=1)[0]] == [2, 1, 2, 1]


def test_an_example_that_alone_exceeds_the_budget_goes_alone():
    examples = [[sequence((1,), (2,) * length)] for length in (1, 50, 1, 1)]
    (batches,) = by_tokens(examples, 5, processes=1)
    assert [batch.indices for batch in batches] == [(0,), (1,), (2, 3)]


def test_the_heaviest_micro_batch_is_divided_where_a_process_would_have_one_less():
    examples = [[sequence((index,), (9,) * length)] for index, length in enumerate((3, 3, 1, 1, 1, 1, 7))]
    cut = by_tokens(examples, 8, processes=2)
    # 4 + 4, then 2 + 2 + 2 + 2, then 8 tokens alone: three for two processes
    assert [[batch.indices for batch in own] for own in cut] == [[(0,), (2, 3, 4, 5)], [(1,), (6,)]]


def test_fewer_examples_than_processes_repeat_the_cheapest_which_does_not_count():
    examples = [[sequence((1,), (2,) * length)] for length in (9, 3)]
    cut = by_tokens(examples, 100, processes=4)
    assert cut == [[MicroBatch((0,), (True,))], [MicroBatch((1,), (True,))], *[[MicroBatch((1,), (False,))]] * 2]


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5))
def test_a_cut_by_size_keeps_the_order_and_gives_every_process_equally_many(examples, size, processes):
    cut = by_size(examples, size, processes=processes)
    assert len({len(own) for own in cut}) == 1
    batches = list(itertools.chain(*cut))
    assert all(len(batch.indices) <= size for batch in batches)
    places = [place for batch in batches for place in zip(batch.indices, batch.counts, strict=True)]
    assert [index for index, counts in places if counts] == list(range(examples))
    assert {index for index, counts in places if not counts} <= {examples - 1}
