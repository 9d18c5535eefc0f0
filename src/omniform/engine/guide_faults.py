"""What is wrong with a guide, and where: said before the first token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from omniform.core.errors import InputError, brief
from omniform.engine.guide import Guide

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

    from omniform.engine.guides import Grammar

_PLACE: Final = re.compile(r"(?:at )?(\d+)\((\d+)\): ")
_STATES: Final = 200
"""So many beginnings of texts are tried before a vocabulary is said to spell a grammar."""

_BRANCHES: Final = 4
_NAMED_SCHEMAS: Final = ("properties", "patternProperties", "$defs", "definitions")
_ONE_SCHEMA: Final = ("items", "additionalProperties", "additionalItems", "not", "contains")
_SCHEMAS: Final = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_CLOSING: Final = b'"}]),:.> \n'
"""Characters that lead to the end of a text."""


def short_words(error: str) -> str:
    """The library's words without its state; empty where they say no more than that nothing can follow."""
    words = error.split("<state>")[0].strip()
    return "" if words.startswith(("NoExtension", "Parser Error")) else words


def refusal(guide: Guide, error: str) -> InputError:
    """The error of a guide that the library does not understand."""
    words = short_words(error)
    where = f"guide ({guide.kind})"
    source = guide.source
    place = _PLACE.search(words)
    if guide.kind == "json_schema":
        where = f"guide (schema {schema_place(source)})"
    elif guide.kind == "regex":
        caret = re.search(r"^( *)\^+", words, re.MULTILINE)
        inside = "regex parse error" in words and "\n" not in source and caret is not None
        where += f", character {len(caret[1]) - 4 + 1}" if inside and caret is not None else ""
    elif place is not None and guide.kind == "lark":
        where += f", line {place[1]}, column {place[2]}"
    last = re.findall(r"^error: (.*)$", words, re.MULTILINE)
    said = last[-1] if last else (words[place.end() :] if place is not None else words).splitlines()[0]
    said = said.removeprefix("failed to compile JSON schema: ")
    return InputError(
        "this is not understood" if guide.kind != "json_schema" else "this schema cannot be used",
        where=where,
        expected=_expected(guide, said),
        found=f"{brief(source)}: {said[:300]}",
    )


def _expected(guide: Guide, said: str) -> str | None:
    if guide.kind == "regex" and ("look" in said or "backref" in said):
        return "an expression without looking around (\\b too) and references back"
    if "oneOf" in said:
        return "anyOf, where either may hold"
    return None


def schema_place(source: str) -> str:
    """Where in a schema the first fault is, as a JSON pointer."""
    root: dict[str, object] = json.loads(source)
    definitions: dict[str, object] = {name: root[name] for name in ("$defs", "definitions") if name in root}
    place, inner = "#", cast("Mapping[str, object]", root)
    while True:
        for step, child in _children(inner):
            if _faulty({**definitions, **child}):
                place, inner = f"{place}/{step}", child
                break
        else:
            return place


def _children(schema: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The schemas in a schema, and where they are."""
    for name, value in schema.items():
        inner: list[tuple[str, object]] = []
        if name in _NAMED_SCHEMAS and isinstance(value, Mapping):
            inner = [(f"{name}/{_pointed(key)}", one) for key, one in value.items()]
        elif name in _ONE_SCHEMA and isinstance(value, Mapping):
            inner = [(name, value)]
        elif name in _SCHEMAS and isinstance(value, list):
            inner = [(f"{name}/{at}", one) for at, one in enumerate(value)]
        yield from ((step, one) for step, one in inner if isinstance(one, Mapping))


def _pointed(key: str) -> str:
    """A key as JSON pointers spell it."""
    return key.replace("~", "~0").replace("/", "~1")


def _faulty(schema: Mapping[str, object]) -> bool:
    from llguidance import LLMatcher

    wrong, _ = LLMatcher.validate_grammar_with_warnings(Guide("json_schema", json.dumps(schema)).grammar)
    return wrong


def unspelled(grammar: Grammar) -> InputError | None:
    """The error of a grammar of which no text can be written, or that needs characters which the vocabulary lacks."""
    guide = grammar.guide
    if guide.kind == "json_schema" and not _ends(json.loads(guide.source), json.loads(guide.source), ()):
        return InputError(
            "no text fits this schema", where="guide", expected="a recursion that may end", found=brief(guide.source)
        )
    if not grammar.first.words.any():
        whole = _whole(grammar, b"")
        if not whole.is_error() and _next_bytes(whole):
            return _lacking(grammar, b"")
        error = short_words(whole.get_error())
        if error or not grammar.first.may_end:
            return InputError(
                "no text fits this", where=f"guide ({guide.kind})", found=f"{brief(guide.source)} {error}".strip()
            )
        return None
    return None if grammar.vocabulary.spells_bytes else _explored(grammar)


def _explored(grammar: Grammar) -> InputError | None:
    """Try beginnings of texts, the shortest way to an end first, for one that the vocabulary cannot go on with."""
    vocabulary = grammar.vocabulary
    waiting, tried = [grammar.matcher(())], {b""}
    while waiting and len(tried) < _STATES:
        matcher = waiting.pop()
        seen = matcher.seen()
        if seen.stuck:
            return _lacking(grammar, matcher.text)
        bits = np.unpackbits(seen.words.view(np.uint8), count=vocabulary.size, bitorder="little")
        pieces = vocabulary.spellings.tokens
        tokens = sorted(np.flatnonzero(bits).tolist(), key=lambda t: (pieces[t] not in _ENDING, len(pieces[t])))
        for token in tokens[:_BRANCHES][::-1]:
            twin = matcher.copy()
            twin.accept(token)
            if twin.text not in tried:
                tried.add(twin.text)
                waiting.append(twin)
    return None


_ENDING: Final = {bytes([byte]) for byte in _CLOSING}


def _lacking(grammar: Grammar, text: bytes) -> InputError:
    missing = sorted(set(_next_characters(grammar, text)))
    return InputError(
        "the tokenizer's vocabulary cannot spell this grammar",
        where=f"guide ({grammar.guide.kind})",
        expected=f"tokens for {' '.join(map(repr, missing[:8]))}" if missing else None,
        found=f"none that goes on after {text[-60:].decode(errors='replace')!r}",
        remedy="Use a grammar of characters that the tokenizer knows, or another model.",
    )


def _next_characters(grammar: Grammar, text: bytes) -> Iterator[str]:
    """Some characters that may come next, whatever the vocabulary."""
    for byte in _next_bytes(_whole(grammar, text))[:64]:
        found = bytes([byte])
        while byte >= 0xC2 and len(found) < 4:
            try:
                found.decode()
                break
            except UnicodeDecodeError:
                more = _next_bytes(_whole(grammar, text + found))
                if not more:
                    break
                found += bytes([more[0]])
        yield found.decode(errors="replace")


def _whole(grammar: Grammar, text: bytes) -> LLMatcher:
    """A matcher over single bytes, after a text."""
    from llguidance import LLMatcher

    matcher = LLMatcher(_bytes(), grammar.guide.grammar, log_level=0)
    for byte in text:
        matcher.consume_token(byte)
    return matcher


def _next_bytes(matcher: LLMatcher) -> list[int]:
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    return [int(byte) for byte in np.flatnonzero(bits[:0x100])]


@cache
def _bytes() -> LLTokenizer:
    from llguidance import LLTokenizer

    return LLTokenizer("byte")


def _ends(schema: object, root: Mapping[str, object], within: tuple[str, ...]) -> bool:
    """Whether some value fits a schema that is not endless; what cannot be told is taken for one that does."""
    if not isinstance(schema, Mapping):
        return schema is not False
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = _at(root, reference)
        if reference in within or (target is not None and not _ends(target, root, (*within, reference))):
            return False
    for name in ("anyOf", "oneOf"):
        some = schema.get(name)
        if isinstance(some, list) and some and not any(_ends(s, root, within) for s in some):
            return False
    every = schema.get("allOf")
    if isinstance(every, list) and not all(_ends(s, root, within) for s in every):
        return False
    kind = schema.get("type")
    needed, properties = schema.get("required"), schema.get("properties")
    if kind == "object" and isinstance(needed, list) and isinstance(properties, Mapping):
        return all(_ends(properties.get(name, True), root, within) for name in needed if isinstance(name, str))
    fewest = schema.get("minItems")
    if kind == "array" and isinstance(fewest, int) and fewest > 0:
        return _ends(schema.get("items", True), root, within)
    return True


def _at(root: Mapping[str, object], reference: str) -> object:
    """What a reference into the schema itself points at; None for any other."""
    if reference == "#":
        return root
    found: object = root
    for step in reference.removeprefix("#/").split("/") if reference.startswith("#/") else [""]:
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found
