"""Replies of models behind an address that outlive a run: nobody pays twice for the same question."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import asdict
from pathlib import Path

from plaudit.disk_cache import DiskCache, cache_folder
from plaudit.feedback.records import Context
from plaudit.policies.base import Sampling
from plaudit.policies.chat_completions import Choice
from plaudit.policies.endpoint import Endpoint

Reply = tuple[Choice, ...]


class ReplyCache(DiskCache):
    """Replies by what was asked of whom, and how; questions that got no answer are not kept.

    A server that changes the model behind a name is not noticed: remove the file, or give another.

    Args:
        path: the file, by default ``replies.db`` in the cache's folder; it is made at the first use.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(cache_folder() / "replies.db" if path is None else path, "replies")

    def get(self, keys: Rows[bytes]) -> dict[bytes, Reply]:
        """What is there of these keys."""
        found = self.read(keys)
        return {key: tuple(Choice(**choice) for choice in json.loads(value)) for key, value in found.items()}

    def put(self, replies: Mapping[bytes, Reply]) -> None:
        """Keep these replies, all in one transaction."""
        self.write({key: json.dumps([asdict(choice) for choice in reply]).encode() for key, reply in replies.items()})


def reply_key(endpoint: Endpoint, context: Context, n: int, sampling: Sampling) -> bytes:
    """The address of n replies of a model to one context under these settings."""
    asked = [endpoint.root, endpoint.model, context.content.model_dump(mode="json"), n, sampling.settings()]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()[:20]
