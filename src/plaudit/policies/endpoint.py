"""A model behind an OpenAI-compatible address as a policy that only samples: it gives text, and no log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from plaudit.errors import ConfigError, PolicyError
from plaudit.feedback.records import Chat, Context, Output, Producer, Text
from plaudit.policies.base import Sampling
from plaudit.policies.chat_completions import Choice, Server, Unanswered, Usage, complete


@dataclass(frozen=True, slots=True)
class TextSample:
    """One sampled output as text, to be judged, compared, or learned from as a demonstration.

    It has neither token ids nor log-probabilities, so it is no sample that a policy gradient could be taken of.
    `finished` is False where it was cut at the length limit.
    """

    text: str
    finished: bool


@dataclass(frozen=True)
class Endpoint(Server):
    """A model that is asked over HTTP, by the chat completions of OpenAI, vLLM, llama.cpp, transformers and many more.

    It samples with temperature, top-p, stop texts and a length limit. What the protocol has no field for (top-k, min-p,
    the repetition penalty) is refused here, and is as the server has it: vLLM takes these from the model's own
    generation_config.json unless it is started with ``--generation-config vllm``.

    Attributes:
        usage: requests and tokens so far, as the server counts them.
    """

    usage: Usage = field(default_factory=Usage, init=False, compare=False)

    @property
    def name(self) -> str:
        """The model's name at the server; it goes into the producer of every output."""
        return self.model

    def sample(
        self, contexts: Rows[Context], n: int, *, generator: torch.Generator, sampling: Sampling | None = None
    ) -> list[list[TextSample]]:
        """Sample n outputs of each context, in the order of the contexts.

        Args:
            contexts: what to ask: text, or a chat.
            n: outputs of each context.
            generator: a CPU generator; the seeds that are sent come from it. Whether equal seeds give equal outputs is up
                to the server.
            sampling: temperature, top-p, the stop texts and the length limit.

        Raises:
            PolicyError: a context was not answered.
        """
        replies = self.ask(contexts, n, generator=generator, sampling=sampling or Sampling())
        samples: list[list[TextSample]] = []
        for index, reply in enumerate(replies):
            if isinstance(reply, Unanswered):
                raise PolicyError(f"{self.root} did not answer contexts[{index}]: {reply.reason}")
            samples.append([TextSample(choice.text.strip(), choice.finished) for choice in reply])
        return samples

    def ask(
        self,
        contexts: Rows[Context],
        n: int,
        *,
        generator: torch.Generator,
        sampling: Sampling,
        progress: Callable[[int], None] | None = None,
    ) -> list[tuple[Choice, ...] | Unanswered]:
        """The same as `sample`, where a context that is not answered stands as `Unanswered` and costs no other its answer.

        Args:
            contexts: what to ask.
            n: outputs of each.
            generator: of the seeds.
            sampling: as in `sample`.
            progress: told of each context that is through.
        """
        if n < 1:
            raise ValueError(f"n: expected a whole number >= 1, got {n}")
        fields = request_fields(sampling)
        seeds = torch.randint(2**31 - 1, (len(contexts), n), generator=generator).tolist()
        bodies = [
            ({"messages": _messages(context), **fields}, row) for context, row in zip(contexts, seeds, strict=True)
        ]
        return complete(self, bodies, self.usage, progress=progress)

    def output(self, sample: TextSample, sampling: Sampling) -> Output:
        """A sample as the output of a feedback record, with what made it and where."""
        sampler = {"url": self.root, "finished": sample.finished, **sampling.settings()}
        return Output(content=Text(text=sample.text), producer=Producer(model=self.name, sampler=sampler))


def request_fields(sampling: Sampling) -> dict[str, float | int | list[str]]:
    """The sampling settings as fields of a chat completion.

    Temperature and top-p are always sent, since servers differ in what they take for granted.

    Raises:
        ConfigError: a setting that the protocol has no field for.
    """
    for name, given in (
        ("top_k", sampling.top_k is not None),
        ("min_p", sampling.min_p > 0),
        ("repetition_penalty", sampling.repetition_penalty != 1),
    ):
        if given:
            raise ConfigError(
                f"{name}: chat completions have no field for it, got {getattr(sampling, name)}; leave it out, and set "
                "it at the server where it is needed"
            )
    fields: dict[str, float | int | list[str]] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    return {**fields, "stop": list(sampling.stop)} if sampling.stop else fields


def _messages(context: Context) -> list[dict[str, str]]:
    match context.content:
        case Text(text=text):
            return [{"role": "user", "content": text}]
        case Chat(messages=messages):
            return [{"role": message.role, "content": message.content} for message in messages]
        case other:
            raise PolicyError(f"An endpoint is asked with text or chat, got a context of type {other.type}.")
