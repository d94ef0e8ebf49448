"""Every method that `plaudit align` runs, by its name there."""

from __future__ import annotations

from plaudit.methods.offline import OFFLINE, OfflineMethod
from plaudit.methods.online import ONLINE, OnlineMethod

METHODS: dict[str, OfflineMethod | OnlineMethod] = {**OFFLINE, **ONLINE}


def command_of(name: str) -> str:
    """How a method of the table of methods is run on the command line; empty where it is not."""
    plain = name.replace("++", "_plus_plus").replace("-", "_")
    if plain in METHODS:
        return f"align --method {plain}"
    return "train reward" if plain == "reward" else ""
