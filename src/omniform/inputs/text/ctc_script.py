"""The script of letters of speech; ``ctc`` reads what is written in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from tokenizers import AddedToken

from omniform.core.errors import ConfigError, nearest
from omniform.inputs.text.ids import shown
from omniform.inputs.text.scripted import Cut, Scripted


@dataclass(slots=True)
class CTCScript:
    """Letters, in capitals where the model's texts are in small ones.

    Attributes:
        tables: letters and their ids; by language where there are several.
        language: whose table is read, where there are several.
        unknown: the token that stands for all others.
        delimiter: the token between words.
        space: what it is written as.
        pad: the token of steps in which nothing is said.
        lowers: whether texts are in small letters.
    """

    tables: dict[str, object]
    language: str | None
    unknown: str | None
    delimiter: str | None
    space: str
    pad: str | None
    lowers: bool = False
    once: str | None = None
    unsplit: tuple[str, ...] = ()
    _tokens: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self.speak(self.language)

    def speak(self, language: str | None) -> None:
        """Read the letters of a language."""
        self.language = language
        self._tokens = {index: token for token, index in self.table().items()}

    def table(self) -> dict[str, int]:
        """The letters of the language."""
        found = self.tables if self.language is None else self.tables.get(self.language)
        if not isinstance(found, dict) or not all(type(index) is int for index in found.values()):
            languages = [name for name, inner in self.tables.items() if isinstance(inner, dict)]
            raise ConfigError(
                "the vocabulary holds no letters for this language" if languages else "the vocabulary is no mapping",
                where="target_lang",
                expected=f"one of {sorted(languages)[:20]}" if languages else "tokens and their ids",
                found=shown(self.language),
                remedy=nearest(str(self.language), languages) if languages else None,
            )
        return found

    @property
    def size(self) -> int:
        return len(self.table())

    def vocabulary(self) -> dict[str, int]:
        return dict(self.table())

    def holds(self, token: str) -> bool:
        return token in self.table()

    def id_of(self, token: str) -> int | None:
        table = self.table()
        return table.get(token, None if self.unknown is None else table.get(self.unknown))

    def token_of(self, index: int) -> str | None:
        return self._tokens.get(index, self.unknown)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        cuts = []
        for at, letter in enumerate(text):
            if letter == " " and self.delimiter is not None:
                cuts += [Cut(part, at, at + 1) for part in self.delimiter]
            else:
                cuts += [Cut(part, at, at + 1) for part in (letter.upper() if self.lowers else letter)]
        return cuts

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return self.spoken(tokens, True, "")[0]

    def spoken(self, tokens: Sequence[str], group: bool, between: str) -> tuple[str, list[tuple[str, int, int]]]:
        """The text of the tokens of all steps, and its letters with the steps of their beginnings and ends."""
        letters, at = [], 0
        for token, run in groupby(tokens) if group else ((token, [token]) for token in tokens):
            count = len(list(run))
            if token != self.pad:
                letters.append((self.space if token == self.delimiter else token, at, at + count))
            at += count
        text = between.join(letter for letter, _, _ in letters).strip()
        return (text.lower() if self.lowers else text), letters

    def files(self) -> dict[str, str]:
        return {"vocab.json": json.dumps(self.tables, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}


def add_letters(backend: Scripted) -> None:
    """Cut texts at the tokens of more than one character."""
    letters = [
        AddedToken(t, lstrip=True, rstrip=True, normalized=False) for t in backend.script.vocabulary() if len(t) > 1
    ]
    backend.add_tokens(letters)
