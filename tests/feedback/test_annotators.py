"""Simulated annotators: their choices are random as stated, reproducible, and symmetric in the two outputs."""

import math
from collections import Counter
from itertools import chain, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from plaudit.errors import ConfigError
from plaudit.feedback.annotators import Annotator, AnnotatorPool, ChoiceProbabilities
from plaudit.feedback.records import Context, Output, Producer

OPPOSITE = {"a": "b", "b": "a", "tie": "tie"}
A, B = Output(content="a clear answer"), Output(content="an answer that is less clear")
CONTEXT = Context(content="What is a metaphor?")

finite = st.floats(-20, 20)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def clarity(context: Context, text: str) -> dict[str, float]:
    return {"clear": 1.0 if "less" not in text else 0.0, "words": len(text.split())}


def pool_of(*annotators: Annotator, label_flip: float = 0.0) -> AnnotatorPool:
    return AnnotatorPool(annotators, clarity, label_flip)


def people() -> tuple[Annotator, ...]:
    return (
        Annotator("clear", {"clear": 1.0}, temperature=0.5),
        Annotator("first", {"clear": 0.3}, position_bias=1.0, tie_width=0.3),
        Annotator("long", {}, length_bias=2.0),
    )


# --- one person ------------------------------------------------------------------------------------------------------


@given(finite, finite, st.floats(0.1, 10), st.floats(-3, 3), st.booleans())
def test_without_ties_the_choice_is_logistic_in_the_difference_of_utilities(u_a, u_b, temperature, bias, a_is_first):
    who = Annotator("who", {}, temperature=temperature, position_bias=bias)
    chances = who.choice_probabilities(u_a, u_b, a_is_first=a_is_first)
    log_odds = (u_a - u_b) / temperature + (bias if a_is_first else -bias)
    assert chances.a == pytest.approx(sigmoid(log_odds))
    assert chances.b == pytest.approx(1 - sigmoid(log_odds))
    assert chances.tie == pytest.approx(0, abs=1e-12)


@given(finite, finite, st.floats(0, 5))
def test_with_ties_the_choice_is_that_of_rao_and_kupper(u_a, u_b, width):
    """P(a) = p_a / (p_a + theta p_b) with p = exp(u) and theta = exp(tie_width)."""
    chances = Annotator("who", {}, tie_width=width).choice_probabilities(u_a, u_b, a_is_first=True)
    p_a, p_b, theta = math.exp(u_a), math.exp(u_b), math.exp(width)
    assert chances.a == pytest.approx(p_a / (p_a + theta * p_b))
    assert chances.b == pytest.approx(p_b / (p_b + theta * p_a))
    assert sum(chances) == pytest.approx(1)
    assert chances.tie >= 0


@given(finite, finite, st.floats(-3, 3), st.floats(0, 3), st.booleans())
def test_exchanging_the_outputs_exchanges_the_probabilities(u_a, u_b, bias, width, a_is_first):
    who = Annotator("who", {}, position_bias=bias, tie_width=width)
    one = who.choice_probabilities(u_a, u_b, a_is_first=a_is_first)
    other = who.choice_probabilities(u_b, u_a, a_is_first=not a_is_first)
    assert one == pytest.approx((other.b, other.a, other.tie))
    assert one.preference == pytest.approx(1 - other.preference)


def test_a_person_values_features_and_length():
    who = Annotator("who", {"clear": 2.0, "words": 0.5}, length_bias=3.0)
    assert who.utility({"clear": 1.0, "words": 4.0, "more": 9.0}, "one two three four") == pytest.approx(
        2.0 * 1.0 + 0.5 * 4.0 + 3.0 * math.log(1 + 4)
    )


def test_extreme_utilities_are_certain_and_do_not_overflow():
    who = Annotator("who", {}, temperature=1e-3)
    assert who.choice_probabilities(1e4, -1e4, a_is_first=True) == ChoiceProbabilities(1.0, 0.0, 0.0)


# --- the pool: exact probabilities -----------------------------------------------------------------------------------


def test_the_pool_mixes_its_people_and_both_orders_evenly():
    terms = [clarity(CONTEXT, output.text) for output in (A, B)]
    by_hand = [
        who.choice_probabilities(who.utility(terms[0], A.text), who.utility(terms[1], B.text), a_is_first=first)
        for who, first in product(people(), (True, False))
    ]
    expected = [sum(column) / len(by_hand) for column in zip(*by_hand, strict=True)]
    assert pool_of(*people()).choice_probabilities(CONTEXT, A, B) == pytest.approx(expected)


def test_a_position_bias_cancels_for_equal_outputs():
    biased = pool_of(Annotator("first", {}, position_bias=2.0))
    assert biased.preference_probability(CONTEXT, A, B) == pytest.approx(0.5)


@pytest.mark.parametrize("label_flip", [0.0, 0.1, 0.25, 0.5])
def test_label_noise_compresses_agreement_towards_a_coin(label_flip):
    """a becomes 0.5 + (1 - 2 flip) (a - 0.5): at 0.25, 0.5 + 0.5 (a - 0.5), as in AlpacaFarm."""
    for weight in (-2.0, 0.0, 0.4, 3.0):
        who = Annotator("who", {"clear": weight})
        clean = pool_of(who).preference_probability(CONTEXT, A, B)
        noisy = pool_of(who, label_flip=label_flip).preference_probability(CONTEXT, A, B)
        assert clean == pytest.approx(sigmoid(weight))
        assert noisy == pytest.approx(0.5 + (1 - 2 * label_flip) * (clean - 0.5))


def test_exchanging_the_outputs_gives_the_complement():
    pool = pool_of(*people(), label_flip=0.1)
    assert pool.preference_probability(CONTEXT, A, B) == pytest.approx(1 - pool.preference_probability(CONTEXT, B, A))


# --- the pool: its statements ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_flip", [0.0, 0.25])
def test_statements_are_as_frequent_as_their_probabilities(label_flip):
    pool, n = pool_of(*people(), label_flip=label_flip), 4000
    said = Counter(pool.compare(CONTEXT, A, B, seed=seed).choice for seed in range(n))
    chances = pool.choice_probabilities(CONTEXT, A, B)
    observed = [said["a"], said["b"], said["tie"]]
    assert chisquare(observed, [n * chance for chance in chances]).pvalue > 0.01


def test_a_quarter_of_flips_halves_the_distance_of_sampled_agreement_from_a_coin():
    n = 4000
    who = Annotator("who", {"clear": 1.5})
    agreement = {
        flip: sum(pool_of(who, label_flip=flip).compare(CONTEXT, A, B, seed=seed).choice == "a" for seed in range(n))
        / n
        for flip in (0.0, 0.25)
    }
    standard_error = math.sqrt(0.25 / n)
    assert agreement[0.0] == pytest.approx(sigmoid(1.5), abs=3 * standard_error)
    assert agreement[0.25] == pytest.approx(0.5 + 0.5 * (sigmoid(1.5) - 0.5), abs=3 * standard_error)


def test_pure_noise_knows_neither_the_order_nor_the_outputs():
    pool, n = pool_of(*people(), label_flip=0.5), 4000
    records = [pool.compare(CONTEXT, A, B, seed=seed) for seed in range(n)]
    cells = Counter((record.choice, record.shown) for record in records)
    assert len(cells) == 4
    assert chisquare(list(cells.values())).pvalue > 0.01


def test_frequencies_hold_for_each_presentation_order():
    who, n = Annotator("first", {"clear": 0.5}, position_bias=1.0), 4000
    records = [pool_of(who).compare(CONTEXT, A, B, seed=seed) for seed in range(n)]
    by_order = {order: [r.choice for r in records if r.shown == order] for order in ((0, 1), (1, 0))}
    assert len(by_order[0, 1]) == pytest.approx(n / 2, abs=3 * math.sqrt(n / 4))
    for order, bias in (((0, 1), 1.0), ((1, 0), -1.0)):
        choices = by_order[order]
        share = choices.count("a") / len(choices)
        assert share == pytest.approx(sigmoid(0.5 + bias), abs=3 * math.sqrt(0.25 / len(choices)))


@given(st.text(min_size=1), st.text(min_size=1), st.text(), st.integers(0, 10**6))
def test_exchanging_the_outputs_exchanges_the_choice_and_nothing_else(text_a, text_b, question, seed):
    pool, context = pool_of(*people(), label_flip=0.25), Context(content=question)
    a, b = Output(content=text_a), Output(content=text_b)
    one, other = pool.compare(context, a, b, seed=seed), pool.compare(context, b, a, seed=seed)
    assert other.choice == OPPOSITE[one.choice]
    assert other.source == one.source
    if text_a != text_b:
        assert [other.outputs[i] for i in other.shown] == [one.outputs[i] for i in one.shown]


def test_a_statement_does_not_depend_on_the_calls_before_it():
    pool = pool_of(*people(), label_flip=0.1)
    contexts = [Context(content=f"question {number}") for number in range(50)]
    forwards = {c.digest: pool.compare(c, A, B, seed=3).statement_digest for c in contexts}
    backwards = {c.digest: pool.compare(c, A, B, seed=3).statement_digest for c in reversed(contexts)}
    assert forwards == backwards
    other_seed = {c.digest: pool.compare(c, A, B, seed=4).statement_digest for c in contexts}
    assert all(forwards[digest] != other_seed[digest] for digest in forwards)


def test_contexts_are_shared_out_evenly_and_one_context_has_one_annotator():
    pool, n = pool_of(*people()), 3000
    judges = Counter(pool.annotator(Context(content=f"question {i}"), seed=0).name for i in range(n))
    assert chisquare(list(judges.values())).pvalue > 0.01
    assert len(judges) == 3
    outputs = [Output(content=text) for text in ("one", "two", "three")]
    assert len({pool.compare(CONTEXT, a, b, seed=0).source.name for a, b in product(outputs, outputs)}) == 1


def test_the_record_names_the_simulated_person_and_what_was_shown():
    pool = pool_of(Annotator("clear", {"clear": 1.0}))
    record = pool.compare(CONTEXT, A, B, seed=7)
    assert (record.source.name, record.source.kind) == ("clear", "simulated")
    assert (record.context, record.outputs) == (CONTEXT, (A, B))
    assert record.shown in {(0, 1), (1, 0)}
    assert record.client_id == pool.compare(CONTEXT, A, B, seed=7).client_id
    assert record.client_id != pool.compare(CONTEXT, A, B, seed=8).client_id


def test_nobody_knows_which_model_wrote_what():
    pool = pool_of(*people(), label_flip=0.25)
    made = Output(content=A.content, producer=Producer(model="big"))
    for seed in range(50):
        one, other = pool.compare(CONTEXT, A, B, seed=seed), pool.compare(CONTEXT, made, B, seed=seed)
        assert (one.choice, one.shown) == (other.choice, other.shown)


def test_equal_contents_are_a_tie_whatever_the_noise():
    pool = pool_of(Annotator("first", {}, position_bias=5.0), label_flip=0.5)
    made = Output(content=A.content, producer=Producer(model="big"))
    assert {pool.compare(CONTEXT, A, made, seed=seed).choice for seed in range(20)} == {"tie"}
    assert pool.choice_probabilities(CONTEXT, A, made) == (0, 0, 1)


def test_a_statement_costs_its_annotators_price_and_a_coin_costs_nothing():
    dear, cheap = Annotator("dear", {"clear": 1.0}, price=3.0), Annotator("cheap", {"clear": 1.0}, price=1.0)
    pool = pool_of(dear, cheap)
    for seed in range(20):
        price = pool.price(CONTEXT, A, B, seed=seed)
        assert price == pool.price(CONTEXT, B, A, seed=seed) == pool.annotator(CONTEXT, seed=seed).price
        assert pool.price(CONTEXT, A, A, seed=seed) == 0
    noisy = pool_of(dear, label_flip=0.25)
    free = sum(noisy.price(CONTEXT, A, B, seed=seed) == 0 for seed in range(400))
    assert binomtest(free, 400, 0.5).pvalue > 1e-4


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature of annotator 'who': expected more than 0, got 0.0"),
        ({"tie_width": -1.0}, "tie_width of annotator 'who': expected 0 or more, got -1.0"),
        ({"price": -2.0}, "price of annotator 'who': expected 0 or more, got -2.0"),
        ({"length_bias": math.nan}, "length_bias of annotator 'who': expected a finite number, got nan"),
    ],
)
def test_impossible_people_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        Annotator("who", {}, **settings)
    assert str(error.value) == message


def test_an_unknown_feature_is_named():
    pool = pool_of(Annotator("who", {"cler": 1.0}))
    with pytest.raises(ConfigError) as error:
        pool.compare(CONTEXT, A, B, seed=0)
    expected = "weights of annotator 'who': no feature is called 'cler'; there are ['clear', 'words']"
    assert str(error.value) == expected


def test_impossible_pools_are_refused():
    who = Annotator("who", {})
    with pytest.raises(ConfigError, match=r"annotators: expected at least one, each with a name of its own, got \[\]"):
        pool_of()
    with pytest.raises(ConfigError, match=r"got \['who', 'who'\]"):
        pool_of(who, who)
    with pytest.raises(ConfigError, match=r"label_flip: expected a probability from 0 to 0\.5, got 0\.6"):
        pool_of(who, label_flip=0.6)


def test_a_ranking_puts_two_outputs_in_the_order_that_a_comparison_would():
    """Plackett-Luce: P(i above j) = sigmoid((u_i - u_j) / temperature), however many others are ranked beside them."""
    person = Annotator("clear", {"clear": 2.0, "words": 0.1}, temperature=0.8)
    pool = pool_of(person)
    outputs = [
        Output(content=text)
        for text in ("clear and short", "clear in more words than that", "less of it", "a less clear one")
    ]
    rankings = [pool.rank(CONTEXT, outputs, seed=seed) for seed in range(3000)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        above = sum(list(chain(*r.tiers)).index(i) < list(chain(*r.tiers)).index(j) for r in rankings)
        expected = pool.preference_probability(CONTEXT, outputs[i], outputs[j])
        assert binomtest(above, len(rankings), expected).pvalue > 0.001


def test_a_ranking_is_the_same_each_time_and_has_every_output_once():
    pool = pool_of(*people(), label_flip=0.25)
    outputs = [Output(content=text) for text in ("one", "two", "three")]
    first, second = (pool.rank(CONTEXT, outputs, seed=5) for _ in range(2))
    assert (first.tiers, first.shown, first.client_id) == (second.tiers, second.shown, second.client_id)
    assert sorted(chain(*first.tiers)) == sorted(first.shown) == [0, 1, 2]
    with pytest.raises(ConfigError, match="at least two outputs to rank, got 1"):
        pool.rank(CONTEXT, outputs[:1], seed=5)


def test_the_order_of_outputs_given_does_not_change_who_wins():
    pool = pool_of(*people())
    outputs = [Output(content=text) for text in ("one", "two", "three")]
    turned = outputs[::-1]
    best = [outputs[pool.rank(CONTEXT, outputs, seed=seed).tiers[0][0]] for seed in range(20)]
    assert best == [turned[pool.rank(CONTEXT, turned, seed=seed).tiers[0][0]] for seed in range(20)]
