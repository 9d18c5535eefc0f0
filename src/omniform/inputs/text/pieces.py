"""Scripts of sentencepiece's pieces, numbered by a vocabulary of their own: Marian, M2M-100."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Regex, normalizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram

from omniform.core.errors import ConfigError, RepoError
from omniform.inputs.text import language_codes
from omniform.inputs.text.growth import check_charsmap
from omniform.inputs.text.scripted import Cut
from omniform.inputs.text.sentencepiece import UNIGRAM, Piece, SentencePieceModel, read_sentencepiece
from omniform.inputs.text.settings import Settings, read_json, vocabulary_file

_SPACE = "▁"
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3


@dataclass(slots=True)
class Segmenter:
    """A sentencepiece file, and the pieces that it cuts texts into.

    Attributes:
        data: the file, to be written back.
        names: its pieces, in their order.
    """

    data: bytes
    _backend: Backend
    names: list[str]
    _known: frozenset[str]
    _controls: frozenset[str]
    _unknown: str

    @classmethod
    def of(cls, path: Path) -> Segmenter:
        """Read a file.

        Raises:
            RepoError: it cannot be read.
            ConfigError: it is no sentencepiece model.
        """
        model = read_sentencepiece(path)
        if model.charsmap:
            check_charsmap(model.charsmap, str(path))
        # Control pieces are never found in texts.
        kept = [piece for piece in model.pieces if piece.kind == _NORMAL or piece.kind > _CONTROL]
        unknown = next((piece.text for piece in model.pieces if piece.kind == _UNKNOWN), model.unk_piece)
        if model.model_type == UNIGRAM:
            made = Backend(Unigram(_scores(unknown, kept), unk_id=0, byte_fallback=model.byte_fallback))
        else:
            ids = {text: index for index, text in enumerate(dict.fromkeys([unknown, *(p.text for p in kept)]))}
            merges = [(left, right) for left, right in model.merges() if {left, right, left + right} <= ids.keys()]
            made = Backend(
                BPE(vocab=ids, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback)
            )
        made.normalizer = _normalizer(model)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error
        names, controls = [piece.text for piece in model.pieces], {p.text for p in model.pieces if p.kind == _CONTROL}
        return cls(data, made, names, frozenset(piece.text for piece in kept), frozenset(controls), unknown)

    def cut(self, text: str) -> list[Cut]:
        """The pieces of a text; what is in none of them stands as it is."""
        found = self._backend.encode(text, add_special_tokens=False)
        cuts = [Cut(token, *span) for token, span in zip(found.tokens, found.offsets, strict=True)]
        # Unigram gives unknown text itself, BPE a name for it.
        return [cut if cut.token in self._known or cut.token != self._unknown else _itself(cut, text) for cut in cuts]

    def name(self, index: int) -> str | None:
        """The piece of a number."""
        return self.names[index] if 0 <= index < len(self.names) else None

    def join(self, pieces: Sequence[str]) -> str:
        """The text of pieces, without the space before it; what is none of them stands as it is."""
        text, at_start = "", True
        for piece in pieces:
            if piece in self._controls:
                continue
            known = piece in self._known
            told = piece.removeprefix(_SPACE) if known and at_start else piece
            text += told.replace(_SPACE, " ") if known else told
            at_start = False
        return text


def _scores(unknown: str, kept: Sequence[Piece]) -> list[tuple[str, float]]:
    # The unknown piece is never found in a text: it goes by a name that none has.
    return [(f"\U0010fffe{unknown}\U0010ffff", 0.0), *((piece.text, piece.score) for piece in kept)]


def _normalizer(model: SentencePieceModel) -> normalizers.Normalizer:
    """What a file says is done to a text first (https://github.com/google/sentencepiece, src/normalizer.cc)."""
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.single_spaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A | \z"), "")]
    if model.prefixed:
        steps.append(normalizers.Prepend(" "))
    steps.append(normalizers.Replace(" ", _SPACE))
    if model.single_spaces:
        steps.append(normalizers.Replace(Regex(rf"{_SPACE}+\z"), ""))
    return normalizers.Sequence(steps)


def _itself(cut: Cut, text: str) -> Cut:
    return Cut(text[cut.start : cut.end], cut.start, cut.end)


@dataclass(slots=True)
class PieceScript:
    """Pieces of one sentencepiece file, numbered by ``vocab.json``.

    Attributes:
        ids: the numbers.
        segmenter: what cuts texts.
        unknown: the token that stands for what has no number.
    """

    ids: dict[str, int]
    segmenter: Segmenter
    unknown: str
    lowers: bool = False
    once: str | None = None
    unsplit: tuple[str, ...] = ()
    _tokens: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self._tokens = {index: token for token, index in self.ids.items()}

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
        return self._tokens.get(index, self.unknown)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        return self.segmenter.cut(text)

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        return _told(tokens, added, "", self.segmenter)

    def files(self) -> Mapping[str, str | bytes]:
        return {"vocab.json": _json(self.ids), "sentencepiece.bpe.model": self.segmenter.data}


@dataclass(slots=True)
class LanguageScript(PieceScript):
    """M2M-100's, whose languages are numbered behind the vocabulary.

    Attributes:
        languages: their codes.
    """

    languages: tuple[str, ...] = ()

    def id_of(self, token: str) -> int | None:
        return self.lang_ids().get(token, PieceScript.id_of(self, token))

    def token_of(self, index: int) -> str | None:
        at = index - self.size
        return f"__{self.languages[at]}__" if 0 <= at < len(self.languages) else PieceScript.token_of(self, index)

    def lang_ids(self) -> dict[str, int]:
        """The languages' tokens and their ids."""
        return {f"__{code}__": self.size + index for index, code in enumerate(self.languages)}


@dataclass(slots=True)
class PairScript(PieceScript):
    """Marian's: a file for texts and another for answers, which may have a vocabulary of their own.

    Attributes:
        target: cuts answers.
        target_ids: their numbers, if not those of texts.
        writes: whether what comes is an answer.
    """

    target: Segmenter = field(kw_only=True)
    target_ids: dict[str, int] | None = None
    writes: bool = False

    def __post_init__(self) -> None:
        numbers = self.ids if self.target_ids is None else self.target_ids
        self._tokens = {index: token for token, index in numbers.items()}

    def id_of(self, token: str) -> int | None:
        numbers = self.target_ids if self.writes and self.target_ids is not None else self.ids
        return numbers.get(token, numbers.get(self.unknown))

    def token_of(self, index: int) -> str | None:
        segmenter = self.segmenter if self.target_ids is None else self.target
        return self._tokens[index] if index in self._tokens else segmenter.name(index)

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        end = text.find("<<") + 2 if text.startswith(">>") and "<<" in text else 0
        code = [Cut(text[:end], 0, end)] if end else []
        pieces = (self.target if self.writes else self.segmenter).cut(text[end:])
        return [*code, *(Cut(piece.token, piece.start + end, piece.end + end) for piece in pieces)]

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        segmenter = self.segmenter if self.target_ids is None else self.target
        return _told(tokens, added, " ", segmenter).replace(_SPACE, " ").strip()

    def files(self) -> Mapping[str, str | bytes]:
        tables = {"vocab.json": _json(self.ids)}
        if self.target_ids is not None:
            tables["target_vocab.json"] = _json(self.target_ids)
        return {**tables, "source.spm": self.segmenter.data, "target.spm": self.target.data}


def _told(tokens: Sequence[str], added: Mapping[str, int], between: str, segmenter: Segmenter) -> str:
    """The text of tokens, added ones as they are."""
    text, pieces = "", list[str]()
    for token in tokens:
        if token in added:
            text += segmenter.join(pieces) + token + between
            pieces = []
        else:
            pieces.append(token)
    return (text + segmenter.join(pieces)).strip()


def _json(ids: Mapping[str, int]) -> str:
    return json.dumps(ids, indent=2)


# ---- the classes


def _ids(files: Mapping[str, Path], name: str, unknown: str, settings: Settings) -> dict[str, int]:
    raw = read_json(vocabulary_file(files, name, settings))
    ids = {token: index for token, index in raw.items() if isinstance(index, int) and not isinstance(index, bool)}
    if len(ids) < len(raw) or unknown not in ids:
        raise ConfigError(
            "the file is no vocabulary", where=str(files[name]), expected=f"tokens and their ids, {unknown} among them"
        )
    return ids


def marian(files: Mapping[str, Path], settings: Settings) -> PairScript:
    """Marian's ``source.spm``, ``target.spm`` and ``vocab.json``; ``target_vocab.json`` where they are apart."""
    unknown = str(settings.named["unk_token"])
    apart = settings.flag("separate_vocabs", False)
    settings.values.pop("target_vocab_file", None)
    return PairScript(
        ids=_ids(files, "vocab.json", unknown, settings),
        segmenter=Segmenter.of(vocabulary_file(files, "source.spm", settings)),
        unknown=unknown,
        target=Segmenter.of(vocabulary_file(files, "target.spm", settings)),
        target_ids=_ids(files, "target_vocab.json", unknown, settings) if apart else None,
    )


def of_512(settings: Settings) -> None:
    """Texts are 512 tokens long, where the folder says nothing else."""
    if settings.integer("model_max_length") is None:
        settings.values["model_max_length"] = 512


LANGUAGES = {"m2m100": language_codes.M2M100, "wmt21": language_codes.WMT21}
"""Lists of languages by what ``language_codes`` calls them."""


def m2m100(files: Mapping[str, Path], settings: Settings) -> LanguageScript:
    """M2M-100's ``vocab.json`` and ``sentencepiece.bpe.model``."""
    unknown, kind = str(settings.named["unk_token"]), settings.text("language_codes") or "m2m100"
    if kind not in LANGUAGES:
        raise ConfigError(
            "no such list of languages",
            where=f"{settings.where}: language_codes",
            expected=" or ".join(LANGUAGES),
            found=repr(kind),
        )
    return LanguageScript(
        ids=_ids(files, "vocab.json", unknown, settings),
        segmenter=Segmenter.of(vocabulary_file(files, "sentencepiece.bpe.model", settings)),
        unknown=unknown,
        languages=tuple(LANGUAGES[kind]),
    )
