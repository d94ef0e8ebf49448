"""Aggregation: worked sums, micro-batches, masks that delete, and sums that low precision cannot count."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from objectives.contract import normal
from plaudit.objectives import aggregate
from plaudit.objectives.imitation import negative_log_likelihood

ROWS, STEPS = 5, 4
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0]], dtype=torch.bool)
ALL = ("token-mean", "sequence-mean", "sequence-sum", 2.5)
aggregations = pytest.mark.parametrize("how", ALL)


@aggregations
def test_aggregation_gradient_is_the_slope_of_the_value(how):
    per_token = normal(ROWS, STEPS).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: negative_log_likelihood(values, MASK, aggregation=how)[0], per_token)


@aggregations
@pytest.mark.parametrize("hidden", [torch.nan, torch.inf, -torch.inf])
def test_what_a_mask_excludes_might_as_well_not_be_there(how, hidden):
    """Value, weight and gradient are those of each row with its excluded tokens deleted; excluded gradients are 0."""
    clean = normal(ROWS, STEPS)
    dirty = torch.where(MASK, clean, hidden).requires_grad_()
    value, weight = negative_log_likelihood(dirty, MASK, aggregation=how)
    (value * weight).sum().backward()
    assert (dirty.grad[~MASK] == 0).all()
    for row in range(ROWS):
        kept = clean[row, MASK[row]].requires_grad_()
        alone, alone_weight = negative_log_likelihood(kept[None], torch.ones(1, len(kept)).bool(), aggregation=how)
        (alone * alone_weight).sum().backward()
        torch.testing.assert_close(alone[0], value[row])
        assert alone_weight[0] == weight[row]
        torch.testing.assert_close(kept.grad, dirty.grad[row, MASK[row]])


@aggregations
def test_rows_without_tokens_weigh_nothing(how):
    values = torch.full((2, 3), torch.nan, requires_grad=True)
    value, weight = negative_log_likelihood(values, torch.zeros(2, 3, dtype=torch.bool), aggregation=how)
    (value * weight).sum().backward()
    assert value.tolist() == [0, 0] == weight.tolist()
    assert values.grad.tolist() == [[0, 0, 0]] * 2


@aggregations
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_aggregation_sums_in_float32_at_least(how, dtype):
    """300 tokens of 1 add up to 300, which bfloat16's 8 bits cannot count to."""
    value, weight = aggregate(torch.ones(1, 301, dtype=dtype), torch.ones(1, 301, dtype=torch.bool), how)
    assert value.dtype == weight.dtype == torch.promote_types(dtype, torch.float32)
    assert value.item() == pytest.approx({"sequence-sum": 301, 2.5: 301 / 2.5}.get(how, 1))


@aggregations
def test_huge_log_probabilities_stay_finite(how):
    per_token = torch.full((ROWS, STEPS), -1e4, requires_grad=True)
    value, weight = negative_log_likelihood(per_token, MASK, aggregation=how)
    (value * weight).sum().backward()
    lengths = MASK.sum(-1)
    expected = {"sequence-sum": lengths, 2.5: lengths / 2.5}.get(how, torch.ones(ROWS))
    torch.testing.assert_close(value, 1e4 * expected)
    assert per_token.grad.isfinite().all()


@aggregations
def test_a_batch_cut_into_micro_batches_has_the_same_loss(how):
    per_token = normal(ROWS, STEPS)

    def totals(rows: slice) -> Tensor:
        value, weight = aggregate(per_token[rows], MASK[rows], how)
        return torch.stack([(value * weight).sum(), weight.sum()])

    whole = totals(slice(None))
    for cut in range(1, ROWS):
        parts = totals(slice(cut)) + totals(slice(cut, None))
        torch.testing.assert_close(parts[0] / parts[1], whole[0] / whole[1])


@pytest.mark.parametrize("how", ["mean", 0.0, -1.0])
def test_an_unknown_aggregation_is_named(how):
    with pytest.raises(ValueError, match=rf"aggregation: expected .*, got '?{how}"):
        inspect.unwrap(aggregate)(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), how)
