"""The quickstart's world: its questions, how reading difficulty is measured, the true utility, and its people."""

import math
import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plaudit.feedback.records import Context, Output
from plaudit.testbeds.plain_language import GATES, WEIGHTS, annotators, contexts, features, stem_of, utility
from plaudit.testbeds.readability import flesch_kincaid_grade, sentence_count, syllable_count, words_of

QUESTION = "Why is the sky blue?"
DECENT = (
    "Sunlight holds all colours. Air spreads blue light more than red light, so when you look up, the sky looks blue."
)
DEGENERATE = {
    "nothing": "",
    "blanks": " \n ",
    "one word": "Light.",
    "the question": QUESTION,
    "the question, again and again": f"{QUESTION} " * 5,
    "the question turned around": "The sky is blue because the sky is blue.",
    "a sentence over and over": "The air spreads the blue light. " * 5,
    "keywords": "sky blue light air sun colour scatter wave ray eye see red noon day, sky blue light air colour.",
    "keywords, one a line": "Sky.\nBlue.\nLight.\nAir.\nSun.\nRed.\nEye.\nSee.\nRay.\nNoon.\nWave.\nDay.\nColour.",
    "noise": "sdkfj ghsd kjfh skdjfh sdf kjh qwrt xcvb zzzz pfgh lkjh mnbv wrtp dfgh",
    "signs": "{}[]##@@ $$ 12 %% ^^ ((( sky ))) === +++ blue 7 7 7 ~~ | | | < > / / ---- ____ ;;;",
    "a foreign script": "Свет солнца состоит из всех цветов. Воздух рассеивает синий свет, поэтому небо синее.",
}
OFFICIALESE = (
    "The sky's apparent colouration originates from wavelength-dependent scattering of electromagnetic radiation by "
    "atmospheric constituents, preferentially affecting comparatively shorter wavelengths, notably those of the blue."
)
EVASIVE = (
    "I am glad you asked me this. Take your time and think of what you like best. Talk to a good friend, rest a bit, "
    "and try once more."
)

# Counted by hand, after the counter's rules were written and without changing them.
SYLLABLES = {
    1: "bridge cloud learned rhyme fourth stretched league queue choose brought known world knife glimpse crowd quite "
    "scene sauce earth months can't",
    2: "window garden mountain doctor candle purple honest failure bottle reason begin travel children summer planet "
    "pencil market quickly perhaps mistake courage knowledge breakfast handle needle worried copied boxes bushes "
    "lettuce arrange although thousand couldn't well-known",
    3: "capital exercise tomorrow celebrate gradual united piano estimate syllable company dangerous wonderful "
    "november popular disagree library elephant understand chemical medicine oxygen tradition musical adventure "
    "violent poetry cereal",
    4: "calculator kindergarten helicopter economy territory population literature independent explanation ability "
    "impossible watermelon political thermometer discovery evaporate dielectric",
    5: "university refrigerator imagination curiosity opportunity mathematical organization vocabulary hippopotamus "
    "international examination association",
}


# --- the questions ---------------------------------------------------------------------------------------------------


def test_there_are_196_questions_to_learn_from_and_64_held_out():
    assert (len(contexts("train")), len(contexts("held_out"))) == (196, 64)


def test_no_question_is_there_twice_or_nearly_so():
    def words(context: Context) -> frozenset[str]:
        return frozenset(map(stem_of, words_of(str(context.attributes["question"]))))

    everything = [
        (context.attributes["question"], words(context))
        for split in ("train", "held_out")
        for context in contexts(split)
    ]
    for (text, one), (other_text, other) in combinations(everything, 2):
        alike = len(one & other) / len(one | other)
        assert alike < 0.7, f"{text!r} and {other_text!r} share {alike:.0%} of their words"


def test_every_question_has_a_topic_and_a_word_that_an_answer_can_take_up():
    for split in ("train", "held_out"):
        for context in contexts(split):
            assert context.attributes["topic"]
            assert features(context, "Nothing to do with it.")["relevance"] < 1, context.text


def test_any_first_part_of_the_questions_has_all_topics():
    for split in ("train", "held_out"):
        topics = [context.attributes["topic"] for context in contexts(split)]
        assert len(set(topics)) == len(set(topics[:11])) == 11


def test_a_question_is_the_same_context_each_time():
    assert [c.digest for c in contexts("train")] == [c.digest for c in contexts("train")]


# --- how hard a text is to read --------------------------------------------------------------------------------------


def test_syllables_agree_with_those_counted_by_hand():
    by_hand = [(word, count) for count, words in SYLLABLES.items() for word in words.split()]
    wrong = [(word, syllable_count(word), count) for word, count in by_hand if syllable_count(word) != count]
    assert len(by_hand) >= 60
    assert len(wrong) <= 0.05 * len(by_hand), wrong


@given(st.text())
def test_every_word_has_a_syllable(text):
    assert all(syllable_count(word) >= 1 for word in words_of(text))


@pytest.mark.parametrize(
    ("text", "words", "sentences", "syllables"),
    [
        ("The cat sat on the mat.", 6, 1, 6),
        ("The cat sat on the mat. It was warm there.", 10, 2, 10),
        ("A doctor cut bread in the kitchen, although it was late!", 11, 1, 14),
        ("My university has a kindergarten.\nIs that impossible?", 8, 2, 18),
    ],
)
def test_the_grade_is_the_formula_of_kincaid(text, words, sentences, syllables):
    assert len(words_of(text)) == words
    assert sentence_count(text) == sentences
    assert sum(map(syllable_count, words_of(text))) == syllables
    expected = 0.39 * words / sentences + 11.8 * syllables / words - 15.59
    assert flesch_kincaid_grade(text) == pytest.approx(expected)


def test_a_full_stop_makes_a_text_easier_and_a_longer_word_harder():
    joined = "The sun warms the sea and the water goes up as steam and the steam makes the clouds."
    assert flesch_kincaid_grade(joined.replace(" and the steam", ". The steam")) < flesch_kincaid_grade(joined)
    assert flesch_kincaid_grade(joined.replace("makes", "manufactures")) > flesch_kincaid_grade(joined)


def test_list_numbers_abbreviations_and_one_word_lines_are_no_sentences():
    assert sentence_count("1. Heat the oil in a pan.\n2. Add the rice and stir.") == 2
    assert sentence_count("Dr. Smith lives here, e.g. in May.") == 1
    assert sentence_count("Sky.\nBlue.\nLight.\nAir.\nSun.\nRed.") == 2


def test_a_text_without_words_has_no_grade():
    with pytest.raises(ValueError, match=r"text: expected at least one word, got '\?!'"):
        flesch_kincaid_grade("?!")


# --- the utility -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_answers_are_worth_less_than_half_of_a_decent_plain_one(name):
    assert utility(QUESTION, DECENT) > 0.9
    assert utility(QUESTION, DEGENERATE[name]) < 0.5 * utility(QUESTION, DECENT)


def test_officialese_and_evasion_are_worth_less_than_a_decent_plain_answer():
    assert utility(QUESTION, OFFICIALESE) < 0.7 * utility(QUESTION, DECENT)
    assert utility(QUESTION, EVASIVE) <= 1 - WEIGHTS["relevance"]


@given(st.text())
def test_every_term_and_the_utility_of_any_text_lie_between_0_and_1(text):
    terms = features(QUESTION, text)
    assert terms.keys() == {*WEIGHTS, *GATES}
    assert all(0 <= value <= 1 for value in terms.values()), terms
    assert 0 <= utility(QUESTION, text) <= 1


def test_the_utility_is_the_gates_times_the_weighted_sum():
    terms = features(QUESTION, OFFICIALESE)
    value = sum(WEIGHTS[name] * terms[name] for name in WEIGHTS)
    assert utility(QUESTION, OFFICIALESE) == pytest.approx(math.prod(terms[name] for name in GATES) * value)
    assert sum(WEIGHTS.values()) == pytest.approx(1)


def test_a_cut_answer_loses_the_weight_of_finishing_and_no_more():
    assert utility(QUESTION, DECENT) - utility(QUESTION, DECENT.removesuffix(".")) == pytest.approx(WEIGHTS["finish"])


@pytest.mark.parametrize(
    ("text", "is_finished"),
    [
        ("It is so.", 1), ("Is it?", 1), ('He said "no."', 1), ("(It is so!)", 1), ("It is so. \n", 1),
        ("It is", 0), ("It is:", 0), ("It is...", 0), ("Do this:\n1.", 0), ("It is. 12.", 0), ("", 0),
    ],
)  # fmt: skip
def test_an_answer_is_finished_if_it_ends_as_a_sentence_does(text, is_finished):
    assert features(QUESTION, text)["finish"] == is_finished


@pytest.mark.parametrize(("words", "expected"), [(3, 3 / 15), (15, 1), (45, 1), (75, 30 / 60), (105, 0), (500, 0)])
def test_length_has_a_band_of_15_to_45_words(words, expected):
    assert features(QUESTION, "word " * words)["length"] == pytest.approx(expected)


def test_readability_falls_linearly_from_grade_6_to_grade_16():
    grade = flesch_kincaid_grade(DECENT.replace(". ", " and ").replace("Sunlight", "Radiation originating there"))
    assert 6 < grade < 16
    text = DECENT.replace(". ", " and ").replace("Sunlight", "Radiation originating there")
    assert features(QUESTION, text)["readability"] == pytest.approx((16 - grade) / 10)
    assert features(QUESTION, "The cat sat on the mat.")["readability"] == 1


@pytest.mark.parametrize(("answer", "share"), [("It rains.", 0), ("The sky.", 1 / 2), ("Skies are blue.", 1)])
def test_relevance_is_the_share_of_the_questions_words_full_at_three_quarters(answer, share):
    assert features(QUESTION, answer)["relevance"] == pytest.approx(min(1, share / 0.75))


@pytest.mark.parametrize(
    "family",
    [
        ("bake", "bakes", "baked", "baking"), ("stop", "stops", "stopped", "stopping"), ("berry", "berries"),
        ("cactus", "cacti"), ("dog", "dogs", "dog's"), ("quick", "quickly"), ("egg", "eggs"), ("bee", "bees"),
    ],
)  # fmt: skip
def test_words_of_one_family_have_one_stem(family):
    assert len(set(map(stem_of, family))) == 1


def test_relevance_takes_jealousy_for_jealous():
    assert features("What is jealousy?", "They are jealous.")["relevance"] == 1


@pytest.mark.parametrize("new", range(9))
def test_substance_counts_different_new_words_up_to_6(new):
    words = ["rain", "wind", "snow", "hail", "fog", "dew", "heat", "frost"][:new]
    text = f"The blue sky is the sky, {' and '.join(words * 2)}."
    assert features(QUESTION, text)["substance"] == pytest.approx(min(1, new / 6))


@pytest.mark.parametrize(
    ("text", "letters", "plausible", "function_words"),
    [
        ("The sun is up and it is warm.", 21 / 22, 1, 5 / 8),
        ("The sun is up and it is ######", 17 / 23, 1, 5 / 7),
        ("The sun is up and brrk it is wqk zzzap", 1, 7 / 10, 5 / 10),
        ("The warm sun heats wet land, then dry land.", 33 / 35, 1, 2 / 9),
    ],
)
def test_legibility_is_the_smallest_of_three_shares(text, letters, plausible, function_words):
    def share(value: float, zero: float, one: float) -> float:
        return min(1, max(0, (value - zero) / (one - zero)))

    expected = min(share(letters, 0.5, 0.8), share(plausible, 0.5, 0.9), share(function_words, 0.1, 0.25))
    assert features(QUESTION, text)["legibility"] == pytest.approx(expected)


def test_markup_and_short_numbers_do_not_make_an_answer_illegible():
    text = "**Tips for a blue sky:**\n\n1. *Look up* at the sky at noon.\n2. Take 2 or 3 photos of it and compare them."
    assert features(QUESTION, text)["legibility"] == 1


# --- the people ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEGENERATE)
def test_the_people_together_prefer_a_decent_answer_to_a_degenerate_one(name):
    context, decent, other = Context(content=QUESTION), Output(content=DECENT), Output(content=DEGENERATE[name])
    assert annotators().preference_probability(context, decent, other) > 0.6


def test_the_people_follow_the_truth_often_and_not_always():
    """Over answers of different quality, the expected agreement lies between a coin's and that of the truth itself."""
    context = Context(content=QUESTION)
    answers = [DECENT, DECENT.removesuffix("."), EVASIVE, OFFICIALESE.removesuffix(".")]
    assert sorted(answers, key=lambda text: -utility(context, text)) == answers
    agreements = [
        annotators().preference_probability(context, Output(content=better), Output(content=worse))
        for better, worse in combinations(answers, 2)
    ]
    assert 0.65 < sum(agreements) / len(agreements) < 0.9
    assert all(0.5 < agreement < 0.95 for agreement in agreements)


def test_the_people_have_tastes_of_their_own():
    """On some pair of answers two of them differ by more than 20 points, and one is on the other side of a coin."""
    pool = annotators(label_flip=0)
    long, short = DECENT + " " + EVASIVE, DECENT
    terms = [features(QUESTION, text) for text in (long, short)]
    prefers_long = {
        who.name: who.choice_probabilities(
            who.utility(terms[0], long), who.utility(terms[1], short), a_is_first=True
        ).preference
        for who in pool.annotators
    }
    assert prefers_long["thorough"] > 0.5 > prefers_long["brief"]
    assert prefers_long["thorough"] - prefers_long["brief"] > 0.2
    assert len(pool.annotators) == 7


def test_the_share_of_wrong_labels_can_be_set():
    assert annotators().label_flip == 0.1
    assert annotators(label_flip=0.25).label_flip == 0.25


def test_the_world_needs_no_torch():
    check = "import sys, plaudit.testbeds.plain_language; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
