"""SpecAugment against the reference's draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omniform.blocks.augment import Spans
from reference import transformers

draws = transformers.models.wav2vec2.modeling_wav2vec2._compute_mask_indices


@pytest.mark.parametrize(("share", "length", "least"), [(0.05, 10, 2), (0.65, 3, 0), (0.3, 5, 4), (1.0, 1, 0)])
@pytest.mark.parametrize("lengths", [None, [40, 31, 12, 9, 2, 0]])
def test_equal_seeds_hide_the_same(share, length, least, lengths):
    mask = None if lengths is None else (torch.arange(40) < torch.tensor(lengths)[:, None]).long()
    real = torch.full((6,), 40) if mask is None else mask.sum(-1)
    for seed in range(20):
        np.random.seed(seed)
        expected = torch.from_numpy(draws((6, 40), share, length, mask, least))
        np.random.seed(seed)
        found = Spans(share, length, least).draw(real, 40)
        if mask is not None:  # rows without a stretch of their own hide a frame of their padding there
            expected &= mask.bool()
        assert torch.equal(found, expected)


def test_too_short_to_hide_anything():
    assert not Spans(1.0, 10, 2).draw(torch.tensor([8, 8]), 8).any()
