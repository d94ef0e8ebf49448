"""The wire to an OpenAI-compatible server: chat completions with retries, a deadline, and errors that name the mend.

Over httpx2, which the Hugging Face libraries bring along. The openai package would try again too, but sends facts about
the machine with each request, sets no limit on all attempts together, and takes a malformed reply for a good one.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from plaudit.errors import ConfigError, PolicyError, require

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
LARGEST_REPLY_BYTES = 64 * 2**20
_PASSING = frozenset({408, 409, 425, 429})  # and everything from 500 on


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer; `finished` is False where it was cut at the length limit."""

    text: str
    finished: bool


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question that got no answer, and why."""

    reason: str


@dataclass(slots=True)
class Usage:
    """What was asked and what it cost, as the server counts; `uncounted` replies came without token counts."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0

    def __str__(self) -> str:
        missing = f" ({self.uncounted} replies did not say)" if self.uncounted else ""
        return f"{self.requests} requests, {self.prompt_tokens} prompt and {self.completion_tokens} completion tokens{missing}"


@dataclass(frozen=True)
class Server:
    """Where the server is and how it is asked.

    Attributes:
        url: the root of the API, such as ``http://127.0.0.1:8000/v1``.
        model: the model's name there.
        api_key_env: name of the environment variable that holds the API key; None sends no key. The key is read when a
            request is made, and kept nowhere.
        concurrency: requests under way at the same time.
        timeout_s: for one attempt.
        deadline_s: for one request with all its attempts and the waiting between them.
        retries: further attempts after a refusal for the moment (429), a fault of the server (5xx), a broken connection, a
            timeout or a malformed reply, with exponentially growing random waits, or as long as the server asks for.
    """

    url: str
    model: str
    _: KW_ONLY
    api_key_env: str | None = None
    concurrency: int = 8
    timeout_s: float = 120.0
    deadline_s: float = 600.0
    retries: int = 5

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            place = parts.hostname if parts.port != 0 else None
        except ValueError:
            raise ConfigError(
                "url: expected an address such as http://127.0.0.1:8000/v1, and a port up to 65535"
            ) from None
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ConfigError(  # which is not repeated here: there may be a secret in it
                "url: expected no user name, password, query or fragment in it, since it is stored with the results. "
                "Put the key into an environment variable and give the variable's name as api_key_env."
            )
        if parts.scheme not in ("http", "https") or not place:
            raise ConfigError(f"url: expected an address such as http://127.0.0.1:8000/v1, got {self.url!r}")
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            raise ConfigError(
                "api_key_env: expected the name of an environment variable in capitals, such as OPENAI_API_KEY, "
                "and not the key itself"
            )
        for name, good, expected in (
            ("model", bool(self.model), "the model's name at the server"),
            ("concurrency", self.concurrency >= 1, "a whole number >= 1"),
            ("timeout_s", self.timeout_s > 0, "a number > 0"),
            ("deadline_s", self.deadline_s > 0, "a number > 0"),
            ("retries", self.retries >= 0, "a whole number >= 0"),
        ):
            if not good:
                raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    @property
    def root(self) -> str:
        """The address that ``/chat/completions`` is appended to."""
        return self.url.rstrip("/").removesuffix("/chat/completions")

    def key(self) -> str | None:
        """The API key, from its environment variable."""
        if self.api_key_env is None:
            return None
        if not (key := os.environ.get(self.api_key_env, "").strip()):
            raise ConfigError(f"api_key_env: the environment variable {self.api_key_env} is not set, or is empty")
        if not re.fullmatch(r"[!-~]+", key):
            raise ConfigError(f"api_key_env: {self.api_key_env} holds characters that are in no key, such as a space")
        return key


def complete(
    server: Server,
    bodies: Sequence[tuple[dict[str, Any], Sequence[int]]],
    usage: Usage,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[tuple[Choice, ...] | Unanswered]:
    """Answers to each request: as many as there are seeds beside its body.

    A request that is refused or goes on failing is `Unanswered`, and the others go on; but a server that has not answered
    once when the first request is given up is an error, as is one that answers none.

    Args:
        server: whom to ask.
        bodies: the fields of each request but model, n and seed, and the seeds of the answers to it.
        usage: counts what is asked.
        progress: told of each request that is through.

    Raises:
        PolicyError: the address, the key or the model's name is wrong, or the server answers nothing.
        ConfigError: the API key's environment variable is not set.
        MissingExtra: httpx2 is not installed.
    """
    asking = _Asking(server, usage, server.key(), progress)
    with require("anyio.from_thread", extra="endpoint").start_blocking_portal() as portal:  # also inside a running loop
        replies: list[tuple[Choice, ...] | Unanswered] = portal.call(partial(asking.all, bodies))
    return replies


class _Counts(BaseModel):
    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Reply(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Counts | None = None


class _Models(BaseModel):
    class Model(BaseModel):
        id: str

    data: list[Model]


class _Passing(Exception):
    """A failure that another attempt may not meet."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class _Refused(Exception):
    """This request is refused for what is in it; others may be answered."""


@dataclass
class _Asking:
    """One call of `complete`: its client, and whether the server has answered yet."""

    server: Server
    usage: Usage
    key: str | None = field(repr=False)
    progress: Callable[[int], None] | None
    answered: bool = False

    async def all(
        self, bodies: Sequence[tuple[dict[str, Any], Sequence[int]]]
    ) -> list[tuple[Choice, ...] | Unanswered]:
        anyio, httpx = require("anyio", extra="endpoint"), require("httpx2", extra="endpoint")
        replies: list[tuple[Choice, ...] | Unanswered] = [Unanswered("not asked")] * len(bodies)
        broken: list[PolicyError] = []
        places = anyio.Semaphore(self.server.concurrency)
        limits = httpx.Limits(max_connections=self.server.concurrency)

        async def one(index: int, client: Any, cancel: Callable[[], None]) -> None:
            async with places:
                try:
                    replies[index] = await self._answers(client, *bodies[index])
                except PolicyError as error:
                    broken.append(error)
                    cancel()
                else:
                    if self.progress:
                        self.progress(1)

        async with (
            httpx.AsyncClient(headers=self._headers(), timeout=self.server.timeout_s, limits=limits) as client,
            anyio.create_task_group() as group,
        ):
            for index in range(len(bodies)):
                group.start_soon(one, index, client, group.cancel_scope.cancel)
        if broken:
            raise broken[0].with_traceback(None)  # whose frames hold the server's words, and these may hold the key
        lost = [reply.reason for reply in replies if isinstance(reply, Unanswered)]
        if lost and len(lost) == len(replies):
            raise PolicyError(f"{self.server.root} answered none of {len(lost)} requests. The first: {lost[0]}")
        return replies

    def _headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    async def _answers(
        self, client: Any, body: dict[str, Any], seeds: Sequence[int]
    ) -> tuple[Choice, ...] | Unanswered:
        """Asked again for what is missing where the server gives fewer than n; some know no n."""
        found: list[Choice] = []
        while len(found) < len(seeds):
            missing = len(seeds) - len(found)
            count = {"n": missing} if missing > 1 else {}
            fields = {"model": self.server.model, **body, **count, "seed": seeds[len(found)]}
            reply = await self._reply(client, fields)
            if isinstance(reply, Unanswered):
                return reply
            for choice in reply.choices[:missing]:
                text, reason = choice.message.content, choice.finish_reason
                if reason == "content_filter" or (text is None and reason != "length"):
                    return Unanswered(f"the server gave no text (finish_reason {reason!r})")
                found.append(Choice(text or "", finished=reason != "length"))
        return tuple(found)

    async def _reply(self, client: Any, fields: dict[str, Any]) -> _Reply | Unanswered:
        """One request with all its attempts."""
        anyio = require("anyio", extra="endpoint")
        last = "no attempt was finished"
        with anyio.move_on_after(self.server.deadline_s) as scope:
            for attempt in range(self.server.retries + 1):
                self.usage.requests += 1
                self.usage.retries += attempt > 0
                try:
                    reply = await self._attempt(client, fields)
                except _Refused as error:
                    return Unanswered(str(error))
                except _Passing as error:
                    last = str(error)
                    grown = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt)
                    wait_s = max(error.wait_s, grown * random.SystemRandom().uniform(0.5, 1.0))
                    if anyio.current_time() + wait_s > scope.deadline:
                        last = f"{last}; the next attempt would be in {wait_s:.0f} s, after the deadline"
                        break
                    if attempt < self.server.retries:
                        await anyio.sleep(wait_s)
                else:
                    self.answered = True
                    self._count(reply)
                    return reply
        reason = f"{last} (given up after {self.server.retries} retries or {self.server.deadline_s:g} s)"
        if not self.answered:
            raise PolicyError(
                f"{self.server.root} does not answer: {reason}. Look whether the server runs and is not overloaded; "
                "timeout_s, deadline_s and retries say how long it is waited for."
            )
        return Unanswered(reason)

    async def _attempt(self, client: Any, fields: dict[str, Any]) -> _Reply:
        anyio, httpx = require("anyio", extra="endpoint"), require("httpx2", extra="endpoint")
        try:
            with anyio.fail_after(self.server.timeout_s):  # httpx's own limit starts anew with every byte
                async with client.stream("POST", f"{self.server.root}/chat/completions", json=fields) as response:
                    data = await self._read(response)
        except (TimeoutError, httpx.TimeoutException):
            raise _Passing(f"no answer within {self.server.timeout_s:g} s") from None
        except httpx.InvalidURL as error:
            raise PolicyError(f"url: {self.server.url!r} is no address ({error})") from None
        except httpx.HTTPError as error:
            raise _Passing(f"the connection failed ({self._words(str(error)) or type(error).__name__})") from None
        status = response.status_code
        if status == 200:
            try:
                return _Reply.model_validate_json(data)
            except ValidationError as error:
                problem = error.errors(include_url=False, include_input=False)[0]
                place = ".".join(map(str, problem["loc"])) or "body"
                raise _Passing(f"the reply is no chat completion ({place}: {problem['msg']})") from None
        said = f"status {status}: {self._words(data.decode(errors='replace'))}"
        if status in _PASSING or status >= 500:
            raise _Passing(said, _retry_after(response.headers.get("retry-after")))
        await self._raise_lasting(client, status, said)
        raise _Refused(said)

    async def _read(self, response: Any) -> bytes:
        data = bytearray()
        async for chunk in response.aiter_bytes():
            data += chunk
            if len(data) > LARGEST_REPLY_BYTES:
                raise _Refused(f"the reply is larger than {LARGEST_REPLY_BYTES} bytes")
        return bytes(data)

    async def _raise_lasting(self, client: Any, status: int, said: str) -> None:
        """What every further request would meet too is an error at once."""
        root, model = self.server.root, self.server.model
        if status in (401, 403):
            given = "no key was sent" if self.key is None else f"the key in {self.server.api_key_env} was sent"
            raise PolicyError(
                f"{root} refuses access ({said}); {given}. Put a valid key into an environment variable and give the "
                "variable's name as api_key_env."
            )
        if status == 404 and (models := await self._models(client)) is not None:
            raise PolicyError(f"{root} serves no model {model!r} ({said}). It serves: {', '.join(models) or 'none'}.")
        if 300 <= status < 400 or status in (404, 405):
            raise PolicyError(
                f"{root}/chat/completions is no address of an OpenAI-compatible API ({said}). Give its root, which "
                "mostly ends in /v1, as in http://127.0.0.1:8000/v1."
            )

    async def _models(self, client: Any) -> list[str] | None:
        """The models that the server names; None where it names none, as where the address is wrong."""
        httpx = require("httpx2", extra="endpoint")
        try:
            response = await client.get(f"{self.server.root}/models")
            return [self._words(model.id) for model in _Models.model_validate_json(response.content).data]
        except (httpx.HTTPError, ValidationError):
            return None

    def _count(self, reply: _Reply) -> None:
        if reply.usage is None:
            self.usage.uncounted += 1
            return
        self.usage.prompt_tokens += reply.usage.prompt_tokens
        self.usage.completion_tokens += reply.usage.completion_tokens

    def _words(self, said: str) -> str:
        """What the server said, short, without the key and without what a terminal would obey."""
        if self.key is not None:
            said = said.replace(self.key, "[the API key]")
        plain = " ".join("".join(character if character.isprintable() else " " for character in said).split())
        return plain if len(plain) <= 300 else f"{plain[:297]}..."


def _retry_after(value: str | None) -> float:
    """Seconds from a Retry-After header: a number, or a date; 0 where there is none or it is neither."""
    if value is None:
        return 0.0
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value.strip()):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
