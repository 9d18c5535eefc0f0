"""Reading what the user hands a tokenizer: one text or many, alone or in pairs, whole or in words."""

from __future__ import annotations

from collections.abc import Sequence

from omniform.core.errors import InputError
from omniform.inputs.text.ids import shown

Row = str | list[str] | tuple[str, str] | tuple[list[str], list[str]]
"""One thing to encode: a text, the words of one, or a pair of either."""


def read_rows(text: object, text_pair: object, in_words: bool, argument: str = "text") -> tuple[list[Row], bool]:
    """Sort out the texts of a call.

    Args:
        text: a text, or a list of texts or of pairs; with ``in_words`` each text is a list of words.
        text_pair: the second texts, of the same number; an empty one beside a single text counts as none.
        in_words: whether texts are split into words already.
        argument: the name of ``text`` in the call, for error messages.

    Returns:
        The rows, and whether they were given as a batch.

    Raises:
        InputError: something in it is not text; its row is named.
    """
    many = is_batch(text, in_words, argument)
    if not many:
        first = read_part(text, in_words, argument)
        return ([(first, read_part(text_pair, in_words, "text_pair"))] if not _is_absent(text_pair) else [first]), False  # type: ignore[list-item]
    assert isinstance(text, (list, tuple))
    if not text:
        raise InputError("there is no text to encode", where=argument, found="an empty list")
    if text_pair is None:
        return [read_row(item, in_words, f"{argument}, row {index}") for index, item in enumerate(text)], True
    if not isinstance(text_pair, (list, tuple)) or len(text_pair) != len(text):
        raise InputError(
            "the second texts do not match the first",
            where="text_pair",
            expected=f"a list of {len(text)}",
            found=f"{len(text_pair)} of them" if isinstance(text_pair, (list, tuple)) else type(text_pair).__name__,
        )
    rows: list[Row] = []
    for index, (first_text, second_text) in enumerate(zip(text, text_pair, strict=True)):
        first = read_part(first_text, in_words, f"{argument}, row {index}")
        second = read_part(second_text, in_words, f"text_pair, row {index}")
        rows.append((first, second))  # type: ignore[arg-type]
    return rows, True


def is_batch(text: object, in_words: bool, argument: str) -> bool:
    """Whether several texts are given.

    Raises:
        InputError: it is no text at all.
    """
    if isinstance(text, str) and not in_words:
        return False
    if not isinstance(text, (list, tuple)):
        raise InputError(
            "this is not text", where=argument, expected=_expected(in_words), found=_found(text), remedy=_remedy(text)
        )
    # With words given, a list of strings is one text and a list of lists is many.
    return not in_words or (len(text) > 0 and isinstance(text[0], (list, tuple)))


def read_row(item: object, in_words: bool, where: str) -> Row:
    """One row of a batch: a text or a pair.

    Raises:
        InputError: it is neither.
    """
    pair = isinstance(item, (list, tuple)) and (not in_words or any(isinstance(part, (list, tuple)) for part in item))
    if not pair:
        return read_part(item, in_words, where)
    assert isinstance(item, (list, tuple))
    if len(item) != 2:
        raise InputError("a row is a text or a pair of texts", where=where, found=f"{len(item)} parts")
    first, second = (read_part(part, in_words, where) for part in item)
    return first, second  # type: ignore[return-value]


def read_part(value: object, in_words: bool, where: str) -> str | list[str]:
    """One text, or the words of one.

    Raises:
        InputError: it is none.
    """
    if not in_words:
        return read_string(value, where)
    if not isinstance(value, (list, tuple)):
        raise InputError("this is no list of words", where=where, found=_found(value))
    return [read_string(word, f"{where}, word {index}") for index, word in enumerate(value)]


def read_string(value: object, where: str) -> str:
    """One text.

    Raises:
        InputError: it is none, or holds half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise InputError(
            "this is not text", where=where, expected="a string", found=_found(value), remedy=_remedy(value)
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            "the text holds half of a surrogate pair, which is no character",
            where=f"{where}, character {error.start}",
            remedy="Decode its bytes with errors='replace'.",
        ) from error
    return value


def _expected(in_words: bool) -> str:
    return "a list of words, or a list of such lists" if in_words else "a string, or a list of strings or of pairs"


def _found(value: object) -> str:
    return "None" if value is None else shown(value)


def _is_absent(text_pair: object) -> bool:
    """An empty text beside a single one is none, as the backend has it."""
    return text_pair is None or (isinstance(text_pair, (str, list, tuple)) and not text_pair)


def _remedy(value: object) -> str | None:
    is_ids = isinstance(value, int) or (isinstance(value, Sequence) and bool(value) and isinstance(value[0], int))
    return "Token ids need no encoding: pad() makes a batch of them." if is_ids else None
