"""Which way a checkpoint writes its answers, as its own chat template and tokens tell; no family's name is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

from omniform.inputs.replies.format import PLAIN, ReplyFormat
from omniform.inputs.replies.harmony import CHANNEL, MESSAGE, START, HarmonyFormat
from omniform.inputs.replies.layouts import (
    JsonCalls,
    Layout,
    LlamaCalls,
    MistralCalls,
    SectionCalls,
)
from omniform.inputs.replies.layouts_bare import ArgCalls, PythonCalls, TagCalls

Vocabulary = Collection[str] | Callable[[str], bool]
"""A tokenizer's tokens, or what tells whether a text is one of them."""

THOUGHTS: Final = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<reasoning>", "</reasoning>"),
)
"""What reasoning stands between, in published templates."""

_SILENT: Final = (
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<response>", "</response>"),
)
_DEEPSEEK: Final = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_DEEPSEEK_CALL: Final = ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
_KIMI: Final = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
_KIMI_CALL: Final = ("<|tool_call_begin|>", "<|tool_call_end|>")
_PYTHONIC: Final = re.compile(r"\[\s*\w+\(\s*\w+\s*=")
_LLAMA: Final = re.compile(r"""\{\s*\\?["']name\\?["']\s*:.{0,80}?\\?["']parameters\\?["']\s*:""", re.DOTALL)


def format_of(template: str | None, vocabulary: Vocabulary = ()) -> ReplyFormat:
    """The way that a checkpoint writes its answers.

    Args:
        template: the source of its chat template.
        vocabulary: its tokens. What only they know counts where the template reads tools: a base model's tokenizer has
            tokens for which it was never trained.

    Returns:
        The format; :data:`~omniform.inputs.replies.format.PLAIN` where nothing is known.
    """
    source = template or ""
    token = vocabulary if callable(vocabulary) else vocabulary.__contains__

    def known(mark: str) -> bool:
        return mark in source or ("tools" in source and token(mark))

    if CHANNEL in source and MESSAGE in source and START in source:
        return HarmonyFormat()
    thoughts = tuple(pair for pair in THOUGHTS if any(mark in source for mark in pair) or (source and token(pair[0])))
    silent = tuple(mark for pair in _SILENT if thoughts and pair[0] in source for mark in pair)
    name, calls = _calls(source, known)
    if not calls and not thoughts:
        return PLAIN
    return ReplyFormat(name, thoughts, calls, silent)


def _calls(source: str, known: Callable[[str], bool]) -> tuple[str, Layout | None]:
    """How tools are called."""
    if known(_DEEPSEEK[0]):
        fenced = "```json" in source
        return "deepseek", SectionCalls(_DEEPSEEK, _DEEPSEEK_CALL, "<｜tool▁sep｜>", fenced=fenced)
    if known(_KIMI[0]):
        return "kimi", SectionCalls(_KIMI, _KIMI_CALL, "<|tool_call_argument_begin|>", numbered=True)
    if known("[TOOL_CALLS]"):
        return "mistral", MistralCalls(named=known("[ARGS]"))
    if known("<|START_ACTION|>"):
        return "command", JsonCalls(
            ("<|START_ACTION|>",),
            ("<|END_ACTION|>",),
            ("<|START_ACTION|>[\n    ", ",\n    ", "\n]<|END_ACTION|>"),
            ("tool_call_id", "tool_name", "parameters"),
        )
    if "Action:" in source and "tool_name" in source:
        return "command-r", JsonCalls(
            ("Action:",), (), ("Action: ```json\n[\n    ", ",\n    ", "\n]```"), ("tool_name", "parameters")
        )
    if known("<|tool_call_start|>"):
        return "pythonic", PythonCalls(("<|tool_call_start|>",), ("<|tool_call_end|>",))
    if known("<|tool_call|>"):
        closer = "<|/tool_call|>" if known("<|/tool_call|>") else ""
        closers = ("<|/tool_call|>", "<|end_tool_call|>")
        return "tool_call", JsonCalls(("<|tool_call|>",), closers, ("<|tool_call|>[", ", ", f"]{closer}"))
    if known("<tool_call>"):
        if "<arg_key>" in source:
            return "keys", ArgCalls()
        if "<function=" in source:
            return "tags", TagCalls()
        return "hermes", JsonCalls(
            ("<tool_call>",),
            ("</tool_call>",),
            ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"),
        )
    if "tools" in source and _PYTHONIC.search(source):
        marked = known("<|python_start|>")
        openers, others = (("<|python_start|>",), ("<|python_end|>",)) if marked else ((), ())
        return "pythonic", PythonCalls(openers, others, bare="[")
    if known("<|python_tag|>") or ("tools" in source and _LLAMA.search(source)):
        return "llama", LlamaCalls()
    return "reasoning", None
