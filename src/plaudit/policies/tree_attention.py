"""Attention over a `PrefixTree`: every token sees itself, what precedes it in its segment, and all ancestors' segments.

Attention to several sets of keys is merged by their log-sum-exps (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al.
2022, arXiv 2205.14135): with ``o_i = softmax(q K_i^T) V_i`` and ``l_i = logsumexp(q K_i^T)``, attention to the union is
``sum_i exp(l_i - l) o_i`` with ``l = logsumexp_i l_i``. So a prompt is one dense product for all tokens below it, no key is
copied, no score is computed to be masked. The backward pass of each part is the kernel's, with the merged ``o`` and ``l``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from plaudit.errors import require
from plaudit.objectives.arguments import widened
from plaudit.policies.flex_attention import FlexPlan, flex_tree_attention
from plaudit.policies.prefix_tree import PrefixTree, Segment

NAME = "plaudit"
# what transformers hands to an attention function and a tree's attention need not know
_HARMLESS = frozenset(
    {"scaling", "is_causal", "sliding_window", "position_ids", "use_cache", "output_attentions", "output_hidden_states"}
)
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Plan:
    """The kernel calls that one layer's attention over a tree takes; made once per pack, used by every layer.

    Attributes:
        runs: segments whose causal attention is one call each.
        bundles: places [G, L] of segments of similar length whose causal attention is one call together; a shorter one
            repeats its first place, which comes too late in the row to be seen by what counts.
        valid: [G, L], False where a bundle repeats.
        parents: segments that have descendants.
    """

    runs: tuple[Segment, ...]
    bundles: tuple[Tensor, ...]
    valid: tuple[Tensor, ...]
    parents: tuple[Segment, ...]

    @classmethod
    def of(cls, tree: PrefixTree, *, device: torch.device) -> Plan:
        """The plan of a tree."""
        parents = tuple(segment for segment in tree.segments if segment.last > segment.end)
        leaves = sorted((s for s in tree.segments if s.last == s.end), key=lambda s: s.end - s.start)
        bundles, valid, runs = [], [], list(parents)
        for members in _alike(leaves):
            if len(members) == 1:
                runs.extend(members)
                continue
            starts = torch.tensor([segment.start for segment in members])[:, None]
            lengths = torch.tensor([segment.end - segment.start for segment in members])[:, None]
            steps = torch.arange(int(lengths.max()))
            inside = steps < lengths
            bundles.append(torch.where(inside, starts + steps, starts).to(device))
            valid.append(inside.to(device))
        return cls(tuple(runs), tuple(bundles), tuple(valid), parents)


def plan_of(tree: PrefixTree, *, device: torch.device) -> Plan | FlexPlan:
    """The plan of a tree for a device: calls of the CPU's kernel there, a mask for FlexAttention elsewhere."""
    return Plan.of(tree, device=device) if device.type == "cpu" else FlexPlan.of(tree, device=device)


def _alike(leaves: list[Segment]) -> Iterator[list[Segment]]:
    """Leaves in groups of similar length, shortest first: padding a group wastes at most a quarter of its longest."""
    group: list[Segment] = []
    for leaf in leaves:
        if group and (leaf.end - leaf.start) * 0.75 > group[0].end - group[0].start:
            yield group
            group = []
        group.append(leaf)
    if group:
        yield group


def tree_attention(
    query: Float[Tensor, "1 H S D"],
    key: Float[Tensor, "1 H S D"],
    value: Float[Tensor, "1 H S D"],
    plan: Plan,
    scale: float,
) -> Float[Tensor, "1 H S D"]:
    """Attention of a packed tree's tokens, differentiable once.

    Args:
        query: queries of the pack's S tokens.
        key: keys, with as many heads as the queries.
        value: values.
        plan: the calls to make.
        scale: factor on the scores.
    """
    result: Tensor = _TreeAttention.apply(query, key, value, plan, scale)  # type: ignore[no-untyped-call]
    return result


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: Plan, scale: float) -> Tensor:
        given = query.dtype
        # the kernel's backward pass takes four to six times as long in bfloat16 where segments are short
        query, key, value = (widened(x) for x in (query, key, value))
        merged, total = torch.empty_like(query), torch.empty_like(query[..., 0])
        for part in plan.runs:
            rows = slice(part.start, part.end)
            out, lse = flash(query[:, :, rows], key[:, :, rows], value[:, :, rows], 0.0, True, scale=scale)
            merged[:, :, rows], total[:, :, rows] = out, lse
        for places, valid in zip(plan.bundles, plan.valid, strict=True):
            out, lse = flash(*(_bundle(x, places) for x in (query, key, value)), 0.0, True, scale=scale)
            kept = places[valid]
            merged[0, :, kept] = out.transpose(0, 1)[:, valid]
            total[0, :, kept] = lse.transpose(0, 1)[:, valid]
        for part in plan.parents:
            rows, seen = slice(part.end, part.last), slice(part.start, part.end)
            out, lse = flash(query[:, :, rows], key[:, :, seen], value[:, :, seen], 0.0, False, scale=scale)
            before = total[:, :, rows]
            after = torch.logaddexp(before, lse)
            merged[:, :, rows] *= (before - after).exp_()[..., None]
            merged[:, :, rows] += out * (lse - after).exp_()[..., None]
            total[:, :, rows] = after
        ctx.save_for_backward(query, key, value, merged, total)
        ctx.plan, ctx.scale = plan, scale
        return merged.to(given)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, result, total = ctx.saved_tensors
        slopes = [torch.zeros_like(x) for x in (query, key, value)]
        given, grad = grad.dtype, widened(grad).contiguous()

        def add(rows: slice, seen: slice, causal: bool) -> None:
            found = _flash_backward(
                grad[:, :, rows], query[:, :, rows], key[:, :, seen], value[:, :, seen], result[:, :, rows],
                total[:, :, rows].contiguous(), 0.0, causal, scale=ctx.scale,
            )  # fmt: skip
            for slope, part, where in zip(slopes, found, (rows, seen, seen), strict=True):
                slope[:, :, where] += part

        for part in ctx.plan.runs:
            add(slice(part.start, part.end), slice(part.start, part.end), True)
        for part in ctx.plan.parents:
            add(slice(part.end, part.last), slice(part.start, part.end), False)
        for places, valid in zip(ctx.plan.bundles, ctx.plan.valid, strict=True):
            inner = _bundle(grad, places) * valid[:, None, :, None]
            bundled = [_bundle(x, places) for x in (query, key, value, result)]
            lse = total[0][:, places].transpose(0, 1).contiguous()
            found = _flash_backward(inner, *bundled, lse, 0.0, True, scale=ctx.scale)
            kept = places[valid]
            for slope, part in zip(slopes, found, strict=True):
                slope[0].index_add_(1, kept, part.transpose(0, 1)[:, valid])
        return (*(slope.to(given) for slope in slopes), None, None)


def _bundle(x: Float[Tensor, "1 H S D"], places: Int[Tensor, "G L"]) -> Float[Tensor, "G H L D"]:
    return x[0][:, places].transpose(0, 1)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: over a tree where the pass brought a plan or a cache, else its own."""
    plan, cache = options.pop("plan", None), options.pop("cache", None)
    if plan is None and cache is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return result
    unknown = sorted(name for name, given in options.items() if name not in _HARMLESS and given not in (None, 0.0))
    if unknown:  # capped scores, sinks, biases, dropout
        raise NotImplementedError(f"attention over a tree knows nothing of {', '.join(unknown)}")
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    if cache is not None and cache.plan is None:
        return cache.attend(module.layer_idx, query, key, value, scale).transpose(1, 2), None
    if cache is not None:
        cache.keep_prompts(module.layer_idx, key, value)
        plan = cache.plan
    if isinstance(plan, FlexPlan):
        return flex_tree_attention(query, key, value, plan, scale).transpose(1, 2), None
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    return tree_attention(query, key, value, plan, scale).transpose(1, 2), None


def use_tree_attention(model: Any) -> bool:
    """Let a transformers model attend over trees; False where its attention is not the library's to choose."""
    modeling = require("transformers.modeling_utils", extra="lm")
    masking = require("transformers.masking_utils", extra="lm")
    own = getattr(model.config, "_attn_implementation", None)
    if own not in ("sdpa", NAME):  # NAME: a copy of a model that does so already
        return False
    modeling.AttentionInterface.register(NAME, attend)
    masking.AttentionMaskInterface.register(NAME, masking.sdpa_mask)
    model.set_attn_implementation(NAME)
    return True
