"""Scripts of bytes, of code points and of words (ByT5, Perceiver, CANINE, ESM), and how each class's is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import processors

from omniform.inputs.text.assemble import required
from omniform.inputs.text.ctc_script import CTCScript
from omniform.inputs.text.scripted import Cut
from omniform.inputs.text.settings import Settings, read_json, read_text, vocabulary_file
from omniform.inputs.text.special import HasTokens

_BYTES = 256
_CODE_POINTS = 0x110000
_PRIVATE = 0xE000
# Private characters of CANINE and the names that their ids are shown by; id 0 is padding.
_SHOWN = {0: "[PAD]", **{_PRIVATE + i: n for i, n in enumerate(("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[RESERVED]"))}}


@dataclass(slots=True)
class ByteScript:
    """UTF-8, a token for each byte, numbered behind the special tokens.

    Attributes:
        first: the id of byte 0.
        errors: what is done with bytes that are no text, as ``bytes.decode`` calls it.
        once: as for every script.
    """

    first: int
    errors: str
    once: str | None = None
    size: int = _BYTES
    lowers: bool = False
    unsplit: tuple[str, ...] = ()

    def vocabulary(self) -> dict[str, int]:
        return {chr(byte): self.first + byte for byte in range(_BYTES)}

    def holds(self, token: str) -> bool:
        return len(token) == 1 and ord(token) < _BYTES

    def id_of(self, token: str) -> int | None:
        return ord(token) + self.first if self.holds(token) else None

    def token_of(self, index: int) -> str | None:
        return chr(index - self.first) if 0 <= index - self.first < _BYTES else None

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        return [Cut(chr(byte), at, at + 1) for at, letter in enumerate(text) for byte in letter.encode()]

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        data = b"".join(
            token.encode() if token in added or len(token) != 1 or ord(token) >= _BYTES else bytes([ord(token)])
            for token in tokens
        )
        return data.decode("utf-8", errors=self.errors)

    def files(self) -> dict[str, str]:
        return {}


@dataclass(slots=True)
class CodePointScript:
    """Unicode, a token for each code point."""

    size: int = _CODE_POINTS
    lowers: bool = False
    once: str | None = None
    unsplit: tuple[str, ...] = ()

    def vocabulary(self) -> dict[str, int]:
        return {chr(point): point for point in range(_CODE_POINTS)}

    def holds(self, token: str) -> bool:
        return len(token) == 1

    def id_of(self, token: str) -> int | None:
        return ord(token) if len(token) == 1 else None

    def token_of(self, index: int) -> str | None:
        return _SHOWN.get(index, chr(index) if index < _CODE_POINTS else None)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        return [Cut(letter, at, at + 1) for at, letter in enumerate(text)]

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return "".join(tokens)

    def files(self) -> dict[str, str]:
        return {}


@dataclass(slots=True)
class WordScript:
    """A list of words; texts are cut at white space, and wherever one of the words stands.

    Attributes:
        words: in the order of their ids.
        unknown: the one that stands for all others.
    """

    words: list[str]
    unknown: str | None
    lowers: bool = False
    once: str | None = None
    size: int = field(init=False)
    unsplit: tuple[str, ...] = field(init=False)
    _ids: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._ids = {word: index for index, word in enumerate(self.words)}
        self.size, self.unsplit = len(self.words), tuple(filter(None, self.words))

    def vocabulary(self) -> dict[str, int]:
        return dict(self._ids)

    def holds(self, token: str) -> bool:
        return token in self._ids

    def id_of(self, token: str) -> int | None:
        return self._ids.get(token, None if self.unknown is None else self._ids.get(self.unknown))

    def token_of(self, index: int) -> str | None:
        return self.words[index] if index < len(self.words) else self.unknown

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        cuts, at = [], 0
        for word in text.split():
            at = text.index(word, at)
            cuts.append(Cut(word, at, at + len(word)))
            at += len(word)
        return cuts

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return " ".join(tokens)

    def files(self) -> dict[str, str]:
        return {"vocab.txt": "\n".join(self.words)}


# ---- the classes


def _text(settings: Settings, name: str) -> str | None:
    token = settings.named.get(name)
    return None if token is None else str(token)


def byt5(files: Mapping[str, Path], settings: Settings) -> ByteScript:
    """ByT5's bytes, behind padding, end and unknown; what is cut within a character is left out."""
    return ByteScript(first=3, errors="ignore", once=_text(settings, "eos_token"))


def byt5_tokens(settings: Settings) -> None:
    """The sentinels, ``<extra_id_0>`` and up; ``extra_ids`` says how many (125)."""
    count = settings.integer("extra_ids")
    count = 125 if count is None else count
    if count > 0 and settings.additional is None and settings.extra is None:
        settings.additional = [f"<extra_id_{index}>" for index in range(count)]
    # They are among the special tokens from now on.
    settings.values["extra_ids"] = 0


def perceiver(files: Mapping[str, Path], settings: Settings) -> ByteScript:
    """Perceiver's bytes, behind six special tokens."""
    return ByteScript(first=6, errors="replace")


def of_2048(settings: Settings) -> None:
    """Texts are 2048 tokens long, where the folder says nothing else."""
    if settings.integer("model_max_length") is None:
        settings.values["model_max_length"] = 2048


def canine(files: Mapping[str, Path], settings: Settings) -> CodePointScript:
    """CANINE's code points."""
    return CodePointScript()


def esm(files: Mapping[str, Path], settings: Settings) -> WordScript:
    """ESM's amino acids."""
    lines = read_text(vocabulary_file(files, "vocab.txt", settings)).splitlines()
    return WordScript([line.strip() for line in lines], _text(settings, "unk_token"))


def ctc(files: Mapping[str, Path], settings: Settings) -> CTCScript:
    """Wav2Vec2's letters."""
    delimiter = settings.specific.get("word_delimiter_token")
    space = settings.text("replace_word_delimiter_char")
    return CTCScript(
        tables=read_json(vocabulary_file(files, "vocab.json", settings)),
        language=settings.text("target_lang"),
        unknown=_text(settings, "unk_token"),
        delimiter=None if delimiter is None else str(delimiter),
        space=" " if space is None else space,
        pad=_text(settings, "pad_token"),
        lowers=settings.flag("do_lower_case", False),
    )


def ctc_tokens(settings: Settings) -> None:
    """The token between words."""
    settings.specific.setdefault("word_delimiter_token", "|")


# ---- framings


def eos_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``A </s> B </s>``, all of one type."""
    end = required(tokenizer, "eos_token", settings.where)
    return processors.TemplateProcessing(single=["$A", end[0]], pair=["$A", end[0], "$B", end[0]], special_tokens=[end])


def cls_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``[CLS] A [SEP] B [SEP]``, all of one type."""
    (first, _), (last, _) = tokens = [required(tokenizer, name, settings.where) for name in ("cls_token", "sep_token")]
    return processors.TemplateProcessing(
        single=[first, "$A", last], pair=[first, "$A", last, "$B", last], special_tokens=tokens
    )


def typed_cls_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``[CLS] A [SEP] B [SEP]``, the second text as type 1."""
    return _typed(tokenizer, settings, "sep_token")


def esm_frame(tokenizer: HasTokens, settings: Settings) -> processors.PostProcessor:
    """``<cls> A <eos> B <eos>``; without an end where the vocabulary has none."""
    if tokenizer.named_token("eos_token") is None:
        first = required(tokenizer, "cls_token", settings.where)
        return processors.TemplateProcessing(single=[first[0], "$A"], special_tokens=[first])
    return _typed(tokenizer, settings, "eos_token")


def _typed(tokenizer: HasTokens, settings: Settings, end: str) -> processors.PostProcessor:
    (first, _), (last, _) = tokens = [required(tokenizer, name, settings.where) for name in ("cls_token", end)]
    return processors.TemplateProcessing(
        single=[f"{first}:0", "$A:0", f"{last}:0"],
        pair=[f"{first}:0", "$A:0", f"{last}:0", "$B:1", f"{last}:1"],
        special_tokens=tokens,
    )
