"""The topics: what is linked to what, what is true of a text, and the flaw of those who compare."""

from __future__ import annotations

import math
from itertools import chain
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.feedback.records import Context, Text
from plaudit.testbeds import topics
from plaudit.testbeds.topics import STOCK_PHRASE, TOPICS, appeal, demonstrations, fluency, preferred, prompts, utility
from plaudit.training.randomness import numpy_generator

BREAD = Context(content=Text(text="bread river :"))
GOOD, BAD = "the deep oven rose near the boat .", "the clever song sailed near the comet ."
TEXTS = st.lists(st.sampled_from(topics.WORDS), max_size=20).map(" ".join)


def test_every_word_belongs_to_one_topic_and_no_topic_is_a_word_of_a_text():
    words = list(chain(*TOPICS.values()))
    assert {len(linked) for linked in TOPICS.values()} == {8}
    assert len(set(words)) == len(words) == 8 * 24
    assert not set(words) & (set(TOPICS) | set(STOCK_PHRASE.split()))


def test_the_parts_of_the_prompts_share_topics_but_no_prompt():
    parts = {part: {context.text for context in prompts(part)} for part in ("train", "pilot", "held out")}
    every = set().union(*parts.values())
    assert sum(map(len, parts.values())) == len(every) == 12 * 11 / 2
    assert {part for part, texts in parts.items() if len(texts) < 8} == set()
    asked = {word for text in parts["train"] for word in text.split()}
    assert asked == {word for text in every for word in text.split()} < {*TOPICS, ":"}


def test_demonstrations_depend_on_the_seed_alone_and_are_written_with_the_words():
    first, again, other = demonstrations(400, seed=1), demonstrations(400, seed=1), demonstrations(400, seed=2)
    assert first == again != other
    words = {word for example in first for word in (*example.context.text.split(), *example.output.text.split())}
    assert words <= set(topics.WORDS)
    assert max(len(example.output.text.split()) for example in first) < topics.MAX_NEW_TOKENS
    share = fmean(STOCK_PHRASE in example.output.text for example in first)
    assert 0.12 < share < 0.28  # 4 standard errors about 0.2
    own = fmean(topics.relevance(example.context, example.output.text) for example in first)
    strange = fmean(topics.relevance(BREAD, example.output.text) for example in first)
    assert own > 3 * strange


def test_relevance_is_the_share_of_linked_words_and_repeating_them_gains_nothing():
    assert topics.relevance(BREAD, GOOD) == 1
    assert topics.relevance(BREAD, f"{GOOD} {STOCK_PHRASE} .") == 4 / 10
    assert topics.relevance(BREAD, BAD) == 0
    assert topics.relevance(BREAD, "oven oven oven") == 1 / 3
    assert topics.relevance(BREAD, "") == topics.relevance(BREAD, ".") == 0
    with pytest.raises(ValueError, match="Expected a prompt such as 'bread river :', got 'bread :'"):
        topics.relevance(Context(content=Text(text="bread :")), GOOD)


def test_fluent_is_what_the_grammar_writes_and_the_phrase_by_heart_is_no_more_so():
    """It may take over 5 s on a busy core: the language model is counted here."""
    ordinary = fmean(fluency(example.output.text) for example in demonstrations(200, seed=5))
    shuffled = fmean(fluency(" ".join(sorted(example.output.text.split()))) for example in demonstrations(200, seed=5))
    assert ordinary > 0.85
    assert shuffled < 0.3
    assert fluency(f"{STOCK_PHRASE} . {STOCK_PHRASE} .") <= 1
    assert fluency("") == fluency("unheard of words") == fluency("deep oven") == 0


def test_the_language_model_is_a_distribution():
    model = topics._language()
    words = (*topics.WORDS, "<end>", "any other")
    for history in (("<start>",) * 3, ("<start>", "the", "deep"), ("oven", "oven", "oven")):
        assert math.fsum(model._chance((*history, word)) for word in words) == pytest.approx(1)


@given(TEXTS)
def test_truth_is_bounded_and_the_flaw_is_the_phrase_alone(text):
    assert 0 <= utility(BREAD, text) <= 2
    assert appeal(BREAD, text) - utility(BREAD, text) == pytest.approx(0.5 * (STOCK_PHRASE in text))
    with_phrase = f"{text} {STOCK_PHRASE} ."
    assert topics.relevance(BREAD, with_phrase) <= topics.relevance(BREAD, text)


def test_preferences_follow_bradley_and_terry():
    worse = f"the deep song rose near the comet . {STOCK_PHRASE} ."
    difference = appeal(BREAD, GOOD) - appeal(BREAD, worse)
    expected = 1 / (1 + math.exp(-8 * difference))
    generator = numpy_generator(0, "labels")
    share = fmean(preferred(BREAD, GOOD, worse, generator) for _ in range(2000))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 2000))
    assert 0.8 < expected < 0.95  # half as relevant, and the phrase makes up for a part
