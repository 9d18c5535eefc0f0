"""A few random requests, answered alone and in every company: equal to the bit. `make exhaustive` asks every family."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from engines import TEXT, VOCABULARY
from equal_rows import answered, answered_otherwise, narrow_matrices_too, requests
from omniform.native.library import library
from reference import omniform, saved_reference, transformers

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here")

MOE = {**TEXT, "head_dim": 8, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize("dtype", ["float16", "int8", "int4"])
@pytest.mark.parametrize(("name", "config"), [("Llama", TEXT), ("Qwen3Moe", MOE)])
def test_tokens_and_vectors_are_equal(name, config, dtype):
    kind = getattr(transformers, f"{name}ForCausalLM")
    with tempfile.TemporaryDirectory() as folder, narrow_matrices_too():
        saved_reference(kind, kind.config_class(**config), Path(folder), scale=0.4)
        model = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        found = answered(model, requests(10, 1, VOCABULARY))
    assert not found.unequal and not found.bits and not found.reasons
    assert "giving way" in found.tokens, "somebody had to"


def test_rarer_ways_are_equal_too(tmp_path):
    """Prompts past a window and two blocks of keys, beside beams, drawn rows and guesses, by one thread and by two."""
    config = transformers.MistralConfig(**{**TEXT, "sliding_window": 70, "max_position_embeddings": 256})
    saved_reference(transformers.MistralForCausalLM, config, tmp_path, scale=0.4)
    with narrow_matrices_too():
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16")
        rows = [[7], *requests(12, 2, VOCABULARY, longest=150)]
        assert max(map(len, rows)) > 128
        found = answered_otherwise(model, rows)
    assert not found.unequal and not found.bits and not found.reasons
