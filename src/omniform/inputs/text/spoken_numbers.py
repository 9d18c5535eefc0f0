"""Numbers that are spelled out in English, as digits: "twenty one thousand dollars" is "$21000".

Transcripts are compared in one way of writing. Source: https://github.com/openai/whisper (in it,
whisper/normalizers/english.py), Radford et al. 2022, appendix C.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

Value = int | str | None
"""What has been read of a number: a number that can still grow, or its digits; None: nothing."""

_ZEROS = ("o", "oh", "zero")
_ONES = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_POWERS = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "quintillion": 10**18, "sextillion": 10**21, "septillion": 10**24, "octillion": 10**27, "nonillion": 10**30,
    "decillion": 10**33,
}  # fmt: skip
_IRREGULAR = {"zeroth": (0, "th"), "first": (1, "st"), "second": (2, "nd"), "third": (3, "rd"), "fifth": (5, "th")}
_SUFFIXED_ONES = {
    **{"sixes" if name == "six" else f"{name}s": (number, "s") for name, number in _ONES.items()},
    **_IRREGULAR,
    "twelfth": (12, "th"),
    **{
        f"{name}h" if name.endswith("t") else f"{name}th": (number, "th")
        for name, number in _ONES.items()
        if number > 3 and number not in (5, 12)
    },
}
_SUFFIXED_TENS = {
    **{f"{name[:-1]}ies": (number, "s") for name, number in _TENS.items()},
    **{f"{name[:-1]}ieth": (number, "th") for name, number in _TENS.items()},
}
_SUFFIXED_POWERS = {
    **{f"{name}s": (number, "s") for name, number in _POWERS.items()},
    **{f"{name}th": (number, "th") for name, number in _POWERS.items()},
}
_SIGNS = {"minus": "-", "negative": "-", "plus": "+", "positive": "+"}
_CURRENCIES = {"pound": "£", "euro": "€", "dollar": "$", "cent": "¢"}
_CURRENCIES |= {f"{name}s": sign for name, sign in _CURRENCIES.items()}
_SYMBOLS = {*_SIGNS.values(), *_CURRENCIES.values()}
_DECIMALS = {*_ONES, *_TENS, *_ZEROS}
_NUMERAL = re.compile(r"^\d+(\.\d+)?$")


class EnglishNumberNormalizer:
    """Called with a lower-case text, gives it with its numbers in digits.

    Suffixes stay (``1960s``, ``274th``), currencies and percent become symbols, "one" and "ones" are spelled out, and
    single digits in a row are one number: "one oh one" is 101.
    """

    def __call__(self, s: str) -> str:
        return self.postprocess(" ".join(_Line(self.preprocess(s).split()).read()))

    def preprocess(self, s: str) -> str:
        """Halves as "point five", and spaces where letters meet digits."""
        segments = re.split(r"\band\s+a\s+half\b", s)
        parts: list[str] = []
        for number, segment in enumerate(segments, start=1):
            if not segment.strip():
                continue
            parts.append(segment)
            if number < len(segments):
                last = segment.rsplit(maxsplit=2)[-1]
                parts.append("point five" if last in _DECIMALS or last in _POWERS else "and a half")
        s = " ".join(parts)
        s = re.sub(r"([a-z])([0-9])", r"\1 \2", s)
        s = re.sub(r"([0-9])([a-z])", r"\1 \2", s)
        return re.sub(r"([0-9])\s+(st|nd|rd|th|s)\b", r"\1\2", s)

    def postprocess(self, s: str) -> str:
        """Cents joined to what they are part of ("$2 and ¢7" is "$2.07"), and ones spelled out."""
        s = re.sub(r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b", lambda m: f"{m[1]}{m[2]}.{int(m[3]):02d}", s)
        s = re.sub(r"[€£$]0.([0-9]{1,2})\b", lambda m: f"¢{int(m[1])}", s)
        return re.sub(r"\b1(s?)\b", r"one\1", s)


class _Line:
    """The words of a text, read from the first to the last; what was read of a number waits until it ends.

    Args:
        words: in lower case.
    """

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._place = 0
        self._value: Value = None
        self._prefix = ""
        self._done: list[str] = []

    def read(self) -> list[str]:
        """The words, numbers in digits."""
        while self._place < len(self._words):
            word = self._words[self._place]
            bare = word[1:] if word[0] in _SYMBOLS else word
            if _NUMERAL.match(bare):
                self._digits(word, bare)
            elif word in _READERS:
                _READERS[word](self, word)
            else:
                self._say(word)
            self._place += 1
        self._end()
        return self._done

    # -- what stands around

    @property
    def _before(self) -> str | None:
        return self._words[self._place - 1] if self._place else None

    @property
    def _next(self) -> str | None:
        return self._words[self._place + 1] if self._place + 1 < len(self._words) else None

    def _number_follows(self, words: Mapping[str, object] | set[str]) -> bool:
        following = self._next
        return following is not None and (following in words or _NUMERAL.match(following) is not None)

    # -- what is written

    def _write(self, text: Value) -> None:
        self._done.append(f"{self._prefix}{text}")
        self._value, self._prefix = None, ""

    def _end(self) -> None:
        if self._value is not None:
            self._write(self._value)

    def _say(self, word: str) -> None:
        """A word that is no part of a number."""
        self._end()
        self._write(word)

    # -- the kinds of words

    def _digits(self, word: str, bare: str) -> None:
        if isinstance(self._value, str) and self._value.endswith("."):
            self._value += word  # decimals, or the parts of an address
            return
        self._end()
        if bare != word:
            self._prefix = word[0]
        number = Fraction(bare)
        self._value = number.numerator if number.denominator == 1 else bare

    def _zero(self, _: str) -> None:
        self._value = f"{self._value or ''}0"

    def _with_ones(self, number: int) -> int | str:
        value = self._value
        if value is None:
            return number
        if isinstance(value, str) or self._before in _ONES:
            after_tens = isinstance(value, str) and self._before in _TENS and number < 10
            return f"{str(value)[:-1] if after_tens else value}{number}"
        return value + number if value % (10 if number < 10 else 100) == 0 else f"{value}{number}"

    def _ones(self, word: str) -> None:
        self._value = self._with_ones(_ONES[word])

    def _suffixed_ones(self, word: str) -> None:
        number, suffix = _SUFFIXED_ONES[word]
        self._write(f"{self._with_ones(number)}{suffix}")

    def _with_tens(self, number: int) -> int | str:
        value = self._value
        if value is None:
            return number
        return value + number if isinstance(value, int) and value % 100 == 0 else f"{value}{number}"

    def _tens(self, word: str) -> None:
        self._value = self._with_tens(_TENS[word])

    def _suffixed_tens(self, word: str) -> None:
        number, suffix = _SUFFIXED_TENS[word]
        self._write(f"{self._with_tens(number)}{suffix}")

    def _times(self, factor: int) -> int | None:
        """What has been read, times a factor; None where that is no whole number."""
        value = self._value
        if value is None:
            return factor
        if isinstance(value, str):
            try:
                product = Fraction(value) * factor
            except ValueError:
                return None
            return product.numerator if product.denominator == 1 else None
        return value // 1000 * 1000 + value % 1000 * factor

    def _power(self, word: str) -> None:
        product = self._times(_POWERS[word])
        if product is None:
            self._end()
            product = _POWERS[word]
        self._value = product

    def _suffixed_power(self, word: str) -> None:
        factor, suffix = _SUFFIXED_POWERS[word]
        product = self._times(factor)
        if product is None:
            self._end()
            product = factor
        self._write(f"{product}{suffix}")

    def _sign(self, word: str) -> None:
        self._end()
        if self._number_follows(_READERS):
            self._prefix = _SIGNS[word]
        else:
            self._write(word)

    def _currency(self, word: str) -> None:
        if self._value is None:
            self._write(word)
        else:
            self._prefix = _CURRENCIES[word]
            self._end()

    def _percent(self, word: str) -> None:
        apart = word == "per"
        if self._value is None or (apart and self._next != "cent"):
            self._say(word)
        else:
            self._write(f"{self._value}%")
            self._place += apart

    def _and(self, word: str) -> None:
        # Nothing is said by the "and" of "two hundred and one".
        if not self._number_follows(_READERS) or self._before not in _POWERS:
            self._say(word)

    def _repeated(self, word: str) -> None:
        digit = 0 if self._next in _ZEROS else _ONES.get(self._next or "")
        if digit is None:
            self._say(word)
        else:
            self._value = f"{self._value or ''}{str(digit) * (2 if word == 'double' else 3)}"
            self._place += 1

    def _point(self, word: str) -> None:
        if not self._number_follows(_READERS):
            self._say(word)
        elif self._number_follows(_DECIMALS):
            self._value = f"{self._value or ''}."


_Reader = Callable[[_Line, str], None]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys(("double", "triple"), _Line._repeated),
    "and": _Line._and,
    "point": _Line._point,
    "per": _Line._percent,
    "percent": _Line._percent,
    **dict.fromkeys(_CURRENCIES, _Line._currency),
    **dict.fromkeys(_SIGNS, _Line._sign),
    **dict.fromkeys(_SUFFIXED_POWERS, _Line._suffixed_power),
    **dict.fromkeys(_POWERS, _Line._power),
    **dict.fromkeys(_SUFFIXED_TENS, _Line._suffixed_tens),
    **dict.fromkeys(_TENS, _Line._tens),
    **dict.fromkeys(_SUFFIXED_ONES, _Line._suffixed_ones),
    **dict.fromkeys(_ONES, _Line._ones),
    **dict.fromkeys(_ZEROS, _Line._zero),
}
"""What a word does that may be part of a number."""
