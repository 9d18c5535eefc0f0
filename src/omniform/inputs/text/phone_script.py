"""The script of phonemes of speech; ``phones`` reads what is written in them.

Texts become phonemes by the package ``phonemizer`` and its espeak, which are imported when they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import cast

from omniform.core.errors import DependencyError
from omniform.inputs.text.espeak import find_espeak
from omniform.inputs.text.scripted import Cut
from omniform.inputs.text.settings import Settings, read_json, vocabulary_file

_DELIMITERS = ("word_delimiter_token", "phone_delimiter_token")


@dataclass(slots=True)
class PhoneScript:
    """Phonemes between spaces.

    Attributes:
        table: phonemes and their ids.
        unknown: the token that stands for all others.
        pad: the token of steps in which nothing is said.
        delimiter: the token between words, if there is one.
        between: what phonemizer writes between phonemes.
        phonemizes: whether texts are words, to be made into phonemes; otherwise they are phonemes already.
        language: the language of the words.
        backend: what of phonemizer makes them.
    """

    table: dict[str, int]
    unknown: str | None
    pad: str | None
    delimiter: str | None
    between: str = " "
    phonemizes: bool = True
    language: str = "en-us"
    backend: str = "espeak"
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
        return self._tokens.get(index, self.unknown)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        if self.phonemizes:
            said = self.phonemes(text.strip().lower()) if text.strip() else ""
            return [Cut(token, 0, len(text)) for token in said.split(" ") if token.strip()]
        cuts, at = [], 0
        for token in text.split(" "):
            if token.strip():
                cuts.append(Cut(token.strip(), at, at + len(token)))
            at += len(token) + 1
        return cuts

    def phonemes(self, text: str, language: str | None = None) -> str:
        """The phonemes of words, by default of the tokenizer's language."""
        separators = {"phone": self.between, "word": "" if self.delimiter is None else f"{self.delimiter} "}
        return phonemes(text, language or self.language, self.backend, separators)

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return " ".join(phone for phone, _, _ in self.spoken(tokens, True, True))

    def spoken(self, tokens: Sequence[str], group: bool, without_delimiter: bool) -> list[tuple[str, int, int]]:
        """The phonemes of the tokens of all steps, with the steps of their beginnings and ends."""
        found, at = [], 0
        for token, run in groupby(tokens) if group else ((token, [token]) for token in tokens):
            count = len(list(run))
            if token != self.pad and not (without_delimiter and token == self.delimiter):
                found.append((token, at, at + count))
            at += count
        return found

    def files(self) -> dict[str, str]:
        return {"vocab.json": json.dumps(self.table, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}


def phonemes(text: str, language: str, backend: str = "espeak", separators: Mapping[str, str] | None = None) -> str:
    """The phonemes of a text.

    Args:
        language: as espeak calls it, ``"en-us"``.
        backend: what of phonemizer makes them.
        separators: what is written between phonemes (``phone``), words (``word``) and syllables; a space by default.

    Raises:
        DependencyError: phonemizer or what it calls is not there.
    """
    try:
        from phonemizer.backend import BACKENDS
        from phonemizer.separator import Separator

        if backend == "espeak":
            find_espeak()
        speaker = BACKENDS[backend](language, language_switch="remove-flags")
    except (ImportError, KeyError, RuntimeError) as error:
        raise DependencyError(
            "texts become phonemes by phonemizer and espeak",
            found=str(error)[:200],
            remedy="Install them (pip install phonemizer; espeak-ng), or pass phonemes with do_phonemize=False.",
        ) from None
    between = {"phone": " ", "word": "", "syllable": "", **(separators or {})}
    return cast(str, speaker.phonemize([text], separator=Separator(**between))[0].strip())


def phone_script(files: Mapping[str, Path], settings: Settings) -> PhoneScript:
    """The script of a folder."""
    named = {name: None if token is None else str(token) for name, token in settings.named.items()}
    return PhoneScript(
        table=cast("dict[str, int]", read_json(vocabulary_file(files, "vocab.json", settings))),
        unknown=named.get("unk_token"),
        pad=named.get("pad_token"),
        delimiter=settings.text("word_delimiter_token"),
        between=settings.text("phone_delimiter_token") or " ",
        phonemizes=settings.flag("do_phonemize", True),
        language=settings.text("phonemizer_lang") or "en-us",
        backend=settings.text("phonemizer_backend") or "espeak",
    )


def phone_tokens(settings: Settings) -> None:
    """What stands between words and phonemes is a setting: no special token, though it is called one."""
    for name in _DELIMITERS:
        if name in settings.specific:
            settings.values[name] = str(settings.specific.pop(name))
