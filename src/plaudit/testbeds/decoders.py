"""Small decoders for the testbeds: trained from scratch on worked examples in a minute or two, and kept.

A decoder lies in the cache under a hash of all that its weights come from: its shape, the demonstrations, the training's
settings, the seed, and the versions that compute them. So it is trained once, and never mistaken for another.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from plaudit import __version__
from plaudit.disk_cache import cache_folder
from plaudit.errors import ConfigError, require
from plaudit.feedback.examples import Demonstrated
from plaudit.methods import SFT, SFTConfig, encode_demonstrations
from plaudit.policies import CausalLM
from plaudit.policies.encoding import Encoder
from plaudit.testbeds import arithmetic, instructions, summaries, topics
from plaudit.training import RunFolder, TrainingConfig, train
from plaudit.training.config import check, whole
from plaudit.training.randomness import derive

_END, _UNKNOWN = "<end>", "<unknown>"


@dataclass(frozen=True, slots=True)
class Testbed:
    """What a testbed gives to make a decoder.

    Attributes:
        alphabet: all that its contexts and outputs are written with, each a token: characters as one string, or words as a
            tuple, between which there is a space.
        demonstrations: so many contexts with outputs to imitate, by count and seed.
    """

    __test__ = False

    alphabet: str | tuple[str, ...]
    demonstrations: Callable[..., Rows[Demonstrated]]


TESTBEDS = {
    "arithmetic": Testbed(arithmetic.CHARACTERS, arithmetic.demonstrations),
    "arithmetic-unequal": Testbed(arithmetic.CHARACTERS, arithmetic.unequal_demonstrations),
    "summaries": Testbed(summaries.CHARACTERS, summaries.demonstrations),
    "topics": Testbed(topics.WORDS, topics.demonstrations),
    "instructions": Testbed(instructions.CHARACTERS, instructions.demonstrations),
}


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder and how long it learns.

    Attributes:
        base: a model to start from, such as a hub name; by default a new Llama of the shape below and the testbed's own tokens.
        layers: transformer layers of a new one.
        width: size of its hidden states, a multiple of 32.
        demonstrations: worked examples, each seen once.
        batch_size: of them, in one step.
        learning_rate: peak step size.
    """

    base: str | None = None
    layers: int = 4
    width: int = 128
    demonstrations: int = 41_000
    batch_size: int = 32
    learning_rate: float = 2e-3

    def __post_init__(self) -> None:
        for name in ("layers", "demonstrations", "batch_size"):
            check(self, name, whole(getattr(self, name), 1), "a whole number >= 1")
        check(self, "width", whole(self.width, 32) and self.width % 32 == 0, "a multiple of 32")

    @property
    def training(self) -> TrainingConfig:
        """The loop's settings."""
        return TrainingConfig(
            batch_size=self.batch_size, micro_batch_size=self.batch_size, learning_rate=self.learning_rate,
            warmup_ratio=0.05, adam_beta2=0.99, checkpoint_every=0,
        )  # fmt: skip


def decoder(testbed: str, config: DecoderConfig | None = None, *, seed: int = 0) -> Path:
    """The folder of a model that has seen a testbed's worked examples, in the transformers format; trains it if need be.

    Args:
        testbed: one of `TESTBEDS`.
        config: the decoder.
        seed: of its weights and examples.

    Raises:
        ConfigError: there is no such testbed.
        MissingExtra: transformers is not installed.
    """
    config = config or DecoderConfig()
    if testbed not in TESTBEDS:
        raise ConfigError(f"testbed: expected one of {', '.join(TESTBEDS)}, got {testbed!r}")
    examples = TESTBEDS[testbed].demonstrations(config.demonstrations, seed=seed)
    origin = _origin(testbed, config, examples, seed)
    address = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()[:32]
    target = cache_folder() / "decoders" / f"{testbed}-{address}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as scratch:
        made = Path(scratch) / "model"
        policy = _trained(testbed, config, examples, seed, Path(scratch))
        policy.save(made)
        (made / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # no other process was first
                raise
    return target


def _origin(testbed: str, config: DecoderConfig, examples: Rows[Demonstrated], seed: int) -> dict[str, Any]:
    """All that the weights come from."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.context.text}\0{example.output.text}\0".encode())
    versions = {"plaudit": __version__, "torch": torch.__version__}
    versions["transformers"] = require("transformers", extra="lm").__version__
    settings = {
        "decoder": asdict(config),
        "training": asdict(config.training),
        "characters": TESTBEDS[testbed].alphabet,
    }
    return {"testbed": testbed, "seed": seed, "demonstrations": digest.hexdigest(), "versions": versions, **settings}


def _trained(testbed: str, config: DecoderConfig, examples: Rows[Demonstrated], seed: int, scratch: Path) -> CausalLM:
    if config.base is None:
        policy = _fresh(TESTBEDS[testbed].alphabet, config, seed)
    else:
        policy = CausalLM.load(config.base, dtype="float32")
    sequences, _ = encode_demonstrations(examples, policy.encoder)
    training = replace(config.training, seed=seed)
    run = RunFolder.create(scratch / "run", {"training": asdict(training)})
    train(SFT(policy, sequences, SFTConfig()), run, training, steps=training.steps(len(sequences)))
    return policy


def _fresh(alphabet: str | tuple[str, ...], config: DecoderConfig, seed: int) -> CausalLM:
    """A Llama (Touvron et al., arXiv 2302.13971) with random weights; at the default shape, 0.8 million."""
    transformers = require("transformers", extra="lm")
    tokenizer = _tokenizer(alphabet)
    shape = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=config.width, intermediate_size=11 * config.width // 4,
        num_hidden_layers=config.layers, num_attention_heads=config.width // 32, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True, initializer_range=0.7 / config.width**0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "decoder"))
        model = transformers.LlamaForCausalLM(shape)
    return CausalLM(model, Encoder(tokenizer, vocabulary=len(tokenizer)), name="a new decoder")


def _tokenizer(alphabet: str | tuple[str, ...]) -> Any:
    """A token a character, or a token a word; no chat template. What is unknown becomes one token that stands for all such."""
    tokenizers, transformers = require("tokenizers", extra="lm"), require("transformers", extra="lm")
    vocabulary = {token: index for index, token in enumerate([_END, _UNKNOWN, *sorted(set(alphabet))])}
    if isinstance(alphabet, str):
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token=_UNKNOWN))
        tokenizer.decoder = tokenizers.decoders.Fuse()
    else:  # without a decoder, words are joined by a space
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab=vocabulary, unk_token=_UNKNOWN))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, pad_token=_END, unk_token=_UNKNOWN
    )
