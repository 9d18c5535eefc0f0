"""The trained model's answers from its GGUF file, beside llama.cpp's own: 50 prompts, 32 greedy tokens each.

llama.cpp is asked in a process of its own, by the interpreter that ``OMNIFORM_LLAMA_CPP`` names (one that has
``llama-cpp-python``); without it the test is left out.
"""

from __future__ import annotations

import json
import operator
import os
import subprocess

import pytest
import torch
from real_files import CACHE, gguf_file

import omniform

TOKENS = 32
KINDS = (
    "What is {}?",
    "Name three kinds of {}.",
    "Write one sentence about {}.",
    "Why do people like {}?",
    "Explain {}.",
)
THINGS = ("the sea", "bread", "gravity", "France", "a violin", "winter", "the moon", "chess", "a library", "rain")
QUESTIONS = [kind.format(thing) for thing in THINGS for kind in KINDS]

ASKING = """
import json, sys
from llama_cpp import Llama
path, tokens = sys.argv[1], int(sys.argv[2])
llama = Llama(path, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False, seed=0)
for row in json.load(sys.stdin):
    llama.reset()
    made = []
    for token in llama.generate(row, temp=0.0, top_k=1, repeat_penalty=1.0):
        made.append(int(token))
        if len(made) == tokens or token == llama.token_eos():
            break
    print(json.dumps(made), flush=True)
"""


def theirs(rows: list[list[int]]) -> list[list[int]]:
    """llama.cpp's answers, kept beside the model: they take a while."""
    python = os.environ.get("OMNIFORM_LLAMA_CPP")
    if python is None:
        pytest.skip("OMNIFORM_LLAMA_CPP names no interpreter with llama-cpp-python")
    kept = CACHE / "smollm2" / "llama_cpp.json"
    asked = [python, "-c", ASKING, str(gguf_file()), str(TOKENS)]
    if not kept.is_file() or json.loads(kept.read_text())["rows"] != rows:
        # The packages of these tests are no business of that interpreter.
        plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        answer = subprocess.run(asked, input=json.dumps(rows), capture_output=True, text=True, check=True, env=plain)
        made = [json.loads(line) for line in answer.stdout.splitlines()]
        kept.write_text(json.dumps({"rows": rows, "answers": made}))
    return json.loads(kept.read_text())["answers"]


TIE = 0.5
"""Scores that differ by less are as good as the same: llama.cpp rounds what a matrix reads to eight bits, and each of
its choices that is not the exact arithmetic's own lies within this (the spread of all scores is about five)."""


def test_answers_are_llama_cpps_but_for_ties():
    path = gguf_file()
    tokenizer = omniform.AutoTokenizer.from_pretrained(path)
    rows = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)["input_ids"]
        for q in QUESTIONS
    ]
    expected = theirs(rows)
    exact = omniform.AutoModelForCausalLM.from_pretrained(path, dequantize=True)

    def scores(row: list[int], answer: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return exact(torch.tensor([row + answer])).logits[0, len(row) - 1 : -1]

    others = []
    for row, answer in zip(rows, expected, strict=True):
        found = scores(row, answer)
        chosen = found.gather(-1, torch.tensor(answer)[:, None])[:, 0]
        others += [gap for gap in (found.amax(-1) - chosen).tolist() if gap > 0]
    tokens = sum(map(len, expected))
    print(
        f"\nof {tokens} tokens llama.cpp chose {len(others)} otherwise than exact scores, by {max(others):.3f} at most"
    )
    assert max(others) < TIE
    assert len(others) < 0.06 * tokens

    model = omniform.AutoModelForCausalLM.from_pretrained(path)
    answers = model.generate_batch(rows, max_new_tokens=TOKENS, do_sample=False).values()
    made = [answer.generated_tokens for answer in answers]
    print(f"{sum(map(operator.eq, made, expected))} of {len(rows)} answers are llama.cpp's whole")
    for question, row, mine, other in zip(QUESTIONS, rows, made, expected, strict=True):
        at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), None)
        assert mine == other or at is not None, "one answer is longer than the other"
        if at is not None:
            found = scores(row, mine[: at + 1])[-1]
            gap = float(found[mine[at]] - found[other[at]])
            said, instead = (tokenizer.decode([token]) for token in (mine[at], other[at]))
            print(f"  {question} at token {at}: {said!r} is {gap:+.3f} above llama.cpp's {instead!r}")
            assert abs(gap) < TIE
