"""The masked autoencoder's loss: transformers' VideoMAE on a tiny video, and its symmetries."""

from __future__ import annotations

import math

import pytest
import torch

from objectives.contract import Case, lengths_mask, normal
from plaudit.objectives.imitation.self_supervision import masked_reconstruction

PREDICTION, TARGET = normal(5, 6, 4, seed=1), normal(5, 6, 4, seed=2)
MASK = lengths_mask(5, 6, seed=3)


def patches(rows, **settings):
    return {"prediction": PREDICTION[:rows], "target": TARGET[:rows], "mask": MASK[:rows], **settings}


CASES = [
    Case(
        masked_reconstruction,
        lambda rows, settings=settings: patches(rows, **settings),
        name=name,
        differentiable=("prediction",),
        extreme=("prediction", "target"),
        invalid={"epsilon": [-0.1, math.nan], "aggregation": ["mean", 0.0]},
    )
    for name, settings in {
        "normalised": {},
        "raw": {"normalise": False},
        "sequence": {"aggregation": "sequence-mean"},
    }.items()
]


def test_the_docstrings_example():
    value, weight = masked_reconstruction(torch.zeros(1, 1, 2), torch.tensor([[[1.0, 3.0]]]), torch.tensor([[True]]))
    assert value.item() == pytest.approx(1 / 2, rel=1e-5)
    assert weight.item() == 1


def test_the_loss_is_videomaes():
    """transformers normalises each channel of a tubelet by itself, so a channel is a patch here."""
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        image_size=8,
        patch_size=4,
        num_frames=4,
        tubelet_size=2,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VideoMAEForPreTraining(config).eval()
        pixels = torch.randn(2, 4, 3, 8, 8)
    hidden = torch.tensor([[True, False, True, True, False, True, True, False]] * 2)
    with torch.no_grad():
        outputs = model(pixels, bool_masked_pos=hidden)
    mean = torch.tensor([0.485, 0.456, 0.406])[None, None, :, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[None, None, :, None, None]
    frames = pixels * deviation + mean  # the model undoes the images' normalisation
    cut = frames.unfold(1, 2, 2).unfold(3, 4, 4).unfold(4, 4, 4)  # [N, t, C, h, w, 2, 4, 4]
    target = cut.permute(0, 1, 3, 4, 2, 5, 6, 7).reshape(2, 8, 3, 32)
    predicted = torch.zeros(2, 8, 3, 32)
    predicted[hidden] = outputs.logits.reshape(10, 32, 3).transpose(1, 2)
    value, weight = masked_reconstruction(
        predicted.flatten(1, 2), target.flatten(1, 2), hidden.repeat_interleave(3, dim=1)
    )
    torch.testing.assert_close((value * weight).sum() / weight.sum(), outputs.loss, rtol=1e-5, atol=1e-6)


def test_a_patchs_brightness_and_contrast_do_not_matter():
    base, _ = masked_reconstruction(**patches(5, epsilon=0.0))
    changed, _ = masked_reconstruction(**patches(5, epsilon=0.0) | {"target": 3 * TARGET + 7})
    torch.testing.assert_close(changed, base)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_a_flat_patch_asks_for_zero(epsilon):
    flat = torch.full_like(TARGET, 0.3)
    value, _ = masked_reconstruction(**patches(5, epsilon=epsilon) | {"target": flat})
    raw, _ = masked_reconstruction(PREDICTION, torch.zeros_like(TARGET), MASK, normalise=False)
    torch.testing.assert_close(value, raw)


@pytest.mark.parametrize("hidden", [math.nan, math.inf])
def test_what_the_encoder_saw_is_not_read(hidden):
    counts, results = MASK[..., None], []
    for fill in (0.0, hidden):
        prediction = torch.where(counts, PREDICTION, fill).requires_grad_()
        value, _ = masked_reconstruction(prediction, torch.where(counts, TARGET, fill), MASK)
        value.sum().backward()
        results.append((value.detach(), prediction.grad))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)


def test_a_patch_of_one_value_cannot_be_normalised():
    with pytest.raises(ValueError, match=r"^target: expected groups of at least 2 outputs, got 1"):
        masked_reconstruction(PREDICTION[..., :1], TARGET[..., :1], MASK)
