"""Simulated annotators: a pool of people with different tastes and habits, whose choices have known probabilities.

Feedback from people is dear, slow and private. A pool of simulated people lets every method be tried in a minute, with
disagreement, biases and mistakes like those of people. After AlpacaFarm (Dubois et al. 2023, arXiv 2305.14387): the
annotator is drawn for each context by a seeded hash, the presentation order is random and recorded, and a share of the
labels is noise. Deviations: the annotators are logistic choosers over named features and not prompted language models,
so that the probabilities of their choices are known exactly, and they can call a tie.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from plaudit.errors import ConfigError
from plaudit.feedback.records import Comparison, Context, Output, Ranking, Source, new_record_id

Features = Callable[[Context, str], Mapping[str, float]]
Key = tuple[str | int, ...]


class ChoiceProbabilities(NamedTuple):
    """The probabilities of the three statements about outputs a and b; they sum to 1."""

    a: float
    b: float
    tie: float

    @property
    def preference(self) -> float:
        """The probability that a beats b, where a tie is half a win for each: P(a) + P(tie) / 2."""
        return self.a + self.tie / 2


@dataclass(frozen=True)
class Annotator:
    """One simulated person, who chooses by a noisy utility of the features of (context, output).

        u(x, y) = sum_k weights[k] * features(x, y)[k] + length_bias * ln(1 + number of words in y)
        d       = (u(x, a) - u(x, b)) / temperature + position_bias * (+1 if a is shown first, else -1)
        P(a)    = sigmoid(d - tie_width),  P(b) = sigmoid(-d - tie_width),  P(tie) = 1 - P(a) - P(b)

    With `tie_width` 0 this is the model of Bradley and Terry, with more that of Rao and Kupper (1967, "Ties in
    paired-comparison experiments"), P(a) = p_a / (p_a + theta p_b) with p = exp(u) and theta = exp(tie_width).

    Args:
        name: the source's name in the records.
        weights: what the person values, by the feature's name; features without a weight are ignored.
        position_bias: log-odds added to the output shown first; negative favours the one shown last.
        length_bias: utility of each e-fold of length in words; negative favours short outputs.
        temperature: > 0; the higher, the more the choice is chance.
        tie_width: >= 0, in log-odds; the larger, the more often two outputs are called equal.
        price: >= 0, of one statement, in any unit.
    """

    name: str
    weights: Mapping[str, float]
    position_bias: float = 0.0
    length_bias: float = 0.0
    temperature: float = 1.0
    tie_width: float = 0.0
    price: float = 0.0

    def __post_init__(self) -> None:
        for name in ("position_bias", "length_bias", "temperature", "tie_width", "price"):
            if not math.isfinite(value := getattr(self, name)):
                raise ConfigError(f"{name} of annotator {self.name!r}: expected a finite number, got {value}")
        if self.temperature <= 0:
            raise ConfigError(f"temperature of annotator {self.name!r}: expected more than 0, got {self.temperature}")
        for name in ("tie_width", "price"):
            if (value := getattr(self, name)) < 0:
                raise ConfigError(f"{name} of annotator {self.name!r}: expected 0 or more, got {value}")

    def utility(self, features: Mapping[str, float], text: str) -> float:
        """What an output with these features and this text is worth to the person.

        Raises:
            ConfigError: the person values a feature that is not there.
        """
        if missing := sorted(self.weights.keys() - features.keys()):
            raise ConfigError(
                f"weights of annotator {self.name!r}: no feature is called {missing[0]!r}; there are {sorted(features)}"
            )
        taste = sum(weight * features[name] for name, weight in self.weights.items())
        return taste + self.length_bias * math.log1p(len(text.split()))

    def choice_probabilities(self, utility_a: float, utility_b: float, *, a_is_first: bool) -> ChoiceProbabilities:
        """The probabilities of the person's statements about two outputs of these utilities (formula above)."""
        log_odds = (utility_a - utility_b) / self.temperature + (
            self.position_bias if a_is_first else -self.position_bias
        )
        a, b = _sigmoid(log_odds - self.tie_width), _sigmoid(-log_odds - self.tie_width)
        return ChoiceProbabilities(a, b, max(0.0, 1.0 - a - b))


@dataclass(frozen=True)
class AnnotatorPool:
    """Several simulated people and one kind of label noise.

    With probability 2 * `label_flip` a statement is replaced by a fair coin between a and b, as AlpacaFarm does. An
    agreement of p with anything that has no ties thus becomes 0.5 + (1 - 2 * label_flip) * (p - 0.5); at 0.25 the
    distance from chance is halved.

    Every random choice is a hash of its own purpose, the seed, the context and the two outputs' contents: statements do
    not depend on the order or number of calls, exchanging a and b exchanges the choice and nothing else, and nobody
    knows which model wrote what.

    Args:
        annotators: the people; each context's annotator is drawn from them uniformly.
        features: what can be valued in an output: a function of the context and the output's text.
        label_flip: in [0, 0.5]; 0.25 in AlpacaFarm's training pool and 0 in its evaluation pool.
    """

    annotators: tuple[Annotator, ...]
    features: Features = field(repr=False)
    label_flip: float = 0.0

    def __post_init__(self) -> None:
        names = [annotator.name for annotator in self.annotators]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"annotators: expected at least one, each with a name of its own, got {names}")
        if not 0.0 <= self.label_flip <= 0.5:
            raise ConfigError(f"label_flip: expected a probability from 0 to 0.5, got {self.label_flip}")

    def annotator(self, context: Context, *, seed: int) -> Annotator:
        """Who judges this context: drawn uniformly, by a hash of the seed and the context."""
        number = _uniform("annotator", seed, context.digest) * len(self.annotators)
        return self.annotators[int(number)]

    def compare(self, context: Context, a: Output, b: Output, *, seed: int) -> Comparison:
        """One statement about two outputs, by the annotator of this context; outputs of equal content are a tie.

        The record's `shown` holds the presentation order. Its `client_id` stands for the seed, the context and the two
        outputs, so that a store keeps the statement once however often it is made; its id and time are new each time.
        """
        who = self.annotator(context, seed=seed)
        address_a, address_b = _address(a), _address(b)
        key = _key(context, a, b, seed=seed)
        a_is_smaller = address_a <= address_b
        a_is_first = (_uniform("order", *key) < 0.5) == a_is_smaller
        choice: Literal["a", "b", "tie"] = "tie"
        if address_a != address_b:
            worth_a, worth_b = (who.utility(self.features(context, y.text), y.text) for y in (a, b))
            chances = who.choice_probabilities(worth_a, worth_b, a_is_first=a_is_first)
            # Laid out from the smaller address to the larger, the draw stays the same when a and b change places.
            smaller, larger = (chances.a, chances.b) if a_is_smaller else (chances.b, chances.a)
            draw = _uniform("choice", *key)
            if draw < smaller or draw >= 1.0 - larger:
                choice = "a" if (draw < smaller) == a_is_smaller else "b"
            if self._is_noise(key):
                choice = "a" if (_uniform("coin", *key) < 0.5) == a_is_smaller else "b"
        return Comparison(
            id=new_record_id(),
            time=datetime.now(UTC),
            source=Source(name=who.name, kind="simulated"),
            context=context,
            outputs=(a, b),
            shown=(0, 1) if a_is_first else (1, 0),
            choice=choice,
            client_id=f"simulated:{_fingerprint(*key)}",
        )

    def price(self, context: Context, a: Output, b: Output, *, seed: int) -> float:
        """What `compare` costs: nothing for outputs of equal content or where a coin decides, for then nobody is asked."""
        if _address(a) == _address(b) or self._is_noise(_key(context, a, b, seed=seed)):
            return 0.0
        return self.annotator(context, seed=seed).price

    def rank(self, context: Context, outputs: Sequence[Output], *, seed: int) -> Ranking:
        """One ranking of several outputs, best first, by the annotator of this context.

        The order is that of ``u(x, y) / temperature + position_bias * (first half shown ? 1 : 0) + Gumbel noise``, the
        Plackett-Luce model: of any two outputs the one is ranked above the other with the probability of `compare` without
        ties (Luce 1959; Yellott 1977). With probability 2 * `label_flip` the order is random. The position bias counts for
        the first half of the outputs shown.

        Raises:
            ConfigError: fewer than two outputs.
        """
        if len(outputs) < 2:
            raise ConfigError(f"outputs: expected at least two outputs to rank, got {len(outputs)}")
        who = self.annotator(context, seed=seed)
        key = _key(context, *outputs, seed=seed)
        addresses = [_address(output) for output in outputs]
        shown = sorted(range(len(outputs)), key=lambda index: _uniform("shown", *key, addresses[index]))
        careless = self._is_noise(key)
        score = []
        for index, output in enumerate(outputs):
            gumbel = -math.log(-math.log(max(_uniform("gumbel", *key, addresses[index]), 2.0**-53)))
            worth = who.utility(self.features(context, output.text), output.text) / who.temperature
            early = who.position_bias if shown.index(index) < len(outputs) // 2 else 0.0
            score.append(gumbel if careless else worth + early + gumbel)
        order = sorted(range(len(outputs)), key=lambda index: -score[index])
        return Ranking(
            id=new_record_id(),
            time=datetime.now(UTC),
            source=Source(name=who.name, kind="simulated"),
            context=context,
            outputs=tuple(outputs),
            shown=tuple(shown),
            tiers=tuple((index,) for index in order),
            client_id=f"simulated:{_fingerprint('ranking', *key)}",
        )

    def choice_probabilities(self, context: Context, a: Output, b: Output) -> ChoiceProbabilities:
        """The exact probabilities of the pool's statements, over annotators, presentation orders and label noise."""
        if _address(a) == _address(b):
            return ChoiceProbabilities(0.0, 0.0, 1.0)
        features_a, features_b = self.features(context, a.text), self.features(context, b.text)
        worth = [(who, who.utility(features_a, a.text), who.utility(features_b, b.text)) for who in self.annotators]
        judged = [
            who.choice_probabilities(worth_a, worth_b, a_is_first=a_is_first)
            for who, worth_a, worth_b in worth
            for a_is_first in (True, False)
        ]
        mean_a, mean_b, mean_tie = (math.fsum(column) / len(judged) for column in zip(*judged, strict=True))
        kept = 1.0 - 2 * self.label_flip
        return ChoiceProbabilities(kept * mean_a + self.label_flip, kept * mean_b + self.label_flip, kept * mean_tie)

    def preference_probability(self, context: Context, a: Output, b: Output) -> float:
        """The exact probability that the pool prefers a to b, a tie being half a win: P(a) + P(tie) / 2."""
        return self.choice_probabilities(context, a, b).preference

    def _is_noise(self, key: Key) -> bool:
        """Whether a coin or a random order stands in for the annotator."""
        return _uniform("noise", *key) < 2 * self.label_flip


def _key(context: Context, *outputs: Output, seed: int) -> Key:
    """What every random choice about these outputs of a context is made from, in whatever order they come."""
    return (seed, context.digest, *sorted(map(_address, outputs)))


def _address(output: Output) -> str:
    """The address of an output's content alone, whoever produced it."""
    return hashlib.sha256(output.content.model_dump_json().encode()).hexdigest()


def _uniform(*key: str | int) -> float:
    """A number in [0, 1) from a hash of the key: 53 bits, as in `random.random`."""
    return (int(_fingerprint(*key), 16) >> 11) * 2.0**-53


def _fingerprint(*key: str | int) -> str:
    """16 hexadecimal digits of a hash of the key."""
    return hashlib.sha256("\x1f".join(map(str, key)).encode()).hexdigest()[:16]


def _sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
