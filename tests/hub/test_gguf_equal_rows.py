"""A few random requests to GGUF files: equal alone and in every company. `make exhaustive` asks every file and type."""

from __future__ import annotations

import pytest

import omniform
from equal_rows import answered, narrow_matrices_too, requests
from omniform.native.library import library

pytest.importorskip("gguf")
from gguf_random import MIXED, SIZE, random_file

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here")


@pytest.mark.parametrize(("name", "form"), [("qwen3", MIXED), ("qwen3moe", "Q3_K"), ("gemma2", "MXFP4")])
def test_tokens_and_vectors_are_equal(name, form, tmp_path):
    path = random_file(tmp_path, name, form)
    with narrow_matrices_too():
        model = omniform.AutoModelForCausalLM.from_pretrained(path)
        found = answered(model, requests(8, 1, SIZE, longest=90))
    assert not found.unequal and not found.bits and not found.reasons
    assert len({token for answer in found.tokens["alone"] for token in answer}) > 4, "answers that differ"
