"""Regular expressions as Python means them, for a library that reads those of Rust.

The two are nearly one language. An expression that Python reads is written anew where it would mean something else
there (``\\w``, ``[a[b]``, ``\\Z``), so that what is written is what ``re.fullmatch`` takes; any other is left as it is.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from typing import Final

from omniform.core.errors import InputError, brief

_AGE: Final = ".".join(unicodedata.unidata_version.split(".")[:2])
"""The version of Unicode that Python knows: its letters and digits are those of then."""

_SETS: Final = {
    "d": rf"[\p{{Nd}}&&\p{{Age={_AGE}}}]",
    "w": rf"[[\p{{L}}\p{{N}}_]&&\p{{Age={_AGE}}}]",
    "s": r"[\s\x1c-\x1f]",
}
_QUANTIFIER: Final = re.compile(r"\{(\d*)(,?)(\d*)\}")
_POSSESSIVE: Final = re.compile(r"[*+?}]\+")


def as_rust(pattern: str) -> str:
    """A pattern as the library is to read it.

    Raises:
        InputError: it has a quantifier that gives nothing back, which no grammar has.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return pattern
    out: list[str] = []
    at = 0
    while at < len(pattern):
        letter = pattern[at]
        if letter == "\\":
            out.append(_escaped(pattern[at + 1]))
            at += 2
        elif letter == "[":
            text, at = _class(pattern, at)
            out.append(text)
        elif letter == "{":
            found = _QUANTIFIER.match(pattern, at)
            known = found is not None and (found[1] or found[2])
            out.append(f"{{{found[1] or 0}{found[2]}{found[3]}}}" if found is not None and known else r"\{")
            at = found.end() if found is not None and known else at + 1
        else:
            out.append(letter)
            at += 1
        if _POSSESSIVE.fullmatch(pattern[at - 1 : at + 1]) and letter in "*+?{" and out[-1] != r"\{":
            raise InputError(
                "a quantifier that gives nothing back is not understood", where=f"guide (regex), character {at}",
                expected="one without the second +", found=brief(pattern),
            )  # fmt: skip
    return "".join(out)


def _escaped(letter: str, inside: bool = False) -> str:
    """What stands for an escaped character."""
    if letter.lower() in _SETS:
        known = _SETS[letter.lower()]
        return known if letter.islower() else f"[^{known}]"
    if letter == "Z" and not inside:
        return r"\z"
    if letter == "b" and inside:
        return r"\x08"
    if letter.isascii() and letter.isalnum():
        return f"\\{letter}"
    return rf"\x{{{ord(letter):x}}}"


def _class(pattern: str, at: int) -> tuple[str, int]:
    """A class of characters that begins at a bracket, and where it ends."""
    head = re.compile(r"\[\^?\]?").match(pattern, at)
    assert head is not None, "it begins with a bracket"
    out, at = [head[0].replace("]", r"\]")], head.end()
    while pattern[at] != "]":
        letter = pattern[at]
        if letter == "\\":
            at += 1
            out.append(_escaped(pattern[at], inside=True))
        elif letter.isspace() or letter == "#":  # the library's (?x) leaves them out
            out.append(rf"\x{{{ord(letter):x}}}")
        elif letter in "[&~" or (letter == "-" and pattern[at - 1] == "-"):
            out.append(f"\\{letter}")
        else:
            out.append(letter)
        at += 1
    return f"{''.join(out)}]", at + 1
