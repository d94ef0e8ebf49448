"""From a trunk's states to log-probabilities of tokens: head, softmax and gather over a chunk of positions at a time.

With logits ``z = W h``, the gradient of ``log p(t) = z_t - logsumexp(z)`` by the state h is ``W_t - p W``, whatever
the loss does with the log-probability later. So where the head is frozen it is computed along with the value, a row per
position, and no logits are kept or computed again. The gradient of the entropy ``H`` is ``-(p (log p + H)) W``, that of the
divergence ``KL(q || p)`` of a reference q from p is ``(p - q) W``. A head that is trained computes its chunk again in the
backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from plaudit import profiling
from plaudit.objectives.arguments import widened
from plaudit.objectives.policy_gradient import forward_kl

CHUNK_BYTES = 24 * 2**20  # of float32 logits at once; from 32 MB on every allocation is new pages from the system
_FEWEST = 128  # positions, below which the product with a large vocabulary gets slow


@dataclass(frozen=True, slots=True)
class Head:
    """The linear layer [V, D] after a trunk, and the scaling and the soft cap that some families put after it."""

    layer: Any
    scale: float
    cap: float | None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of a transformers causal LM."""
        config = model.config
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(model.get_output_embeddings(), scale, getattr(config, "final_logit_softcapping", None))

    @property
    def frozen(self) -> bool:
        """Whether it is a plain linear layer that is not trained."""
        return type(self.layer) is nn.Linear and not any(weight.requires_grad for weight in self.layer.parameters())

    def logits(self, hidden: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        """Logits of the next token."""
        return self.finished(self.layer(hidden))

    def finished(self, logits: Float[Tensor, "M V"]) -> Float[Tensor, "M V"]:
        """What comes after the linear layer."""
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def slope(self, logits: Float[Tensor, "M V"]) -> Float[Tensor, "M V"] | float:
        """Derivative of the logits by what the linear layer gives."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap).square())


def token_log_prob(
    head: Head,
    hidden: Float[Tensor, "M D"],
    targets: Int[Tensor, " M"],
    *,
    entropy: bool = False,
    ref_hidden: Float[Tensor, "M D"] | None = None,
) -> Float[Tensor, "2 M"]:
    """Log-probability of each target token, and a statistic of its whole distribution, in nats; differentiable.

    The statistic is the entropy, the divergence ``KL(reference || policy)``, or 0 where neither is asked for.

    Args:
        head: what makes logits of states.
        hidden: states that predict the targets.
        targets: token ids.
        entropy: whether to compute the entropy.
        ref_hidden: the reference's states at the same positions, a constant: the head makes its distribution of them.

    Raises:
        ValueError: both the entropy and the divergence are asked for.
    """
    if entropy and ref_hidden is not None:
        raise ValueError("entropy: expected False beside ref_hidden; a pass computes one of the two statistics")
    vocabulary = head.layer.weight.shape[0]
    size = max(_FEWEST, CHUNK_BYTES // (4 * vocabulary))
    if not head.frozen:
        parts = []
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            reference = None if ref_hidden is None else ref_hidden[rows]
            part = checkpoint(_chunk, head, hidden[rows], targets[rows], entropy, reference, use_reentrant=False)
            parts.append(part)
        return torch.cat(parts, 1) if parts else hidden.new_zeros(2, 0, dtype=torch.float32)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    learns = torch.is_grad_enabled() and hidden.requires_grad
    if (profile := profiling.active()) is not None:
        positions, width = hidden.shape
        asked = entropy or ref_hidden is not None
        for _ in range(1 + (ref_hidden is not None) + learns * (1 + asked)):
            profile.count_product(positions, width, vocabulary, slopes=0)
    with torch.autocast(device, enabled=False):
        reference = None if ref_hidden is None else ref_hidden.detach().to(dtype)
        arguments = (hidden.to(dtype), head, targets, size, entropy, reference, learns)
        result: Tensor = _FrozenHead.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def gathered(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, " M"],
    *,
    entropy: bool,
    ref_logits: Float[Tensor, "M V"] | None = None,
) -> Float[Tensor, "2 M"]:
    """Log-probabilities of targets, and entropies, divergences of a reference (see `token_log_prob`) or 0, from logits."""
    logits = widened(logits)
    if ref_logits is not None:
        everywhere = torch.ones_like(targets, dtype=torch.bool)[None]
        divergence = forward_kl(logits[None], widened(ref_logits)[None], everywhere)[0]
        return torch.stack([-nn.functional.cross_entropy(logits, targets, reduction="none"), divergence])
    if not entropy:
        value = -nn.functional.cross_entropy(logits, targets, reduction="none")
        return torch.stack([value, torch.zeros_like(value)])
    log_prob = logits.log_softmax(-1)
    return torch.stack([log_prob.gather(-1, targets[:, None])[:, 0], -(log_prob.exp() * log_prob).sum(-1)])


def _chunk(head: Head, hidden: Tensor, targets: Tensor, entropy: bool, ref_hidden: Tensor | None) -> Tensor:
    ref_logits = None if ref_hidden is None else head.logits(ref_hidden).detach()
    return gathered(head.logits(hidden), targets, entropy=entropy, ref_logits=ref_logits)


class _FrozenHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        size: int,
        entropy: bool,
        reference: Tensor | None,
        learns: bool,
    ) -> Tensor:
        weight, bias = (
            None if part is None else part.detach().to(hidden.dtype) for part in (head.layer.weight, head.layer.bias)
        )
        assert weight is not None
        wide = widened(hidden).dtype
        values = torch.zeros(2, len(targets), dtype=wide, device=hidden.device)
        slopes = hidden.new_empty(1 + (entropy or reference is not None), *hidden.shape) if learns else None
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            chosen = targets[rows, None]
            logits = widened(head.finished(nn.functional.linear(hidden[rows], weight, bias)))
            bend = head.slope(logits) if learns else 1.0
            log_prob = logits.log_softmax(-1)
            values[0, rows] = log_prob.gather(-1, chosen)[:, 0]
            if entropy:
                values[1, rows] = -(log_prob.exp() * log_prob).sum(-1)
            if reference is not None:
                ref_log_prob = widened(head.finished(nn.functional.linear(reference[rows], weight, bias))).log_softmax(
                    -1
                )
                ref_prob = ref_log_prob.exp()
                values[1, rows] = (ref_prob * ref_log_prob.sub_(log_prob)).sum(-1)
            if slopes is None:
                continue
            if reference is not None:
                leaning = (log_prob.exp() - ref_prob) * bend
                slopes[1, rows] = leaning.to(hidden.dtype) @ weight
            if entropy:
                leaning = log_prob.exp() * (log_prob + values[1, rows, None]) * -bend
                slopes[1, rows] = leaning.to(hidden.dtype) @ weight
            prob = log_prob.exp_()
            at_target = weight[chosen[:, 0]]
            if isinstance(bend, Tensor):
                prob *= bend
                at_target = at_target * bend.gather(-1, chosen).to(hidden.dtype)
            elif bend != 1.0:
                prob *= bend
                at_target = at_target * bend
            slopes[0, rows] = at_target - prob.to(hidden.dtype) @ weight
        ctx.save_for_backward(slopes)
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        total = grad[0, :, None].to(slopes.dtype) * slopes[0]
        if len(slopes) == 2:
            total += grad[1, :, None].to(slopes.dtype) * slopes[1]
        return total, None, None, None, None, None, None
