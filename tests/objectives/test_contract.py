"""What every objective keeps: one loss per example, exact gradients, any float type, no overflow, and masks that delete."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from plaudit.objectives import aggregate, bradley_terry, dpo, negative_log_likelihood, rao_kupper

ROWS, STEPS = 5, 4
TIES = torch.tensor([True, False, False, True, False])
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1], [1, 0, 0, 0]], dtype=torch.bool)


def _margin(like: Tensor) -> Tensor:
    return torch.arange(len(like)).to(like)


PAIRWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dpo": partial(dpo, beta=0.3),
    "dpo-smoothed": partial(dpo, beta=0.3, label_smoothing=0.2),
    "bradley-terry": bradley_terry,
    "bradley-terry-margin": lambda a, b: bradley_terry(a, b, margin=_margin(a)),
    "rao-kupper": lambda a, b: rao_kupper(a, b, TIES[: len(a)], tie_width=0.7),
    "rao-kupper-margin": lambda a, b: rao_kupper(a, b, TIES[: len(a)], tie_width=0.7, margin=_margin(a)),
}
pairwise = pytest.mark.parametrize("objective", PAIRWISE.values(), ids=PAIRWISE.keys())
aggregations = pytest.mark.parametrize("how", ["token-mean", "sequence-mean", "sequence-sum"])


def inputs(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pairwise
def test_gradient_is_the_slope_of_the_value(objective):
    a, b = (inputs(ROWS, seed=seed).requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(objective, (a, b))


@pairwise
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_pairwise_works_in_every_float_type(objective, dtype):
    a, b = inputs(ROWS, seed=1).to(dtype), inputs(ROWS, seed=2).to(dtype)
    loss = objective(a, b)
    assert loss.dtype == dtype
    exact = objective(a.double(), b.double())
    torch.testing.assert_close(loss.double(), exact, rtol=8 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


@pairwise
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_huge_differences_have_finite_values_and_gradients(objective, sign):
    a, b = torch.full((ROWS,), sign * 1e4, requires_grad=True), torch.full((ROWS,), -sign * 1e4, requires_grad=True)
    loss = objective(a, b)
    loss.sum().backward()
    assert all(part.isfinite().all() for part in (loss, a.grad, b.grad))
    assert (loss >= 0).all()


@pairwise
def test_each_loss_belongs_to_one_example(objective):
    """An example's loss and gradient are the same alone as beside others: micro-batches change nothing."""
    a, b = inputs(ROWS, seed=1).requires_grad_(), inputs(ROWS, seed=2).requires_grad_()
    jacobian = torch.autograd.functional.jacobian(objective, (a, b))
    for part in jacobian:
        assert torch.equal(part, torch.diag(part.diagonal()))
    whole = objective(a, b)
    for size in range(1, ROWS):
        assert torch.equal(objective(a[:size], b[:size]), whole[:size])


@aggregations
def test_aggregation_gradient_is_the_slope_of_the_value(how):
    per_token = inputs(ROWS, STEPS).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: negative_log_likelihood(values, MASK, aggregation=how)[0], per_token)


@aggregations
@pytest.mark.parametrize("hidden", [torch.nan, torch.inf, -torch.inf])
def test_what_a_mask_excludes_might_as_well_not_be_there(how, hidden):
    """Value, weight and gradient are those of each row with its excluded tokens deleted; excluded gradients are 0."""
    clean = inputs(ROWS, STEPS)
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
    assert value.item() == (301 if how == "sequence-sum" else 1)


@aggregations
def test_huge_log_probabilities_stay_finite(how):
    per_token = torch.full((ROWS, STEPS), -1e4, requires_grad=True)
    value, weight = negative_log_likelihood(per_token, MASK, aggregation=how)
    (value * weight).sum().backward()
    lengths = MASK.sum(-1)
    assert torch.equal(value, 1e4 * (lengths if how == "sequence-sum" else torch.ones(ROWS)))
    assert per_token.grad.isfinite().all()


@aggregations
def test_a_batch_cut_into_micro_batches_has_the_same_loss(how):
    per_token = inputs(ROWS, STEPS)

    def totals(rows: slice) -> Tensor:
        value, weight = aggregate(per_token[rows], MASK[rows], how)
        return torch.stack([(value * weight).sum(), weight.sum()])

    whole = totals(slice(None))
    for cut in range(1, ROWS):
        parts = totals(slice(cut)) + totals(slice(cut, None))
        torch.testing.assert_close(parts[0] / parts[1], whole[0] / whole[1])


@pairwise
def test_shapes_are_checked_in_the_tests(objective):
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError):
        objective(torch.zeros(2), torch.zeros(3))
    with pytest.raises(TypeCheckError):
        objective(torch.zeros(2, 2), torch.zeros(2, 2))
