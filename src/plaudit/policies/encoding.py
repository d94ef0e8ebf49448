"""Contexts and outputs as token ids. What was sampled as tokens stays those tokens; text is tokenised once, here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from plaudit.errors import ConfigError, PolicyError
from plaudit.feedback.records import Chat, Context, Message, Output, Text, Tokens

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One output of one context as token ids; `mask` is True for the output tokens that the model wrote itself."""

    context: TokenIds
    output: TokenIds
    mask: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.context:
            raise ValueError("context: expected at least one token, for the first token of the output to follow")
        if len(self.mask) != len(self.output):
            raise ValueError(f"mask: expected {len(self.output)} values, one per output token, got {len(self.mask)}")

    @property
    def key(self) -> str:
        """The address of exactly these tokens, under which their reference log-probabilities are cached."""
        digest = hashlib.sha256()
        for part in (self.context, self.output, tuple(map(int, self.mask))):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(b"".join(token.to_bytes(4, "little") for token in part))
        return digest.hexdigest()[:32]

    def __len__(self) -> int:
        return len(self.context) + len(self.output)


class Encoder:
    """Turns contexts and outputs into token ids with a model's tokenizer and chat template.

    A text context becomes the user's turn where the tokenizer has a chat template, and stays plain text where it has none.
    An output's tokens are the assistant's turn without the template's frame, then the token that ends a turn. Contexts
    longer than `max_context_tokens` lose their beginning, outputs longer than `max_output_tokens` lose their end (and then
    have no stop token); `truncated` counts both. Without a chat template, a chat is a transcript with names and colons.
    `vocabulary` is how many token ids the model knows; others are an error where it is given.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_context_tokens: int = 1024,
        max_output_tokens: int = 1024,
        vocabulary: int | None = None,
    ) -> None:
        for field, value in (("max_context_tokens", max_context_tokens), ("max_output_tokens", max_output_tokens)):
            if value < 1:
                raise ConfigError(f"{field}: expected a whole number >= 1, got {value}")
        if tokenizer.eos_token_id is None:
            raise PolicyError("The tokenizer has no end-of-text token, so outputs cannot end. Set tokenizer.eos_token.")
        self.tokenizer = tokenizer
        self.max_context_tokens = max_context_tokens
        self.max_output_tokens = max_output_tokens
        self.vocabulary = vocabulary
        self.truncated = 0

    @cached_property
    def fingerprint(self) -> str:
        """The tokenizer's address: equal fingerprints mean equal token ids."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        digest = hashlib.sha256(repr((vocabulary, self.tokenizer.chat_template)).encode()).hexdigest()
        return f"sha256:{digest[:32]}"

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an output: the end of text, and the end of a turn of the chat template."""
        vocabulary = self.tokenizer.get_vocab()
        turn_ends = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>")
        template = self.tokenizer.chat_template or ""
        found = {vocabulary[token] for token in turn_ends if token in vocabulary and token in str(template)}
        return frozenset({self.tokenizer.eos_token_id} | found)

    @cached_property
    def turn_end(self) -> int:
        """The token that a finished output ends with."""
        others = self.stop_ids - {self.tokenizer.eos_token_id}
        return min(others) if others else int(self.tokenizer.eos_token_id)

    def context(self, context: Context) -> TokenIds:
        """The token ids that a model continues."""
        return self._context(context, open_turn=True)

    def _context(self, context: Context, *, open_turn: bool) -> TokenIds:
        match context.content:
            case Tokens(ids=ids, tokenizer=name):
                self._expect_own(name)
            case Text(text=text) if self.tokenizer.chat_template is None:
                ids = tuple(self.tokenizer(text)["input_ids"])
            case Text(text=text):
                ids = self._chat((Message(role="user", content=text),), open_turn=open_turn)
            case Chat(messages=messages):
                ids = self._chat(messages, open_turn=open_turn)
            case other:
                raise PolicyError(
                    f"A language model is asked with text, chat or tokens, got a context of type {other.type}."
                )
        self._expect_known(ids, "context")
        if len(ids) > self.max_context_tokens:
            self.truncated += 1
            ids = ids[-self.max_context_tokens :]
        return ids or (self._start,)

    def sequence(self, context: Context, output: Output) -> Sequence:
        """A context and one of its outputs as token ids, ready to be scored."""
        open_turn = True
        transcript = self.tokenizer.chat_template is None and isinstance(context.content, Chat)
        match output.content:
            case Tokens(ids=ids, tokenizer=name):
                self._expect_own(name)
                mask = (True,) * len(ids)
            case Text(text=text):
                ids, mask = self._turn(text, transcript=transcript)
            case Chat(messages=(Message(role="assistant", content=text),)):
                ids, mask = self._turn(text, transcript=transcript)
            case Chat(messages=messages):
                ids, mask = self._turns(context, messages)
                open_turn = messages[0].role == "assistant"
            case other:
                raise PolicyError(
                    f"A language model answers with text, chat or tokens, got an output of type {other.type}."
                )
        self._expect_known(ids, "output")
        if len(ids) > self.max_output_tokens:
            self.truncated += 1
            ids, mask = ids[: self.max_output_tokens], mask[: self.max_output_tokens]
        return Sequence(self._context(context, open_turn=open_turn), tuple(ids), tuple(mask))

    @property
    def _start(self) -> int:
        """What an empty context is: the first token of an output needs something to follow."""
        begin = self.tokenizer.bos_token_id
        return int(begin if begin is not None else self.tokenizer.eos_token_id)

    def text(self, ids: TokenIds) -> str:
        """What a person reads of an output's tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def text_before(self, ids: TokenIds, stop: Rows[str]) -> str:
        """The same, up to the first of the strings that end an output."""
        text = self.text(ids)
        return text[: min((place for string in stop if (place := text.find(string)) >= 0), default=len(text))].strip()

    def ends(self, stop: Rows[str] = ()) -> Callable[[Rows[int]], bool]:
        """Says of an output's token ids whether its last one ends it: a stop token, or the end of one of these strings."""
        # every token but the first of the tail, whose spelling may depend on what precedes it, writes at least one byte
        reach = max((len(string.encode()) for string in stop), default=0) + 1

        def ended(ids: Rows[int]) -> bool:
            if ids[-1] in self.stop_ids:
                return True
            if not stop:
                return False
            tail = self.text(tuple(ids[-reach:]))
            return any(string in tail for string in stop)

        return ended

    def _turn(self, text: str, *, transcript: bool) -> tuple[TokenIds, tuple[bool, ...]]:
        said = f" {text}" if transcript else text  # what follows "Assistant:"
        ids = (*self.tokenizer(said, add_special_tokens=False)["input_ids"], self.turn_end)
        return ids, (True,) * len(ids)

    def _turns(self, context: Context, messages: tuple[Message, ...]) -> tuple[TokenIds, tuple[bool, ...]]:
        """Several turns after the context: only the assistant's are the model's own, the rest is masked."""
        if not isinstance(context.content, Chat | Text):
            raise PolicyError("An output of several turns needs a context of text or chat.")
        before = (
            context.content.messages
            if isinstance(context.content, Chat)
            else (Message(role="user", content=context.content.text),)
        )
        plain = self.tokenizer.chat_template is None
        rendered = self._render(before, open_turn=messages[0].role == "assistant")
        ids: list[int] = []
        mask: list[bool] = []
        for number, message in enumerate(messages, start=1):
            if message.role == "assistant":
                own, own_mask = self._turn(message.content, transcript=plain)
                ids, mask = [*ids, *own], [*mask, *own_mask]
                if number == len(messages):
                    break
                rendered += f" {message.content}" if plain else message.content + self.tokenizer.decode([self.turn_end])
            following = messages[number].role if number < len(messages) else None
            whole = self._render((*before, *messages[:number]), open_turn=following == "assistant")
            if not whole.startswith(rendered):
                raise PolicyError(
                    "The model's chat template rewrites earlier turns, so an output of several turns cannot be scored. "
                    "Give each of the assistant's turns as an output of its own."
                )
            frame = self.tokenizer(whole[len(rendered) :], add_special_tokens=False)["input_ids"]
            ids, mask, rendered = [*ids, *frame], [*mask, *[False] * len(frame)], whole
        return tuple(ids), tuple(mask)

    def _chat(self, messages: tuple[Message, ...], *, open_turn: bool) -> TokenIds:
        text = self._render(messages, open_turn=open_turn)
        plain = self.tokenizer.chat_template is None
        return tuple(self.tokenizer(text, add_special_tokens=plain)["input_ids"])

    def _render(self, messages: tuple[Message, ...], *, open_turn: bool) -> str:
        if self.tokenizer.chat_template is None:
            text = "".join(f"\n\n{message.role.capitalize()}: {message.content}" for message in messages)
            return text + ("\n\nAssistant:" if open_turn else "")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=open_turn))
        except Exception as error:
            roles = ", ".join(message.role for message in messages)
            raise PolicyError(f"The model's chat template refused the roles {roles}: {error}") from error

    def _expect_own(self, name: str) -> None:
        if name != self.fingerprint:
            raise PolicyError(
                f"These token ids belong to the tokenizer {name}, this model's is {self.fingerprint}. "
                "Import the outputs as text to use them with another model."
            )

    def _expect_known(self, ids: TokenIds, part: str) -> None:
        if self.vocabulary is None or not ids or (min(ids) >= 0 and max(ids) < self.vocabulary):
            return
        place, token = next((place, token) for place, token in enumerate(ids) if not 0 <= token < self.vocabulary)
        raise PolicyError(
            f"The {part}'s token ids: expected whole numbers from 0 to {self.vocabulary - 1}, the model's vocabulary, got "
            f"{token} at place {place}. They come from another model or tokenizer: use the tokenizer that came with this "
            f"model, and give the {part} as text."
        )
