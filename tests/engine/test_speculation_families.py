"""Guesses with real families of every kind: windows, latents, recurrences, experts, sinks, encoder-decoders."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch

from omniform.core.settings import SETTINGS
from reference import randomise

sys.path.insert(0, str(Path(__file__).parents[1] / "citizens"))

from citizens import CITIZENS

SAMPLE = ["mamba2", "falcon_h1", "qwen3_next", "deepseek_v3", "gpt_oss", "bloom", "bart", "marian"]
ALL = [name for name in SAMPLE if name in CITIZENS]
FEW = {"num_assistant_tokens": 3, "assistant_confidence_threshold": 0.0, "return_dict_in_generate": True}


def test_the_sample_is_there():
    assert len(ALL) == len(SAMPLE), sorted(set(SAMPLE) - set(ALL))
    assert {"prompt_lookup_num_tokens", "assistant_early_exit", "assistant_model"} <= set(SETTINGS)


@pytest.mark.parametrize("name", ALL)
def test_tokens_are_the_same(name):
    m = copy.deepcopy(CITIZENS[name].build())
    randomise(m, scale=0.3, seed=3)
    ids = torch.randint(4, 40, (1, 7), generator=torch.Generator().manual_seed(2)).repeat(1, 2)
    asked = {"max_new_tokens": 12, "eos_token_id": None, "min_new_tokens": 12, "no_repeat_ngram_size": 4}
    plain = m.generate(ids, **asked)
    for guesses in ({"prompt_lookup_num_tokens": 4}, {"assistant_model": m}, {"assistant_early_exit": 1}):
        out = m.generate(ids, **asked, **FEW, **guesses)
        assert torch.equal(out.sequences, plain), guesses
        if "assistant_model" in guesses:
            assert out.speculation.accepted == out.speculation.drafted > 0
