"""What is measured: the sizes of a case, its token ids, and the models that both sides start from."""

from __future__ import annotations

import functools
import random
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from plaudit.methods import EncodedPair
from plaudit.policies import QUICKSTART_MODEL, CausalLM, LoRA, Sequence
from plaudit.policies.loading import load_model, quiet_transformers

TINY = "tiny"
SHRINKAGE = 16  # of lengths with the tiny model
TOKEN_BUDGET = 2500  # of one forward and backward pass, on both sides: 4 MB a token in float32 with TRL, so 10 GB
ADAPTERS = LoRA(rank=16, alpha=32.0)
ORDINARY_TOKENS = range(1000, 30000)  # of SmolLM2's vocabulary: no special token among them


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement.

    Attributes:
        workload: name of the module that builds it.
        model: `QUICKSTART_MODEL`, `TINY`, or a folder.
        dtype: of products and of frozen weights, on both sides.
        prompts: distinct prompts.
        outputs: outputs of each prompt.
        prompt_tokens: length of every prompt, or of the longest where lengths are unequal.
        output_tokens: length of every output, or of the longest.
        reference: of DPO, whether the reference's log-probabilities are computed in the step or beforehand.
    """

    workload: str
    model: str
    dtype: Literal["float32", "bfloat16"]
    prompts: int
    outputs: int
    prompt_tokens: int
    output_tokens: int
    reference: Literal["step", "beforehand", "none"] = "none"

    @property
    def folder(self) -> str:
        """Where the model lies."""
        return folder_of(self.model)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type as torch's."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    def shrunk(self) -> Case:
        """The same with lengths for the tiny model."""
        lengths = {name: max(3, getattr(self, name) // SHRINKAGE) for name in ("prompt_tokens", "output_tokens")}
        return Case(**{**self.settings(), **lengths})

    def settings(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return asdict(self)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Case:
        """The case that `settings` describes; what else is in there is ignored."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    def __str__(self) -> str:
        shape = f"{self.prompts} x {self.outputs}, prompt {self.prompt_tokens}, output {self.output_tokens}"
        suffix = "" if self.reference == "none" else f", reference {self.reference}"
        return f"{self.workload} {self.dtype}: {shape}{suffix}"


def groups(case: Case) -> list[list[Sequence]]:
    """Groups of outputs of exactly the case's lengths."""
    generator = random.Random(0)
    found = []
    for _ in range(case.prompts):
        prompt = _ids(generator, case.prompt_tokens)
        found.append([_sequence(prompt, _ids(generator, case.output_tokens)) for _ in range(case.outputs)])
    return found


def unequal_groups(case: Case) -> list[list[Sequence]]:
    """The same with lengths drawn evenly from a sixteenth (prompts) or an eighth (outputs) of the longest to the longest."""
    generator = random.Random(0)
    found = []
    for _ in range(case.prompts):
        prompt = _ids(generator, generator.randint(max(2, case.prompt_tokens // 16), case.prompt_tokens))
        shortest = max(2, case.output_tokens // 8)
        lengths = [generator.randint(shortest, case.output_tokens) for _ in range(case.outputs)]
        found.append([_sequence(prompt, _ids(generator, length)) for length in lengths])
    return found


def as_pairs(found: list[list[Sequence]]) -> list[EncodedPair]:
    """Groups of two as preferences."""
    return [EncodedPair(chosen, rejected) for chosen, rejected in found]


def _ids(generator: random.Random, length: int) -> tuple[int, ...]:
    return tuple(generator.choices(ORDINARY_TOKENS, k=length))


def _sequence(prompt: tuple[int, ...], output: tuple[int, ...]) -> Sequence:
    return Sequence(prompt, output, (True,) * len(output))


def within_budget(lengths: list[int]) -> list[slice]:
    """Consecutive items whose lengths together stay within the token budget, at least one a slice."""
    slices, start, total = [], 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > TOKEN_BUDGET:
            slices.append(slice(start, index))
            start, total = index, 0
        total += length
    return [*slices, slice(start, len(lengths))]


def load_policy(case: Case) -> CausalLM:
    """Our side: a policy with adapters that make a difference."""
    policy = CausalLM.load(case.folder, lora=ADAPTERS, dtype=case.dtype)
    fill_adapters(policy.model)
    return policy


def load_base(case: Case) -> tuple[Any, Any]:
    """The peers' side: the transformers model, without adapters, and its tokenizer."""
    return load_model(case.folder, dtype=case.torch_dtype)


@functools.cache
def config_of(model: str) -> Any:
    """A model's configuration."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder_of(model))


def fill_adapters(model: torch.nn.Module) -> None:
    """Give adapters values that depend on their names only, so that both sides have the same, as after some training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in sorted(trained(model).items()):
            if "lora_" in name:
                size = weight.shape[1] ** -0.5 if "lora_A" in name else 0.01
                weight.copy_(size * torch.randn(weight.shape, generator=generator))


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Trained weights by names that are alike on all sides: ours of a reward model are those of a scorer around the model."""
    found = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            alike = name.removeprefix("model.").replace(".reward.", ".default.")
            found[alike.replace("base_model.model.score.modules_to_save.default.", "head.")] = weight
    return found


@functools.cache
def folder_of(model: str) -> str:
    """Where a model lies, or what it is called.

    The quickstart's is unpacked once, since its GGUF file is slow to read, and the tiny one made once, with the quickstart's
    tokenizer; both stay in the temporary folder.
    """
    if model not in (QUICKSTART_MODEL, TINY):
        return model
    folder = Path(tempfile.gettempdir()) / f"plaudit-benchmark-{model}"
    if not folder.is_dir():
        found, tokenizer = load_model(QUICKSTART_MODEL, dtype=torch.float32)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
        with quiet_transformers():
            (found if model == QUICKSTART_MODEL else _tiny(found.config)).save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
        unfinished.replace(folder)
    return str(folder)


def _tiny(config: Any) -> Any:
    """A random model of two layers with the vocabulary and the special tokens of `config`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    kept = (
        "vocab_size",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            **{name: getattr(config, name) for name in kept},
        )
    )
