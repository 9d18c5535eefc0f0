"""A trained chat model (SmolLM2-135M-Instruct) beside the reference: scores, tokens, and what it says."""

from __future__ import annotations

import json

import pytest
import torch
from real_files import CACHE, gguf_file

import omniform
from reference import transformers

QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
]


@pytest.fixture(scope="module")
def folder():
    """The model as a Hub folder: the reference unpacks the file's four-bit weights and writes them as float32."""
    made = CACHE / "smollm2" / "unpacked"
    if not (made / "done.json").is_file():
        file = gguf_file()
        unpacked = transformers.GgufConfig(gguf_file=file.name, dequantize=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=unpacked
        )
        model.save_pretrained(made)
        transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(made)
        (made / "done.json").write_text(json.dumps({"transformers": transformers.__version__}))
    return made


@pytest.fixture(scope="module")
def both(folder):
    kinds = (omniform.AutoModelForCausalLM, transformers.AutoModelForCausalLM)
    return [kind.from_pretrained(folder, dtype="float32") for kind in kinds]


@pytest.fixture(scope="module")
def tokenizers(folder):
    return [kind.from_pretrained(folder) for kind in (omniform.AutoTokenizer, transformers.AutoTokenizer)]


def prompt(tokenizer, question: str) -> list[int]:
    chat = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]


def test_prompts(tokenizers):
    for question in QUESTIONS:
        ours, theirs = (prompt(t, question) for t in tokenizers)
        assert ours == theirs


def test_scores(both, tokenizers):
    ids = torch.tensor([prompt(tokenizers[0], QUESTIONS[0])])
    with torch.inference_mode():
        ours, theirs = (model(ids).logits for model in both)
    assert (ours - theirs).abs().max() <= 1e-4 * max(1.0, float(theirs.abs().max()))


def test_answers(both, tokenizers):
    ours, theirs = both
    rows = [prompt(tokenizers[0], question) for question in QUESTIONS]
    asked = {"max_new_tokens": 40, "do_sample": False}
    expected = [theirs.generate(torch.tensor([row]), **asked)[0, len(row) :].tolist() for row in rows]
    assert [ours.generate(torch.tensor([row]), **asked)[0, len(row) :].tolist() for row in rows] == expected
    together = ours.generate_batch(rows, **asked).values()
    assert [answer.generated_tokens for answer in together] == expected
    assert "Paris" in tokenizers[0].decode(expected[0])
    print()
    for question, row in zip(QUESTIONS, expected, strict=True):
        print(f"{question} -> {tokenizers[0].decode(row, skip_special_tokens=True)!r}")


def test_a_ragged_batch_in_bfloat16(folder, tokenizers):
    model = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")
    rows = [prompt(tokenizers[0], question) for question in QUESTIONS]
    first, *_ = model.generate_batch(rows, max_new_tokens=12, do_sample=False).values()
    assert "Paris" in tokenizers[0].decode(first.generated_tokens)
