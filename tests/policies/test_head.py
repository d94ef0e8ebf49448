"""Head, softmax and gather in one pass: values, entropies and gradients of the plain formulas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from plaudit.policies import head as module
from plaudit.policies.head import Head, token_log_prob

SHAPES = {"plain": {}, "scaled": {"scale": 0.3}, "capped": {"cap": 1.5}, "both": {"scale": 2.0, "cap": 1.5}}


def build(*, frozen: bool = True, bias: bool = False, scale: float = 1.0, cap: float | None = None) -> Head:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Linear(4, 11, bias=bias, dtype=torch.float64).requires_grad_(not frozen)
    return Head(layer, scale, cap)


def states(count: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    hidden = 2 * torch.randn(count, 4, generator=source, dtype=torch.float64)
    return hidden.requires_grad_(), torch.randint(0, 11, (count,), generator=source)


def plain(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    log_prob = head.logits(hidden).log_softmax(-1)
    return torch.stack([log_prob.gather(-1, targets[:, None])[:, 0], -(log_prob.exp() * log_prob).sum(-1)])


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_values_entropies_and_gradients_are_those_of_the_formulas(monkeypatch, chunk, shape, frozen, bias):
    monkeypatch.setattr(module, "_FEWEST", chunk)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    head = build(frozen=frozen, bias=bias, **shape)
    hidden, targets = states()
    weights = torch.linspace(-1, 2, 18, dtype=torch.float64).view(2, 9)
    trained = [hidden, *(weight for weight in head.layer.parameters() if weight.requires_grad)]
    found, expected = token_log_prob(head, hidden, targets, entropy=True), plain(head, hidden, targets)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((found * weights).sum(), trained)
    theirs = torch.autograd.grad((expected * weights).sum(), trained)
    torch.testing.assert_close(ours, theirs)
    alone = token_log_prob(head, hidden, targets)
    torch.testing.assert_close(alone[0], expected[0])
    assert not alone[1].any()
    (slope,) = torch.autograd.grad(alone[0].sum(), hidden)
    torch.testing.assert_close(slope, torch.autograd.grad(plain(head, hidden, targets)[0].sum(), hidden)[0])


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_the_divergence_of_a_reference_is_the_sum_over_the_vocabulary(monkeypatch, chunk, shape, frozen):
    """``sum q (log q - log p)``, with a gradient through p alone."""
    monkeypatch.setattr(module, "_FEWEST", chunk)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    head = build(frozen=frozen, **shape)
    hidden, targets = states()
    reference = (hidden + torch.linspace(-1, 1, 4)).detach().requires_grad_()
    weights = torch.linspace(-1, 2, 18, dtype=torch.float64).view(2, 9)
    trained = [hidden, *(weight for weight in head.layer.parameters() if weight.requires_grad)]
    found = token_log_prob(head, hidden, targets, ref_hidden=reference)
    p, q = head.logits(hidden).log_softmax(-1), head.logits(reference).log_softmax(-1).detach()
    divergence = (q.exp() * (q - p)).sum(-1)
    expected = torch.stack([plain(head, hidden, targets)[0], divergence])
    torch.testing.assert_close(found, expected)
    assert (divergence > 1e-3).all()
    ours = torch.autograd.grad((found * weights).sum(), [*trained, reference], allow_unused=True)
    theirs = torch.autograd.grad((expected * weights).sum(), trained)
    torch.testing.assert_close(ours[:-1], theirs)
    assert ours[-1] is None


def test_a_frozen_heads_divergence_passes_the_numerical_gradient_check():
    head = build(scale=2.0, cap=1.5)
    hidden, targets = states(3)
    reference = hidden.detach() + 0.3

    def divergence(hidden: torch.Tensor) -> torch.Tensor:
        return token_log_prob(head, hidden, targets, ref_hidden=reference)

    assert torch.autograd.gradcheck(divergence, [hidden])


def test_a_pass_computes_one_statistic():
    hidden, targets = states()
    with pytest.raises(ValueError, match="entropy: expected False beside ref_hidden"):
        token_log_prob(build(), hidden, targets, entropy=True, ref_hidden=hidden)


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_no_positions_have_no_log_probs(frozen):
    hidden, targets = states(0)
    found = token_log_prob(build(frozen=frozen), hidden, targets, entropy=True)
    assert found.shape == (2, 0)


def test_a_frozen_heads_logits_are_computed_once_and_only_values_without_a_gradient(monkeypatch):
    """One product for the logits, one for the gradient of the states; none in the backward pass."""
    head = build()
    hidden, targets = states()
    products = []
    linear, matmul = nn.functional.linear, torch.Tensor.__matmul__
    monkeypatch.setattr(nn.functional, "linear", lambda *a: (products.append("logits"), linear(*a))[1])
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda *a: (products.append("slope"), matmul(*a))[1])
    value = token_log_prob(head, hidden, targets)[0].sum()
    assert products == ["logits", "slope"]
    value.backward()
    assert products == ["logits", "slope"]
    with torch.no_grad():
        token_log_prob(head, hidden, targets)
    assert products == ["logits", "slope", "logits"]


def test_bfloat16_keeps_the_softmax_in_float32():
    head = build()
    head.layer.bfloat16()
    hidden, targets = states()
    near = hidden.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_log_prob(head, near, targets, entropy=True)
    assert found.dtype == torch.float32
    exact = plain(build(), hidden, targets)
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)
    (ours,), (theirs,) = torch.autograd.grad(found.sum(), near), torch.autograd.grad(exact.sum(), hidden)
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_what_a_configuration_says_of_the_head_is_read():
    config = SimpleNamespace(logit_scale=0.5, logits_scaling=4.0, final_logit_softcapping=30.0)
    head = Head.of(SimpleNamespace(config=config, get_output_embeddings=lambda: nn.Linear(2, 3)))
    assert (head.scale, head.cap, head.frozen) == (0.125, 30.0, False)
