"""A general preference model: P(y > y' | x) that need not be transitive, antisymmetric by construction."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from plaudit.errors import CheckpointError, ConfigError
from plaudit.feedback.records import Context, Output
from plaudit.policies.encoding import Encoder, Sequence
from plaudit.profiling import phase
from plaudit.rewards.reward_model import RewardModel

_LARGER = 5.0


def skew_logit(a: Float[Tensor, "N D"], b: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """``s(a, b) = r_a - r_b + Σ_k (u_a,k v_b,k - v_a,k u_b,k)`` of embeddings (r, u_1, v_1, ..., u_K, v_K).

    Swapping the two turns the sign, exactly, so P(a > b) + P(b > a) = 1 with ``P = σ(s)``. In each plane (u, v) preference is
    the sine of an angle: three outputs a third of a turn apart are a cycle. Without planes it is Bradley and Terry's model.

    Args:
        a: embeddings of the first outputs, D odd.
        b: of the second.

    Reference:
        Zhang et al., "Beyond Bradley-Terry models: a general preference model for language model alignment", arXiv 2410.02197,
        section 4, from memory. There the planes have eigenvalues that depend on the prompt, and embeddings of length one; here
        the lengths are free and stand for both, and the reward part is ours.

    >>> rock, paper = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, -0.5, 3**0.5 / 2]])
    >>> round(float(skew_logit(rock, paper)), 4), round(float(skew_logit(paper, rock)), 4)
    (0.866, -0.866)
    """
    (u_a, v_a), (u_b, v_b) = (a[:, 1::2], a[:, 2::2]), (b[:, 1::2], b[:, 2::2])
    return a[:, 0] - b[:, 0] + (u_a * v_b - v_a * u_b).sum(-1)


class PreferenceModel:
    """Says how likely one output beats another; trained by `plaudit.methods.PreferenceModelling`.

    It has the trunk, adapters, limits and files of a `RewardModel` whose head gives ``1 + 2 planes`` numbers.
    """

    def __init__(self, embedder: RewardModel) -> None:
        if embedder.dimensions % 2 == 0:
            raise ConfigError(f"dimensions: expected an odd number, 1 + 2 planes, got {embedder.dimensions}")
        self._embedder = embedder

    @classmethod
    def load(cls, source: str | Path, *, planes: int | None = None, **options: Any) -> PreferenceModel:
        """A fresh one on a trunk of its own, or, where `source` is a folder that `save` wrote, that one.

        Args:
            source: as for `RewardModel.load`.
            planes: of the skew-symmetric form, 2 by default; 0 is Bradley and Terry's model. A saved model brings its own.
            options: as for `RewardModel.load`.

        Raises:
            ConfigError: a number of planes below 0.
            CheckpointError: the folder holds a model with another number of planes than was asked for, or is damaged.
        """
        if planes is not None and planes < 0:
            raise ConfigError(f"planes: expected a whole number >= 0, got {planes}")
        saved = (Path(source).expanduser() / "reward.json").is_file()
        embedder = RewardModel.load(source, dimensions=1 + 2 * (2 if planes is None else planes), **options)
        model = cls(embedder)
        if not saved:
            # both factors of the form are learned, and near 0 neither has a slope: they start larger than a reward does
            head: Any = embedder.scorer.head
            with torch.no_grad():
                head.weight[1:] *= _LARGER
        elif planes not in (None, model.planes):
            raise CheckpointError(f"{source} holds a model of {model.planes} planes, and {planes} were expected.")
        return model

    @property
    def scorer(self) -> nn.Module:
        """The module that the training loop trains."""
        return self._embedder.scorer

    @scorer.setter
    def scorer(self, module: nn.Module) -> None:
        self._embedder.scorer = module

    @property
    def encoder(self) -> Encoder:
        """How contexts and outputs become tokens."""
        return self._embedder.encoder

    @property
    def planes(self) -> int:
        """Planes of the skew-symmetric form."""
        return (self._embedder.dimensions - 1) // 2

    def logits(self, a: Rows[Sequence], b: Rows[Sequence]) -> Float[Tensor, " N"]:
        """``log P(a > b) / P(b > a)`` of N pairs, both outputs side by side in one pass; with gradients where enabled."""
        first, second = self._embedder.raw([*a, *b]).reshape(2 * len(a), -1).chunk(2)
        return skew_logit(first, second)

    @torch.no_grad()
    def preference_of(self, a: Rows[Sequence], b: Rows[Sequence], *, batch_size: int = 64) -> Float[Tensor, " N"]:
        """P(a > b) of N pairs of token ids; each distinct output is read once."""
        distinct = {sequence.key: sequence for sequence in (*a, *b)}
        keys, parts = list(distinct), list[Tensor]()
        with self._embedder.active(), phase("reward"):
            for start in range(0, len(keys), batch_size):
                batch = [distinct[key] for key in keys[start : start + batch_size]]
                parts.append(self._embedder.raw(batch).reshape(len(batch), -1).cpu())
        embedding = torch.cat(parts) if parts else torch.zeros(0, 1 + 2 * self.planes)
        place = {key: index for index, key in enumerate(keys)}
        first, second = (embedding[[place[one.key] for one in side]] for side in (a, b))
        return torch.sigmoid(skew_logit(first, second))

    def prefer(self, contexts: Rows[Context], a: Rows[Output], b: Rows[Output]) -> Rows[float | None]:
        """P(a > b | x) of each context's two outputs: an oracle for the methods of games, and a judge of win rates."""
        first, second = (
            [self.encoder.sequence(context, output) for context, output in zip(contexts, side, strict=True)]
            for side in (a, b)
        )
        found: list[float | None] = list(self.preference_of(first, second).tolist())
        return found

    def save(self, folder: Path) -> None:
        """Write trunk or adapters, head and tokenizer, in safetensors and JSON."""
        self._embedder.save(folder)
