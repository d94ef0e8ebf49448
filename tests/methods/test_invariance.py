"""The suite that every method passes: a step's loss, gradient and metrics do not depend on how its examples were cut.

Micro-batches of one hold no padding at all, and one of all examples pads everything to the longest, so their agreement is
also the invariance to padding. A method that is added to `worlds.CASES` is tested here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .two_processes import CUTS
from .worlds import CASES, LENGTHS, Stepped, one_step

methods = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory) -> dict[str, Stepped]:
    """Each method's step on all examples at once."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: one_step(name, tiny_model, folder / name) for name in CASES}


@pytest.fixture(scope="module")
def processes(tiny_model, tmp_path_factory, two_processes) -> Path:
    """The same on two processes: starting them costs 10 s, of which imports are most, so they are started once."""
    folder = tmp_path_factory.mktemp("two-processes")
    two_processes("methods.two_processes", folder, tiny_model)
    return folder


def assert_same(step: Stepped, expected: Stepped) -> None:
    """Equal up to float32's rounding, which is relative to the size of the whole gradient."""
    rounding = 1e-5 * max(1.0, expected.metrics["gradient_norm"])
    assert step.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-5)
    for one, other in ((step.gradients, expected.gradients), (step.weights, expected.weights)):
        assert one.keys() == other.keys()
        for name, value in other.items():
            torch.testing.assert_close(
                one[name], value, rtol=1e-4, atol=rounding, msg=lambda text, name=name: f"{name}: {text}"
            )


@methods
def test_there_is_something_to_compare(whole, name):
    """The loss has a gradient everywhere, and no two cases share theirs."""
    step = whole[name]
    assert min(value.abs().max() for value in step.gradients.values()) > 1e-4
    assert step.metrics["gradient_norm"] > 1e-2
    losses = [other.metrics["loss"] for other in whole.values()]
    assert len({round(loss, 4) for loss in losses}) == len(losses)


@methods
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_size_of_a_micro_batch(tiny_model, tmp_path, whole, name, size):
    assert_same(one_step(name, tiny_model, tmp_path, size=size), whole[name])


@methods
@pytest.mark.parametrize("tokens", [1, 60, 200])
def test_a_budget_of_tokens(tiny_model, tmp_path, whole, name, tokens):
    """Every example alone, some together, and almost all."""
    assert_same(one_step(name, tiny_model, tmp_path, tokens=tokens), whole[name])


@methods
@pytest.mark.parametrize("size", [2, 100])
def test_the_order_in_the_batch(tiny_model, tmp_path, whole, name, size):
    """In micro-batches of two, other neighbours also mean other padding: long ones beside short ones, or beside each other."""
    order = [5, 3, 1, 6, 0, 2, 4]
    assert sorted(order) == list(range(len(LENGTHS)))
    assert_same(one_step(name, tiny_model, tmp_path, size=size, order=order), whole[name])


@methods
@pytest.mark.parametrize("cut", CUTS)
def test_the_number_of_processes(processes, whole, name, cut):
    """Seven examples on two processes: one of them has an example less."""
    found = Stepped(
        load_file(processes / f"{name}-{cut}-gradients.safetensors"),
        load_file(processes / f"{name}-{cut}-weights.safetensors"),
        json.loads((processes / f"{name}-{cut}-metrics.json").read_text()),
    )
    assert_same(found, whole[name])
