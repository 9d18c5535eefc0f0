"""English numbers in words, as SpeechT5 was taught to read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_ONES: Final = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS: Final = (
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS: Final = ("", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES: Final = (
    "", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion", "sextillion", "septillion",
    "octillion", "nonillion", "decillion",
)  # fmt: skip

CURRENCIES: Final[Mapping[str, str]] = {
    "$": "dollars", "€": "euros", "£": "pounds", "¢": "cents", "¥": "japanese yen", "﷼": "saudi riyal",
    "₹": "indian rupees", "₽": "russian rubles", "฿": "thai baht", "₺": "turkish liras", "₴": "ukrainian hryvnia",
    "₣": "swiss francs", "₡": "costa rican colon", "₱": "philippine peso", "₪": "israeli shekels",
    "₮": "mongolian tögrög", "₩": "south korean won", "₦": "nigerian naira", "₫": "vietnamese Đồng",
}  # fmt: skip
"""What amounts are called, by the sign before them."""

# Signs may follow one another in one order, each at most once.
_SIGNS: Final = "".join(f"{re.escape(sign)}?" for sign in "$€£¢¥₹₽฿₺₴₣₡₱₪₮₩₦₫﷼")
_NUMBER: Final = re.compile(rf"(?<!\w)(-?{_SIGNS}\d+(?:\.\d{{1,2}})?%?)(?!\w)")
_THOUSANDS: Final = re.compile(r"\d+,\d+")


def spoken_numbers(text: str) -> str:
    """A text with its numbers, amounts and shares in words.

    What is longer than the names of large numbers go, or has two signs before it, stays as it is.
    """
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    return re.sub(" +", " ", _NUMBER.sub(lambda found: _spoken(found[1]), text))


def _spoken(number: str) -> str:
    whole, _, decimals = number.partition(".")
    share = "%" in number
    minus, whole = whole.startswith("-"), whole.removeprefix("-").replace("%", "")
    decimals = decimals.replace("%", "")
    currency = CURRENCIES.get(whole[:1], "")
    digits = whole[1:] if currency else whole
    if not digits.isdecimal() or len(digits) > 3 * len(_SCALES):
        return number
    words = _in_words(digits)
    if decimals and decimals != "00":
        words += " point " + " ".join(_hundreds(int(digit)) or "zero" for digit in decimals)
    said = f"{'minus ' * minus}{words}{' percent' * share}"
    return f"{said} {currency}" if currency else said


def _in_words(digits: str) -> str:
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [int(digits[i : i + 3]) for i in range(0, len(digits), 3)]
    scales = _SCALES[len(groups) - 1 :: -1] if len(groups) > 1 else _SCALES[:1]
    return " ".join(f"{_hundreds(group)} {scale}".strip() for group, scale in zip(groups, scales, strict=True) if group)


def _hundreds(number: int) -> str:
    """A number below a thousand; nothing for 0."""
    hundreds, rest = divmod(number, 100)
    tens, ones = divmod(rest, 10)
    small = _TEENS[ones] if 10 <= rest < 20 else f"{_TENS[tens]} {_ONES[ones]}".strip()
    return " and ".join(part for part in (f"{_ONES[hundreds]} hundred" if hundreds else "", small) if part)
