"""Scripts of texts that are to be spoken: VITS's letters or phonemes, SpeechT5's letters."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

from omniform.core.errors import DependencyError
from omniform.inputs.text.espeak import find_espeak
from omniform.inputs.text.numbers import spoken_numbers
from omniform.inputs.text.pieces import Segmenter
from omniform.inputs.text.scripted import Cut, Scripted
from omniform.inputs.text.settings import Settings, read_json, vocabulary_file
from omniform.inputs.text.siglip import FileScript

_LETTERS_FILE = "spm_char.model"


@dataclass(slots=True)
class VitsScript:
    """Letters or phonemes, a blank around each.

    Attributes:
        table: letters and their ids.
        unknown: the token that stands for all others.
        language: of the texts; Romanian has two ways to write a letter.
        blank: whether the token of id 0 stands around each letter.
        normalize: whether texts are written small, without what the vocabulary lacks.
        phonemizes: whether words become phonemes.
        romanizes: whether other scripts than Latin become Latin.
    """

    table: dict[str, int]
    unknown: str | None
    language: str | None
    blank: bool
    normalize: bool
    phonemizes: bool
    romanizes: bool
    lowers: bool = False
    once: str | None = None
    unsplit: tuple[str, ...] = ()
    _tokens: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self._tokens = {index: token for token, index in self.table.items()}

    @property
    def size(self) -> int:
        return len(self.table)

    def vocabulary(self) -> dict[str, int]:
        return dict(self.table)

    def holds(self, token: str) -> bool:
        return token in self.table

    def id_of(self, token: str) -> int | None:
        return self.table.get(token, None if self.unknown is None else self.table.get(self.unknown))

    def token_of(self, index: int) -> str | None:
        return self._tokens.get(index)

    def prepared(self, text: str, added: Sequence[str], normalize: bool) -> str:
        """What is read of a text, before it is cut at added tokens."""
        if normalize:
            text = self.small(text, added)
        if self.language == "ron":
            text = text.replace("ț", "ţ")
        if self.romanizes and not text.isascii():
            text = romanized(text)
        if self.phonemizes:
            return re.sub(r"\s+", " ", phonemized(text))
        return "".join(letter for letter in text if letter in self.table).strip() if normalize else text

    def small(self, text: str, added: Sequence[str]) -> str:
        """Small letters, but for what is in the vocabulary as it stands."""
        words = [word for word in (*self.table, *added) if word]
        small, at = [], 0
        while at < len(text):
            word = next((word for word in words if text.startswith(word, at)), None)
            small.append(text[at].lower() if word is None else word)
            at += 1 if word is None else len(word)
        return "".join(small)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        cuts = [Cut(letter, at, at + 1) for at, letter in enumerate(text)]
        blank = self._tokens.get(0)
        if not self.blank or blank is None:
            return cuts
        around = [Cut(blank, at, at) for at in range(len(text) + 1)]
        return [cut for pair in zip(around, [*cuts, None], strict=True) for cut in pair if cut is not None]

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return "".join(tokens[1::2] if self.blank and len(tokens) > 1 else tokens)

    def files(self) -> Mapping[str, str]:
        return {"vocab.json": json.dumps(self.table, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}


class VitsScripted(Scripted):
    """Texts are prepared as a whole, then cut."""

    normalized: bool | None = None

    def token_to_id(self, token: str) -> int | None:
        found, script = super().token_to_id(token), self.script
        assert isinstance(script, VitsScript)
        # What stands for unknown letters is often none of the vocabulary, and added behind it.
        return self._ids.get(str(script.unknown)) if found is None else found

    def cut(self, text: str) -> list[Cut]:
        script = self.script
        assert isinstance(script, VitsScript)
        normalize = script.normalize if self.normalized is None else self.normalized
        return super().cut(script.prepared(text, [t.content for t in self._added.values()], normalize))


def phonemized(text: str) -> str:
    """The phonemes of an English text, with stresses and punctuation, by espeak.

    Raises:
        DependencyError: phonemizer or espeak is not there.
    """
    try:
        speak = _speaker()
    except (ImportError, RuntimeError) as error:
        raise DependencyError(
            "this tokenizer reads phonemes, which phonemizer and espeak make of texts",
            found=str(error)[:200],
            remedy="Install them (pip install phonemizer; espeak-ng, or pip install espeakng-loader), or give "
            "phonemes to a tokenizer loaded with phonemize=False.",
        ) from None
    return speak(text)


@cache
def _speaker() -> Callable[[str], str]:
    from phonemizer.backend import EspeakBackend
    from phonemizer.separator import default_separator

    find_espeak()
    backend = EspeakBackend("en-us", preserve_punctuation=True, with_stress=True)

    def speak(text: str) -> str:
        # Line by line, as the package's own function goes, without empty lines.
        lines = [line for line in text.splitlines() if line.strip()]
        said = backend.phonemize(lines, separator=default_separator, strip=True)
        return "\n".join(cast("list[str]", said))

    return speak


def romanized(text: str) -> str:
    """A text in Latin letters, by the package uroman; as it is, with a warning, where that is not installed."""
    try:
        import uroman
    except ImportError:
        logging.getLogger("omniform").warning(
            "the text has letters that are not Latin, which this voice reads in uroman's spelling: pip install uroman, "
            "or romanize the text before (https://github.com/isi-nlp/uroman)"
        )
        return text
    return str(uroman.Uroman().romanize_string(text))


def vits(files: Mapping[str, Path], settings: Settings) -> VitsScript:
    """The script of a folder."""
    unknown = settings.named.get("unk_token")
    return VitsScript(
        table=cast("dict[str, int]", read_json(vocabulary_file(files, "vocab.json", settings))),
        unknown=None if unknown is None else str(unknown),
        language=settings.text("language"),
        blank=settings.flag("add_blank", True),
        normalize=settings.flag("normalize", True),
        phonemizes=settings.flag("phonemize", True),
        romanizes=settings.flag("is_uroman", False),
    )


@dataclass(slots=True)
class SpelledScript(FileScript):
    """Letters of a sentencepiece file; numbers in words where ``spells``."""

    spells: bool = False

    def files(self) -> Mapping[str, str | bytes]:
        return {_LETTERS_FILE: self.segmenter.data}


class SpelledScripted(Scripted):
    """Texts are prepared as a whole, then cut."""

    spelled: bool | None = None

    def cut(self, text: str) -> list[Cut]:
        script = self.script
        assert isinstance(script, SpelledScript)
        spells = script.spells if self.spelled is None else self.spelled
        return super().cut(spoken_numbers(text) if spells else text)


def speecht5(files: Mapping[str, Path], settings: Settings) -> SpelledScript:
    """The script of a folder."""
    segmenter = Segmenter.of(vocabulary_file(files, _LETTERS_FILE, settings))
    return SpelledScript(segmenter, str(settings.named["unk_token"]), spells=settings.flag("normalize", False))
