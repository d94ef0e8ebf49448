"""One suite for every objective: what each of them keeps, whatever its formula.

A `Case` is one way to call an objective. The suite reads the objective's axes from its signature, so that a case only says
how to make valid input; `test_contract.py` runs it on all cases, and finds objectives without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from plaudit.objectives.arguments import TensorArgument
from plaudit.objectives.catalogue import Entry, entries

HIDDEN = (math.nan, math.inf, -math.inf)
Call = dict[str, Any]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers in float64, the same for the same seed."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers in float64, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def lengths_mask(rows: int, steps: int, *, seed: int = 0, shortest: int = 1) -> Tensor:
    """A mask of unequal lengths (True at the front), with a hole in every longer row: masks need not be prefixes."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, steps + 1, (rows, 1), generator=generator)
    mask = torch.arange(steps) < lengths
    return mask & ~((torch.arange(steps) == 1) & (lengths > 2))


@dataclass(frozen=True)
class Case:
    """One way to call an objective.

    Attributes:
        objective: the function, as it stands in the catalogue.
        make: makes keyword arguments for so many rows: float64 tensors, masks and settings. Row i must not depend on the
            number of rows. A row is an example, a pair, a group or a sequence: the first axis of the first tensor.
        name: tells the cases of one objective apart.
        differentiable: arguments through which the gradient flows; what else is float is a constant to the loss.
        stops_gradients: the value is not what the gradient is the slope of (stop-gradients, straight-through); the
            objective's own test must then hold the gradient against its formula.
        extreme: arguments that may be +-1e4 without the value or a gradient becoming infinite.
        masks: for each mask argument, the float arguments of which it hides entries.
        exchangeable: an axis along which the entries of a row may change places: the value stays, or goes along where
            the value has that axis.
        invalid: settings with values out of range; each must be a ValueError that names the setting.
        batch_statistics: the rows of a batch influence each other (a mean, an order), as the paper has it.
        low_precision: tolerance in units of bfloat16's and float16's epsilon; None where such numbers make no sense.
    """

    objective: Callable[..., Any]
    make: Callable[[int], Call]
    name: str = ""
    differentiable: Sequence[str] = ()
    stops_gradients: bool = False
    extreme: Sequence[str] = ()
    masks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exchangeable: str | None = None
    invalid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    batch_statistics: bool = False
    low_precision: float | None = 16.0

    @property
    def id(self) -> str:
        """The case's name in the tests' report."""
        return self.objective.__name__ + (f"-{self.name}" if self.name else "")

    @property
    def entry(self) -> Entry:
        """The objective's row in the catalogue."""
        return next(entry for entry in entries() if entry.function is self.objective)


def outputs(result: Any) -> tuple[Tensor, ...]:
    """An objective's result as a tuple of tensors."""
    if isinstance(result, Tensor):
        return (result,)
    return tuple(part for part in result if isinstance(part, Tensor))


def row_axis(case: Case) -> str:
    """The axis of the batch: the first one of the first tensor."""
    return case.entry.tensors[0].axes[0].lstrip("#")


def _map_tensors(case: Case, call: Call, change: Callable[[TensorArgument, Tensor], Tensor]) -> Call:
    tensors = {argument.name: argument for argument in case.entry.tensors}
    return {
        name: change(tensors[name], value) if name in tensors and isinstance(value, Tensor) else value
        for name, value in call.items()
    }


def select(case: Case, call: Call, rows: Sequence[int], axis: str) -> Call:
    """The call with these entries of an axis only."""
    index = torch.tensor(rows, dtype=torch.long)

    def change(argument: TensorArgument, value: Tensor) -> Tensor:
        for position, name in enumerate(argument.axes):
            if name == axis or (name == f"#{axis}" and value.shape[position] > 1):
                value = value.index_select(position, index)
        return value

    return _map_tensors(case, call, change)


def total(result: Any) -> Tensor:
    """What training differentiates: the weighted sum of a (value, weight) pair, or the sum."""
    if not isinstance(result, Tensor) and len(result) == 2 and result[0].shape == result[1].shape:
        return (result[0] * result[1].detach()).sum()
    return sum((part.sum() for part in outputs(result) if part.is_floating_point()), torch.zeros(()).double())


def gradients(case: Case, call: Call) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """The result and the gradients of its total in the differentiable arguments."""
    leaves = {name: call[name].detach().clone().requires_grad_() for name in case.differentiable}
    result = case.objective(**{**call, **leaves})
    if leaves:
        sum_of_all = total(result)
        if sum_of_all.requires_grad:
            sum_of_all.backward()
    return tuple(part.detach() for part in outputs(result)), {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()
    }


def check_gradient_is_slope(case: Case) -> None:
    """Gradients equal finite differences in float64."""
    if not case.differentiable or case.stops_gradients:
        return
    call = case.make(4)
    leaves = [call[name].clone().requires_grad_() for name in case.differentiable]

    def value(*args: Tensor) -> Tensor:
        return total(case.objective(**{**call, **dict(zip(case.differentiable, args, strict=True))}))

    assert torch.autograd.gradcheck(value, leaves)
    slopes = torch.autograd.grad(value(*leaves), leaves, allow_unused=True)
    assert all(slope is not None and slope.abs().sum() > 0 for slope in slopes), "an argument without influence"


def check_constants_get_no_gradient(case: Case) -> None:
    """A tensor that a case does not call differentiable has a zero gradient, or none."""
    call = case.make(4)
    leaves = {
        name: value.clone().requires_grad_()
        for name, value in call.items()
        if isinstance(value, Tensor) and value.is_floating_point() and name not in case.differentiable
    }
    result = total(case.objective(**{**call, **leaves}))
    if leaves and result.requires_grad:
        for name, slope in zip(
            leaves, torch.autograd.grad(result, list(leaves.values()), allow_unused=True), strict=True
        ):
            assert slope is None or (slope == 0).all(), f"{name} gets a gradient"


def check_float_types(case: Case) -> None:
    """Every float type works; reductions happen in float32 at least, or the type is kept; values are near the exact ones."""
    call = case.make(4)
    exact = outputs(case.objective(**call))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if dtype != torch.float32 and case.low_precision is None:
            continue
        lower = {
            name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in call.items()
        }
        rounded = {
            name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in lower.items()
        }
        reference = outputs(case.objective(**rounded))
        tolerance = (case.low_precision or 16.0) * torch.finfo(dtype).eps
        for ours, true, original in zip(outputs(case.objective(**lower)), reference, exact, strict=True):
            if original.is_floating_point():
                assert ours.dtype in (dtype, torch.float32), f"{dtype} became {ours.dtype}"
            torch.testing.assert_close(ours.double(), true.double(), rtol=tolerance, atol=tolerance)


def check_extremes(case: Case) -> None:
    """Inputs of +-1e4, in every combination of signs, have finite values and gradients."""
    for signs in product((1.0, -1.0), repeat=len(case.extreme)):
        call = case.make(3)
        for dtype in (torch.float32, torch.float64):
            huge = {
                name: torch.full_like(call[name], sign * 1e4, dtype=dtype)
                for name, sign in zip(case.extreme, signs, strict=True)
            }
            cast = {
                name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
                for name, value in call.items()
            }
            values, slopes = gradients(case, {**cast, **huge})
            assert all(value.isfinite().all() for value in values), f"{dict(zip(case.extreme, signs, strict=True))}"
            assert all(slope.isfinite().all() for slope in slopes.values())


def check_rows_are_apart(case: Case) -> None:
    """A row's value and gradient are the same alone as beside others, and go along when rows change places."""
    if case.batch_statistics:
        return
    axis, call = row_axis(case), case.make(5)
    values, slopes = gradients(case, call)
    for rows in ([0, 1], [2], [4, 3, 2, 1, 0]):
        part_values, part_slopes = gradients(case, select(case, call, rows, axis))
        for part, whole in zip(part_values, values, strict=True):
            torch.testing.assert_close(part, whole[rows] if whole.dim() else whole, rtol=1e-9, atol=1e-12)
        for name, slope in part_slopes.items():
            axes = next(argument.axes for argument in case.entry.tensors if argument.name == name)
            if axes[0] == axis:
                torch.testing.assert_close(slope, slopes[name][rows], rtol=1e-9, atol=1e-12)


def check_exchange(case: Case) -> None:
    """Entries of a group may change places."""
    if case.exchangeable is None:
        return
    axis, call = case.exchangeable, case.make(3)
    argument = next(a for a in case.entry.tensors if axis in a.axes)
    count = call[argument.name].shape[argument.axes.index(axis)]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1)).tolist()
    for whole, moved in zip(
        outputs(case.objective(**call)), outputs(case.objective(**select(case, call, order, axis))), strict=True
    ):
        goes_along = whole.dim() > 1 and whole.shape[1] == count
        torch.testing.assert_close(moved, whole[:, order] if goes_along else whole, rtol=1e-9, atol=1e-12)


def check_masks_delete(case: Case) -> None:
    """What a mask hides has no influence and no gradient, not even as NaN or infinity; with all hidden, all is finite."""
    for mask_name, hidden_names in case.masks.items():
        call = case.make(4)
        mask = call[mask_name]
        assert not mask.all(), f"{mask_name} of the case hides nothing"
        clean_values, clean_slopes = gradients(case, call)
        for hidden in HIDDEN:
            dirty = {
                **call,
                **{name: torch.where(_over(mask, call[name]), call[name], hidden) for name in hidden_names},
            }
            values, slopes = gradients(case, dirty)
            for ours, clean in zip(values, clean_values, strict=True):
                torch.testing.assert_close(ours, clean, rtol=1e-9, atol=1e-12)
            for name, slope in slopes.items():
                torch.testing.assert_close(slope, clean_slopes[name], rtol=1e-9, atol=1e-12)
                if name in hidden_names:
                    assert (slope[~_over(mask, slope).expand_as(slope)] == 0).all(), (
                        f"{name} has a gradient where {mask_name} hides it"
                    )
            nothing = {**dirty, mask_name: torch.zeros_like(mask)}
            nothing |= {name: torch.full_like(call[name], hidden) for name in hidden_names}
            values, slopes = gradients(case, nothing)
            assert all(value.isfinite().all() for value in values), "all masked: not finite"
            assert all((slopes[name] == 0).all() for name in hidden_names if name in slopes)


def _over(mask: Tensor, values: Tensor) -> Tensor:
    """A mask [N, T] over values [N, T] or [N, T, V]."""
    return mask.reshape(*mask.shape, *[1] * (values.dim() - mask.dim()))


def check_empty_batch(case: Case) -> None:
    """A batch without rows gives a result without rows."""
    if case.batch_statistics:
        return
    for value in outputs(case.objective(**select(case, case.make(2), [], row_axis(case)))):
        assert value.numel() == 0 or value.isfinite().all()


def check_errors(case: Case) -> None:
    """Shapes that do not fit and settings out of range are errors that name the argument."""
    call = case.make(3)
    given = [argument for argument in case.entry.tensors if isinstance(call.get(argument.name), Tensor)]
    for number, argument in enumerate(given):
        value = call[argument.name]
        if not any(axis.startswith(("*", "...")) for axis in argument.axes):
            with pytest.raises(ValueError, match=rf"^{argument.name}: expected shape"):
                case.objective(**{**call, argument.name: value[None]})
        earlier = {axis for other in given[:number] for axis in other.axes}
        if value.dim() and argument.axes[0] in earlier:
            with pytest.raises(ValueError, match=rf"^{argument.name}: expected shape"):
                case.objective(**{**call, argument.name: torch.cat([value, value])})
    for name, values in case.invalid.items():
        for value in values:
            # the tests' type checker is ahead of the objective where a setting is one of several words
            error, message = (
                ((ValueError, TypeCheckError), name) if isinstance(value, str) else (ValueError, f"^{name}: ")
            )
            with pytest.raises(error, match=message):
                case.objective(**{**call, name: value})


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_gradient_is_slope,
    check_constants_get_no_gradient,
    check_float_types,
    check_extremes,
    check_rows_are_apart,
    check_exchange,
    check_masks_delete,
    check_empty_batch,
    check_errors,
)
