"""What an objective was given: shapes as its signature says, settings within their range; every error names the argument."""

from __future__ import annotations

import inspect
import itertools
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorArgument:
    """One tensor of a signature: its name, its position, its axes by name, and the types of number it may hold.

    An axis that begins with ``#`` may also have length 1; ``...`` and names that begin with ``*`` stand for any axes, and the
    axes after one of these are not checked.
    """

    name: str
    position: int
    axes: tuple[str, ...]
    dtypes: tuple[str, ...]
    optional: bool


def tensor_arguments(function: Callable[..., Any]) -> tuple[TensorArgument, ...]:
    """The arguments that a signature annotates with jaxtyping's shapes, in order."""
    hints = typing.get_type_hints(inspect.unwrap(function))
    found = []
    for position, name in enumerate(inspect.signature(function).parameters):
        hint = hints.get(name)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        members = typing.get_args(hint) if is_union else (hint,)
        for member in members:
            if hasattr(member, "dim_str"):
                axes, dtypes = tuple(member.dim_str.split()), tuple(member.dtypes)
                found.append(TensorArgument(name, position, axes, dtypes, optional=len(members) > 1))
    return tuple(found)


def check_shapes(arguments: tuple[TensorArgument, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Hold the tensors of a call against the signature; an axis has one length in the whole call.

    Raises:
        TypeError: an argument is no tensor, or holds another type of number.
        ValueError: an argument has another shape.
    """
    lengths: dict[str, tuple[int, str]] = {}
    for argument in arguments:
        value = args[argument.position] if argument.position < len(args) else kwargs.get(argument.name)
        if not isinstance(value, Tensor):
            if argument.optional or (value is None and argument.name not in kwargs):
                continue  # None or a plain number, which the signature allows; or Python says that it is missing
            raise TypeError(f"{argument.name}: expected a tensor [{' '.join(argument.axes)}], got {value!r:.80}")
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in argument.dtypes:
            kind = "bool" if "bool" in argument.dtypes else "float" if "float32" in argument.dtypes else "int"
            raise TypeError(f"{argument.name}: expected a {kind} tensor, got {dtype}")
        _check_axes(argument, tuple(value.shape), lengths)


def _check_axes(argument: TensorArgument, shape: tuple[int, ...], lengths: dict[str, tuple[int, str]]) -> None:
    axes = argument.axes
    named = list(itertools.takewhile(lambda axis: not axis.startswith(("*", "...")), axes))
    fits = len(named) == len(shape) if len(named) == len(axes) else len(named) <= len(shape)
    reason = ""
    for axis, length in zip(named, shape, strict=False):
        name = axis.lstrip("#")
        if axis.startswith("#") and length == 1:
            continue
        expected, owner = (int(name), "") if name.isdigit() else lengths.setdefault(name, (length, argument.name))
        if length != expected:
            fits = False
            reason = reason or (f"; {owner} has {name} = {expected}" if owner else "")
    if not fits:
        raise ValueError(f"{argument.name}: expected shape [{' '.join(axes)}], got {list(shape)}{reason}")


def check_positive(name: str, value: float) -> None:
    """Raise unless the setting is a finite number > 0."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a number > 0, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Raise unless the setting is a finite number >= 0."""
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected a number >= 0, got {value}")


def check_share(name: str, value: float, *, below: float = 1.0) -> None:
    """Raise unless the setting is a share in [0, `below`]; a `below` under 1 is itself excluded."""
    inside = 0 <= value < below if below < 1 else 0 <= value <= 1
    if not inside:
        bracket = "]" if below >= 1 else ")"
        raise ValueError(f"{name}: expected a share in [0, {below:g}{bracket}, got {value}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise unless the setting is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def check_group(name: str, values: Tensor, *, at_least: int) -> None:
    """Raise unless every group (a row of the last axis) has room for so many outputs.

    Masks may still leave a single group with fewer; what happens then is said by the objective.
    """
    if values.shape[-1] < at_least:
        raise ValueError(f"{name}: expected groups of at least {at_least} outputs, got {values.shape[-1]}")


def widened(values: Tensor) -> Tensor:
    """The tensor in float32, or in its own type if that is wider: what sums and exponentials are taken in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def visible(values: Tensor, mask: Tensor | None) -> Tensor:
    """The tensor in float32 at least, 0 where it does not count, whatever stands there."""
    values = widened(values)
    return values if mask is None else torch.where(mask, values, 0)


def check_ddof(ddof: int) -> None:
    """Raise unless a standard deviation's degrees of freedom are those of a population (0) or of a sample (1)."""
    if ddof not in {0, 1}:
        raise ValueError(f"ddof: expected 0 or 1, got {ddof}")


def masked_mean(
    values: Tensor, mask: Tensor | None, dim: int | tuple[int, ...] = -1, *, keepdim: bool = False
) -> Tensor:
    """Mean over the entries of `dim` that count, in float32 at least; 0 where none does. What is masked may be NaN."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    if mask is None:
        return values.mean(dim, keepdim=keepdim, dtype=dtype)
    total = torch.where(mask, values, 0).sum(dim, keepdim=keepdim, dtype=dtype)
    return total / mask.sum(dim, keepdim=keepdim).clamp(min=1)
