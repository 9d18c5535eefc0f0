"""Caches by the ecosystem's names: grown, cropped, reordered, repeated, copied; seeds."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch

import omniform
from omniform import DynamicCache, StaticCache, set_seed
from omniform.core.errors import InputError

IDS = torch.tensor([[1, 5, 9, 33, 7], [7, 8, 2, 3, 1]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = omniform.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return omniform.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(max_cache_len=9), lambda: None])
@torch.no_grad()
def test_a_cache_goes_in_and_comes_out(model, make):
    right = model(IDS).logits[:, 3:]
    given = make()
    cache = model(IDS[:, :3], past_key_values=given).past_key_values
    assert isinstance(cache, DynamicCache) and (given is None or cache is given)
    assert cache.get_seq_length() == 3 and len(cache) == 2 and cache[1][0].shape == (2, 2, 3, 8)
    for again in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache)), DynamicCache(cache.to_legacy_cache())):
        torch.testing.assert_close(model(IDS[:, 3:], past_key_values=again).logits, right)
    assert cache.get_seq_length() == 3  # copies are apart
    model(IDS[:, 3:], past_key_values=cache)
    cache.crop(3)
    torch.testing.assert_close(model(IDS[:, 3:], past_key_values=cache).logits, right)
    cache.crop(-2)
    cache.reorder_cache(torch.tensor([1, 0]))
    torch.testing.assert_close(model(IDS[[1, 0], 3:], past_key_values=cache).logits, right[[1, 0]])
    cache.crop(3)
    cache.batch_repeat_interleave(2)
    torch.testing.assert_close(model(IDS[[1, 1, 0, 0], 3:], past_key_values=cache).logits, right[[1, 1, 0, 0]])
    cache.reset()
    assert cache.get_seq_length() == 0 and len(cache) == 0


def test_seeds():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    set_seed(5)
    first = draws()
    set_seed(5)
    assert draws() == first
    for wrong in (-1, 2**32, 1.5, "5", None, True, torch.tensor(5)):
        with pytest.raises(InputError, match="seed"):
            set_seed(wrong)
