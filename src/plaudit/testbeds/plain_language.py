"""The quickstart's world: short everyday questions, and answers in plain language for a general reader.

260 questions of our own (196 to learn from, 64 held out), a true utility of an answer that is measured without any
model, and a pool of simulated people whose tastes agree with that utility in part. The truth says nothing of an
answer's facts, which a model of 135 million parameters rarely knows. It says whether a general reader could read the
answer: simple words and short sentences, about the question, of a handy length, and finished.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from itertools import chain, pairwise, zip_longest
from typing import Literal

from plaudit.feedback.annotators import Annotator, AnnotatorPool
from plaudit.feedback.records import Chat, Context, Message
from plaudit.testbeds.readability import flesch_kincaid_grade, words_of
from plaudit.testbeds.scales import ramp

INSTRUCTION = "Answer in one or two short sentences."
"""What the model is told before each question."""

WEIGHTS: Mapping[str, float] = {"readability": 0.35, "relevance": 0.35, "length": 0.15, "finish": 0.15}
"""What a sound answer is valued for; the weights sum to 1."""

GATES = ("substance", "variety", "legibility")
"""What every sound answer has: each is 1 for ordinary prose, and 0 takes the utility to 0."""

EASY_GRADE, HARD_GRADE = 6.0, 16.0
SHORTEST, LONGEST, MUCH_TOO_LONG = 15, 45, 105
ENOUGH_NEW_WORDS = 6

_FINISHED = re.compile(r"[.!?][\"'”’)\]*]*$")
_LIST_NUMBER = re.compile(r"(?:^|\s)(?:\d+|[A-Za-z])\.$")

_ENDINGS = (
    ("ies", "y"), ("ied", "y"), ("sses", "ss"), ("ss", "ss"), ("us", "us"), ("ing", ""), ("ed", ""), ("ly", ""),
    ("es", ""), ("s", ""), ("i", "us"),
)  # fmt: skip
_ASKING_WORDS = frozenset(
    {
        "best", "cause", "causes", "describe", "difference", "explain", "good", "happen", "happens", "mean", "means",
        "name", "tell",
    }
)  # fmt: skip


def _read(file: str) -> str:
    return resources.files("plaudit.testbeds").joinpath("data", file).read_text(encoding="utf-8")


@cache
def _function_words() -> frozenset[str]:
    """Words that carry a sentence and not its topic."""
    return frozenset(_read("function_words.txt").split())


@cache
def _questions() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """The (topic, question) pairs of each split, topic after topic in turn, so that any first part has every topic."""
    splits: dict[str, dict[str, list[str]]] = json.loads(_read("plain_language.json"))
    return {
        split: tuple(
            (topic, question)
            for turn in zip_longest(*topics.values())
            for topic, question in zip(topics, turn, strict=True)
            if question is not None
        )
        for split, topics in splits.items()
    }


def contexts(split: Literal["train", "held_out"]) -> tuple[Context, ...]:
    """The questions to learn from (196) or the held-out ones (64), each with its topic and itself as attributes.

    Every question follows the system message `INSTRUCTION`: a small model that is asked for a short answer finishes some of
    them, so that people have something to choose between.
    """
    return tuple(
        Context(
            content=Chat(
                messages=(Message(role="system", content=INSTRUCTION), Message(role="user", content=question))
            ),
            attributes={"topic": topic, "question": question},
        )
        for topic, question in _questions()[split]
    )


def features(context: Context | str, text: str) -> Mapping[str, float]:
    """What can be valued in an answer; each in [0, 1], up is better.

    readability: 1 up to Flesch-Kincaid grade 6 (read with ease at the age of 11), falling linearly to 0 at grade 16.
    relevance: share of the question's content words (stemmed) taken up in the answer; full at three quarters of them.
    length: rises linearly to 1 at 15 words, stays 1 until 45, falls linearly to 0 at 105.
    finish: 1 if the answer ends as a sentence does, else 0; a list's number or letter with its dot is no end.
    substance: number of different content words that the question does not have, over 6, at most 1.
    variety: share of different word pairs among neighbouring ones: 0 up to a half, 1 from 0.85.
    legibility: the smallest of three shares, each mapped to [0, 1]: of letters among all signs but blanks (0 up to 0.5,
      1 from 0.8), of words that could be English ones (0 up to 0.5, 1 from 0.9), and of function words such as "the"
      and "is" among all words (0 up to 0.1, 1 from 0.25), which strung keywords lack.
    """
    question = context if isinstance(context, str) else str(context.attributes.get("question", context.text))
    words = words_of(text)
    if not words:
        return dict.fromkeys((*WEIGHTS, *GATES), 0.0)
    asked, answered = _content_stems(words_of(question)), _content_stems(words)
    taken_up = sum(any(_is_same(stem, other) for other in answered) for stem in asked) / len(asked) if asked else 1.0
    new = sum(not any(_is_same(stem, other) for other in asked) for stem in answered)
    neighbours = list(pairwise(words))
    return {
        "readability": ramp(flesch_kincaid_grade(text), HARD_GRADE, EASY_GRADE),
        "relevance": min(1.0, taken_up / 0.75),
        "length": min(ramp(len(words), 0, SHORTEST), ramp(len(words), MUCH_TOO_LONG, LONGEST)),
        "finish": float(_is_finished(text)),
        "substance": min(1.0, new / ENOUGH_NEW_WORDS),
        "variety": ramp(len(set(neighbours)) / len(neighbours), 0.5, 0.85) if neighbours else 1.0,
        "legibility": _legibility(text, words),
    }


def utility(context: Context | str, text: str) -> float:
    """The true utility of an answer, in [0, 1]: what it is valued for, times the gates that every sound answer passes.

        U = substance * variety * legibility * (0.35 readability + 0.35 relevance + 0.15 length + 0.15 finish)

    Each term is bounded and saturates, so none can be driven up without limit: sentences simpler than an 11-year-old
    needs, more of the question's words, or more words than 15 gain nothing. The gates are a product and not a part of
    the sum because a degenerate answer is worthless however simple and short it is: nothing, one word, the question
    itself, one sentence over and over, keywords, or noise. Relevance weighs as much as readability, so that one plain
    answer to every question ("I am glad you asked ...") is no good answer to any: it gets at most 0.65. Finishing
    weighs little: many answers are cut at the sampler's limit, and a cut one in plain words is better than a finished
    one in officialese.
    """
    terms = features(context, text)
    gate = 1.0
    for name in GATES:
        gate *= terms[name]
    return gate * sum(weight * terms[name] for name, weight in WEIGHTS.items())


def annotators(*, label_flip: float = 0.1) -> AnnotatorPool:
    """Seven simulated people of different tastes, who together prefer the better answer more often than not.

    None of them sees the true utility. Some have a taste that goes against a part of it (`thorough` likes long answers,
    `brief` the shortest), one (`careless`) mostly takes what comes first, and a share `label_flip` of the labels is
    wrong by accident. Of the best and the worst answer of their rankings of six answers of SmolLM2-135M-Instruct, about 8 in
    10 pairs agree with the truth.
    """
    people = (
        Annotator(
            "plain_words",
            {"readability": 12.0, "legibility": 4.0, "relevance": 3.0, "finish": 2.0, "substance": 4.0},
        ),
        Annotator(
            "brief",
            {"readability": 8.0, "relevance": 5.0, "finish": 4.0, "substance": 4.0},
            length_bias=-3.0,
            position_bias=0.2,
        ),
        Annotator("on_topic", {"relevance": 12.0, "substance": 8.0, "readability": 5.0, "finish": 2.0}, tie_width=0.2),
        Annotator(
            "thorough",
            {"relevance": 9.0, "readability": 5.0, "variety": 4.0, "finish": 3.0, "substance": 8.0},
            length_bias=3.0,
        ),
        Annotator("tidy", {"finish": 6.0, "length": 5.0, "variety": 4.0, "readability": 7.0, "relevance": 5.0}),
        Annotator(
            "balanced",
            {
                "readability": 9.0,
                "relevance": 9.0,
                "substance": 9.0,
                "length": 4.0,
                "finish": 4.0,
                "variety": 4.0,
                "legibility": 4.0,
            },
            tie_width=0.2,
        ),
        Annotator("careless", {"readability": 1.5, "finish": 1.0}, position_bias=0.8, tie_width=0.2),
    )
    return AnnotatorPool(people, features, label_flip)


def _is_finished(text: str) -> bool:
    stripped = text.rstrip()
    return bool(_FINISHED.search(stripped)) and not stripped.endswith("..") and not _LIST_NUMBER.search(stripped)


def _legibility(text: str, words: list[str]) -> float:
    signs = [sign for sign in text if not sign.isspace()]
    letters = sum(sign.isalpha() for sign in signs) / len(signs)
    plausible = sum(_could_be_english(word) for word in words) / len(words)
    function_words = sum(_is_function_word(word) for word in words) / len(words)
    return min(ramp(letters, 0.5, 0.8), ramp(plausible, 0.5, 0.9), ramp(function_words, 0.1, 0.25))


def _could_be_english(word: str) -> bool:
    """Plain letters with a vowel and of no monstrous length or run of one letter; short numbers pass."""
    if word[0].isdigit():
        return len(word) <= 6
    parts = re.split(r"['-]", word)
    return all(part.isascii() and len(part) <= 18 and not re.search(r"(.)\1\1", part) for part in parts) and bool(
        re.search(r"[aeiouy]", word)
    )


def _is_function_word(word: str) -> bool:
    return word in _function_words() or word.partition("'")[0] in _function_words()  # we'll, you're


def _content_stems(words: list[str]) -> frozenset[str]:
    """The stems of the words that carry the topic."""
    return frozenset(
        stem_of(part)
        for part in chain.from_iterable(word.split("-") for word in words)
        if part and not _is_function_word(part) and part not in _ASKING_WORDS
    )


def stem_of(word: str) -> str:
    """A light stem: without possessive, plural, -ed, -ing, -ly, final e, and the doubling of a last consonant.

    >>> [stem_of(word) for word in ("bake", "bakes", "baked", "baking", "stopped", "berries", "cacti")]
    ['bak', 'bak', 'bak', 'bak', 'stop', 'berry', 'cactus']
    """
    word = word.removesuffix("'s").replace("'", "")
    for ending, instead in _ENDINGS:
        shorter = word.removesuffix(ending) + instead
        if word.endswith(ending) and len(shorter) >= 3 and re.search(r"[aeiouy]", shorter):
            word = shorter
            break
    if len(word) > 3:
        word = word.removesuffix("e")
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] in "bdgmnprt" else word


def _is_same(stem: str, other: str) -> bool:
    """Whether two stems are of one family: equal, or one of 4 letters or more begins the other (jealous, jealousy)."""
    shorter, longer = sorted((stem, other), key=len)
    return shorter == longer or (len(shorter) >= 4 and longer.startswith(shorter))
