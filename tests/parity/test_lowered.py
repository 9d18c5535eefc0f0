"""Lowered stacks of many families: every step of theirs computed by its program too, in torch, and compared."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from harness import TABLES, Case, Table, build

import lowered_stacks
from engines import MAKERS, family, roomy
from omniform.native.library import library
from reference import ragged

LOWERED = {
    "bamba": (), "bart": (), "beit": (), "bert": (), "bloom": (), "clip": (), "cohere": (), "data2vec-audio": (),
    "data2vec-vision": (), "deepseek_v2": (), "deepseek_v3": (), "deit": (), "dinov3_vit": (), "falcon": (),
    "falcon_h1": (), "falcon_mamba": (), "gemma2": (), "gemma3_text": (), "gpt2": (), "gpt_neox": (), "gpt_oss": (),
    "gptj": (), "granitemoeshared": (), "hubert": (), "llama": (), "mamba": (), "mamba2": (), "mistral": (),
    "mixtral": (), "modernbert": (), "olmo2": (), "olmoe": (), "phi3": (), "qwen2_5_vl": (), "qwen2_moe": (),
    "qwen2_vl": (), "qwen3": (), "qwen3_moe": (), "qwen3_next": (), "qwen3_vl": (), "t5": (), "unispeech": (),
    "vit": (), "wav2vec2": (), "whisper": (),
}  # fmt: skip
"""Families all of whose stacks must be lowered; no other step may be met than those that are compared."""
FILES = {
    "granitemoeshared": "granitemoe", "falcon": "alibi", "bloom": "alibi", "gemma3_text": "gemma3",
    "falcon_h1": "bamba", "falcon_mamba": "mamba", "data2vec-vision": "beit", "dinov3_vit": "dinov3",
    "qwen2_5_vl": "qwen2_vl", "hubert": "hubert", "data2vec-audio": "data2vec_audio", "unispeech": "unispeech",
}  # fmt: skip


@pytest.fixture(autouse=True, params=["oracle", "native"])
def how(request, monkeypatch):
    """Programs computed by the oracle, or by the library."""
    if request.param == "native":
        if library() is None:
            pytest.skip("no kernels here")
        monkeypatch.setattr(lowered_stacks, "compute", lowered_stacks.natively)
    lowered_stacks.seen.clear()


def table_of(name: str) -> Table:
    import_module(f"test_{FILES.get(name, name)}")
    return next(t for t in TABLES if t.model_type == name)


def compare(case: Case) -> None:
    """Ask a case its first questions, every step of its stacks twice."""
    model = build(case).again(case)
    lowered_stacks.watch(model)
    for question in case.questions()[:2]:
        with torch.no_grad():
            model(**question.inputs)


@pytest.mark.parametrize("name", LOWERED)
def test_a_program_is_its_modules(name):
    table = table_of(name)
    heads = [*table.heads]
    for head in dict.fromkeys((heads[0], table.writes[0] if table.writes else heads[0])):
        compare(table.case(head))
    assert set(lowered_stacks.seen) == {"compared"}, lowered_stacks.seen


VARIED = {
    "bamba": ("biases, tied", "wide heads, epsilon"),
    "deepseek_v2": ("queries of the stream, biases", "groups, scaled, tied", "as released"),
    "falcon_h1": ("factors", "norm before the gate, biases", "norm behind the gate, tied"),
}
"""Families whose layers do other things under other keys of their configs."""


@pytest.mark.parametrize(("name", "variant"), [(name, one) for name, every in VARIED.items() for one in every])
def test_a_variant_is_its_modules(name, variant):
    table = table_of(name)
    compare(table.case(next(iter(table.heads)), variant))
    assert set(lowered_stacks.seen) == {"compared"}, lowered_stacks.seen


@pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("llama ungrouped", "llama llama3")])
def test_packed_steps(name):
    # Its own, made anew: the one that tests share may have been lowered by an engine of theirs.
    known = family.__wrapped__(name)
    for stack in (m for m in known.ours.modules() if type(m) is torch.nn.ModuleList and len(m)):
        stack.__class__ = lowered_stacks.Twice
    prompts = [known.prompt(row.tolist(), item) for item, row in enumerate(ragged(59, [3, 9, 17]))]
    roomy(known.ours).generate_batch(prompts, [{"max_new_tokens": 3}] * 3)
    assert set(lowered_stacks.seen) == {"compared"}, lowered_stacks.seen
