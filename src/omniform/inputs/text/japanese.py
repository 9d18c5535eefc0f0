"""Japanese BERT: words by MeCab, Sudachi, Juman++ or by spaces and punctuation, cut into WordPieces or characters.

The dictionaries are packages of their own (fugashi with unidic-lite, unidic or ipadic; sudachipy; rhoknp), which are
imported when a checkpoint asks for them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tokenizers import normalizers, pre_tokenizers

from omniform.core.errors import ConfigError, DependencyError
from omniform.inputs.text.scripted import Cut
from omniform.inputs.text.settings import Settings, read_text

Words = Callable[[str, Sequence[str]], Sequence[str]]
LONGEST_WORD = 100
"""Longer words are unknown as a whole."""


@dataclass(slots=True)
class JapaneseScript:
    """Words and their parts.

    Attributes:
        ids: the vocabulary.
        unknown: the token for what is unknown.
        words: what finds words: ``basic``, ``mecab``, ``sudachi``, ``jumanpp``; ``None`` leaves texts whole.
        parts: what they are cut into: ``wordpiece``, ``character``; ``None`` leaves words whole.
        options: those of the words' finder.
        small: whether words are in small letters.
        lowers: as for every script; so are ``once`` and ``unsplit``.
    """

    ids: dict[str, int]
    unknown: str
    words: str | None
    parts: str | None
    options: Mapping[str, object]
    small: bool = False
    lowers: bool = False
    once: str | None = None
    unsplit: tuple[str, ...] = ()
    tokens: dict[int, str] = field(init=False)
    finder: Words | None = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = {index: token for token, index in self.ids.items()}
        self.finder = None if self.words is None else _FINDERS[self.words](dict(self.options))

    def __getstate__(self) -> tuple[object, ...]:
        # The finder is the dictionary's own object.
        return (self.ids, self.unknown, self.words, self.parts, self.options, self.small, self.lowers)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        JapaneseScript.__init__(self, *state)

    @property
    def size(self) -> int:
        return len(self.ids)

    def vocabulary(self) -> dict[str, int]:
        return dict(self.ids)

    def holds(self, token: str) -> bool:
        return token in self.ids

    def id_of(self, token: str) -> int | None:
        return self.ids.get(token, self.ids.get(self.unknown))

    def token_of(self, index: int) -> str | None:
        return self.tokens.get(index, self.unknown)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        cuts, at = [], 0
        for word in [text] if self.finder is None else self.finder(text, special):
            # Where normal forms differ from what is written, a word's place is about there.
            start = text.find(word, at)
            start, end = (at, at) if start < 0 else (start, start + len(word))
            at = end
            if self.small and self.finder is not None and word not in special:
                word = _plain(word) if self.words == "basic" else word.lower()
            pieces = [word] if self.parts is None else self._pieces(word)
            cuts += [Cut(piece, start, end) for piece in pieces]
        return cuts

    def _pieces(self, word: str) -> list[str]:
        if self.parts == "character":
            letters = unicodedata.normalize("NFKC", word)
            return [letter if letter in self.ids else self.unknown for letter in letters]
        return [piece for part in word.split() for piece in self._wordpieces(part)]

    def _wordpieces(self, word: str) -> list[str]:
        if len(word) > LONGEST_WORD:
            return [self.unknown]
        pieces, start = [], 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self.ids), None)
            if end is None:
                return [self.unknown]
            pieces.append(mark + word[start:end])
            start = end
        return pieces

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return " ".join(tokens).replace(" ##", "").strip()

    def files(self) -> Mapping[str, str | bytes]:
        return {"vocab.txt": "".join(self.tokens[index] + "\n" for index in sorted(self.tokens))}


# ---- finders of words


def _plain(word: str) -> str:
    """Small letters without accents."""
    letters = unicodedata.normalize("NFD", word.lower())
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")


def _basic(options: dict[str, object]) -> Words:
    """Words between spaces, and punctuation marks alone."""
    _refuse("basic", options)
    clean = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    splitter = pre_tokenizers.BertPreTokenizer()

    def found(text: str, special: Sequence[str]) -> list[str]:
        words = unicodedata.normalize("NFC", clean.normalize_str(text)).split()
        parts = ([word] if word in special else [part for part, _ in splitter.pre_tokenize_str(word)] for word in words)
        return [part for word in parts for part in word]

    return found


def _mecab(options: dict[str, object]) -> Words:
    dictionary = options.pop("mecab_dic", "unidic_lite")
    normal, more = _flag(options, "normalize_text", True), options.pop("mecab_option", None) or ""
    options.pop("do_lower_case", None), options.pop("never_split", None)
    _refuse("mecab", options)
    place = ""
    if dictionary is not None:
        if dictionary not in ("ipadic", "unidic_lite", "unidic"):
            raise ConfigError(
                "unknown dictionary", where="mecab_kwargs: mecab_dic", expected="ipadic, unidic_lite or unidic",
                found=f"{dictionary!r:.80}",
            )  # fmt: skip
        folder = Path(str(_package(str(dictionary), "MeCab's dictionary").DICDIR))
        if not folder.is_dir():
            raise ConfigError(
                "the dictionary itself is not there", where=str(folder), remedy="python -m unidic download"
            )
        place = f'-d "{folder}" -r "{folder / "mecabrc"}" '
    tagger = _package("fugashi", "MeCab").GenericTagger(place + str(more))

    def found(text: str, special: Sequence[str]) -> list[str]:
        return [word.surface for word in tagger(_normal(text) if normal else text)]

    return found


def _sudachi(options: dict[str, object]) -> Words:
    normal, trim = _flag(options, "normalize_text", True), _flag(options, "trim_whitespace", False)
    mode = options.pop("sudachi_split_mode", "A")
    names = {"sudachi_config_path": "config_path", "sudachi_resource_dir": "resource_dir", "sudachi_dict_type": "dict"}
    given = {theirs: options.pop(ours) for ours, theirs in names.items() if options.get(ours) is not None}
    projection = options.pop("sudachi_projection", None)
    for name in [*names, "do_lower_case", "never_split"]:
        options.pop(name, None)
    _refuse("sudachi", options)
    package = _package("sudachipy", "Sudachi")
    if mode not in ("A", "B", "C"):
        raise ConfigError("unknown mode", where="sudachi_kwargs: sudachi_split_mode", expected="A, B or C", found=mode)
    modes = package.SplitMode
    mode = {"A": modes.A, "B": modes.B, "C": modes.C}[str(mode)]
    made = package.Dictionary(**{"dict": "core", **given})
    cutter = made.create(mode) if projection is None else made.create(mode, projection=projection)

    def found(text: str, special: Sequence[str]) -> list[str]:
        words = [word.surface() for word in cutter.tokenize(_normal(text) if normal else text)]
        return [word.strip() for word in words if word.strip()] if trim else words

    return found


def _jumanpp(options: dict[str, object]) -> Words:
    normal, trim = _flag(options, "normalize_text", True), _flag(options, "trim_whitespace", False)
    for name in ("do_lower_case", "never_split"):
        options.pop(name, None)
    _refuse("jumanpp", options)
    juman = _package("rhoknp", "Juman++").Jumanpp()

    def found(text: str, special: Sequence[str]) -> list[str]:
        text = (_normal(text) if normal else text).strip()
        words = [morpheme.text for morpheme in juman.apply_to_sentence(text).morphemes]
        return [word.strip() for word in words if word.strip()] if trim else words

    return found


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _flag(options: dict[str, object], name: str, default: bool) -> bool:
    value = options.pop(name, default)
    if not isinstance(value, bool):
        raise ConfigError("this is true or false", where=name, found=f"{value!r:.80}")
    return value


def _refuse(finder: str, options: Mapping[str, object]) -> None:
    if options:
        raise ConfigError("unknown options", where=f"{finder}_kwargs", found=", ".join(sorted(options))[:200])


def _package(name: str, what: str) -> Any:  # a module of somebody else's
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyError(
            f"{what} is not installed, which this tokenizer needs", remedy=f"pip install {name.replace('_', '-')}"
        ) from error


def japanese(files: Mapping[str, Path], settings: Settings) -> JapaneseScript:
    """The script of a folder.

    Raises:
        ConfigError: there is no vocabulary, or a setting is not supported.
        DependencyError: what finds words is not installed.
    """
    if "vocab.txt" not in files:
        raise ConfigError("the folder holds no vocabulary", where=settings.where, expected="vocab.txt")
    words, parts = (
        settings.text("word_tokenizer_type") or "basic",
        settings.text("subword_tokenizer_type") or "wordpiece",
    )
    if words not in _FINDERS or parts not in ("wordpiece", "character"):
        raise ConfigError(
            "words are found, or cut, in another way than is supported here",
            where=settings.where,
            expected=f"word_tokenizer_type one of {list(_FINDERS)}, subword_tokenizer_type wordpiece or character",
            found=f"{words!r:.60}, {parts!r:.60}",
        )
    options = settings.values.get(f"{words}_kwargs") or {}
    if not isinstance(options, Mapping):
        raise ConfigError(
            "options come as a mapping", where=f"{settings.where}: {words}_kwargs", found=f"{options!r:.80}"
        )
    lines = read_text(files["vocab.txt"]).split("\n")
    return JapaneseScript(
        ids={line: index for index, line in enumerate(lines if lines[-1] else lines[:-1])},
        unknown=str(settings.named["unk_token"]),
        words=words if settings.flag("do_word_tokenize", True) else None,
        parts=parts if settings.flag("do_subword_tokenize", True) else None,
        options=dict(options),
        small=settings.flag("do_lower_case", False),
        lowers=settings.flag("do_lower_case", False),
    )


_FINDERS: dict[str, Callable[[dict[str, object]], Words]] = {
    "basic": _basic, "mecab": _mecab, "sudachi": _sudachi, "jumanpp": _jumanpp,
}  # fmt: skip
