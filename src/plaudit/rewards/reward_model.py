"""A learned reward: a language model's trunk, its own or the policy's, with a linear head at the last token or on the mean."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from plaudit.errors import CheckpointError, PolicyError, RewardError, require
from plaudit.feedback.records import Context, Output
from plaudit.policies.adapters import keeping_trained
from plaudit.policies.base import by_context
from plaudit.policies.batches import Batch
from plaudit.policies.causal_lm import CausalLM
from plaudit.policies.encoding import Encoder, Sequence
from plaudit.policies.limits import expect_positions
from plaudit.policies.loading import (
    DType,
    LoRA,
    add_adapters,
    fast_dtype,
    freeze_untied_head,
    load_adapters,
    load_model,
    load_tokenizer,
    quiet_transformers,
    save_adapters,
    vocabulary_of,
)
from plaudit.policies.packing import Packer
from plaudit.policies.scoring import autocast, causal_lm_of, decoder_of
from plaudit.profiling import count, phase
from plaudit.rewards.base import Reward

ADAPTER = "reward"
Pooling = Literal["last", "mean"]


class RewardScorer(nn.Module):
    """The trunk's hidden state at the last token through a linear head: one number per sequence, or `dimensions` numbers.

    With mean pooling it is the mean of the states at the last token of the context and at those of the output.
    """

    def __init__(
        self,
        model: Any,
        *,
        compute_dtype: torch.dtype,
        generator: torch.Generator,
        pooling: Pooling = "last",
        dimensions: int = 1,
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.compute_dtype = compute_dtype
        width = causal_lm_of(model).config.hidden_size
        # made without values, since Linear would draw them from the global generator
        self.head = nn.Linear(width, dimensions, bias=False, device="meta").to_empty(device="cpu")
        # A tenth of the 1 / sqrt(width + 1) of the N+ implementation details: at their scale the random head's rewards of
        # two SmolLM2 outputs differ by 1 and more, the loss starts far above log 2, and a short training undoes noise.
        nn.init.normal_(self.head.weight, std=0.1 * (width + 1) ** -0.5, generator=generator)

    def forward(self, batch: Batch) -> Float[Tensor, "N ..."]:
        """Reward of each sequence, float32; [N, dimensions] where there are several."""
        count(tokens=batch.input_ids.numel(), positions=len(batch.mask))
        with autocast(self.compute_dtype, batch.input_ids.device):
            hidden = decoder_of(causal_lm_of(self.model))(**batch.inputs).last_hidden_state
        rewards: Tensor = self.head(batch.final(hidden).float())
        if self.pooling == "mean":
            before = self.head(batch.predicting(hidden).float())  # the head is linear: pooled after it
            places = before.new_zeros(*batch.mask.shape, before.shape[-1])
            sums = places.masked_scatter(batch.mask[..., None], before).sum(1)
            rewards = (sums + rewards) / (batch.mask.sum(-1, keepdim=True) + 1)
        return rewards.squeeze(-1) if self.head.out_features == 1 else rewards


class RewardModel:
    """Scores outputs with one number each; trained by `plaudit.methods.RewardModelling`.

    Attributes:
        scorer: the module that the training loop trains.
        offset: subtracted from every reward, so that reference outputs have mean reward 0 (see `normalise`).
        trained_on: what is known of its training, for reports: held-out accuracy and the like.
    """

    def __init__(self, scorer: RewardScorer, encoder: Encoder, *, base: str, packer: Packer | None = None) -> None:
        expect_positions(scorer.model, context=encoder.max_context_tokens, output=encoder.max_output_tokens)
        self.scorer: nn.Module = scorer
        self.packer = packer or Packer(scorer.model, compute_dtype=scorer.compute_dtype)
        self.encoder = encoder
        self.base = base
        self.offset = 0.0

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        lora: LoRA | None = None,
        dtype: DType = "auto",
        device: str | torch.device | None = None,
        max_context_tokens: int = 1024,
        max_output_tokens: int = 1024,
        seed: int = 0,
        pooling: Pooling = "last",
        dimensions: int = 1,
    ) -> RewardModel:
        """A fresh reward model on a trunk of its own, or, where `source` is a folder that `save` wrote, that one.

        The arguments are those of `CausalLM.load`; a saved reward model brings its own LoRA setting, limits and pooling.
        `pooling` says which states the head reads, the last or the mean of the output's (see
        `RewardScorer`), as Mukobi et al. do (SuperHF, arXiv 2310.16763). `dimensions` above 1 makes the head of a
        `PreferenceModel`, which is no reward.

        Raises:
            PolicyError: the trunk cannot be loaded.
            ConfigError: the trunk has fewer positions than the longest context and output need.
            CheckpointError: the folder holds a reward model that is damaged.
        """
        folder = Path(source).expanduser()
        if (folder / "reward.json").is_file():
            return _restore(folder, dtype=dtype, device=device)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        compute_dtype = fast_dtype(place) if dtype == "auto" else getattr(torch, dtype)
        model, tokenizer = load_model(source, dtype=compute_dtype if lora else torch.float32)
        if lora is not None:
            model = add_adapters(model, lora, name=ADAPTER, seed=seed)
        else:
            freeze_untied_head(model)
        encoder = Encoder(
            tokenizer,
            max_context_tokens=max_context_tokens,
            max_output_tokens=max_output_tokens,
            vocabulary=vocabulary_of(model),
        )
        generator = torch.Generator().manual_seed(seed)
        scorer = RewardScorer(
            model.eval(), compute_dtype=compute_dtype, generator=generator, pooling=pooling, dimensions=dimensions
        )
        return cls(scorer.to(place), encoder, base=str(source))

    @classmethod
    def on(cls, policy: CausalLM, lora: LoRA, *, seed: int = 0) -> RewardModel:
        """A fresh reward model on the policy's trunk: adapters and a head of its own over the same frozen weights.

        Raises:
            PolicyError: the policy has no adapters, so training it would move the trunk below the reward.
        """
        if not policy.has_adapters:
            raise PolicyError(
                "A reward model can share the trunk of a policy with LoRA only; give it a trunk of its own."
            )
        add_adapters(policy.model, lora, name=ADAPTER, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        scorer = RewardScorer(policy.model, compute_dtype=policy.compute_dtype, generator=generator)
        return cls(scorer.to(policy.device), policy.encoder, base=policy.name, packer=policy.packer)

    def take(self, folder: Path) -> None:
        """Take adapters, head and offset of a reward model with adapters of the same setting that `save` wrote.

        Raises:
            CheckpointError: they are not there, are damaged, or of another setting.
        """
        try:
            weights = load_file(folder / ADAPTER / "adapter_model.safetensors")
            head = load_file(folder / "head.safetensors")["weight"]
            offset = float(json.loads((folder / "reward.json").read_text())["offset"])
            with quiet_transformers(), torch.no_grad():
                peft = require("peft", extra="lm")
                peft.set_peft_model_state_dict(self._scorer.model, weights, adapter_name=ADAPTER)
                self._scorer.head.weight.copy_(head)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(f"The reward model in {folder} is damaged or of another setting: {error}") from error
        self.offset = offset

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Inside, a shared trunk answers with the reward's adapters, and these are what is trained."""
        model = self._scorer.model
        others = [] if not hasattr(model, "active_adapter") else [model.active_adapter]
        if not others or others == [ADAPTER]:
            yield
            return
        with keeping_trained(model):
            model.set_adapter(ADAPTER)
            try:
                yield
            finally:
                model.set_adapter(others[0])

    def reward(self, contexts: Rows[Context], outputs: Rows[Output], *, batch_size: int = 32) -> Reward:
        """Rewards of N outputs given their N contexts; no gradient."""
        sequences = [self.encoder.sequence(context, output) for context, output in zip(contexts, outputs, strict=True)]
        return Reward.of(self.reward_of(sequences, batch_size=batch_size))

    @torch.no_grad()
    def reward_of(
        self, sequences: Rows[Sequence], *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> Float[Tensor, " N"]:
        """The same of outputs that are token ids already.

        Raises:
            RewardError: it is the trunk and head of a `PreferenceModel`, which compares and does not reward.
        """
        if self.dimensions > 1:
            raise RewardError(
                f"reward: {self.base} holds a general preference model of {self.dimensions} dimensions, which gives no reward; "
                "load it with plaudit.rewards.PreferenceModel"
            )
        values = torch.empty(len(sequences))
        with self.active(), phase("reward"):
            for indices in by_context([sequence.context for sequence in sequences], batch_size):
                values[indices] = self.raw([sequences[index] for index in indices]).cpu()
                if progress:
                    progress(len(indices))
        return values - self.offset

    @property
    def dimensions(self) -> int:
        """Numbers that the head gives of an output: 1 is a reward."""
        return int(self._scorer.head.out_features)

    def raw(self, sequences: Rows[Sequence]) -> Float[Tensor, "N ..."]:
        """Rewards before the offset, in one forward pass, with gradients where they are enabled."""
        device = self._scorer.head.weight.device
        rewards: Tensor = self.scorer(self.packer.batch(sequences, device=device, whole=True))
        return rewards

    def normalise(self, sequences: Rows[Sequence]) -> None:
        """Shift rewards so that these reference outputs have mean 0 (Stiennon et al., arXiv 2009.01325, section 3.4)."""
        self.offset += float(self.reward_of(sequences).mean())

    def save(self, folder: Path) -> None:
        """Write trunk or adapters, head, tokenizer and offset."""
        folder.mkdir(parents=True, exist_ok=True)
        model = self._scorer.model
        with quiet_transformers():
            if hasattr(model, "peft_config"):
                save_adapters(model, folder, name=ADAPTER)
            else:
                model.save_pretrained(folder / "trunk")
                self.encoder.tokenizer.save_pretrained(folder / "trunk")
        self.encoder.tokenizer.save_pretrained(folder)
        save_file({"weight": self._scorer.head.weight.detach().cpu().contiguous()}, folder / "head.safetensors")
        settings = {
            "base": self.base,
            "offset": self.offset,
            "adapters": hasattr(model, "peft_config"),
            "pooling": self._scorer.pooling,
            "dimensions": self.dimensions,
            "max_context_tokens": self.encoder.max_context_tokens,
            "max_output_tokens": self.encoder.max_output_tokens,
        }
        (folder / "reward.json").write_text(json.dumps(settings, indent=2) + "\n")

    @property
    def _scorer(self) -> Any:
        return getattr(self.scorer, "module", self.scorer)


def _restore(folder: Path, *, dtype: DType, device: str | torch.device | None) -> RewardModel:
    try:
        settings = json.loads((folder / "reward.json").read_text())
        head = load_file(folder / "head.safetensors")["weight"]
        limits = {key: settings[key] for key in ("max_context_tokens", "max_output_tokens")}
        adapters, offset, base = settings["adapters"], float(settings["offset"]), settings["base"]
        pooling: Pooling = settings.get("pooling", "last")
        dimensions = int(settings.get("dimensions", 1))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"The reward model in {folder} is damaged: {error}") from error
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    compute_dtype = fast_dtype(place) if dtype == "auto" else getattr(torch, dtype)
    model, _ = load_model(base if adapters else folder / "trunk", dtype=compute_dtype if adapters else torch.float32)
    tokenizer = load_tokenizer(folder)
    if adapters:
        try:
            model = load_adapters(model, folder / ADAPTER, name=ADAPTER, trainable=True)
        except PolicyError as error:
            raise CheckpointError(f"The reward model in {folder} is damaged: {error}") from error
    else:
        freeze_untied_head(model)
    scorer = RewardScorer(
        model.eval(), compute_dtype=compute_dtype, generator=torch.Generator(), pooling=pooling, dimensions=dimensions
    )
    if head.shape != scorer.head.weight.shape:
        raise CheckpointError(
            f"The reward model in {folder} has a head of shape {tuple(head.shape)}, "
            f"its trunk {base} needs {tuple(scorer.head.weight.shape)}."
        )
    with torch.no_grad():
        scorer.head.weight.copy_(head)
    reward = RewardModel(scorer.to(place), Encoder(tokenizer, **limits, vocabulary=vocabulary_of(model)), base=base)
    reward.offset = offset
    return reward
