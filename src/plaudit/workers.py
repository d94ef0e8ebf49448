"""Calls of a function in processes of their own, with a time limit each: what hangs, crashes or exits costs one call.

This module imports nothing heavy, so a worker starts in a moment unless the function itself needs more. Calls go out as
pickles and come back as JSON: whatever runs in a worker cannot make this process run anything. A worker leads a process
group of its own; Ctrl-C does not reach it, and it ends with all that it started.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import multiprocessing.util  # brings its exit handler, which must be there before ours
import os
import pickle
import queue
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from plaudit.errors import ConfigError

Failure = Literal["time limit", "worker died", "raised", "unusable answer", "no worker"]
START_LIMIT_S = 120.0
_LONGEST_REPLY = 1 << 16
_Job = tuple[bytes, Future["Outcome"]]
_PROCESSES = threading.Lock()  # multiprocessing loses an exit code where two threads look for it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call: a value, or how it failed and why, in words."""

    value: float | None
    failure: Failure | None = None
    reason: str = ""


class Workers:
    """Processes that call one function; a call gives a number, or None, and never takes longer than its limit.

    Args:
        function: ``"module:name"``, or a callable that pickle takes: it is imported again in the workers.
        count: processes, and so calls at a time.
        time_limit_s: for each call; then its worker is killed and another one takes its place.
        memory_bytes: the address space of a worker, at which allocations fail; None sets no limit.

    Raises:
        ConfigError: a setting is out of range, or the function cannot be sent to the workers or imported there.
    """

    def __init__(
        self,
        function: str | Callable[..., float | None],
        *,
        count: int,
        time_limit_s: float,
        memory_bytes: int | None = None,
    ) -> None:
        if count < 1:
            raise ConfigError(f"count: expected a whole number >= 1, got {count}")
        if not 0 < time_limit_s < threading.TIMEOUT_MAX:
            raise ConfigError(f"time_limit_s: expected seconds > 0, got {time_limit_s}")
        if memory_bytes is not None and memory_bytes < 1:
            raise ConfigError(f"memory_bytes: expected a number >= 1, or nothing, got {memory_bytes}")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        workers = [_Worker(_sendable(function), time_limit_s, memory_bytes) for _ in range(count)]
        self._close = weakref.finalize(self, _kill_all, self._jobs, workers)
        atexit.register(self._close)  # runs before multiprocessing's, which waits for workers that ignore SIGTERM
        for worker in workers:
            worker.begin()
        if (trouble := workers[0].await_start()) is not None:
            self.close()
            raise ConfigError(f"function: {function!r} cannot be called in a worker: {trouble}")
        for worker in workers:
            threading.Thread(target=_serve_jobs, args=(worker, self._jobs), daemon=True).start()

    def submit(self, *arguments: object) -> Future[Outcome]:
        """Begin a call; its future never raises."""
        if self._closed:
            raise RuntimeError("These workers were closed.")
        future: Future[Outcome] = Future()
        self._jobs.put((pickle.dumps(arguments), future))
        return future

    def close(self) -> None:
        """Kill the workers; calls that have not ended fail."""
        self._closed = True
        self._close()
        atexit.unregister(self._close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker:
    """One process at a time, and the conversation with it."""

    def __init__(self, function: bytes | str, limit_s: float, memory_bytes: int | None) -> None:
        self._function, self._limit_s, self._memory_bytes = function, limit_s, memory_bytes
        self._process: multiprocessing.process.BaseProcess | None = None
        self._number = 0
        self._ready = False
        self._retired = False

    def begin(self) -> None:
        """Start a process, without waiting for it."""
        with _PROCESSES:
            if self._retired:
                return
            self._socket, theirs = socket.socketpair()
            self._number, self._ready = 0, False
            # not fork: this process has threads, and a child would inherit their locks
            self._process = multiprocessing.get_context("forkserver").Process(
                target=_serve, args=(theirs, self._function, self._limit_s, self._memory_bytes), daemon=True
            )
            try:
                self._process.start()
            finally:
                theirs.close()

    def await_start(self) -> str | None:
        """Wait until the process has the function; otherwise why not."""
        if self._ready:
            return None
        trouble: str | None
        try:
            reply = self._receive(START_LIMIT_S)
            trouble = (
                None if reply == {"number": 0, "value": None} else str(reply.get("raised", "it answered nonsense"))
            )
        except TimeoutError:
            trouble = f"importing it took longer than {START_LIMIT_S:g} s"
        except (OSError, ValueError, RecursionError) as error:
            trouble = f"the worker died while importing it ({self._end() or error})"
        self._ready = trouble is None
        return trouble

    def call(self, arguments: bytes) -> Outcome:
        """One call; whatever goes wrong, the next one finds a worker."""
        if self._retired:
            return Outcome(None, "no worker", "the workers were closed")
        if not self._ready:
            if self._process is None:
                self.begin()
            if (trouble := self.await_start()) is not None:
                self.kill()
                return Outcome(None, "no worker", f"no worker could be started: {trouble}")
        self._number += 1
        try:
            self._socket.settimeout(self._limit_s)
            self._socket.sendall(len(arguments).to_bytes(8) + arguments)
            reply = self._receive(self._limit_s)
        except TimeoutError:
            outcome = Outcome(None, "time limit", f"took longer than {self._limit_s:g} s")
        except (ValueError, RecursionError) as error:
            outcome = Outcome(None, "unusable answer", f"answered nonsense: {error}")
        except OSError:
            outcome = Outcome(None, "worker died", f"ended the worker ({self._end()})")
        else:
            return self._read(reply)
        self._replace()
        return outcome

    def kill(self, *, retire: bool = False) -> None:
        """Kill the process and all that it started."""
        with _PROCESSES:
            self._retired |= retire
            process, self._process, self._ready = self._process, None, False
            if process is None or process.pid is None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # where it leads no group yet
            process.join(START_LIMIT_S)
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for it
            self._socket.close()

    def _read(self, reply: dict[str, Any]) -> Outcome:
        value = reply.get("value")
        sound = reply.get("number") == self._number and (value is None or type(value) is float)
        if not sound:
            self._replace()
            return Outcome(None, "unusable answer", "answered what was not asked")
        if "raised" in reply:
            return Outcome(None, "raised", f"raised {reply['raised']}")
        if "unusable" in reply:
            return Outcome(None, "unusable answer", f"gave {reply['unusable']}, and a number was expected")
        return Outcome(value)

    def _receive(self, limit_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        received = b""
        while not received.endswith(b"\n"):
            self._socket.settimeout(max(deadline - time.monotonic(), 1e-6))
            portion = self._socket.recv(_LONGEST_REPLY)
            if not portion:
                raise ConnectionResetError("the connection ended")
            received += portion
            if len(received) > _LONGEST_REPLY:
                raise ValueError(f"more than {_LONGEST_REPLY} bytes")
        reply = json.loads(received)
        if not isinstance(reply, dict):
            raise ValueError(f"expected an object, got {reply!r:.80}")
        return reply

    def _end(self) -> str:
        """How the process ended, in words."""
        with _PROCESSES:
            if self._process is None:
                return "it was closed"
            self._process.join(1)
            code = self._process.exitcode
        if code is None:
            return "it closed its connection"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _replace(self) -> None:
        self.kill()
        self.begin()


def _serve_jobs(worker: _Worker, jobs: queue.SimpleQueue[_Job | None]) -> None:
    """A thread's life: it holds no reference to `Workers`, so that forgotten workers end."""
    while (job := jobs.get()) is not None:
        arguments, future = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(worker.call(arguments))
        except Exception as error:  # noqa: BLE001 - such as no more processes; whoever waits must not wait for ever
            worker.kill()
            future.set_result(Outcome(None, "no worker", f"no worker could be started: {error}"))
    jobs.put(None)  # for the next thread


def _kill_all(jobs: queue.SimpleQueue[_Job | None], workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.kill(retire=True)
    jobs.put(None)


def _sendable(function: str | Callable[..., float | None]) -> bytes | str:
    if isinstance(function, str):
        module, separator, name = function.partition(":")
        if not (module and separator and name):
            raise ConfigError(f'function: expected "module:name" or a callable, got {function!r}')
        return function
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"function: expected a callable that a worker can import, got {function!r}, which pickle refuses ({error}). "
            'Define it at the top of a module, or name it as "module:name".'
        ) from error


# --- inside a worker ------------------------------------------------------------------------------------------------


def _serve(connection: socket.socket, function: bytes | str, limit_s: float, memory_bytes: int | None) -> None:
    os.setpgid(0, 0)
    if memory_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    stream = connection.makefile("rb")
    try:
        called = _load(function)
    except BaseException as error:  # noqa: BLE001 - reported where the function was given
        _reply(connection, 0, raised=_named(error))
        return
    _reply(connection, 0, value=None)
    number = 0
    while len(header := stream.read(8)) == 8:
        number += 1
        # Ends a call that outlives its limit where nobody is left to kill it: the default action needs no interpreter.
        signal.setitimer(signal.ITIMER_REAL, limit_s + 1)
        arguments = stream.read(int.from_bytes(header))
        try:
            value = called(*pickle.loads(arguments))  # noqa: S301 - comes from the process that started this one
        except BaseException as error:  # noqa: BLE001 - SystemExit, too, is no answer
            _reply(connection, number, raised=_named(error))
        else:
            _answer(connection, number, value)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(connection: socket.socket, number: int, value: object) -> None:
    try:
        if value is not None:
            if isinstance(value, str | bytes | bytearray):  # which float() would read
                raise TypeError
            value = float(value)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - a foreign object's conversion may raise anything
        _reply(connection, number, unusable=f"an object of type {type(value).__name__}")
    else:
        _reply(connection, number, value=value)


def _reply(connection: socket.socket, number: int, **said: object) -> None:
    connection.sendall(json.dumps({"number": number, **said}).encode() + b"\n")


def _named(error: BaseException) -> str:
    try:
        return f"{type(error).__name__} ({str(error)[:500]})"
    except Exception:  # noqa: BLE001 - a foreign error's text may raise anything
        return type(error).__name__


def _load(function: bytes | str) -> Callable[..., Any]:
    if isinstance(function, bytes):
        return pickle.loads(function)  # type: ignore[no-any-return] # noqa: S301 - the caller's own function
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(module), name)
    if not callable(found):
        raise TypeError(f"{function} is not callable")
    return found  # type: ignore[no-any-return]
