"""The cache between runs: nothing twice, nothing of other weights, and nothing lost but time when its file is."""

from __future__ import annotations

import multiprocessing
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from plaudit import disk_cache
from plaudit.errors import PolicyError
from plaudit.policies import CausalLM, LoRA, Reference, ReferenceCache

from .conftest import perturb, random_sequences

SEQUENCES = random_sequences(7)
VALUES = {bytes([number]) * 20: torch.linspace(-number - 1, -0.125, number) for number in range(5)}


def load(model, **settings) -> CausalLM:
    return CausalLM.load(model, dtype="float32", **settings)


def counted(policy: CausalLM, monkeypatch) -> list[int]:
    """Sizes of the forward passes from now on."""
    passes: list[int] = []
    original = policy.log_prob_of
    monkeypatch.setattr(policy, "log_prob_of", lambda batch: passes.append(len(batch)) or original(batch))
    return passes


def same(found: dict[bytes, torch.Tensor], expected: dict[bytes, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(value, expected[key]) for key, value in found.items())


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "deep" / "reference.db"


@pytest.fixture
def told(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(disk_cache.console, "print", lambda text, **_: said.append(text))
    return said


# --- what a reference takes from it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["full", "lora"])
def test_nothing_is_computed_twice_over_two_runs(tiny_model, file, monkeypatch, lora):
    first = load(tiny_model, lora=lora)
    passes = counted(first, monkeypatch)
    reference = Reference(first, batch_size=4, shared=ReferenceCache(file))
    reference.prepare(SEQUENCES[:5])
    assert passes == [4, 1]
    second = load(tiny_model, lora=lora)
    passes = counted(second, monkeypatch)
    again = Reference(second, batch_size=4, shared=ReferenceCache(file))
    finished: list[int] = []
    again.prepare([*SEQUENCES, SEQUENCES[0]], progress=finished.append)
    assert passes == [2]
    assert finished == [6, 2]
    assert torch.equal(again.log_prob_of(SEQUENCES[:5]).per_step, reference.log_prob_of(SEQUENCES[:5]).per_step)
    third = load(tiny_model, lora=lora)
    passes = counted(third, monkeypatch)
    Reference(third, shared=ReferenceCache(file)).prepare(SEQUENCES)
    assert passes == []


def test_all_adapters_over_the_same_weights_share_it(tiny_model, file, monkeypatch):
    Reference(load(tiny_model), shared=ReferenceCache(file)).prepare(SEQUENCES)
    moved = perturb(load(tiny_model, lora=LoRA(rank=3, targets=("q_proj",)), seed=5))
    passes = counted(moved, monkeypatch)
    Reference(moved, shared=ReferenceCache(file)).prepare(SEQUENCES)
    assert passes == []


def changed_weight(model) -> CausalLM:
    policy = load(model)
    with torch.no_grad():
        weight = policy.model.model.layers[1].mlp.up_proj.weight
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(9.0))  # by its last bit
    return policy


def changed_configuration(model) -> CausalLM:
    policy = load(model)
    policy.model.config.rms_norm_eps *= 2
    return policy


@pytest.mark.parametrize(
    "other",
    [changed_weight, changed_configuration, lambda model: CausalLM.load(model, dtype="bfloat16")],
    ids=["weight", "configuration", "type"],
)
def test_values_of_another_function_are_never_taken(tiny_model, file, monkeypatch, other):
    Reference(load(tiny_model), shared=ReferenceCache(file)).prepare(SEQUENCES)
    policy = other(tiny_model)
    passes = counted(policy, monkeypatch)
    Reference(policy, batch_size=4, shared=ReferenceCache(file)).prepare(SEQUENCES)
    assert passes == [4, 3]


def test_under_full_fine_tuning_moved_weights_neither_take_nor_give(tiny_model, file, monkeypatch):
    policy = load(tiny_model)
    reference = Reference(policy, shared=ReferenceCache(file))
    perturb(policy)
    with pytest.raises(PolicyError, match="weights have changed"):
        reference.prepare(SEQUENCES)
    assert not file.exists()


def test_a_runs_own_file_wins(tiny_model, file, tmp_path, monkeypatch):
    """So that a resumed run sees the same bits, whatever other runs wrote meanwhile."""
    policy = load(tiny_model)
    own = Reference(policy)
    own.prepare(SEQUENCES)
    own.save(tmp_path / "own.safetensors")
    other = Reference(policy, shared=ReferenceCache(file))
    other.prepare(SEQUENCES)
    with sqlite3.connect(file) as database:
        database.execute("UPDATE kept SET value = zeroblob(length(value)), checksum = 0")
    database.close()
    resumed = Reference(policy, shared=ReferenceCache(file))
    resumed.load(tmp_path / "own.safetensors")
    passes = counted(policy, monkeypatch)
    assert torch.equal(resumed.log_prob_of(SEQUENCES).per_step, own.log_prob_of(SEQUENCES).per_step)
    assert passes == []


def test_without_a_file_there_is_no_trace(tiny_model, cache_folder):
    before = sorted(cache_folder.iterdir())
    Reference(load(tiny_model)).prepare(SEQUENCES)
    assert sorted(cache_folder.iterdir()) == before


def test_the_file_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PLAUDIT_CACHE", str(tmp_path / "here"))
    assert ReferenceCache().path == tmp_path / "here" / "reference.db"
    monkeypatch.delenv("PLAUDIT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ReferenceCache().path == tmp_path / "home" / ".cache" / "plaudit" / "reference.db"


# --- the file -------------------------------------------------------------------------------------------------------


def test_what_is_read_is_what_was_written(file):
    ReferenceCache(file).put(VALUES)
    assert same(ReferenceCache(file).get([*VALUES, b"another"]), VALUES)
    assert ReferenceCache(file).get([]) == {}


def test_a_value_that_is_not_what_was_written_is_not_there(file):
    ReferenceCache(file).put(VALUES)
    wrong, *right = VALUES
    with sqlite3.connect(file) as database:
        database.execute("UPDATE kept SET checksum = checksum + 1 WHERE key = ?", (wrong,))
    database.close()
    assert same(ReferenceCache(file).get(list(VALUES)), {key: VALUES[key] for key in right})
    ReferenceCache(file).put({wrong: VALUES[wrong]})
    assert same(ReferenceCache(file).get(list(VALUES)), VALUES)


def test_beyond_its_size_what_was_used_longest_ago_is_removed(file, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(disk_cache.time, "time", lambda: next(clock))
    cache = ReferenceCache(file, most_bytes=400_000)
    rows = {bytes([number]) * 20: torch.full((2000,), -1.0 - number) for number in range(100)}
    keys = list(rows)
    for key in keys:
        cache.put({key: rows[key]})
        cache.get(keys[:3])
    found = cache.get(keys)
    assert set(keys[:3]) <= found.keys()
    assert keys[-1] in found
    kept = [key in found for key in keys[3:]]
    assert kept == sorted(kept)  # the older ones are gone
    assert 30 < len(found) < 50  # 8 kB each
    assert file.stat().st_size < 600_000


@pytest.mark.parametrize("damage", ["no database", "cut", "torn"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(file, told, damage):
    cache = ReferenceCache(file)
    rows = {bytes([number]) * 20: torch.full((2000,), -1.0) for number in range(50)}
    cache.put(rows)
    content = file.read_bytes()
    if damage == "no database":
        file.write_bytes(b"something else " * 100)
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    assert cache.get(list(rows)) == {}
    cache.put(VALUES)
    assert same(cache.get(list(VALUES)), VALUES)
    assert told == [
        (
            "[yellow]The cache of reference log-probabilities was damaged: it lies in "
            f"{file}.damaged now, and a new one is begun.[/yellow]"
        )
    ]
    assert Path(f"{file}.damaged").is_file()


@pytest.mark.parametrize("obstacle", ["file in the way", "no such device", "locked", "full"])
def test_where_it_cannot_be_work_goes_on_and_it_is_said_once(file, told, monkeypatch, obstacle, policy):
    cache = ReferenceCache(file, wait_s=0.05)
    blocking = None
    if obstacle == "file in the way":
        file.parent.write_text("a file")
    elif obstacle == "no such device":
        cache.path = Path("/proc/plaudit/reference.db")
    elif obstacle == "locked":
        cache.put(VALUES)
        blocking = sqlite3.connect(file)
        blocking.execute("BEGIN EXCLUSIVE")
    else:
        original = cache._connect

        def nearly_full() -> sqlite3.Connection:
            database = original()
            database.execute("PRAGMA max_page_count = 1")
            return database

        monkeypatch.setattr(cache, "_connect", nearly_full)
        monkeypatch.setattr(disk_cache, "_SCHEMA", ("CREATE TABLE IF NOT EXISTS kept (a, b, c, d)",))
        cache.put({b"k": torch.zeros(100_000)})
    reference = Reference(policy, shared=cache)
    assert torch.equal(reference.log_prob_of(SEQUENCES).per_step, Reference(policy).log_prob_of(SEQUENCES).per_step)
    assert cache.get(list(VALUES)) == {}
    if blocking is not None:
        blocking.close()
    assert len(told) == 1
    assert told[0].startswith(f"[yellow]Going on without the cache of reference log-probabilities in {cache.path}: ")
    assert told[0].endswith("Set PLAUDIT_CACHE to a folder that can be written.[/yellow]")


WRITER = """
import sys, torch
from pathlib import Path
from plaudit.policies import ReferenceCache
number, cache = int(sys.argv[2]), ReferenceCache(Path(sys.argv[1]))
while not Path(sys.argv[1]).with_name("start").exists():
    pass
for row in range(60):
    own, common = bytes([number, row]) * 10, bytes([9, row]) * 10
    cache.put({own: torch.full((300,), -1.0 * row), common: torch.full((300,), -2.0 * row)})
    found = cache.get([own, common])
    assert found[own][0] == -row and found[common][0] == -2 * row, row
"""


@pytest.mark.slow
def test_two_processes_write_at_once(file):
    """About 6 s: two interpreters import torch. Both begin on a file that is not there yet."""
    file.parent.mkdir(parents=True)
    command = [sys.executable, "-c", WRITER, str(file)]
    processes = [
        subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
        for number in range(2)
    ]
    time.sleep(4)
    (file.parent / "start").touch()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Going on without" not in errors
    keys = [bytes([number, row]) * 10 for number in (0, 1, 9) for row in range(60)]
    assert len(ReferenceCache(file).get(keys)) == 180


def write_for_ever(path: str) -> None:
    cache = ReferenceCache(Path(path))
    number = 0
    while True:
        cache.put({number.to_bytes(4, "little") * 5: torch.full((1000,), -float(number))})
        number += 1


def test_a_writer_that_is_killed_leaves_whole_transactions(file, told):
    process = multiprocessing.get_context("spawn").Process(target=write_for_ever, args=(str(file),))
    process.start()
    key = (40).to_bytes(4, "little") * 5
    deadline = time.monotonic() + 60
    while not (file.exists() and ReferenceCache(file).get([key])):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.join()
    found = ReferenceCache(file).get([number.to_bytes(4, "little") * 5 for number in range(41)])
    assert len(found) == 41
    assert all(bool((value == -number).all()) for number, value in enumerate(found.values()))
    assert told == []
