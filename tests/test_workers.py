"""Real processes that hang, crash, exit, flood and lie: each costs one call, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from plaudit.errors import ConfigError
from plaudit.feedback.records import Context, Output
from plaudit.workers import Workers
from worker_functions import length, obey

CONTEXT = Context(content="?")
LIMIT_S = 1.5


@pytest.fixture(scope="module")
def workers():
    with Workers(obey, count=2, time_limit_s=LIMIT_S, memory_bytes=4 << 30) as found:
        yield found


def ask(workers: Workers, *commands: str):
    futures = [workers.submit(CONTEXT, Output(content=command)) for command in commands]
    return [future.result(60) for future in futures]


def gone(pid: int) -> bool:
    """Within two seconds."""
    for _ in range(200):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or ") Z " in stat.read_text():
            return True
        time.sleep(0.01)
    return False


FAILURES = {
    "hang": ("time limit", "took longer than 1.5 s"),
    "stubborn": ("time limit", "took longer than 1.5 s"),
    "crash": ("worker died", r"ended the worker \(signal SIGSEGV\)"),
    "exit": ("worker died", r"ended the worker \(exit code 3\)"),
    "sys.exit": ("raised", r"raised SystemExit \(4\)"),
    "raise oh no": ("raised", r"raised ValueError \(oh no\)"),
    "verbose": ("raised", r"raised ValueError \(x{500}\)"),
    "string": ("unusable answer", "gave an object of type str, and a number was expected"),
    "list": ("unusable answer", "gave an object of type list"),
    "hostile": ("unusable answer", "gave an object of type Hostile"),
    "huge": ("unusable answer", "gave an object of type str"),
    "bignum": ("unusable answer", "gave an object of type int"),
    "memory": ("raised", "raised MemoryError"),
    "nonsense": ("unusable answer", "answered nonsense"),
    "flood": ("unusable answer", "answered nonsense: more than 65536 bytes"),
    "pickle": ("unusable answer", "answered nonsense"),
}


@pytest.mark.parametrize("command", FAILURES)
def test_what_goes_wrong_in_a_worker_costs_one_call_and_says_why(workers, command):
    before, bad, after = ask(workers, "number 1", command, "number 2")
    failure, reason = FAILURES[command]
    assert (before.value, after.value) == (1, 2)
    assert bad.value is None
    assert bad.failure == failure
    assert re.match(reason, bad.reason), bad.reason


def test_a_worker_that_forks_cannot_pass_one_answer_off_for_two():
    """The call after it may find two answers and then is not judged; it never takes another's."""
    with Workers(obey, count=1, time_limit_s=LIMIT_S) as workers:
        values = [outcome.value for outcome in ask(workers, *["fork", "number 7", "number 8"] * 4)]
    assert set(values[::3]) <= {1, None}
    assert set(values[1::3]) <= {7, None}
    assert values[2::3] == [8] * 4


def test_answers_belong_to_their_calls_whatever_order_they_come_in(workers):
    commands = ["slow 0.4", "number 1", "slow 0.2", "number 2", "none", "nan", "number 3"]
    values = [outcome.value for outcome in ask(workers, *commands)]
    assert values[:5] == [0.4, 1, 0.2, 2, None]
    assert values[5] != values[5]
    assert values[6] == 3


def test_a_hanging_call_does_not_hold_up_the_other_worker(workers):
    hanging = workers.submit(CONTEXT, Output(content="hang"))
    started = time.monotonic()
    assert ask(workers, "number 1")[0].value == 1
    assert time.monotonic() - started < LIMIT_S / 2
    assert not hanging.done()
    assert hanging.result(60).failure == "time limit"


def test_a_worker_ends_with_all_that_it_started(workers, tmp_path):
    assert ask(workers, f"child {tmp_path / 'pid'}")[0].failure == "time limit"
    assert gone(int((tmp_path / "pid").read_text()))


def test_closing_ends_calls_that_run_and_calls_that_wait():
    with Workers(obey, count=1, time_limit_s=600) as workers:
        (pid,) = ask(workers, "pid")
        futures = [workers.submit(CONTEXT, Output(content=command)) for command in ("hang", "number 1")]
        time.sleep(0.1)
    assert [future.result(10).failure for future in futures] == ["worker died", "no worker"]
    assert gone(int(pid.value))
    with pytest.raises(RuntimeError, match="were closed"):
        workers.submit(CONTEXT, Output(content="number 1"))


def test_forgotten_workers_end():
    workers = Workers("worker_functions:obey", count=1, time_limit_s=5)
    pid = int(ask(workers, "pid")[0].value)
    del workers
    assert gone(pid)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", r"'no_such_module:f' cannot be called in a worker: ModuleNotFoundError"),
        ("worker_functions:f", "AttributeError"),
        ("worker_functions:CONSTANT", "AttributeError"),
        ("sys:path", "TypeError .sys:path is not callable"),
        ("length", "function: expected \"module:name\" or a callable, got 'length'"),
        (lambda context, output: 0.0, "which pickle refuses .*Define it at the top of a module"),
    ],
    ids=["module", "name", "constant", "no function", "no colon", "lambda"],
)
def test_a_function_that_no_worker_can_call_is_said_at_once(function, message):
    with pytest.raises(ConfigError, match=message):
        Workers(function, count=1, time_limit_s=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count: expected a whole number >= 1, got 0"),
        ({"time_limit_s": 0}, "time_limit_s: expected seconds > 0, got 0"),
        ({"time_limit_s": float("nan")}, "time_limit_s: expected seconds > 0, got nan"),
        ({"memory_bytes": 0}, "memory_bytes: expected a number >= 1, or nothing, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(ConfigError, match=message):
        Workers(length, **{"count": 1, "time_limit_s": 1, **settings})


SCRIPT = """
import signal, sys, time
from plaudit.feedback.records import Context, Output
from plaudit.workers import Workers

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without
    workers = Workers("worker_functions:obey", count=2, time_limit_s=float(sys.argv[1]))
    ask = lambda text: workers.submit(Context(content="?"), Output(content=text))
    pids = [int(ask("pid").result(30).value)]
    futures = [ask("stubborn") for _ in range(6)]
    time.sleep(0.5)  # by now they ignore signals
    print(*pids, flush=True)
    futures[-1].result()
"""


def started(tmp_path, limit_s: float) -> tuple[subprocess.Popen, int]:
    """A program, in a process group of its own, that waits for workers that hang; and a worker of it."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    program = subprocess.Popen(
        [sys.executable, str(script), str(limit_s)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return program, int(program.stdout.readline())


def test_ctrl_c_ends_the_program_and_its_workers_at_once(tmp_path):
    program, worker = started(tmp_path, 600)
    os.killpg(program.pid, signal.SIGINT)
    try:
        _, errors = program.communicate(timeout=10)
    finally:
        program.kill()
    assert errors.count("KeyboardInterrupt") == 1, errors
    assert gone(worker)


def test_a_call_whose_program_was_killed_ends_at_its_limit(tmp_path):
    """Which takes the limit and a second."""
    program, worker = started(tmp_path, 1)
    program.kill()
    program.communicate(timeout=10)
    time.sleep(1)
    assert gone(worker)
