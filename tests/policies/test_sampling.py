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
from plaudit.policies.decoding import sample_tokens, sampled_distribution
from plaudit.policies.packing import Packer
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
    logits = policy.model(torch.tensor([sequence.context + sequence.output])).logits[0]
    return sampled_distribution(logits[len(sequence.context) - 1 : -1].float(), sampling)


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
        Sampling(max_new_tokens=5, temperature=0),
    ],
    ids=["temperature", "top-k", "top-p", "all", "greedy"],
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


@torch.no_grad()
def test_first_tokens_have_the_models_frequencies(policy):
    """A chi-square test over the tokens that are expected at least 10 times, the others together."""
    count, context = 4000, ask("Hi")
    (group,) = policy.sample(
        [context], count, generator=generator(), sampling=Sampling(max_new_tokens=1), batch_size=count
    )
    found = np.bincount([sample.token_ids[0] for sample in group], minlength=policy.model.config.vocab_size)
    logits = policy.model(torch.tensor([policy.encoder.context(context)])).logits[0, -1]
    expected = count * logits.double().softmax(-1).numpy()
    frequent = expected >= 10
    assert frequent.sum() > 10
    binned = [[*values[frequent], values[~frequent].sum()] for values in (found, expected)]
    assert chisquare(*binned).pvalue > 0.01


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


def test_no_contexts_no_samples(policy):
    assert policy.sample([], 2, generator=generator()) == []
    with pytest.raises(ValueError, match="n: expected a whole number >= 1, got 0"):
        policy.sample(CONTEXTS, 0, generator=generator())


# --- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@torch.no_grad()
def test_rows_end_at_their_first_stop_token_and_the_others_go_on(policy, packs):
    """A third of the vocabulary stops, so rows leave at different steps; those that stay must keep their own cache."""
    stop_ids = frozenset(range(0, policy.model.config.vocab_size, 3))
    sampling = Sampling(max_new_tokens=12)
    contexts = [policy.encoder.context(context) for context in CONTEXTS]
    drawn = sample_tokens(
        policy.scorer,
        contexts,
        8,
        sampling=sampling,
        stop_ids=stop_ids,
        generator=generator(),
        device=policy.device,
        packs=packs,
    )
    lengths = [len(ids) for ids, _ in drawn]
    assert min(lengths) < 3
    assert max(lengths) > 5
    for number, (ids, log_prob) in enumerate(drawn):
        assert not stop_ids & set(ids[:-1])
        assert ids[-1] in stop_ids or len(ids) == sampling.max_new_tokens
        scored = policy.log_prob_of([Sequence(contexts[number // 8], ids, (True,) * len(ids))]).per_step[0]
        torch.testing.assert_close(torch.tensor(log_prob), scored, rtol=0, atol=1e-4)


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
    settings = {"sampling": Sampling(max_new_tokens=8), "stop_ids": frozenset({1}), "device": torch.device("cpu")}
    settings["packs"] = packs
    side_by_side = sample_tokens(scorer, contexts, 2, generator=generator(1), **settings)
    for number, (ids, log_prob) in enumerate(side_by_side):
        whole = contexts[number // 2] + ids
        logits = scorer.model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
        expected = logits[len(whole) - len(ids) - 1 : -1].gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(log_prob), expected, rtol=0, atol=1e-4)
    greedy = {**settings, "sampling": Sampling(max_new_tokens=8, temperature=0)}
    together = sample_tokens(scorer, contexts, 1, generator=generator(), **greedy)
    alone = [sample_tokens(scorer, [context], 1, generator=generator(), **greedy)[0] for context in contexts]
    assert [ids for ids, _ in together] == [ids for ids, _ in alone]


@torch.no_grad()
def test_a_policy_samples_alike_with_gradient_checkpointing_and_after_scoring(tiny_model):
    plain = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32"))
    recomputed = perturb(CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32", gradient_checkpointing=True))
    expected = plain.sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    with torch.enable_grad():
        recomputed.log_prob_of([Sequence((5,), (6,), (True,))]).sum().sum().backward()
    assert recomputed.sample(CONTEXTS, 2, generator=generator(), sampling=SHORT) == expected


# --- the cache ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 1000), st.integers(2, 9))
def test_rows_that_leave_never_mix_those_that_stay(policy, lengths, n, seed, every):
    """Whatever prompts, rows and ends: each sample's log-probabilities are those of its own tokens alone."""
    source = generator(seed)
    vocabulary = policy.model.config.vocab_size
    contexts = [tuple(torch.randint(3, vocabulary, (length,), generator=source).tolist()) for length in lengths]
    with torch.no_grad():
        drawn = sample_tokens(
            policy.scorer,
            contexts,
            n,
            sampling=Sampling(max_new_tokens=9),
            stop_ids=frozenset(range(0, vocabulary, every)),
            generator=source,
            device=policy.device,
            packs=True,
        )
        for number, (ids, log_prob) in enumerate(drawn):
            scored = policy.log_prob_of([Sequence(contexts[number // n], ids, (True,) * len(ids))]).per_step[0]
            torch.testing.assert_close(torch.tensor(log_prob), scored, rtol=0, atol=1e-4)


def test_fresh_adapters_are_left_out_while_sampling_and_trained_ones_are_not(tiny_model):
    """They change nothing: the samples are those with them; a trained adapter must count."""
    fresh, trained = (CausalLM.load(tiny_model, lora=LoRA(rank=2), dtype="float32") for _ in range(2))
    plain = CausalLM.load(tiny_model, dtype="float32").sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    found = fresh.sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    assert [[s.token_ids for s in group] for group in found] == [[s.token_ids for s in group] for group in plain]
    moved = perturb(trained).sample(CONTEXTS, 2, generator=generator(), sampling=SHORT)
    assert moved != found
