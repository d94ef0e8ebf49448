"""Text of models and people made safe to show: nothing in it is markup, and nothing in it is invisible.

A right-to-left override can show a harmful answer as a harmless one, and zero-width characters hide words from the
reader; both are replaced by their code point in brackets, as are control characters and broken surrogates. Letters of
every script, emoji with their joiners, tabs and line breaks stay as they are.
"""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tab and line feed
    "\xad\u061c\u180e\u200b\u200e\u200f"  # soft hyphen, zero-width space, direction marks
    "\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction overrides and isolates, invisible operators
    "\ud800-\udfff"  # halves of surrogate pairs, which UTF-8 cannot hold
    "\U000e0000-\U000e007f"  # tags: invisible copies of ASCII
    "]"
)
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&])")


def visible(text: str) -> str:
    """The text with each invisible or direction-changing character as its code point, such as ⟨U+202E⟩."""
    return _HIDDEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))


def markdown_inline(text: object) -> str:
    """Text for a line or a table cell of Markdown: on one line, and every character that could be markup escaped."""
    return _MARKUP.sub(r"\\\1", " ".join(visible(str(text)).split()))


def markdown_block(text: str) -> str:
    """Text as a fenced block of Markdown, with a fence longer than any in the text."""
    shown = visible(text) or "(nothing)"
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
