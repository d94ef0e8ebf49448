"""METEOR by exact matches: how alike two texts are, and how alike the outputs for different contexts have become."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as Rows
from itertools import pairwise
from statistics import fmean

from plaudit.evaluation.validation import EvaluationError

RECALL_WEIGHT = 9.0
CHUNK_PENALTY, CHUNK_POWER = 0.5, 3.0


def meteor(reference: str, hypothesis: str) -> float:
    r"""How much of a reference a hypothesis says, and whether in the same order.

    With m unigrams matched one to one, ``P = m / |hypothesis|`` and ``R = m / |reference|``::

        F = 10 P R / (R + 9 P),   score = F (1 - 0.5 (chunks / m)^3)

    A chunk is a run of matches whose places follow each other in both texts. Words are what stands between spaces, in
    lower case. Only equal words match: the paper's later stages, by stem and by synonym, are left out, since they need
    WordNet. Of a word that occurs more than once the last occurrences are matched, in order, as in NLTK's
    ``meteor_score``, whose numbers these are; Banerjee and Lavie take the alignment with the fewest crossings instead.

    Args:
        reference: what should be said.
        hypothesis: what was said.

    Returns:
        In [0, 1): 0 without a common word; equal texts of n words get ``1 - 0.5 / n^3``.

    Reference:
        Banerjee and Lavie, "METEOR: An automatic metric for MT evaluation with improved correlation with human judgments",
        ACL workshop 2005, section 2.2.

    >>> meteor("the cat sat on the mat", "the cat sat on the mat")  # one chunk of six
    0.9976851851851852
    """
    said, wanted = hypothesis.lower().split(), reference.lower().split()
    matches = _matches(wanted, said)
    if not matches:
        return 0.0
    precision, recall = len(matches) / len(said), len(matches) / len(wanted)
    mean = (1 + RECALL_WEIGHT) * precision * recall / (recall + RECALL_WEIGHT * precision)
    chunks = 1 + sum(late != (early[0] + 1, early[1] + 1) for early, late in pairwise(matches))
    return mean * float(1 - CHUNK_PENALTY * (chunks / len(matches)) ** CHUNK_POWER)


def meteor_similarity(texts: Rows[str]) -> list[float]:
    """How alike each text is to the others: the mean of `meteor` over all others, each once as reference and once not.

    The mean of the result is the mean over all ordered pairs. Outputs for different contexts that say nearly the same are
    the sign by which Mukobi et al. (SuperHF, arXiv 2310.16763) see that a policy games its reward. It depends on contexts
    and lengths: compare it only where both are fixed.

    Raises:
        EvaluationError: there are fewer than two texts.
    """
    if len(texts) < 2:
        raise EvaluationError(f"texts: expected at least two to compare, got {len(texts)}")
    return [
        fmean(
            score
            for other, compared in enumerate(texts)
            if other != place
            for score in (meteor(text, compared), meteor(compared, text))
        )
        for place, text in enumerate(texts)
    ]


def _matches(wanted: Rows[str], said: Rows[str]) -> list[tuple[int, int]]:
    """Places (in the hypothesis, in the reference) of the words that are matched, in the hypothesis' order."""
    free: dict[str, list[int]] = defaultdict(list)
    for place, word in enumerate(wanted):
        free[word].append(place)
    found = [(place, free[word].pop()) for place, word in reversed(list(enumerate(said))) if free.get(word)]
    return found[::-1]
