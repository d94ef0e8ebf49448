"""How hard a text is to read: words, sentences, syllables and Flesch-Kincaid grade, with no word list to download."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*|\d+(?:[.,]\d+)*")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]*]*(?:\s+|$)|\s*\n\s*")
_FEWEST_WORDS = 3

# Words that the rules below miscount and that people use often.
_SYLLABLES = {
    "anyone": 3, "argue": 2, "business": 2, "cafe": 2, "diabetes": 4, "element": 3, "elements": 3, "every": 2,
    "everybody": 4, "everyone": 3, "everything": 3, "evening": 2, "hundred": 2, "maybe": 2, "naked": 2, "recipe": 3,
    "recipes": 3, "sacred": 2, "simile": 3, "soldier": 2, "soldiers": 2, "wednesday": 2,
}  # fmt: skip

# A vowel group that stands for two syllables.
_ONE_MORE = re.compile(
    "|".join(
        (
            r"(?<![tcsgl])ia(?!ge)|(?<=[^lr]l)ia|[cgt]ia(?=t|nt)",  # media, reliable, appreciate, giant; not social
            r"(?<![tscgxnhl])(?<!av)io|^lio|iu",  # period, lion, calcium; not nation, onion, behaviour
            r"^scien|(?<![tcs])ien(?=[ct])|ie(?=t)",  # science, client, quiet; not patient, friend
            r"[a-z]{3}ie(?=r$|st$)",  # easier, happiest; not pier, priest
            r"crea(?!m|k|tur|s)|rea(?=s?$)|idea|^rea(?=ct|lis|liz|lit)|thea|nuclea|linea|cerea",  # create, area, react
            r"eo(?=s?$)|theo|neon|^geo|meteo|museu",  # video, theory, geology; not people, pigeon
            r"[eouy]ing$",  # seeing, going, arguing, studying
            r"(?<![qg])u(?:a|e(?=[ln]))|(?<![qgb])uo|(?<![qgs])ui(?=ds?$|n)",  # usual, influence, fluid; not quality
            r"^poe|oic$|aic$|ao|oasis|koala|coop|coord|coinc|zool",  # poem, heroic, mosaic, chaos
            r"[aou]y(?=er|or)|[ao]y(?=a|ee)|[ae]yo",  # player, loyal, employee, beyond
            r"ism$|thm$",  # tourism, rhythm: a syllable without a vowel
        )
    )
)

# A vowel group that is silent.
_ONE_LESS = re.compile(
    "|".join(
        (
            r"[^aeiouy](?<![^aeiouylr]l)(?<![bct]r)e$",  # make; not apple, centre
            r"[^aeiouysxzcg](?<![sc]h)(?<![^aeiouylr]l)(?<![bct]r)es$",  # makes; not pages, wishes, apples
            r"[^aeiouytd](?<![^aeiouylr]l)ed$",  # walked; not wanted, settled
            r"(?<=[aeiouy][^aeiouyl])e(?=(?:body|ful|less|ly|ment|ness|sick|some|thing|times?|work)(?![aeiouy])|ty$)",
            r"(?<=[aeiouy][^aeiouyl])e(?=(?:fore|where)$)",  # careful, statement, safety; therefore; not before, cement
            r"[gq]ues?$",  # vague, technique
        )
    )
)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without accents: runs of letters (with ' and - inside), and numbers.

    >>> words_of("Don't panic: it's a well-known café, No. 42.")
    ["don't", 'panic', "it's", 'a', 'well-known', 'cafe', 'no', '42']
    """
    plain = unicodedata.normalize("NFKD", text).replace("’", "'").lower()
    return _WORD.findall("".join(sign for sign in plain if not unicodedata.combining(sign)))


def sentence_count(text: str) -> int:
    """How many sentences a text has: parts that end in . ! ? or with the line; one of less than 3 words joins the next.

    So neither abbreviations and list numbers nor one word a line make a text look easy to read.
    """
    count, pending = 0, 0
    for part in _SENTENCE_END.split(text):
        pending += len(words_of(part))
        if pending >= _FEWEST_WORDS:
            count, pending = count + 1, 0
    return max(count, 1)


def syllable_count(word: str) -> int:
    """How many syllables an English word has: vowel groups, less the silent ones, plus those with two syllables.

    Parts joined by a hyphen are counted one by one; in numbers each digit counts as a syllable.
    """
    return sum(_syllables_of_part(part) for part in word.lower().replace("’", "'").split("-") if part)


@lru_cache(maxsize=2**16)
def _syllables_of_part(part: str) -> int:
    if any(sign.isdigit() for sign in part):
        return sum(sign.isdigit() for sign in part)
    letters = part.replace("'", "")
    if letters in _SYLLABLES:
        return _SYLLABLES[letters]
    groups = len(re.findall(r"[aeiouy]+", letters))
    contracted = bool(re.search(r"[dsz]n't$", part))  # couldn't, isn't; not can't
    more, less = (sum(1 for _ in pattern.finditer(letters)) for pattern in (_ONE_MORE, _ONE_LESS))
    return max(1, groups + contracted + more - less)


def flesch_kincaid_grade(text: str) -> float:
    """The school grade at which a text is read with ease: 0.39 words/sentences + 11.8 syllables/words - 15.59.

    Reference: Kincaid, Fishburne, Rogers and Chissom (1975), "Derivation of new readability formulas for Navy enlisted
    personnel", Research Branch Report 8-75.

    Raises:
        ValueError: the text has no words.
    """
    words = words_of(text)
    if not words:
        raise ValueError(f"text: expected at least one word, got {text[:60]!r}")
    syllables = sum(syllable_count(word) for word in words)
    return 0.39 * len(words) / sentence_count(text) + 11.8 * syllables / len(words) - 15.59
