"""Text on pictures: Pillow's own font; for letters that it lacks one of this machine's, or their closest spelling."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from PIL import ImageDraw, ImageFont

from omniform.pipelines.drawing.colours import BLACK, RGB, WHITE, contrast, ink_on

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PLACES: Final = (
    "/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts",
    "/System/Library/Fonts", "/Library/Fonts", "C:/Windows/Fonts",
)  # fmt: skip
_FONTS: Final = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf", "unifont.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc", "msyh.ttc", "meiryo.ttc", "malgun.ttf", "seguisym.ttf", "Nirmala.ttf",
)  # fmt: skip
"""Fonts that are looked for where Pillow's has not all letters, the first that has them is used."""

_SAMPLE: Final = 16
_SPELLED: Final = {
    "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "ı": "i", "œ": "oe", "ð": "d",
    "þ": "th", "\u2013": "-", "\u2014": "-", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00d7": "x",
}  # fmt: skip
_NO_LETTER: Final = "\U0010fffe"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text that a font can write.

    Attributes:
        text: what is written.
        font: what with.
        width: how wide it is, in pixels.
        height: the same for every line of the size.
        rise: how far the font's own top stands above the line's.
    """

    text: str
    font: Font
    width: int
    height: int
    rise: int

    def draw(self, draw: ImageDraw.ImageDraw, left: int, top: int, ink: RGB) -> None:
        """Write it with its upper left corner there."""
        draw.text((left, top + self.rise), self.text, fill=ink, font=self.font)


def line(text: str, size: int) -> Line:
    """A text as one line of letters of so many pixels."""
    text = " ".join("".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text).split())
    text, path = _writable(text)
    font = _font(path, size)
    ascent, height = _extent(path, size)
    left, _, right, _ = font.getbbox(text) if text else (0, 0, 0, 0)
    return Line(text, font, round(right - min(left, 0)), height, -ascent)


def fitted(text: str, size: int, width: int, end: str = "") -> Line:
    """A text with an end that stays whole, shortened by dots where it is wider than so many pixels."""
    whole = line(text + end, size)
    if whole.width <= width:
        return whole
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = line(text[:middle].rstrip() + "..." + end, size).width <= width
        low, high = (middle, high) if fits else (low, middle - 1)
    for candidate in (text[:low].rstrip() + "..." + end if low else "", end.strip(), end.strip()[:4], ""):
        found = line(candidate, size)
        if candidate and found.width <= width:
            return found
    return line("", size)


@dataclass(frozen=True, slots=True)
class Tag:
    """A line on a ground of its own.

    Attributes:
        line: the text.
        ground: the colour behind it.
        inset: pixels between them.
    """

    line: Line
    ground: RGB
    inset: int

    @property
    def width(self) -> int:
        """Pixels, the ground included."""
        return self.line.width + 2 * self.inset + 2

    @property
    def height(self) -> int:
        """Pixels, the ground included."""
        return self.line.height + self.inset + 2

    def draw(self, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
        """Draw it with its upper left corner there, in a thin frame that is seen on its own colour too."""
        right, bottom = left + self.width - 1, top + self.height - 1
        draw.rectangle((left, top, right, bottom), fill=self.ground, outline=ink_on(self.ground))
        self.line.draw(draw, left + 1 + self.inset, top + 1 + self.inset // 2, ink_on(self.ground))


def halo_of(rgb: RGB) -> RGB:
    """Black or white, to go around a line of a colour."""
    return max((BLACK, WHITE), key=lambda ink: contrast(ink, rgb))


def _writable(text: str) -> tuple[str, str | None]:
    """A text whose letters all can be written, and the font's file; None for Pillow's own."""
    for path in (None, *_installed()):
        if all(_has(path, letter) for letter in {*text}):
            return text, path
    # No font has them all: what one of them lacks is spelled by the letters that Pillow's has.
    return "".join(letter if _has(None, letter) else _spelled(letter) for letter in text), None


def _spelled(letter: str) -> str:
    if letter in _SPELLED:
        return _SPELLED[letter]
    plain = "".join(c for c in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(c))
    if plain and all(_has(None, c) for c in plain):
        return plain
    return f"<{ord(letter):04X}>"


@cache
def _has(path: str | None, letter: str) -> bool:
    """Whether a font has a letter: what it draws is not what it draws for a character that there is not."""
    if letter == " ":
        return True
    return _drawn(path, letter) != _drawn(path, _NO_LETTER)


@cache
def _drawn(path: str | None, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = _font(path, _SAMPLE).getmask(letter)
    return mask.size, bytes(mask)


@cache
def _font(path: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@cache
def _extent(path: str | None, size: int) -> tuple[int, int]:
    """Where letters begin beneath the font's top, and how high they are together with what hangs down."""
    _, top, _, bottom = _font(path, size).getbbox("ÅHgjpy|" if path else "Hgjpy|")
    return round(top), round(bottom - top)


@cache
def _installed() -> tuple[str, ...]:
    """The fonts of :data:`_FONTS` that this machine has."""
    there = {path.name: str(path) for path in _files()}
    return tuple(there[name] for name in _FONTS if name in there and _opens(there[name]))


def _files() -> Iterator[Path]:
    for place in _PLACES:
        try:
            yield from Path(place).expanduser().rglob("*.[to]t[fc]")
        except (OSError, RuntimeError):
            continue


def _opens(path: str) -> bool:
    try:
        _font(path, _SAMPLE)
    except OSError:
        return False
    return True
