"""The distribution that is sampled from, by its definition, and draws from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from plaudit.errors import ConfigError, PolicyError
from plaudit.policies import Sampling
from plaudit.policies.base import by_context, by_length
from plaudit.policies.distribution import draw, penalise_repetition, sampled_distribution

PROBABILITIES = [0.4, 0.3, 0.15, 0.1, 0.05]
LOGITS = torch.tensor([PROBABILITIES]).log() + 7.0  # logits are log-probabilities up to a constant


def distribution(logits: torch.Tensor = LOGITS, **sampling: float) -> list[float]:
    return sampled_distribution(logits, Sampling(**sampling))[0].tolist()


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
    st.floats(0, 0.99),
)
def test_it_is_a_distribution_on_the_likeliest_tokens(logits, temperature, k, p, m):
    row = torch.tensor([logits])
    found = sampled_distribution(row, Sampling(temperature=temperature, top_k=k, top_p=p, min_p=m))[0]
    assert found.sum().item() == pytest.approx(1, abs=1e-5)
    kept = found > 0
    assert 1 <= kept.sum() <= k
    assert found[kept].min() >= m * found.max()
    if (~kept).any():
        assert row[0][kept].min() >= row[0][~kept].max() - 1e-5  # float32 may see a tie


@pytest.mark.parametrize(("m", "kept"), [(0.0, 5), (0.12, 5), (0.13, 4), (0.26, 3), (0.74, 2), (0.76, 1), (0.99, 1)])
def test_min_p_keeps_what_is_not_far_below_the_likeliest(m, kept):
    total = sum(PROBABILITIES[:kept])
    expected = [probability / total for probability in PROBABILITIES[:kept]] + [0] * (5 - kept)
    assert distribution(min_p=m) == pytest.approx(expected)


def test_a_penalty_on_repetition_makes_what_was_seen_less_likely_whatever_its_sign():
    logits = torch.tensor([2.0, -2.0, 0.5, 1.0])
    found = penalise_repetition(logits, torch.tensor([0, 1, 1, 0]), 2.0)
    assert found.tolist() == [1.0, -4.0, 0.5, 1.0]
    assert logits.tolist() == [2.0, -2.0, 0.5, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_each_setting_is_what_transformers_makes_of_it(seed):
    """Parity with its processors on a vocabulary of 500, one by one and all together, in their order there."""
    from transformers.generation import logits_process as peer

    logits = 3 * torch.randn(4, 500, generator=generator(seed))
    seen = torch.randint(0, 500, (4, 30), generator=generator(seed + 1))
    theirs = {
        "repetition_penalty": (1.3, peer.RepetitionPenaltyLogitsProcessor(1.3)),
        "temperature": (0.7, peer.TemperatureLogitsWarper(0.7)),
        "top_k": (60, peer.TopKLogitsWarper(60)),
        "top_p": (0.9, peer.TopPLogitsWarper(0.9)),
        "min_p": (0.02, peer.MinPLogitsWarper(0.02)),
    }
    for names in (*([name] for name in theirs), list(theirs)):
        settings = Sampling(**{name: theirs[name][0] for name in names})
        expected = logits.clone()
        for name in names:
            expected = theirs[name][1](seen, expected)
        ours = torch.stack(
            [penalise_repetition(*pair, settings.repetition_penalty) for pair in zip(logits, seen, strict=True)]
        )
        torch.testing.assert_close(sampled_distribution(ours, settings), expected.softmax(-1), rtol=1e-5, atol=1e-7)


# --- draws ----------------------------------------------------------------------------------------------------------


def uniforms(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("before", [0, 300, 1000], ids=["one block", "two blocks", "four blocks"])
def test_draws_have_the_distributions_frequencies(before):
    """A chi-square test; with this seed p is far from any level. Tokens that have no share stand before the others."""
    count = 20_000
    shares = torch.tensor([0.0] * before + PROBABILITIES)
    drawn = draw(shares.expand(count, -1), uniforms(count))
    assert drawn.min() == before
    found = np.bincount(drawn - before, minlength=5)
    assert chisquare(found, [count * probability for probability in PROBABILITIES]).pvalue > 0.01
    wrong = [0.39, 0.31, *PROBABILITIES[2:]]
    assert chisquare(found, [count * probability for probability in wrong]).pvalue < 0.01


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.125, 1), (0.25, 2), (0.49, 2), (0.5, 4), (0.99, 4), (1 - 2**-53, 4)]
)
@pytest.mark.parametrize("apart", [1, 200], ids=["one block", "several blocks"])
def test_a_token_is_drawn_where_the_uniform_number_lies_in_its_share(uniform, token, apart):
    """From the sum of the probabilities before it up to, not including, the sum with its own."""
    shares = torch.zeros(1, 6 * apart)
    shares[0, ::apart] = torch.tensor([0.0, 0.25, 0.25, 0.0, 0.5, 0.0])
    assert draw(shares, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token * apart]


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(0, 1000), st.sampled_from([0.0, 0.3, 0.5, 1 - 2**-53]), st.floats(0.01, 1))
def test_tokens_of_probability_0_are_never_drawn(vocabulary, seed, uniform, share):
    """Neither at the ends of the vocabulary nor between, not even where the uniform number lies on an edge."""
    source = generator(seed)
    weights = torch.rand(16, vocabulary, generator=source).exp()
    weights[torch.rand(16, vocabulary, generator=source) > share] = 0
    weights[:, seed % vocabulary] = 1
    probability = weights / weights.sum(-1, keepdim=True)
    drawn = draw(probability, torch.full((16,), uniform, dtype=torch.float64))
    assert (probability.gather(-1, drawn[:, None]) > 0).all()


def test_a_long_tail_of_zeros_is_never_drawn():
    probability = torch.zeros(200, 50_000)
    probability[:, 1000:1040] = torch.randn(200, 40, generator=generator()).softmax(-1)
    drawn = draw(probability, uniforms(200))
    assert ((drawn >= 1000) & (drawn < 1040)).all()
    assert len(drawn.unique()) > 20


def test_logits_that_are_no_numbers_are_an_error():
    logits = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])
    with pytest.raises(PolicyError, match="logits are not numbers"):
        draw(sampled_distribution(logits, Sampling()), uniforms(2))


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
        ({"min_p": 1.0}, r"min_p: expected a number in \[0, 1\), got 1.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: expected a number > 0, got 0.0"),
        ({"stop": ("a", "")}, r"stop: expected a tuple of strings, none of them empty, got \('a', ''\)"),
    ],
)
def test_settings_that_cannot_be_sampled_with(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)


def test_settings_are_stored_without_what_is_not_set():
    assert Sampling(temperature=0.7).settings() == {"max_new_tokens": 256, "temperature": 0.7, "top_p": 1.0}
    assert Sampling(top_k=5, stop=("end",)).settings() == {
        "max_new_tokens": 256, "temperature": 1.0, "top_p": 1.0, "top_k": 5, "stop": ["end"]
    }  # fmt: skip


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
