"""Framings that a tokenizer of the user's own may name instead of writing them: ``special_tokens_pattern``."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.core.errors import InputError, nearest


@dataclass(frozen=True, slots=True)
class Pattern:
    """Special tokens, by their names, around one text or two.

    Attributes:
        before: what begins a row.
        between: what stands between two texts.
        after: what ends a row.
    """

    before: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


PREFIX_SUFFIX = "prefix_suffix"
"""The framing by the ids that the tokenizer's ``prefix_tokens`` and ``suffix_tokens`` hold."""

PATTERNS = {
    "none": Pattern(),
    "cls_sep": Pattern(("cls_token",), ("sep_token",), ("sep_token",)),
    "cls_double_sep": Pattern(("cls_token",), ("sep_token", "sep_token"), ("sep_token",)),
    "eos": Pattern((), ("eos_token",), ("eos_token",)),
    "bos": Pattern(("bos_token",), ("bos_token",), ()),
    "bos_eos": Pattern(("bos_token",), ("eos_token",), ("eos_token",)),
}


def pattern_named(name: object) -> Pattern:
    """A framing by its name; ``None`` stands for none.

    Raises:
        InputError: there is no such framing.
    """
    if name is None:
        return PATTERNS["none"]
    if not isinstance(name, str) or name not in PATTERNS:
        raise InputError(
            "there is no such framing of texts",
            where="special_tokens_pattern",
            found=repr(name),
            remedy=nearest(str(name), (*PATTERNS, PREFIX_SUFFIX)),
        )
    return PATTERNS[name]
