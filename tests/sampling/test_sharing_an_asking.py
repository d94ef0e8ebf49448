"""Two processes share the contexts of an asking, and get what one gets; a failure of one is a failure of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plaudit.policies.rows import new_rows, skip_rows
from plaudit.sharing import own_part, together
from plaudit.training import RunFolder

from .two_processes import CASES, CONTEXTS, Noting, Remembering, gathered, learned, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, two_processes) -> Path:
    """All that two processes do: starting them costs 10 s, of which imports are most, so they are started once."""
    folder = tmp_path_factory.mktemp("two-processes")
    two_processes("sampling.two_processes", folder, tiny_model)
    return folder


def said(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"said-{rank}.json").read_text())


def as_read(value) -> dict:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", CASES)
def test_every_process_gets_the_rollouts_of_one(folder, tiny_model, name):
    make, options = CASES[name]
    alone = as_read(gathered(load(tiny_model), make(), **options))
    one, two = said(folder, 0)[name], said(folder, 1)[name]
    assert one["rollouts"] == two["rollouts"]
    assert len(one["rollouts"]) == len(alone["rollouts"]) > 0
    for mine, theirs in zip(alone["rollouts"], one["rollouts"], strict=True):
        assert theirs.pop("log_prob") == pytest.approx(mine.pop("log_prob"), abs=1e-4)
        for number in ("reward", "greedy_reward"):
            assert theirs.pop(number) == pytest.approx(mine.pop(number), abs=1e-6)
        assert theirs == {**mine, "components": pytest.approx(mine["components"], abs=1e-6)}
    for part in ("dropped", "reasons", "next"):
        assert one[part] == two[part] == alone[part]


def test_each_process_judges_its_own_contexts(folder, tiny_model):
    reward = Noting()
    gathered(load(tiny_model), reward)
    first, second = said(folder, 0)["plain"]["asked"], said(folder, 1)["plain"]["asked"]
    assert first + second == reward.asked
    assert len(first) == 2 * 3
    assert len(second) == 3 * 3


def test_a_reward_that_remembers_judges_all_in_every_process(folder, tiny_model):
    """Else its statistics would be those of one process's outputs."""
    reward = Remembering()
    gathered(load(tiny_model), reward)
    for rank in (0, 1):
        found = said(folder, rank)["remembering"]
        assert found["asked"] == reward.asked
        assert found["state"]["count"] == reward.count
        assert found["state"]["mean"] == pytest.approx(reward.mean)


@pytest.mark.parametrize(("name", "failed"), [("first-fails", 0), ("second-fails", 1)])
def test_a_failure_of_one_process_is_said_in_the_other_and_keeps_it_waiting_for_nothing(folder, name, failed):
    assert said(folder, failed)[name] == "ValueError: the engine is gone"
    other = said(folder, 1 - failed)[name]
    assert other == f"TrainingError: The work of process {failed} failed: ValueError: the engine is gone"


def test_two_processes_learn_what_one_learns(folder, tiny_model, tmp_path):
    weights, rows = learned(tiny_model, tmp_path / "run")
    one, two = (load_file(folder / f"learned-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert max(value.abs().max() for value in weights.values()) > 1e-3
    for name, value in weights.items():
        torch.testing.assert_close(one[name], value, rtol=1e-3, atol=1e-4)
    together_rows = RunFolder(folder / "run").metrics()
    for mine, theirs in zip(rows, together_rows, strict=True):
        for name in (
            "loss",
            "sampled_reward",
            "not_judged",
            "not_judged.could_not_judge",
            "left_out.in_too_small_a_group",
        ):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-6)


def test_one_process_has_all_of_the_work(tiny_model):
    assert own_part(5) == range(5)
    assert together(lambda: 3) == [3]
    assert len(CONTEXTS) == 5


@pytest.mark.parametrize("place", range(4))
def test_rows_that_are_skipped_leave_the_others_their_random_numbers(place):
    contexts = [(1, 2), (3,), (4, 5, 6)]
    whole = new_rows(contexts, 2, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    skip_rows(place * 2, generator)
    part = new_rows(contexts[place:], 2, generator)
    expected = [row.uniform.random() for row in whole[place * 2 :]]
    assert [row.uniform.random() for row in part] == expected
