"""Every workload, and what is to be reached. AVX2 and AVX-512 machines have aims of their own (``machine.kind``)."""

from __future__ import annotations

from dataclasses import replace

from .workloads import (
    CONTINUOUS,
    IK,
    LLAMA_CPP,
    OURS,
    PADDED,
    THEIRS,
    TORCH,
    UNCACHED,
    Aim,
    Contender,
    Figure,
    Format,
    Workload,
)

ONE_ROW = "one row: a prompt of {prompt} tokens and {new} new ones; a prompt of {prefill} and one new"
BUSY = 2
"""Neighbours: as many as the machine of the aims has cores."""
BESIDE = (Aim("ours", 0.45), Aim("llamacpp", 1.0, "avx512"))
ENCODERS = (Aim("theirs", 4.0, "avx2"), Aim("theirs", 1.2, "avx512"))


def _beside_llama_cpp(name: str, format: Format, what: str, theirs: str) -> Workload:
    """One row in a format of narrow weights."""
    rivals = (replace(LLAMA_CPP, name=f"llama.cpp {theirs}", format=format), replace(IK, format=format))
    return Workload(
        name,
        f"{what}, {ONE_ROW}",
        (replace(OURS, format=format), *rivals),
        _one_row(what, prefill=(), decode=()),
        measure="decode",
    )


def _one_row(what: str, prefill: tuple[Aim, ...], decode: tuple[Aim, ...]) -> tuple[Figure, ...]:
    beside = (Aim("llamacpp", 1.4, "avx2"),)
    wide, narrow = Aim("llamacpp", 1.5, "avx512"), Aim("llamacpp", 1.1, "avx512")
    return (
        Figure("decode", f"{what}, decode", "tok/s", "higher", (*beside, narrow, *decode)),
        Figure("prefill", f"{what}, prefill", "tok/s", "higher", (*beside, wide, *prefill)),
    )


def _busy(contender: Contender, name: str) -> Contender:
    return replace(contender, name=name, neighbours=BUSY)


_TASKS = (
    Workload(
        "decode",
        f"bf16, {ONE_ROW}",
        (OURS, THEIRS, LLAMA_CPP, IK),
        _one_row("bf16", prefill=(Aim("theirs", 6.0, "avx2"), Aim("theirs", 1.0)), decode=(Aim("theirs", 1.25),)),
    ),
    _beside_llama_cpp("int8", "int8", "int8", "Q8_0"),
    _beside_llama_cpp("int4", "int4", "int4", "Q4_0"),
    _beside_llama_cpp("smollm2", "smollm2", "SmolLM2-135M", "Q4_1"),
    Workload(
        "batch",
        "{rows} ragged prompts of {shortest} to {longest} tokens, {row_new} new tokens each",
        (OURS, CONTINUOUS, PADDED, replace(LLAMA_CPP, name="llama.cpp, parallel sequences")),
        (Figure("seconds", "ragged prompts", "s", "lower", (Aim("theirs", 4.0), Aim("llamacpp", 1.3))),),
    ),
    Workload(
        "prefix",
        "{rows} ragged prompts behind a common one of {prefix} tokens, {row_new} new each, empty cache at first",
        (OURS, UNCACHED),
        (Figure("seconds", "ragged prompts, shared prefix", "s", "lower", (Aim("ours", 2.0),)),),
    ),
    Workload(
        "step",
        "decoding steps of {rows} rows after prompts of {prompt} tokens",
        (OURS, TORCH, replace(LLAMA_CPP, name="llama.cpp, parallel sequences")),
        (Figure("step", "a step of many rows", "ms", "lower", (Aim("ours", 4.0, "avx2"),)),),
    ),
    Workload(
        "load",
        "a new process, files in the disk cache: load, and the first token after a prompt of {first}",
        (OURS, THEIRS),
        (
            Figure("cold", "cold to first token, beyond import torch", "s", "lower", (Aim("theirs", 4.0),), bound=0.6),
            Figure("load", "load to first token", "s", "lower", (Aim("theirs", 2.0),)),
            Figure("with_import", "all imports and load to first token", "s", "lower"),
            Figure("memory", "peak host memory", "MB", "lower", (Aim("theirs", 1.0),)),
            Figure("held", "memory over imports, of the weights' bytes", "x", "lower", bound=1.03),
        ),
    ),
    Workload(
        "busy",
        f"as decode, beside {BUSY} busy processes",
        (_busy(OURS, "omniform, beside others"), OURS, _busy(LLAMA_CPP, "llama.cpp, beside others")),
        (
            Figure("decode", "bf16 beside others, decode", "tok/s", "higher", BESIDE),
            Figure("prefill", "bf16 beside others, prefill", "tok/s", "higher", BESIDE),
        ),
        measure="decode",
        wall=True,
    ),
    Workload(
        "bert",
        "BERT-base in bfloat16 over {texts} texts of {text_shortest} to {text_longest} tokens, {text_rows} at once",
        (OURS, THEIRS),
        (Figure("seconds", "BERT-base", "s", "lower", ENCODERS),),
        measure="encode",
    ),
    Workload(
        "vit",
        "ViT-B/16 in bfloat16 over {pictures} pictures, {picture_rows} at once",
        (OURS, THEIRS),
        (Figure("seconds", "ViT-B", "s", "lower", ENCODERS),),
        measure="encode",
    ),
    Workload(
        "chats",
        "{chats} chats of {turns} turns about a picture each, on the bundled checkpoint in float32",
        (OURS, THEIRS),
        (Figure("seconds", "chats about pictures", "s", "lower"),),
        exact=True,
        checks=(("encoder_runs", "chats"),),
    ),
    Workload(
        "parity",
        "float32: {checked_rows} ragged prompts, {checked_new} new tokens each, the same tokens from everyone",
        (OURS, PADDED),
        (),
        repeated=False,
        exact=True,
    ),
    Workload(
        "steps",
        "where the time of a decoding step goes: {profiled} steps of one row, and of {rows} rows",
        (OURS,),
        (Figure("share", "of a step of one row, in matrices and attention", "", "higher", bound=0.85),),
        repeated=False,
    ),
)

WORKLOADS = {workload.name: workload for workload in _TASKS}
NATIVE = ("decode", "int8", "int4", "smollm2", "batch", "prefix", "step", "load", "busy", "bert", "vit", "steps")
"""What the native kernels are judged by: ``--only native``."""
