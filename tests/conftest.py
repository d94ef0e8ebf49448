"""Shared fixtures: a tiny random language model with a byte-level tokenizer and a chat template, made on the spot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

# a shared machine may take a second for what takes a millisecond
hypothesis.settings.register_profile("plaudit", deadline=None)
hypothesis.settings.load_profile("plaudit")

# Shapes are checked in the tests only; the hook must be there before anything imports these packages.
install_import_hook(
    ["plaudit.objectives", "plaudit.policies", "plaudit.rewards"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",  # an int is a float
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tokenizer(*, chat: bool = True):
    """A byte-level tokenizer: every text is representable, no vocabulary to download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>" if chat else "<|endoftext|>",
        pad_token="<|im_end|>" if chat else "<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def build_model(tokenizer, *, seed: int = 0):
    """Two layers of width 32: small enough to train in milliseconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory) -> Path:
    """No test reads or writes the user's own cache; tests that count what is computed take a folder of their own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["PLAUDIT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A folder with the tiny chat model in the transformers format."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_plain_model(tmp_path_factory) -> Path:
    """The same without a chat template."""
    folder = tmp_path_factory.mktemp("tiny-plain-model")
    tokenizer = build_tokenizer(chat=False)
    build_model(tokenizer, seed=1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_in_two_processes(module: str, *arguments: object) -> None:
    """Run ``module``'s main on two processes that talk over gloo, as torchrun does on one machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", module]
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    result = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.fixture(scope="session")
def two_processes():
    """`run_in_two_processes`, for fixtures that share what it computed."""
    return run_in_two_processes


@pytest.fixture
def qa_feedback() -> Path:
    """The real people's feedback beside the checkout; skips where it is not there."""
    path = Path(__file__).parents[2] / "shared" / "data" / "qa_feedback" / "dev_feedback.json"
    if not path.is_file():
        pytest.skip(f"needs the qa-feedback data set at {path}")
    return path
