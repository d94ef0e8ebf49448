"""FlexAttention over trees, uncompiled on the CPU: the same values and gradients as the CPU's own path."""

from __future__ import annotations

import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.policies import Sequence
from plaudit.policies.batches import PackedBatch, PaddedBatch
from plaudit.policies.flex_attention import BLOCK, FlexPlan, flex_tree_attention
from plaudit.policies.packing import Packer
from plaudit.policies.prefix_tree import PrefixTree
from plaudit.policies.scoring import TokenScorer
from plaudit.policies.tree_attention import Plan, attend, plan_of, tree_attention

from .families import build
from .test_prefix_tree import sees

pytestmark = [  # of torch's own tracing
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def backward_pass_on_the_cpu(monkeypatch):
    """torch has one, for all scores at once, and refuses it, because it has no fused one."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)


def run(token: int, length: int) -> list[int]:
    return [token * 1000 + step for step in range(length)]


TREES = {
    "single-token prompt": [[5, *run(1, 6)], [5, *run(2, 3)]],
    "nothing": [[]],
    "one token": [[5]],
    "unequal lengths": [run(1, 70) + run(10 + index, length) for index, length in enumerate((1, 90, 33, 8, 2))],
    "depth 3": [
        run(1, 40) + run(2, 30) + run(3, 20) + run(4, 60),
        run(1, 40) + run(2, 30) + run(3, 20) + run(5, 5),
        run(1, 40) + run(2, 30) + run(6, 130),
        run(1, 40) + run(7, 9),
        run(8, 150),
    ],
    "exactly two blocks": [run(1, BLOCK) + run(2, BLOCK)],
}


def inputs(tree: PrefixTree, *, groups: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Queries with four heads, keys and values with some, and a weight for each result."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, len(tree), 8) for heads in (4, groups, groups, 4)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("sequences", TREES.values(), ids=TREES.keys())
def test_values_and_gradients_are_those_of_the_cpus_path(sequences, groups, dtype):
    tree = PrefixTree.of(sequences)
    *leaves, weight = inputs(tree, groups=groups, dtype=dtype)
    for leaf in leaves:
        leaf.requires_grad_()
    query, key, value = leaves
    ours = flex_tree_attention(query, key, value, FlexPlan.of(tree, device=CPU), 0.4)
    repeated = (x.repeat_interleave(4 // groups, 1) for x in (key, value))
    theirs = tree_attention(query, *repeated, Plan.of(tree, device=CPU), 0.4)
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(ours, theirs, **close)
    slopes = [torch.autograd.grad((result * weight).sum(), leaves) for result in (ours, theirs)]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, **close)


# few different tokens and long runs, so that trees are deep and reach over several blocks
words = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 90)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(words, min_size=1, max_size=6))
def test_blocks_are_empty_full_or_cut_exactly_where_the_mask_says(found):
    tree = PrefixTree.of([[token for token, length in parts for _ in range(length)] for parts in found])
    plan = FlexPlan.of(tree, device=CPU)
    size = plan.mask.seq_lengths[0]
    assert size % BLOCK == 0
    assert size - BLOCK < len(tree) <= size
    dense = torch.eye(size, dtype=torch.bool)  # what fills up sees itself only
    dense[: len(tree), : len(tree)] = sees(tree)
    places = torch.arange(size)
    zero = torch.tensor(0)
    assert torch.equal(plan.mask.mask_mod(zero, zero, places[:, None], places), dense)
    tiles = dense.reshape(size // BLOCK, BLOCK, size // BLOCK, BLOCK).transpose(1, 2).flatten(2)
    some, whole = tiles.any(-1), tiles.all(-1)
    mask = plan.mask
    for count, listed, expected in (
        (mask.kv_num_blocks, mask.kv_indices, some & ~whole),
        (mask.full_kv_num_blocks, mask.full_kv_indices, whole),
    ):
        for row, columns in enumerate(expected):
            used = listed[0, 0, row, : int(count[0, 0, row])].tolist()
            assert used == columns.nonzero().flatten().tolist()


def test_a_models_log_probabilities_and_gradients_are_those_of_padded_sequences(monkeypatch):
    """The whole path: the plan goes through transformers' layers into `attend`, whose grouped keys are not repeated."""
    model = build("llama")
    packer = Packer(model, compute_dtype=torch.float32)
    assert packer.packs
    scorer = TokenScorer(model)
    prompt, other = tuple(range(3, 20)), (9, 8, 7)
    sequences = [Sequence(prompt, tuple(range(30, 30 + length)), (True,) * length) for length in (4, 9, 1)]
    sequences.append(Sequence(other, (11, 12, 13), (True, False, True)))
    monkeypatch.setattr("plaudit.policies.batches.plan_of", FlexPlan.of)
    packed = packer.batch(sequences, device=CPU)
    assert isinstance(packed, PackedBatch)
    assert isinstance(packed.plan, FlexPlan)
    slopes = []
    for batch in (packed, PaddedBatch.of(sequences, device=CPU)):
        scorer.zero_grad(set_to_none=True)
        values = scorer(batch)
        values.sum().backward()
        slopes.append([values.detach(), *(weight.grad.clone() for weight in scorer.parameters())])
    for one, another in zip(*slopes, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-5)


def test_products_are_taken_in_the_values_type():
    """Under autocast, rotated queries and keys may be float32 beside values in bfloat16."""
    tree = PrefixTree.of(TREES["unequal lengths"])
    query, key, value, _ = inputs(tree, groups=2, dtype=torch.float32)
    plan = FlexPlan.of(tree, device=CPU)
    mixed = flex_tree_attention(query, key, value.bfloat16(), plan, 0.4)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), flex_tree_attention(query, key, value, plan, 0.4), rtol=0.05, atol=0.05)


def test_the_device_chooses_the_path():
    tree = PrefixTree.of(TREES["depth 3"])
    assert isinstance(plan_of(tree, device=CPU), Plan)
    assert isinstance(plan_of(tree, device=torch.device("meta")), FlexPlan)
    query, key, value, _ = inputs(tree, groups=2, dtype=torch.float32)
    results = [
        attend(types.SimpleNamespace(), query, key, value, None, plan=plan, scaling=0.3)[0]
        for plan in (plan_of(tree, device=CPU), FlexPlan.of(tree, device=CPU))
    ]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_sampling_shares_a_cache_on_the_cpu_only(monkeypatch):
    packer = Packer(build("llama"), compute_dtype=torch.float32)
    assert packer.packs
    assert packer.shares_cache
    monkeypatch.setattr(packer, "_on_cpu", False)
    assert packer.packs
    assert not packer.shares_cache
