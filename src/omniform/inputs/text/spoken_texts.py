"""Transcripts in one way of writing, so that they can be compared: case, punctuation, contractions, numbers, spelling.

Source: https://github.com/openai/whisper (whisper/normalizers), Radford et al. 2022, appendix C.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from omniform.core.errors import DependencyError, InputError, brief
from omniform.inputs.text.spoken_numbers import EnglishNumberNormalizer

_UNDECOMPOSED = {
    "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "ß": "ss", "ẞ": "SS", "đ": "d", "Đ": "D", "ð": "d",
    "Ð": "D", "þ": "th", "Þ": "th", "ł": "l", "Ł": "L",
}  # fmt: skip
"""Letters with marks that Unicode does not take apart."""


def remove_symbols_and_diacritics(s: str, keep: str = "") -> str:
    """Spaces for punctuation and symbols, but for those to keep, and letters without their marks."""

    def plain(char: str) -> str:
        if char in keep:
            return char
        if char in _UNDECOMPOSED:
            return _UNDECOMPOSED[char]
        category = unicodedata.category(char)
        if category == "Mn":
            return ""
        return " " if category[0] in "MSP" else char

    return "".join(map(plain, unicodedata.normalize("NFKD", s)))


def remove_symbols(s: str) -> str:
    """Spaces for punctuation, symbols and marks that are no part of a letter."""
    return "".join(" " if unicodedata.category(c)[0] in "MSP" else c for c in unicodedata.normalize("NFKC", s))


def _lowered(s: str) -> str:
    if not isinstance(s, str):
        raise InputError("this is not text", where="text", expected="a string", found=brief(s))
    return s.lower()


def _without_asides(s: str) -> str:
    """What stands in brackets is no speech: [laughter], (music)."""
    return re.sub(r"\(([^)]+?)\)", "", re.sub(r"[<\[][^>\]]*[>\]]", "", s))


class BasicTextNormalizer:
    """Called with a text of any language, gives it in lower case, without punctuation and asides.

    Args:
        remove_diacritics: take the marks off letters.
        split_letters: a space between all characters, for languages that have none between words.
    """

    def __init__(self, remove_diacritics: bool = False, split_letters: bool = False) -> None:
        self.clean = remove_symbols_and_diacritics if remove_diacritics else remove_symbols
        self.split_letters = split_letters

    def __call__(self, s: str) -> str:
        s = self.clean(_without_asides(_lowered(s))).lower()
        if self.split_letters:
            s = " ".join(_characters(s))
        return re.sub(r"\s+", " ", s)


def _characters(s: str) -> list[str]:
    """What a reader takes for characters: letters with all their marks."""
    try:
        import regex
    except ImportError as error:
        raise DependencyError(
            "letters with their marks are told apart by the package regex",
            where="split_letters",
            found=str(error),
            remedy="pip install regex",
        ) from error
    return [str(found) for found in regex.findall(r"\X", s)]


class EnglishSpellingNormalizer:
    """Called with a text, gives it with other spellings of its words.

    Args:
        english_spelling_mapping: words and how they are to be spelled (``normalizer.json``); None changes nothing.
    """

    def __init__(self, english_spelling_mapping: Mapping[str, str] | None) -> None:
        self.mapping = english_spelling_mapping or {}

    def __call__(self, s: str) -> str:
        return " ".join(self.mapping.get(word, word) for word in s.split())


_TITLES = {
    "mr": "mister", "mrs": "missus", "st": "saint", "dr": "doctor", "prof": "professor", "capt": "captain",
    "gov": "governor", "ald": "alderman", "gen": "general", "sen": "senator", "rep": "representative",
    "pres": "president", "rev": "reverend", "hon": "honorable", "asst": "assistant", "assoc": "associate",
    "lt": "lieutenant", "col": "colonel", "jr": "junior", "sr": "senior", "esq": "esquire",
}  # fmt: skip
_CONTRACTIONS = {
    "won't": "will not", "can't": "can not", "let's": "let us", "ain't": "aint", "y'all": "you all",
    "wanna": "want to", "gotta": "got to", "gonna": "going to", "i'ma": "i am going to", "imma": "i am going to",
    "woulda": "would have", "coulda": "could have", "shoulda": "should have", "ma'am": "madam",
}  # fmt: skip
_ENDINGS = {
    "'d been": "had been", "'s been": "has been", "'d gone": "had gone", "'s gone": "has gone", "'d done": "had done",
    "'s got": "has got", "n't": "not", "'re": "are", "'s": "is", "'d": "would", "'ll": "will", "'t": "not",
    "'ve": "have", "'m": "am",
}  # fmt: skip
# In this order: "won't" before "n't", "'s been" before "'s".
_WRITTEN_OUT = [
    *((re.compile(rf"\b{short}\b"), long) for short, long in _CONTRACTIONS.items()),
    *((re.compile(rf"\b{short}\b"), f"{long} ") for short, long in _TITLES.items()),
    *((re.compile(rf"{short}\b"), f" {long}") for short, long in _ENDINGS.items()),
]
_FILLERS = re.compile(r"\b(hmm|mm|mhm|mmm|uh|um)\b")


class EnglishTextNormalizer:
    """Called with an English text, gives it in one way of writing.

    Args:
        english_spelling_mapping: as for :class:`EnglishSpellingNormalizer`.
    """

    def __init__(self, english_spelling_mapping: Mapping[str, str] | None) -> None:
        self.standardize_numbers = EnglishNumberNormalizer()
        self.standardize_spellings = EnglishSpellingNormalizer(english_spelling_mapping)

    def __call__(self, s: str) -> str:
        s = _FILLERS.sub("", _without_asides(_lowered(s)))
        s = re.sub(r"\s+'", "'", s)
        for short, long in _WRITTEN_OUT:
            s = short.sub(long, s)
        s = re.sub(r"(\d),(\d)", r"\1\2", s)
        s = re.sub(r"\.([^0-9]|$)", r" \1", s)
        s = remove_symbols_and_diacritics(s, keep=".%$¢€£")
        s = self.standardize_spellings(self.standardize_numbers(s))
        # Symbols of numbers that stand at none.
        s = re.sub(r"[.$¢€£]([^0-9])", r" \1", s)
        s = re.sub(r"([^0-9])%", r"\1 ", s)
        return re.sub(r"\s+", " ", s)
