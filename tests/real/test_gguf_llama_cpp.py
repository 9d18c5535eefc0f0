"""The trained model's answers from its GGUF file, beside llama.cpp's own: 50 prompts, 32 greedy tokens each.

llama.cpp is asked in a process of its own, by the interpreter that ``OMNIFORM_LLAMA_CPP`` names (one that has
``llama-cpp-python``); without it the test is left out.
"""

from __future__ import annotations

import json
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


def gap(model, row: list[int], one: int, other: int) -> float:
    """By how much our scores prefer one token to the other, in parts of the spread of all scores."""
    with torch.inference_mode():
        scores = model(torch.tensor([row])).logits[0, -1]
    return float((scores[one] - scores[other]) / scores.std())


def test_answers_are_llama_cpps():
    path = gguf_file()
    tokenizer = omniform.AutoTokenizer.from_pretrained(path)
    model = omniform.AutoModelForCausalLM.from_pretrained(path)
    rows = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)["input_ids"]
        for q in QUESTIONS
    ]
    expected = theirs(rows)
    answers = model.generate_batch(rows, max_new_tokens=TOKENS, do_sample=False).values()
    found = [answer.generated_tokens for answer in answers]
    equal = sum(mine == other for mine, other in zip(found, expected, strict=True))
    print(f"\n{equal} of {len(rows)} answers are equal")
    gaps = []
    for row, mine, other in zip(rows, found, expected, strict=True):
        at = next((i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), None)
        assert mine == other or at is not None, "one answer is longer than the other"
        if at is not None:
            gaps.append(gap(model, [*row, *mine[:at]], mine[at], other[at]))
            said, instead = tokenizer.decode(mine[: at + 1]), tokenizer.decode([other[at]])
            print(f"  at token {at}: {said!r}, theirs {instead!r}: {gaps[-1]:.4f}")
    # Where they part, both tokens were as good as equally likely: llama.cpp rounds activations to eight bits.
    assert equal >= len(rows) // 2
    assert all(0 <= one < 0.25 for one in gaps)
