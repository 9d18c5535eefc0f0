"""What makes a model keep to its format: a grammar of the answers that a request allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omniform.core.errors import InputError, brief, listed
from omniform.inputs.replies.closing import closed
from omniform.inputs.replies.lark import Lark
from omniform.inputs.replies.tools import ANYTHING, Schema, Tool, function_of, parameters_by_name

if TYPE_CHECKING:
    from omniform.inputs.replies.format import ReplyFormat

Choice = str | Mapping[str, object]
"""OpenAI's ``tool_choice``: ``"none"``, ``"auto"``, ``"required"``, or a mapping that names a function."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What an answer may begin with.

    Attributes:
        expression: it; nothing where there is nothing.
        optional: whether it may be left out.
        unless: how what leaves it out does not begin.
    """

    expression: str = ""
    optional: bool = True
    unless: tuple[str, ...] = ()


def reply_grammar(
    format: ReplyFormat,
    tools: Sequence[Tool],
    choice: Choice = "auto",
    *,
    parallel: bool = True,
    prompt_end: str = "",
    special: Mapping[str, int] | None = None,
) -> str | None:
    """A grammar, in Lark's notation, of the answers that a choice of tools allows.

    Reasoning may come first where the format has it. With ``"auto"`` the model says what it likes, and what it calls is
    of its schema where a function says ``strict``, else any object. Objects whose schema says nothing of other
    properties than those it names have none.

    Args:
        format: how the checkpoint writes answers.
        tools: those that may be called.
        choice: which of them is called.
        parallel: whether several calls may be made at once.
        prompt_end: the end of the prompt, which may have begun to think.
        special: ids of the tokenizer's special tokens, by their texts.

    Returns:
        The grammar; None where nothing has to be kept to.

    Raises:
        InputError: the choice is none, names no tool, or cannot be met by the checkpoint's format.
    """
    strict = {str(f.get("name")) for f in map(function_of, tools) if f.get("strict") is True}
    schemas = parameters_by_name(tools)
    wanted = _wanted(choice, schemas)
    if wanted is None or (choice == "auto" and not (strict and format.calls)):
        return None
    if format.calls is None:
        raise InputError(
            "this checkpoint's chat template knows no calls of tools", where="tool_choice", expected="'none' or 'auto'",
            found=brief(choice),
        )  # fmt: skip
    if not wanted:
        raise InputError("there is no tool to call", where="tool_choice", expected="tools", found=brief(choice))
    lark, calls = Lark(special or {}), format.calls
    ones = []
    for name, schema in wanted.items():
        arguments = ANYTHING if choice == "auto" and name not in strict else _arguments(schema)
        ones.append(lark.rule(f"{calls.head(lark, name)} {calls.arguments(lark, arguments)} {calls.tail(lark)}"))
    one = lark.rule(" | ".join(ones))
    before, between, after = calls.around
    several = parallel and between is not None and choice in ("auto", "required")
    many = f" ({lark.text(between or '')} {one})*" if several else ""
    opening = format.opening(lark, prompt_end)
    if choice != "auto":
        first = f"({opening.expression})?" if opening.expression and opening.optional else opening.expression
        return lark.source(f"{first} {lark.text(before)} {one}{many} {lark.text(after)}")
    opener = next((mark for mark in calls.openers if before.startswith(mark)), "")
    rest = f"{lark.text(before.removeprefix(opener))} {one}{many} {lark.text(after)}"

    def free(unless: Sequence[str]) -> str:
        led = f"{lark.over(opener, unless)} {rest}" if opener else rest
        return f"({format.said(lark, unless)} | {led})"

    if not opening.expression:
        return lark.source(free(()))
    thought = f"{opening.expression} {free(())}"
    return lark.source(f"{thought} | {free(opening.unless)}" if opening.optional else thought)


def _arguments(schema: Schema) -> Schema:
    """The schema of a call's arguments, which are an object even where nobody says so."""
    return closed(schema if "type" in schema or "$ref" in schema else {"type": "object", **schema})


def _wanted(choice: Choice, schemas: Mapping[str, Schema]) -> Mapping[str, Schema] | None:
    """The tools that may be called; None where none is."""
    if choice == "none":
        return None
    if choice in ("auto", "required"):
        return schemas
    name: object = choice
    if isinstance(choice, Mapping):
        inner = choice.get("function", choice)
        name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(name, str) or name not in schemas:
        raise InputError(
            "no such tool can be chosen", where="tool_choice",
            expected=f"'none', 'auto', 'required', or one of {listed(map(repr, schemas))}", found=brief(choice),
        )  # fmt: skip
    return {name: schemas[name]}
