"""Contexts and outputs as token ids: the chat template's own rendering, masks of foreign turns, tokens that stay tokens."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plaudit.errors import ConfigError, PolicyError
from plaudit.feedback.records import Context, Item, Output, Tokens
from plaudit.policies import Encoder, Sequence

from .conftest import answer, ask, chat

QUESTION = ("user", "What is 2 + 2?")
DIALOGUE = (
    ("assistant", "Four."),
    ("user", "And 3 + 3?"),
    ("tool", "6"),
    ("assistant", "Six."),
)


@pytest.fixture(scope="module")
def encoder(tokenizer) -> Encoder:
    return Encoder(tokenizer)


@pytest.fixture(scope="module")
def plain(plain_tokenizer) -> Encoder:
    return Encoder(plain_tokenizer)


def rendered(tokenizer, turns, *, open_turn: bool = False) -> tuple[int, ...]:
    """The chat template's own token ids of a conversation."""
    messages = [{"role": role, "content": content} for role, content in turns]
    return tuple(tokenizer.apply_chat_template(messages, add_generation_prompt=open_turn)["input_ids"])


def with_template(tokenizer, template: str):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def written(encoder: Encoder, sequence: Sequence, *, own: bool) -> str:
    ids = [token for token, mine in zip(sequence.output, sequence.mask, strict=True) if mine == own]
    return encoder.tokenizer.decode(ids)


# --- with a chat template -------------------------------------------------------------------------------------------


def test_a_text_is_the_users_turn(encoder, tokenizer):
    assert encoder.context(ask("Hello?")) == rendered(tokenizer, [("user", "Hello?")], open_turn=True)


def test_a_chat_is_rendered_by_the_template(encoder, tokenizer):
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    assert encoder.context(Context(content=chat(*turns))) == rendered(tokenizer, turns, open_turn=True)


@pytest.mark.parametrize(
    "output", [answer("Four."), Output(content=chat(("assistant", "Four.")))], ids=["text", "chat"]
)
def test_context_and_answer_are_the_templates_conversation(encoder, tokenizer, output):
    sequence = encoder.sequence(ask(QUESTION[1]), output)
    line_break = tokenizer("\n")["input_ids"]
    whole = rendered(tokenizer, [QUESTION, ("assistant", "Four.")])
    assert (*sequence.context, *sequence.output, *line_break) == whole
    assert all(sequence.mask)
    assert written(encoder, sequence, own=True) == "Four.<|im_end|>"


def test_of_several_turns_only_the_assistants_count(encoder, tokenizer):
    sequence = encoder.sequence(Context(content=chat(QUESTION)), Output(content=chat(*DIALOGUE)))
    line_break = tokenizer("\n")["input_ids"]
    assert (*sequence.context, *sequence.output, *line_break) == rendered(tokenizer, [QUESTION, *DIALOGUE])
    assert written(encoder, sequence, own=True) == "Four.<|im_end|>Six.<|im_end|>"
    assert written(encoder, sequence, own=False) == (
        "\n<|im_start|>user\nAnd 3 + 3?<|im_end|>\n<|im_start|>tool\n6<|im_end|>\n<|im_start|>assistant\n"
    )


def test_an_output_may_begin_and_end_with_foreign_turns(encoder, tokenizer):
    turns = [("tool", "4"), ("assistant", "Four."), ("user", "Thanks")]
    sequence = encoder.sequence(ask(QUESTION[1]), Output(content=chat(*turns)))
    assert (*sequence.context, *sequence.output) == rendered(tokenizer, [QUESTION, *turns])
    assert written(encoder, sequence, own=True) == "Four.<|im_end|>"


def test_a_single_foreign_turn_is_nothing_that_the_model_wrote(encoder, tokenizer):
    sequence = encoder.sequence(ask(QUESTION[1]), Output(content=chat(("user", "Well?"))))
    assert (*sequence.context, *sequence.output) == rendered(tokenizer, [QUESTION, ("user", "Well?")])
    assert not any(sequence.mask)


def test_two_turns_of_the_assistant_in_a_row(encoder, tokenizer):
    turns = [("assistant", "Let me think."), ("assistant", "Four.")]
    sequence = encoder.sequence(ask(QUESTION[1]), Output(content=chat(*turns)))
    line_break = tokenizer("\n")["input_ids"]
    assert (*sequence.context, *sequence.output, *line_break) == rendered(tokenizer, [QUESTION, *turns])
    assert written(encoder, sequence, own=True) == "Let me think.<|im_end|>Four.<|im_end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    forgetful = "{% for m in messages %}{{ loop.last and m['content'] or '...' }}<|im_end|>{% endfor %}"
    encoder = Encoder(with_template(tokenizer, forgetful))
    with pytest.raises(PolicyError, match=r"rewrites earlier turns.*Give each of the assistant's turns as an output"):
        encoder.sequence(ask("q"), Output(content=chat(*DIALOGUE)))


def test_a_template_that_refuses_a_role_is_named_with_the_roles(tokenizer):
    strict = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
    )
    encoder = Encoder(with_template(tokenizer, strict))
    with pytest.raises(PolicyError, match="chat template refused the roles system, user: no system"):
        encoder.context(Context(content=chat(("system", "x"), ("user", "y"))))


def test_the_templates_begin_token_is_not_doubled(tokenizer):
    """Tokenizers that put a token in front of every text must not do so to a rendered chat, nor to an output."""
    from tokenizers.processors import TemplateProcessing

    begins = with_template(tokenizer, "<|endoftext|>" + tokenizer.chat_template)
    begins.add_special_tokens({"bos_token": "<|endoftext|>"})
    start = begins.bos_token_id
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", start)]
    )
    sequence = Encoder(begins).sequence(ask("hi"), answer("yes"))
    assert (*sequence.context, *sequence.output).count(start) == 1
    assert sequence.context[0] == start
    begins.chat_template = None
    sequence = Encoder(begins).sequence(ask("hi"), answer("yes"))
    assert sequence.context == (start, *tokenizer("hi")["input_ids"])
    assert start not in sequence.output


@settings(max_examples=50)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_every_answer_can_be_read_back(encoder, text):
    sequence = encoder.sequence(ask("q"), answer(text))
    assert sequence.output[-1] == encoder.turn_end
    if "<|" not in text:
        assert encoder.text(sequence.output) == text


# --- without a chat template ----------------------------------------------------------------------------------------


def test_without_a_template_text_stays_text(plain, plain_tokenizer):
    sequence = plain.sequence(ask("The sky is"), answer(" blue"))
    end = plain_tokenizer.eos_token_id
    assert sequence.context == tuple(plain_tokenizer("The sky is")["input_ids"])
    assert sequence.output == (*plain_tokenizer(" blue")["input_ids"], end)


def test_without_a_template_a_chat_is_a_transcript(plain, plain_tokenizer):
    """As Anthropic's hh-rlhf writes it; an answer is the same whether it stands in the context or is the output."""
    context = Context(content=chat(("user", "Hi"), ("assistant", "Hello"), ("user", "Sky?")))
    sequence = plain.sequence(context, answer("Blue"))
    ids = (*sequence.context, *sequence.output[:-1])
    assert plain_tokenizer.decode(ids) == "\n\nUser: Hi\n\nAssistant: Hello\n\nUser: Sky?\n\nAssistant: Blue"
    assert sequence.output[-1] == plain_tokenizer.eos_token_id
    assert all(sequence.mask)


def test_without_a_template_several_turns_are_masked_alike(plain, plain_tokenizer):
    sequence = plain.sequence(Context(content=chat(QUESTION)), Output(content=chat(*DIALOGUE)))
    end = plain_tokenizer.eos_token
    assert written(plain, sequence, own=True) == f" Four.{end} Six.{end}"
    assert written(plain, sequence, own=False) == "\n\nUser: And 3 + 3?\n\nTool: 6\n\nAssistant:"
    assert plain_tokenizer.decode(sequence.context) == "\n\nUser: What is 2 + 2?\n\nAssistant:"


@pytest.mark.parametrize("begin", [None, "<|im_start|>"])
def test_an_empty_context_is_one_token_for_the_output_to_follow(plain_tokenizer, begin):
    tokenizer = copy.deepcopy(plain_tokenizer)
    tokenizer.bos_token = begin
    expected = tokenizer.eos_token_id if begin is None else tokenizer.bos_token_id
    assert Encoder(tokenizer).context(ask("")) == (expected,)


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_sampled_tokens_are_never_tokenised_again(encoder):
    """The ids of the letters, not the ids that the tokenizer would give their text; nothing is added at the end."""
    ids = tuple(reversed(encoder.tokenizer("hello")["input_ids"]))
    tokens = Tokens(ids=ids, tokenizer=encoder.fingerprint, text="hello")
    assert encoder.sequence(ask("q"), Output(content=tokens)).output == ids
    assert encoder.context(Context(content=tokens)) == ids


@pytest.mark.parametrize("place", ["context", "output"])
def test_tokens_of_another_tokenizer_are_refused(encoder, plain, place):
    foreign = Tokens(ids=(5, 6), tokenizer=plain.fingerprint, text="?")
    context = Context(content=foreign) if place == "context" else ask("q")
    output = Output(content=foreign) if place == "output" else answer("a")
    with pytest.raises(PolicyError, match=r"belong to the tokenizer sha256:\w+, this model's is sha256:.*as text"):
        encoder.sequence(context, output)


@pytest.mark.parametrize("part", ["context", "output"])
@pytest.mark.parametrize("token", [-1, 60, 10**6])
def test_token_ids_that_the_model_does_not_know_are_named(tokenizer, part, token):
    """Records refuse negative ids themselves; they are made without validation here, as a program may."""
    encoder = Encoder(tokenizer, vocabulary=60)
    known = Tokens(ids=(0, 59), tokenizer=encoder.fingerprint, text="?")
    wrong = known.model_copy(update={"ids": (5, token, 6)})
    context, output = (wrong, known) if part == "context" else (known, wrong)
    encoder.sequence(Context(content=known), Output(content=known))
    message = f"The {part}'s token ids: expected whole numbers from 0 to 59, .* got {token} at place 1.* {part} as text"
    with pytest.raises(PolicyError, match=message):
        encoder.sequence(Context(content=context), Output(content=output))


def test_a_fingerprint_is_the_vocabularys_and_the_templates(tokenizer, plain_tokenizer):
    own = Encoder(tokenizer).fingerprint
    assert own == Encoder(copy.deepcopy(tokenizer)).fingerprint
    assert own != Encoder(with_template(tokenizer, "{{ messages }}")).fingerprint
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens(["<new>"])
    assert own != Encoder(longer).fingerprint
    assert own != Encoder(plain_tokenizer).fingerprint


def test_what_is_no_text_is_refused(encoder):
    item = Item(id="film-7")
    with pytest.raises(PolicyError, match="asked with text, chat or tokens, got a context of type item"):
        encoder.context(Context(content=item))
    with pytest.raises(PolicyError, match="answers with text, chat or tokens, got an output of type item"):
        encoder.sequence(ask("q"), Output(content=item))
    tokens = Tokens(ids=(5,), tokenizer=encoder.fingerprint, text="x")
    with pytest.raises(PolicyError, match="several turns needs a context of text or chat"):
        encoder.sequence(Context(content=tokens), Output(content=chat(*DIALOGUE)))


# --- limits and ends ------------------------------------------------------------------------------------------------


def test_long_contexts_lose_their_beginning_and_long_outputs_their_end(tokenizer):
    whole = Encoder(tokenizer).sequence(ask("0123456789"), answer("abcdefgh"))
    short = Encoder(tokenizer, max_context_tokens=6, max_output_tokens=4)
    cut = short.sequence(ask("0123456789"), answer("abcdefgh"))
    assert cut.context == whole.context[-6:]
    assert cut.output == whole.output[:4]
    assert len(cut.mask) == 4
    assert short.turn_end not in cut.output
    assert short.truncated == 2
    assert Encoder(tokenizer, max_context_tokens=len(whole.context)).context(ask("0123456789")) == whole.context


@pytest.mark.parametrize("name", ["max_context_tokens", "max_output_tokens"])
def test_limits_are_at_least_one(tokenizer, name):
    with pytest.raises(ConfigError, match=f"{name}: expected a whole number >= 1, got 0"):
        Encoder(tokenizer, **{name: 0})


def test_a_tokenizer_needs_an_end(tokenizer):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with pytest.raises(PolicyError, match=r"no end-of-text token.*Set tokenizer.eos_token"):
        Encoder(endless)


def test_outputs_end_with_the_templates_turn_end_or_the_end_of_text(tokenizer, plain_tokenizer):
    """Base tokenizers often keep their end of text, although their template ends turns with another token."""
    turn_end, end = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    both = with_template(plain_tokenizer, tokenizer.chat_template)
    assert both.eos_token_id == end
    assert Encoder(both).stop_ids == {turn_end, end}
    assert Encoder(both).turn_end == turn_end
    assert Encoder(tokenizer).stop_ids == {turn_end}
    assert Encoder(plain_tokenizer).stop_ids == {end}
    assert Encoder(plain_tokenizer).turn_end == end


# --- sequences ------------------------------------------------------------------------------------------------------

contexts = st.lists(st.integers(0, 2), min_size=1, max_size=3)
outputs = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=3)


@given(contexts, outputs, contexts, outputs)
def test_a_key_belongs_to_one_sequence(context, output, other_context, other_output):
    def sequence(context, output):
        return Sequence(tuple(context), tuple(token for token, _ in output), tuple(own for _, own in output))

    one, other = sequence(context, output), sequence(other_context, other_output)
    assert (one.key == other.key) == (one == other)
    if output:  # the same tokens, cut elsewhere
        moved = Sequence((*one.context, one.output[0]), one.output[1:], one.mask[1:])
        assert moved.key != one.key


def test_a_sequence_is_whole():
    with pytest.raises(ValueError, match="context: expected at least one token"):
        Sequence((), (1,), (True,))
    with pytest.raises(ValueError, match="mask: expected 2 values, one per output token, got 1"):
        Sequence((1,), (2, 3), (True,))
    assert len(Sequence((1, 2), (3,), (True,))) == 3
