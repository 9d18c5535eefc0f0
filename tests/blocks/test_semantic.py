"""Losses of semantic segmentation against the reference's, and what labels may be."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F

from omniform.architectures.semantic import ForegroundLoss, SemanticLoss, SemanticSegmenter
from omniform.core.errors import InputError
from reference import transformers

FOR_PIXELS = importlib.import_module(f"{transformers.__name__}.loss.loss_utils").ForSemanticSegmentationLoss


def scores(classes: int = 5, *size: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(2, classes, *(size or (3, 4)), generator=torch.Generator().manual_seed(seed))


def labels(classes: int = 5, ignored: int = 255) -> torch.Tensor:
    made = torch.randint(0, classes, (2, 11, 13), generator=torch.Generator().manual_seed(2))
    made[0, :4] = ignored
    return made


@pytest.mark.parametrize("ignored", [255, 3, -1, -100])
def test_as_the_reference(ignored):
    logits, other, wanted = scores(), scores(5, 6, 2, seed=3), labels(ignored=ignored)
    loss = SemanticLoss(5, ignored, 0.3)
    torch.testing.assert_close(loss(logits, wanted), FOR_PIXELS(logits, wanted, ignored))
    expected = FOR_PIXELS(logits, wanted, ignored, auxiliary_logits=other, auxiliary_loss_weight=0.3)
    torch.testing.assert_close(loss(logits, wanted, auxiliary=other), expected)
    items = loss.count(wanted)
    torch.testing.assert_close(loss(logits, wanted, items, auxiliary=other), expected)
    torch.testing.assert_close(loss(logits, wanted, 2 * items, auxiliary=other), expected / 2)


def test_one_class():
    logits, wanted = scores(1), labels(2)
    wanted[1, 0] = -1
    enlarged = F.interpolate(logits, size=(11, 13), mode="bilinear")[:, 0]
    each = F.binary_cross_entropy_with_logits(enlarged, wanted.float(), reduction="none")
    expected = (each * ((wanted >= 0) & (wanted != 255))).mean()
    loss = ForegroundLoss()
    torch.testing.assert_close(loss(logits, wanted), expected)
    torch.testing.assert_close(loss(logits, wanted, 2 * loss.count(wanted)), expected / 2)


class Half(SemanticSegmenter):
    def forward(self, pixel_values, labels=None, num_items_in_batch=None):
        noted = {"hidden_states": None, "attentions": None}
        return self.answer(pixel_values[:, :, ::2, ::2], labels, noted, items=num_items_in_batch)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.full((2, 11, 13), 5), "0 to 4"),
        (torch.full((2, 11, 13), -100), "255 to leave out"),
        (torch.zeros(2, 11, 13), "int64"),
        (torch.zeros(3, 11, 13, dtype=torch.long), "do not match"),
        (torch.zeros(2, 5, 11, 13, dtype=torch.long), "do not match"),
    ],
)
def test_labels_refused(given, words):
    with pytest.raises(InputError, match=words):
        Half(loss=SemanticLoss(5))(scores(5, 12, 12), labels=given)


def test_one_class_has_no_cross_entropy():
    head = Half(loss=SemanticLoss(1))
    assert head(scores(1, 12, 12)).logits.shape == (2, 1, 6, 6)
    with pytest.raises(InputError, match="at least 2"):
        head(scores(1, 12, 12), labels=torch.zeros(2, 12, 12, dtype=torch.long))


def test_counted():
    head, wanted = Half(loss=SemanticLoss(5)), labels()
    assert head.loss_items({"labels": wanted}) == (wanted != 255).sum()
    assert head.loss_items({}) is None
