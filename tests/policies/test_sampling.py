"""Samples of a policy: drawn from what the model says, scored as drawn, grouped by context, ended by their stop tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from plaudit.feedback.records import Context, Tokens
from plaudit.policies import CausalLM, LoRA, Sampling, Sequence
from plaudit.policies.decoding import decode
from plaudit.policies.distribution import penalise_repetition, sampled_distribution
from plaudit.policies.packing import Packer
from plaudit.policies.rows import AllowedTokens, Row, new_rows
from plaudit.policies.scoring import TokenScorer

from .conftest import ask, perturb
from .families import FAMILIES, build

CONTEXTS = [ask("Hi"), ask("What is the colour of the sky on a clear day?"), ask("2 + 2?")]
SHORT = Sampling(max_new_tokens=7)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_sequence(policy: CausalLM, context: Context, ids: tuple[int, ...]) -> Sequence:
    return Sequence(policy.encoder.context(context), ids, (True,) * len(ids))


def step_distributions(policy: CausalLM, sequence: Sequence, sampling: Sampling) -> torch.Tensor:
    """The distributions that a sample's tokens were drawn from, by one plain forward pass over the whole sample."""
    whole = sequence.context + sequence.output
    logits = policy.model(torch.tensor([whole])).logits[0, len(sequence.context) - 1 : -1].float()
    seen = [torch.tensor(whole[: len(sequence.context) + step]) for step in range(len(logits))]
    penalty = sampling.repetition_penalty
    penalised = [penalise_repetition(*pair, penalty) for pair in zip(logits, seen, strict=True)]
    return sampled_distribution(torch.stack(penalised), sampling).log()


def sample_rows(
    scorer: TokenScorer,
    contexts: list[tuple[int, ...]],
    n: int,
    *,
    seed: int = 0,
    slots: int = 64,
    stop_ids: frozenset[int] = frozenset(),
    shares: bool = True,
    sampling: Sampling = SHORT,
) -> list[Row]:
    """The engine on token ids; rows in their order, not that of their ends."""
    rows = decode(
        scorer,
        new_rows(contexts, n, generator(seed)),
        slots=slots,
        sampling=sampling,
        ends=lambda ids: ids[-1] in stop_ids,
        device=torch.device("cpu"),
        shares=shares,
    )
    return sorted(rows, key=lambda row: row.number)


def printable(policy: CausalLM) -> AllowedTokens:
    """Only tokens that write letters and digits."""
    texts = {token: policy.encoder.text((token,)) for token in range(policy.model.config.vocab_size)}
    allowed = [token for token, text in texts.items() if text.isascii() and text.isalnum()]
    return AllowedTokens(lambda *_: allowed)


def check_rows(policy: CausalLM, rows: list[Row]) -> None:
    """Each row's log-probabilities are those of its own tokens alone."""
    for row in rows:
        ids = tuple(row.token_ids)
        scored = policy.log_prob_of([Sequence(row.context, ids, (True,) * len(ids))]).per_step[0]
        torch.testing.assert_close(torch.tensor(row.log_prob), scored, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [1, 3])
@torch.no_grad()
def test_behaviour_log_probs_are_the_scored_ones(policy, n):
    """At temperature 1 the distribution sampled from is the policy; prompts of unequal length, several samples of each."""
    samples = policy.sample(CONTEXTS, n, generator=generator(), sampling=SHORT)
    assert [len(group) for group in samples] == [n] * len(CONTEXTS)
    for context, group in zip(CONTEXTS, samples, strict=True):
        for sample in group:
            scored = policy.log_prob_of([as_sequence(policy, context, sample.token_ids)]).per_step[0]
            torch.testing.assert_close(torch.tensor(sample.log_prob), scored, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=5, temperature=0.7),
        Sampling(max_new_tokens=5, top_k=4),
        Sampling(max_new_tokens=5, top_p=0.5),
        Sampling(max_new_tokens=5, temperature=1.3, top_k=20, top_p=0.8),
        Sampling(max_new_tokens=5, min_p=0.3),
        Sampling(max_new_tokens=5, repetition_penalty=1.5),
        Sampling(max_new_tokens=5, temperature=0),
    ],
    ids=["temperature", "top-k", "top-p", "all", "min-p", "repetition", "greedy"],
)
@torch.no_grad()
def test_behaviour_log_probs_are_those_of_what_was_really_sampled_from(policy, sampling):
    for context, group in zip(
        CONTEXTS, policy.sample(CONTEXTS, 2, generator=generator(), sampling=sampling), strict=True
    ):
        for sample in group:
            steps = step_distributions(policy, as_sequence(policy, context, sample.token_ids), sampling)
            expected = steps.gather(-1, torch.tensor(sample.token_ids)[:, None]).squeeze(-1)
            torch.testing.assert_close(torch.tensor(sample.log_prob), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral"], ids=["packed", "padded"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"top_k": 7},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"repetition_penalty": 1.8},
        {"temperature": 1.4, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    ],
    ids=lambda settings: "+".join(settings) or "plain",
)
@torch.no_grad()
def test_two_tokens_have_their_exact_frequencies(family, settings):
    """A chi-square test over all pairs that are expected at least 5 times, the others together; 61 tokens, 6,000 outputs."""
    model, count, context = build(family), 6000, (5, 9, 23, 9, 40)
    packs = Packer(model, compute_dtype=torch.float32).packs and family == "llama"
    sampling = Sampling(max_new_tokens=2, **settings)
    rows = sample_rows(TokenScorer(model), [context], count, slots=count, shares=packs, sampling=sampling)
    found = np.bincount([61 * row.token_ids[0] + row.token_ids[1] for row in rows], minlength=61 * 61)

    def exact(ids: torch.Tensor) -> torch.Tensor:
        logits = model(ids).logits[:, -1]
        penalised = [penalise_repetition(*pair, sampling.repetition_penalty) for pair in zip(logits, ids, strict=True)]
        return sampled_distribution(torch.stack(penalised), sampling).double()

    whole = torch.tensor([context])
    first = exact(whole)[0]
    second = exact(torch.cat([whole.expand(61, -1), torch.arange(61)[:, None]], 1))
    expected = (count * first[:, None] * second).flatten().numpy()
    assert found[expected == 0].sum() == 0
    frequent = expected >= 5
    assert frequent.sum() > 5
    binned = [
        [*values[frequent], *([rest] if (rest := values[~frequent].sum()) else [])] for values in (found, expected)
    ]
    assert len(binned[0]) == len(binned[1])
    assert chisquare(binned[0], np.array(binned[1]) * sum(binned[0]) / sum(binned[1])).pvalue > 0.001


@torch.no_grad()
def test_a_sample_becomes_an_output_and_is_scored_as_sampled(policy):
    """Not as its text would be tokenised: the bytes of a cut character have no text of their own."""
    (group,) = policy.sample(CONTEXTS[:1], 3, generator=generator(), sampling=SHORT)
    outputs = [policy.output(sample, SHORT) for sample in group]
    for sample, output in zip(group, outputs, strict=True):
        assert output.content == Tokens(ids=sample.token_ids, tokenizer=policy.encoder.fingerprint, text=sample.text)
        assert output.producer.model == policy.name
        assert output.producer.sampler == {"finished": sample.finished, **SHORT.settings()}
    scored = policy.log_prob(CONTEXTS[:1] * 3, outputs)
    for sample, row, mask in zip(group, scored.per_step, scored.mask, strict=True):
        torch.testing.assert_close(torch.tensor(sample.log_prob), row[mask], rtol=0, atol=1e-4)


def test_the_same_generator_gives_the_same_samples_and_nothing_else_random_is_touched(policy):
    state = torch.random.get_rng_state()
    draws = [policy.sample(CONTEXTS, 2, generator=generator(seed), sampling=SHORT) for seed in (5, 5, 6)]
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.random.get_rng_state(), state)
    flat = [sample.token_ids for group in draws[0] for sample in group]
    assert len(set(flat)) == len(flat)


def test_groups_come_in_the_order_of_their_contexts_whatever_the_batches(policy):
    """Greedy answers belong to their contexts, so their order shows where each group went."""
    greedy = Sampling(max_new_tokens=4, temperature=0)
    alone = [
        policy.sample([context], 1, generator=generator(), sampling=greedy)[0][0].token_ids for context in CONTEXTS
    ]
    assert len(set(alone)) == len(alone)
    for batch_size in (1, 2, 6, 64):
        groups = policy.sample(CONTEXTS, 2, generator=generator(), sampling=greedy, batch_size=batch_size)
        assert [[sample.token_ids for sample in group] for group in groups] == [[ids, ids] for ids in alone]


def test_samples_do_not_depend_on_how_many_go_side_by_side(policy):
    """Each row has random numbers of its own; its logits differ by rounding, far below what these draws notice."""
    whole = policy.sample(CONTEXTS, 5, generator=generator(3), sampling=SHORT)
    for batch_size in (1, 2, 4, 7):
        found = policy.sample(CONTEXTS, 5, generator=generator(3), sampling=SHORT, batch_size=batch_size)
        assert [[s.token_ids for s in group] for group in found] == [[s.token_ids for s in group] for group in whole]


def test_outputs_are_streamed_as_they_end(policy):
    """The first comes while others go on, and the policy can be used in between."""
    settings = {"sampling": Sampling(max_new_tokens=30, stop=tuple("aeiou")), "processors": [printable(policy)]}
    found = {}
    for context, place, sample in policy.stream(CONTEXTS, 6, generator=generator(5), **settings):
        assert (context, place) not in found
        found[context, place] = sample
        policy.log_prob_of([as_sequence(policy, CONTEXTS[context], sample.token_ids)])
    lengths = [len(sample.token_ids) for sample in found.values()]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]
    whole = policy.sample(CONTEXTS, 6, generator=generator(5), **settings)
    assert [[found[c, p] for p in range(6)] for c in range(len(CONTEXTS))] == whole


def test_no_contexts_no_samples(policy):
    assert policy.sample([], 2, generator=generator()) == []
    with pytest.raises(ValueError, match="n: expected a whole number >= 1, got 0"):
        policy.sample(CONTEXTS, 0, generator=generator())


# --- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@torch.no_grad()
def test_rows_end_at_their_first_stop_token_and_the_others_go_on(policy, packs):
    """A fifth of the vocabulary stops, so rows leave at different steps; those that stay must keep their own cache."""
    stop_ids = frozenset(range(0, policy.model.config.vocab_size, 5))
    sampling = Sampling(max_new_tokens=12)
    contexts = [policy.encoder.context(context) for context in CONTEXTS]
    rows = sample_rows(policy.scorer, contexts, 8, sampling=sampling, stop_ids=stop_ids, shares=packs)
    lengths = [len(row.token_ids) for row in rows]
    assert min(lengths) < 3
    assert max(lengths) > 5
    for number, row in enumerate(rows):
        assert row.context == contexts[number // 8]
        assert not stop_ids & set(row.token_ids[:-1])
        assert row.token_ids[-1] in stop_ids or len(row.token_ids) == sampling.max_new_tokens
    check_rows(policy, rows)


@pytest.mark.parametrize("length", [1, 2, 5], ids=lambda n: f"{n} characters")
def test_an_output_ends_with_its_first_stop_string(policy, length):
    """Strings that this output really holds, wherever its tokens cut them; its tokens stay, its text ends before."""
    sampling = Sampling(max_new_tokens=20)
    letters = printable(policy)
    (free,) = policy.sample(CONTEXTS[:1], 1, generator=generator(1), sampling=sampling, processors=[letters])[0]
    decoded = policy.encoder.text(free.token_ids)
    for start in range(len(decoded) - length + 1):
        stop = decoded[start : start + length]
        limited = Sampling(max_new_tokens=20, stop=("never said", stop))
        found = policy.sample(CONTEXTS[:1], 1, generator=generator(1), sampling=limited, processors=[letters])
        sample = found[0][0]
        assert sample.token_ids == free.token_ids[: len(sample.token_ids)]
        assert sample.finished
        assert stop in policy.encoder.text(sample.token_ids)
        assert stop not in policy.encoder.text(sample.token_ids[:-1])
        assert sample.text == decoded[: decoded.index(stop)].strip()


@torch.no_grad()
def test_only_allowed_tokens_are_drawn_and_their_log_probs_are_those_among_them(policy):
    """A little automaton: a token's successors are two numbers above it."""

    def allowed(context: tuple[int, ...], output: tuple[int, ...]) -> list[int]:
        last = output[-1] if output else 10
        return [last + 1, last + 2]

    processors = [AllowedTokens(allowed)]
    groups = policy.sample(CONTEXTS, 4, generator=generator(), sampling=SHORT, processors=processors)
    for context, group in zip(CONTEXTS, groups, strict=True):
        for sample in group:
            steps = torch.tensor((10, *sample.token_ids)).diff()
            assert set(steps.tolist()) <= {1, 2}
            sequence = as_sequence(policy, context, sample.token_ids)
            whole = step_distributions(policy, sequence, SHORT)
            for step, (token, value) in enumerate(zip(sample.token_ids, sample.log_prob, strict=True)):
                among = whole[step, allowed((), sample.token_ids[:step])]
                assert value == pytest.approx(float(whole[step, token] - among.logsumexp(-1)), abs=1e-4)
    with pytest.raises(ValueError, match="allowed: expected at least one token"):
        policy.sample(CONTEXTS, 1, generator=generator(), processors=[AllowedTokens(lambda *_: ())])


def test_an_output_is_finished_when_it_stopped_by_itself(policy):
    """With only the stop token left to draw an output is its stop token; a length limit leaves it unfinished."""
    stop = policy.encoder.turn_end
    with torch.no_grad():
        embeddings = policy.model.get_output_embeddings()
        handle = embeddings.register_forward_hook(
            lambda _, __, logits: logits.index_fill(-1, torch.tensor([stop]), 1e4)
        )
    try:
        (stopped,) = policy.sample(CONTEXTS[:1], 1, generator=generator(), sampling=SHORT)[0]
    finally:
        handle.remove()
    assert (stopped.token_ids, stopped.log_prob, stopped.finished, stopped.text) == ((stop,), (0.0,), True, "")
    (cut,) = policy.sample(CONTEXTS[:1], 1, generator=generator(), sampling=Sampling(max_new_tokens=3, temperature=0))[
        0
    ]
    assert (len(cut.token_ids), cut.finished) == (3, False)


# --- padding and caches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_contexts_side_by_side_are_sampled_as_alone(family):
    """Contexts of unequal lengths, beyond the attention window where there is one; packed where the family packs."""
    model = build(family)
    packs = Packer(model, compute_dtype=torch.float32).packs
    scorer = TokenScorer(model)
    source = generator()
    contexts = [tuple(torch.randint(2, 60, (length,), generator=source).tolist()) for length in (1, 9, 3, 14)]
    settings = {"stop_ids": frozenset({1}), "shares": packs}
    for row in sample_rows(scorer, contexts, 2, slots=5, sampling=Sampling(max_new_tokens=8), **settings):
        whole = (*row.context, *row.token_ids)
        logits = scorer.model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
        ids = torch.tensor(row.token_ids)
        expected = logits[len(row.context) - 1 : -1].gather(-1, ids[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(row.log_prob), expected, rtol=0, atol=1e-4)
    settings["sampling"] = Sampling(max_new_tokens=8, temperature=0)
    together = sample_rows(scorer, contexts, 1, **settings)
    alone = [sample_rows(scorer, [context], 1, **settings)[0] for context in contexts]
    assert [row.token_ids for row in together] == [row.token_ids for row in alone]


@torch.no_grad()
def test_a_policy_samples_alike_with_gradient_checkpointing_and_after_scoring(tiny_model):
    plain = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32"))
    recomputed = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32", gradient_checkpointing=True))
    expected = plain.sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    with torch.enable_grad():
        recomputed.log_prob_of([Sequence((5,), (6,), (True,))]).sum().sum().backward()
    assert recomputed.sample(CONTEXTS, 2, generator=generator(), sampling=SHORT) == expected


# --- the cache ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(1, 20),
    st.integers(0, 1000),
    st.integers(2, 9),
)
@torch.no_grad()
def test_rows_that_leave_and_join_never_mix_with_those_that_stay(policy, lengths, n, slots, seed, every):
    """Whatever prompts, rows, slots and ends: every row comes once, and its log-probabilities are its own."""
    source = generator(seed)
    vocabulary = policy.model.config.vocab_size
    contexts = [tuple(torch.randint(3, vocabulary, (length,), generator=source).tolist()) for length in lengths]
    stop_ids = frozenset(range(0, vocabulary, every))
    rows = sample_rows(
        policy.scorer, contexts, n, seed=seed, slots=slots, stop_ids=stop_ids, sampling=Sampling(max_new_tokens=9)
    )
    assert [row.number for row in rows] == list(range(len(contexts) * n))
    assert all(row.context == contexts[row.number // n] for row in rows)
    check_rows(policy, rows)


@torch.no_grad()
def test_outputs_may_be_longer_than_the_room_they_begin_with(policy):
    """The room doubles at 64 tokens; rows of different ages, since a slot is taken over."""
    rows = sample_rows(policy.scorer, [(5, 6, 7), (8, 9)], 3, slots=4, sampling=Sampling(max_new_tokens=150))
    assert {len(row.token_ids) for row in rows} == {150}
    check_rows(policy, rows)


def test_fresh_adapters_are_left_out_while_sampling_and_trained_ones_are_not(tiny_model):
    """They change nothing: the samples are those with them; a trained adapter must count."""
    fresh, trained = (CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32") for _ in range(2))
    plain = CausalLM.load(tiny_model, dtype="float32").sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    found = fresh.sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    assert [[s.token_ids for s in group] for group in found] == [[s.token_ids for s in group] for group in plain]
    moved = perturb(trained).sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    assert moved != found
