"""The tree: it stands for exactly its sequences, holds what they share once, and attention over it is theirs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.policies.prefix_tree import FEWEST_SHARED, PrefixTree
from plaudit.policies.tree_attention import Plan, tree_attention

CPU = torch.device("cpu")
# few different tokens, so that sequences often begin alike
sequences = st.lists(st.lists(st.integers(0, 2), max_size=14), min_size=1, max_size=7)


def sees(tree: PrefixTree) -> torch.Tensor:
    """Which token of the pack sees which, told by the unpacked sequences."""
    mask = torch.zeros(len(tree), len(tree), dtype=torch.bool)
    for places in tree.places:
        for step, place in enumerate(places.tolist()):
            mask[place, places[: step + 1]] = True
    return mask


@settings(deadline=None)
@given(sequences)
def test_every_sequence_is_in_the_pack_with_its_positions(found):
    tree = PrefixTree.of(found)
    for sequence, places in zip(found, tree.places, strict=True):
        assert tree.token_ids[places].tolist() == sequence
        assert tree.position_ids[places].tolist() == list(range(len(sequence)))
    covered = {place for places in tree.places for place in places.tolist()}
    assert covered == set(range(len(tree))), "the pack holds tokens that no sequence has"


@settings(deadline=None)
@given(sequences)
def test_segments_cover_the_pack_and_nest(found):
    tree = PrefixTree.of(found)
    assert [place for part in tree.segments for place in range(part.start, part.end)] == list(range(len(tree)))
    for part in tree.segments:
        below = [other for other in tree.segments if part.end <= other.start < part.last]
        assert all(other.last <= part.last for other in below)


@pytest.mark.parametrize("count", [1, 2, 16])
def test_a_prompt_is_held_once(count):
    prompt = list(range(100, 150))
    outputs = [[index] * (index % 4 + 1) for index in range(count)]
    tree = PrefixTree.of([prompt + output for output in outputs])
    assert len(tree) == len(prompt) + sum(map(len, outputs))


def test_equal_sequences_and_beginnings_of_others_take_no_room():
    long = list(range(12))
    assert len(PrefixTree.of([long, long, long[:8], long])) == len(long)


def test_outputs_that_begin_alike_share_that_beginning():
    prompt, half = list(range(10)), list(range(20, 28))
    tree = PrefixTree.of([[*prompt, *half, 1, 1], [*prompt, *half, 2], [*prompt, 3, 3]])
    assert len(tree) == len(prompt) + len(half) + 2 + 1 + 2
    assert len(tree.segments) == 5


def test_a_common_part_that_is_too_short_is_computed_twice():
    first, second = [7] * (FEWEST_SHARED - 1) + [1, 1], [7] * (FEWEST_SHARED - 1) + [2, 2]
    assert len(PrefixTree.of([first, second])) == len(first) + len(second)


@settings(deadline=None, max_examples=40)
@given(sequences, st.integers(0, 5))
def test_attention_and_gradients_are_those_of_the_masked_whole(found, seed):
    tree = PrefixTree.of(found)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(1, 2, len(tree), 4, generator=generator, dtype=torch.float64) for _ in range(4)]
    weight, leaves = inputs[3], [x.requires_grad_() for x in inputs[:3]]
    ours = tree_attention(*leaves, Plan.of(tree, device=CPU), 0.4)
    scores = leaves[0] @ leaves[1].transpose(-1, -2) * 0.4
    theirs = scores.masked_fill(~sees(tree), -torch.inf).softmax(-1) @ leaves[2]
    torch.testing.assert_close(ours, theirs)
    if len(tree):
        for one, other in zip(
            torch.autograd.grad((ours * weight).sum(), leaves),
            torch.autograd.grad((theirs * weight).sum(), leaves),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


def test_similar_leaves_are_bundled_and_others_are_not():
    prompt = list(range(50, 60))
    outputs = [[index] * length for index, length in enumerate((8, 9, 10, 30, 2))]
    plan = Plan.of(PrefixTree.of([prompt + output for output in outputs]), device=CPU)
    assert [tuple(places.shape) for places in plan.bundles] == [(3, 10)]
    assert sorted(part.end - part.start for part in plan.runs) == [2, 10, 30]
