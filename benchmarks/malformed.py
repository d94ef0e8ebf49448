"""Import a file in which ten rows are broken for each that is sound, and check that every one is told apart.

    python benchmarks/malformed.py            100,000 broken rows of 26 kinds of damage and 10,000 sound ones
    python benchmarks/malformed.py 2000       fewer

The rows are `trl-preference` JSON Lines, and the damage is seeded. Nothing may crash; each broken row must be rejected
with its own line number, a field and a reason; each sound row must be kept. Results: benchmarks/results/malformed.json.
"""

from __future__ import annotations

import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from plaudit.feedback.formats import Parsed, read
from plaudit.feedback.formats.lines import LIMIT_BYTES

Row = dict[str, Any]
WORDS = ("the", "sky", "is", "blue", "because", "short", "waves", "of", "light", "scatter", "more", "than", "long")


def sound(generator: random.Random) -> Row:
    """A good row: an explicit prompt, plain or as chats, with scores."""
    prompt, chosen, rejected = (" ".join(generator.choices(WORDS, k=generator.randint(3, 12))) for _ in range(3))
    row: Row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if generator.random() < 0.3:
        role = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        row = {column: [{"role": role[column], "content": text}] for column, text in row.items()}
    return row | {"score_chosen": generator.uniform(5, 10), "score_rejected": generator.uniform(0, 5)}


def line(row: Row) -> bytes:
    return json.dumps(row).encode()


def without(column: str) -> Callable[[random.Random, Row], bytes]:
    return lambda _, row: line({name: value for name, value in row.items() if name != column})


def having(column: str, *values: Any) -> Callable[[random.Random, Row], bytes]:
    return lambda generator, row: line(row | {column: generator.choice(values)})


def spelt(column: str, *values: str) -> Callable[[random.Random, Row], bytes]:
    """The column holds this JSON, letter by letter."""
    return lambda generator, row: line(row | {column: "@@"}).replace(b'"@@"', generator.choice(values).encode())


def whole(*lines: bytes) -> Callable[[random.Random, Row], bytes]:
    """The line is one of these."""
    return lambda generator, _: generator.choice(lines)


def cut(generator: random.Random, row: Row) -> bytes:
    complete = line(row)
    return complete[: generator.randrange(1, len(complete))]


def invalid_bytes(generator: random.Random, row: Row) -> bytes:
    bad = generator.choice([b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80", b"\x80"])
    return line(row | {"chosen": "@@"}).replace(b"@@", b"caf" + bad)


def mixed_sides(_: random.Random, row: Row) -> bytes:
    plain = {"chosen": "blue", "rejected": [{"role": "assistant", "content": "green"}]}
    return line(row | plain)


DAMAGE: dict[str, Callable[[random.Random, Row], bytes]] = {
    "cut off": cut,
    "not JSON": whole(b"prompt: hello", b"{'prompt': 'x'}", b"{}{}", b"<html>"),
    "not an object": whole(b"[1, 2]", b'"text"', b"17", b"null", b"true"),
    "empty object": whole(b"{}"),
    "no prompt": without("prompt"),
    "no chosen": without("chosen"),
    "no rejected": without("rejected"),
    "prompt of a wrong type": having("prompt", None, 17, True, {"text": "x"}, 1.5),
    "output of a wrong type": having("chosen", None, 17, True, {"text": "x"}, ["blue"], [["a"]], [17]),
    "empty output": having("rejected", "", [], [{"role": "assistant", "content": ""}]),
    "text beside messages": mixed_sides,
    "message without a role": having("rejected", [{"content": "x"}], [{"role": "", "content": "x"}]),
    "message without content": having("chosen", [{"role": "assistant"}], [{"role": "assistant", "content": None}]),
    "message with more": having("chosen", [{"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}]),
    "NaN": spelt("score_chosen", "NaN", "Infinity", "-Infinity"),
    "number beyond floats": spelt("score_chosen", "1e999", "-1e999", "9" * 400, "9" * 5000),
    "score of a wrong type": having("score_rejected", "high", True, [1], {"value": 1}),
    "strength out of range": having("strength", 0, -1, 1.5, 10**9, "strong", [0.5]),
    "not a time": having("time", "yesterday", "2026-13-45", 1e40, [2026], True),
    "source of a wrong type": having("source", 1.5, ["alice"], {"name": ""}, {"kind": "person"}, "a\u0000b", "x" * 600),
    "unknown kind of source": lambda _, row: line(row | {"source": "alice", "source_kind": "robot"}),
    "half a surrogate pair": spelt("chosen", '"\\ud800"', '"blue \\udfff sky"', '"\\ud83dx"'),
    "bytes that are not UTF-8": invalid_bytes,
    "nested too deeply": spelt("attributes", '{"a":' * 1000 + "1" + "}" * 1000, "[" * 100_000, "[" * 500 + "]" * 500),
    "raw control character": spelt("chosen", '"a\x01b"', '"a\x00b"', '"tab\there"'),
    "longer than the limit": lambda _, row: line(row | {"chosen": "x" * (LIMIT_BYTES + 2**20)}),
}
RARE = {"longer than the limit": 0.0002, "nested too deeply": 0.2}  # so that the file stays of a size to be written


def write_file(path: Path, broken: int, seed: int = 0) -> dict[int, str | None]:
    """Write a file with `broken` broken rows and a tenth as many sound ones; the damage of each line, None for none."""
    generator = random.Random(seed)
    names = list(DAMAGE)
    weights = [RARE.get(name, 1.0) for name in names]
    damages: list[str | None] = [None] * (broken // 10) + generator.choices(names, weights, k=broken)
    damages[-len(names) :] = names  # each kind at least once
    generator.shuffle(damages)
    with path.open("wb") as file:
        for damage in damages:
            row = sound(generator)
            file.write((line(row) if damage is None else DAMAGE[damage](generator, row)) + b"\n")
    return dict(enumerate(damages, start=1))


def check(path: Path, damages: dict[int, str | None]) -> Iterator[str]:
    """What went wrong: nothing, if all is well."""
    seen: Counter[int] = Counter()
    for found in read(path, format="trl-preference"):
        damage = damages[found.line]
        seen[found.line] += 1
        if isinstance(found, Parsed):
            if damage is not None:
                yield f"line {found.line} was kept: {damage}"
        elif damage is None:
            yield f"line {found.line} is sound and was rejected: {found.field}: {found.reason}"
        elif not found.field or not found.reason or len(found.value) > 200 or len(found.raw or "") > 10_000 * 4:
            yield f"line {found.line} ({damage}) was rejected without saying why, or at too great a length: {found}"
    yield from (f"line {number} was seen {seen[number]} times" for number in damages if seen[number] != 1)


def main() -> int:
    broken = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broken.jsonl"
        damages = write_file(path, broken)
        size = path.stat().st_size
        begin = time.perf_counter()
        wrong = list(check(path, damages))
        seconds = time.perf_counter() - begin
    for problem in wrong[:20]:
        print(problem)
    kinds = Counter(damage or "sound" for damage in damages.values())
    print(
        f"{len(damages):,} rows, {len(DAMAGE)} kinds of damage, {size / 1e6:.0f} MB, {seconds:.1f}s: {len(wrong)} wrong"
    )
    if broken >= 100_000:
        results = Path(__file__).parent / "results"
        results.mkdir(exist_ok=True)
        result = {
            "rows": len(damages), "wrong": len(wrong), "seconds": round(seconds, 2), "seed": 0, "bytes": size,
            "python": platform.python_version(), "rows_by_damage": dict(sorted(kinds.items())),
        }  # fmt: skip
        (results / "malformed.json").write_text(json.dumps(result, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
