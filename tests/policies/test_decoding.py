"""The distribution that is sampled from, by its definition, and draws from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from plaudit.errors import ConfigError
from plaudit.policies import Sampling, decoding
from plaudit.policies.base import by_context, by_length
from plaudit.policies.decoding import draw, sampled_distribution

PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
LOGITS = torch.tensor([PROBABILITIES]).log() + 7.0  # logits are log-probabilities up to a constant


def distribution(logits: torch.Tensor = LOGITS, **sampling: float) -> list[float]:
    return sampled_distribution(logits, Sampling(**sampling)).exp()[0].tolist()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the distribution -----------------------------------------------------------------------------------------------


def test_temperature_1_is_the_models_distribution():
    assert distribution() == pytest.approx(PROBABILITIES)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_raises_probabilities_to_its_inverse(temperature):
    powers = [probability ** (1 / temperature) for probability in PROBABILITIES]
    assert distribution(temperature=temperature) == pytest.approx([power / sum(powers) for power in powers])


def test_temperature_0_takes_the_likeliest():
    assert distribution(temperature=0) == [1, 0, 0, 0, 0]
    assert distribution(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), temperature=0) == [0, 1, 0, 0]
    assert distribution(temperature=0, top_k=3, top_p=0.5) == [1, 0, 0, 0, 0]


def test_a_tiny_temperature_does_not_overflow():
    assert distribution(torch.tensor([[-200.0, 300.0, 299.0]]), temperature=1e-3) == [0, 1, 0]


@pytest.mark.parametrize("k", [1, 2, 4, 5, 9])
def test_top_k_keeps_k_and_renormalises(k):
    kept = PROBABILITIES[:k]
    expected = [probability / sum(kept) for probability in kept] + [0] * (5 - len(kept))
    assert distribution(top_k=k) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_keeps_k_of_equally_likely_tokens_too(k):
    """Ties are common: bfloat16 logits have 8 bits."""
    found = distribution(torch.zeros(1, 4), top_k=k)
    assert sorted(found) == pytest.approx([0] * (4 - k) + [1 / k] * k)


@pytest.mark.parametrize(
    ("p", "kept"), [(0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.86, 4), (0.96, 5), (1.0, 5), (1e-9, 1)]
)
def test_top_p_keeps_the_fewest_that_reach_p(p, kept):
    total = sum(PROBABILITIES[:kept])
    expected = [probability / total for probability in PROBABILITIES[:kept]] + [0] * (5 - kept)
    assert distribution(top_p=p) == pytest.approx(expected)


@pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
def test_top_p_is_reached_by_exactly_p(p):
    """Four tokens of a quarter each: a half is reached by two of them."""
    assert sorted(distribution(torch.zeros(1, 4), top_p=p))[int(4 - 4 * p) :] == pytest.approx(
        [1 / (4 * p)] * int(4 * p)
    )


def test_temperature_then_top_k_then_top_p():
    """At temperature 1/2 squares; of 16, 9, 2.25, 1, 0.25 (hundredths) three are kept, 27.25 in all; 0.9 needs two of them."""
    squares = [0.16, 0.09, 0.0225]
    assert squares[0] / sum(squares) < 0.9 < (squares[0] + squares[1]) / sum(squares)
    expected = [squares[0] / sum(squares[:2]), squares[1] / sum(squares[:2]), 0, 0, 0]
    assert distribution(temperature=0.5, top_k=3, top_p=0.9) == pytest.approx(expected)


def test_the_order_of_the_vocabulary_does_not_matter():
    order = torch.tensor([3, 0, 4, 1, 2])
    for sampling in ({"top_k": 2}, {"top_p": 0.6}, {"temperature": 0.7, "top_k": 3, "top_p": 0.8}):
        shuffled = distribution(LOGITS[:, order], **sampling)
        assert shuffled == pytest.approx([distribution(**sampling)[index] for index in order])


@settings(max_examples=60)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=12),
    st.floats(0.1, 3),
    st.integers(1, 12),
    st.floats(0.01, 1),
)
def test_it_is_a_distribution_on_the_likeliest_tokens(logits, temperature, k, p):
    row = torch.tensor([logits])
    found = sampled_distribution(row, Sampling(temperature=temperature, top_k=k, top_p=p))[0]
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-5)
    kept = found > -torch.inf
    assert 1 <= kept.sum() <= k
    if (~kept).any():
        assert row[0][kept].min() >= row[0][~kept].max() - 1e-5  # float32 may see a tie


# --- draws ----------------------------------------------------------------------------------------------------------


def test_draws_have_the_distributions_frequencies():
    """A chi-square test; with this seed p is far from any level."""
    count = 20_000
    log_prob = torch.tensor([PROBABILITIES]).log().expand(count, -1)
    found = np.bincount(draw(log_prob, generator()).flatten(), minlength=5)
    assert chisquare(found, [count * probability for probability in PROBABILITIES]).pvalue > 0.01
    wrong = [0.39, 0.31, *PROBABILITIES[2:]]
    assert chisquare(found, [count * probability for probability in wrong]).pvalue < 0.01


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.125, 1), (0.25, 2), (0.49, 2), (0.5, 4), (0.99, 4), (1 - 2**-53, 4)]
)
def test_a_token_is_drawn_where_the_uniform_number_lies_in_its_share(monkeypatch, uniform, token):
    """From the sum of the probabilities before it up to, not including, the sum with its own."""
    monkeypatch.setattr(decoding.torch, "rand", lambda *shape, **_: torch.full(shape, uniform, dtype=torch.float64))
    log_prob = torch.tensor([[0.0, 0.25, 0.25, 0.0, 0.5, 0.0]]).log()
    assert draw(log_prob, generator()).tolist() == [[token]]


def test_rows_are_drawn_independently_of_each_other():
    """Two rows of a fair coin agree half of the time."""
    coins = torch.full((2, 2), math.log(0.5))
    source = generator(1)
    agree = sum(len(set(draw(coins, source).flatten().tolist())) == 1 for _ in range(1000))
    assert abs(agree - 500) < 4 * math.sqrt(1000 * 0.25)


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.5, 1 - 2**-53, "random"])
def test_tokens_of_probability_0_are_never_drawn(monkeypatch, uniform):
    """Neither at the ends of the vocabulary nor between, not even where the uniform number lies on an edge."""
    probabilities = torch.tensor([0.0, 0.0, 0.3, 0.0, 0.2, 0.0, 0.5, 0.0, 0.0])
    log_prob = probabilities.log().expand(5000, -1)
    if uniform != "random":
        monkeypatch.setattr(decoding.torch, "rand", lambda *shape, **_: torch.full(shape, uniform, dtype=torch.float64))
    assert (probabilities[draw(log_prob, generator())] > 0).all()


def test_a_sum_that_was_rounded_up_draws_no_impossible_token(monkeypatch):
    """A GPU adds up blocks in parallel, so that the sum up to a token of probability 0 can exceed the sum before it."""
    rounded_up = torch.tensor([[0.25, 0.5, 0.75]])
    monkeypatch.setattr(torch.Tensor, "cumsum", lambda *_: rounded_up)
    monkeypatch.setattr(decoding.torch, "rand", lambda *shape, **_: torch.full(shape, 0.5, dtype=torch.float64))
    assert draw(torch.tensor([[0.3, 0.0, 0.7]]).log(), generator()).tolist() == [[2]]


def test_a_long_tail_of_zeros_is_never_drawn():
    log_prob = torch.full((200, 50_000), -torch.inf)
    kept = torch.randn(200, 40, generator=generator())
    log_prob[:, 1000:1040] = kept.log_softmax(-1)
    drawn = draw(log_prob, generator())
    assert ((drawn >= 1000) & (drawn < 1040)).all()
    assert len(drawn.unique()) > 20


def test_the_same_generator_draws_the_same():
    log_prob = torch.zeros(50, 7).log_softmax(-1)
    assert torch.equal(draw(log_prob, generator(3)), draw(log_prob, generator(3)))
    assert not torch.equal(draw(log_prob, generator(3)), draw(log_prob, generator(4)))


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected a whole number >= 1, got 0"),
        ({"temperature": -0.1}, "temperature: expected a number >= 0, got -0.1"),
        ({"temperature": math.inf}, "temperature: expected a number >= 0, got inf"),
        ({"temperature": math.nan}, "temperature: expected a number >= 0, got nan"),
        ({"top_p": 0.0}, r"top_p: expected a number in \(0, 1\], got 0.0"),
        ({"top_p": 1.1}, r"top_p: expected a number in \(0, 1\], got 1.1"),
        ({"top_k": 0}, "top_k: expected a whole number >= 1, or nothing for all tokens, got 0"),
    ],
)
def test_settings_that_cannot_be_sampled_with(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)


def test_settings_are_stored_without_what_is_not_set():
    assert Sampling(temperature=0.7).settings() == {"max_new_tokens": 256, "temperature": 0.7, "top_p": 1.0}
    assert Sampling(top_k=5).settings()["top_k"] == 5


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 8))
def test_batches_are_alike_in_length_and_hold_each_once(lengths, size):
    batches = by_length(lengths, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    ordered = [lengths[index] for batch in batches for index in batch]
    assert ordered == sorted(lengths, reverse=True)


@given(st.lists(st.lists(st.integers(0, 2), max_size=3), max_size=30), st.integers(1, 8))
def test_batches_by_context_keep_a_context_together_and_hold_each_once(contexts, size):
    batches = by_context(contexts, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(contexts)))
    assert all(1 <= len(batch) <= size for batch in batches)
    in_order = [contexts[index] for batch in batches for index in batch]
    assert in_order == sorted(in_order)
