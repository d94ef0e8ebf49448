"""A real HTTP server on this machine that answers chat completions as it is told to, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Reply:
    """What is sent back: JSON, or these bytes; `hang_s` before the first byte, `drip_s` between the bytes."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0
    drip_s: float = 0.0


def says(*texts: str | None, finish: str = "stop", usage: bool = True) -> Reply:
    """A well-formed chat completion."""
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        for index, text in enumerate(texts)
    ]
    body: dict[str, object] = {"id": "1", "object": "chat.completion", "choices": choices}
    if usage:
        body["usage"] = {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    return Reply(body)


def error(status: int, message: str, **headers: str) -> Reply:
    """An error as OpenAI's servers word it."""
    return Reply({"error": {"message": message, "type": "x"}}, status, headers)


@dataclass
class ChatServer:
    """Gives `answer`'s reply to each request; a request is its JSON with the headers under ``headers``."""

    answer: Callable[[dict], Reply]
    models: list[str] | None = None
    requests: list[dict] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""


@contextlib.contextmanager
def serving(answer: Callable[[dict], Reply] | list[Reply], *, models: list[str] | None = None) -> Iterator[ChatServer]:
    """Serve on 127.0.0.1; a list of replies is given out in order, the last one for ever."""
    if isinstance(answer, list):
        replies = iter(answer)
        last = answer[-1]
        state = ChatServer(lambda _: next(replies, last), models)
    else:
        state = ChatServer(answer, models)
    lock, closing = threading.Lock(), threading.Event()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal under_way
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                under_way += 1
                state.most_at_once = max(state.most_at_once, under_way)
                state.requests.append({**asked, "headers": dict(self.headers), "path": self.path, "time": time.time()})
                reply = state.answer(asked) if self.path == "/v1/chat/completions" else Reply("no", 404)
            closing.wait(reply.hang_s)
            with lock:
                under_way -= 1  # before the reply is out, so that the next request is not counted beside it
            self.give(reply)

        def do_GET(self) -> None:
            served = None if state.models is None else {"data": [{"id": name} for name in state.models]}
            self.give(Reply(served) if served else Reply("nothing here", 404))

        def give(self, reply: Reply) -> None:
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            with contextlib.suppress(ConnectionError):
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(data)), **reply.headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                for start in range(0, len(data), 1 if reply.drip_s else len(data) or 1):
                    self.wfile.write(data[start : start + (1 if reply.drip_s else len(data))])
                    if reply.drip_s and closing.wait(reply.drip_s):
                        return

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
