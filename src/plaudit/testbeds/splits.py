"""Which of the two sets a generated text belongs to: the one to learn from or the one to be measured on."""

from __future__ import annotations

import hashlib

HELD_OUT_SHARE = 8
"""One text in so many is held out."""


def is_held_out(text: str) -> bool:
    """Whether a text is only measured on, by a hash of itself: whatever the seeds, the two sets never meet."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT_SHARE == 0
