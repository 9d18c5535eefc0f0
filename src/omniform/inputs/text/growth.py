"""How much longer a tokenizer's steps can make a text, found out before any text is encoded.

The steps of a ``tokenizer.json`` are small programs from a stranger: forty replacements of ``a`` by ``aa`` fill any
memory with a single letter. Each kind of step has a bound on what it can make of one character; the bounds of steps
that follow one another multiply.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Callable, Mapping

from omniform.core.errors import ConfigError

MOST_GROWTH = 10_000
"""Characters that the steps together may make of one. For published tokenizers the bound is below 3,000."""

MOST_STEPS = 200
"""Steps of the longest sequence, each of which reads the whole text."""

LONGEST_AFFIX = 1_000
"""Characters of what a model puts before or behind the pieces of a word."""

LONGEST_WORD = 10_000
"""Characters of the longest word that a model may be asked to take apart; the work is quadratic in it."""

MOST_FRAMING = 10_000
"""Tokens that a framing may put around a text; published ones put four."""

MOST_REPEATS = 16
"""How often a framing may repeat a text; published ones hold it once."""

_UNICODE = 18  # U+FDFA alone becomes eighteen characters in the compatible normal forms

Step = Mapping[str, object]


def check_growth(raw: Step, where: str) -> None:
    """Refuse steps that can make a text very much longer.

    Args:
        raw: the object of ``tokenizer.json``.
        where: the file, for error messages.

    Raises:
        ConfigError: they can, or a table of characters is damaged.
    """
    before = _growth(raw.get("normalizer"), where) * _growth(raw.get("pre_tokenizer"), where)
    for name, growth in (("normalizer and pre_tokenizer", before), ("decoder", _growth(raw.get("decoder"), where))):
        if growth > MOST_GROWTH:
            raise ConfigError(
                "the steps can make a text very much longer",
                where=f"{where}: {name}",
                expected=f"up to {MOST_GROWTH} characters from one",
                found=f"{growth:.3g}",
            )
    _check_framing(raw.get("post_processor"), f"{where}: post_processor")
    model = raw.get("model")
    if not isinstance(model, Mapping):
        return
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        affix = model.get(name)
        if isinstance(affix, str) and len(affix) > LONGEST_AFFIX:
            raise _too_long(f"{where}: {name}", LONGEST_AFFIX, len(affix))
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > LONGEST_WORD:
        raise _too_long(f"{where}: max_input_chars_per_word", LONGEST_WORD, longest)


def _too_long(where: str, most: int, found: int) -> ConfigError:
    return ConfigError("this is longer than in any tokenizer", where=where, expected=f"up to {most}", found=found)


def _check_framing(step: object, where: str) -> None:
    """Refuse framings that repeat a text, or add tokens to it, very often; those in a sequence frame one another."""
    repeats = added = 1
    steps = _flat(step, where)
    if len(steps) > MOST_STEPS:
        raise _too_long(f"{where}: a sequence of steps", MOST_STEPS, len(steps))
    for part in steps:
        both = [_template(part, name) for name in ("single", "pair")]
        times = max(1, *(texts for texts, _ in both))
        repeats, added = repeats * times, added * times + max(4, *(tokens for _, tokens in both))
        if repeats > MOST_REPEATS:
            raise _too_long(f"{where}: how often the text is repeated", MOST_REPEATS, repeats)
        if added > MOST_FRAMING:
            raise _too_long(f"{where}: tokens around the text", MOST_FRAMING, added)


def _template(step: Step, name: str) -> tuple[int, int]:
    """How often a template holds the same text, and how many tokens it adds."""
    pieces, table = step.get(name), step.get("special_tokens")
    texts: dict[str, int] = {}
    added = 0
    for piece in pieces if isinstance(pieces, list) else ():
        if not isinstance(piece, Mapping):
            continue
        for kind, what in piece.items():
            key = str(what.get("id")) if isinstance(what, Mapping) else ""
            if kind == "Sequence":
                texts[key] = texts.get(key, 0) + 1
                continue
            token = table.get(key) if isinstance(table, Mapping) else None
            ids = token.get("ids") if isinstance(token, Mapping) else None
            added += len(ids) if isinstance(ids, list) else 1
    return max(texts.values(), default=0), added


def check_charsmap(charsmap: bytes, where: str) -> int:
    """The characters that sentencepiece's table of replacements can make of one.

    Raises:
        ConfigError: the table is cut short, or replaces one character by very many.
    """
    size = struct.unpack("<I", charsmap[:4])[0] if len(charsmap) >= 4 else -1
    if size < 0 or size % 4 or 4 + size > len(charsmap):
        raise ConfigError("the table of characters is damaged", where=f"{where}: precompiled_charsmap")
    # Behind the index stand the replacements, each ended by a zero.
    growth = max(1, *map(len, charsmap[4 + size :].decode("utf-8", "replace").split("\0")))
    if growth > MOST_GROWTH:
        raise _too_long(f"{where}: precompiled_charsmap", MOST_GROWTH, growth)
    return growth


def _growth(step: object, where: str) -> float:
    """A bound on what a step, or several in a sequence, makes of one character."""
    total = 1.0
    normal = False  # whether the text is in a normal form, and can grow no further by being brought into one
    parts = _flat(step, where)
    if len(parts) > MOST_STEPS:
        raise _too_long(f"{where}: a sequence of steps", MOST_STEPS, len(parts))
    for part in parts:
        kind = part.get("type")
        if kind in ("NFC", "NFD", "NFKC", "NFKD"):
            total *= 1 if normal else _UNICODE
            normal = True
        elif isinstance(kind, str) and kind in _BOUNDS:
            total *= max(1.0, _BOUNDS[kind](part, where))
            normal = normal and kind in ("Strip", "StripAccents", "Lowercase", "Nmt")
        if total > 1e30:
            break
    return total


def _flat(step: object, where: str, depth: int = 0) -> list[Step]:
    if not isinstance(step, Mapping):
        return []
    if step.get("type") != "Sequence":
        return [step]
    if depth > 3:
        raise ConfigError("the steps are nested absurdly deep", where=where)
    inner = next(
        (step[name] for name in ("normalizers", "pretokenizers", "decoders", "processors") if name in step), None
    )
    return [part for one in (inner if isinstance(inner, list) else []) for part in _flat(one, where, depth + 1)]


def _replaced(step: Step, where: str) -> float:
    content, pattern = step.get("content"), step.get("pattern")
    length = len(content) if isinstance(content, str) else 0
    text = pattern.get("String") if isinstance(pattern, Mapping) else None
    # What a regular expression matches may be nothing at all, between any two characters.
    return length / len(text) if isinstance(text, str) and text else 1.0 + length


def _prepended(step: Step, where: str) -> float:
    prefix = step.get("prepend")
    return 1.0 + (len(prefix) if isinstance(prefix, str) else 0)


def _mapped(step: Step, where: str) -> float:
    coded = step.get("precompiled_charsmap")
    if not isinstance(coded, str):
        return 1.0
    try:
        return check_charsmap(base64.b64decode(coded, validate=True), where)
    except binascii.Error as error:
        raise ConfigError("the table of characters is not base64", where=f"{where}: precompiled_charsmap") from error


_BOUNDS: dict[str, Callable[[Step, str], float]] = {
    "Replace": _replaced,
    "Prepend": _prepended,
    "Precompiled": _mapped,
    "Lowercase": lambda step, where: 2.0,
    "BertNormalizer": lambda step, where: 6.0,
    # Bytes are written as characters, of which none takes more than two bytes.
    "ByteLevel": lambda step, where: 4.0,
    "Metaspace": lambda step, where: 2.0,
}
"""The kinds of step that can make a text longer; a decoder's ``ByteLevel`` cannot, but is there once."""
