"""Reading sentencepiece model files.

Such a file is one protobuf message, ``ModelProto`` of
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto. Of it a tokenizer needs a handful of
fields, so this reads the wire format itself: no generated code, no further package, and nothing in a damaged file can
do more than raise :class:`ConfigError`.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken

from omniform.core.errors import ConfigError, RepoError

UNIGRAM, BPE = 1, 2
LARGEST_FILE = 1 << 27
"""A model file is read up to so many bytes; the largest published ones take 20 MB."""
MOST_PIECES = 1 << 21
"""A model holds up to so many pieces; the largest published ones hold a million."""
MOST_WORK = 10**9
"""The merges are looked for with up to so many characters of pieces compared: about a second."""

_CONTROL, _USER_DEFINED = 3, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary.

    Attributes:
        text: the piece, with ``▁`` for a space.
        score: its log-probability (Unigram), or minus its rank (BPE).
        kind: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    """

    text: str
    score: float
    kind: int


@dataclass(slots=True)
class SentencePieceModel:
    """The parts of a ``ModelProto`` that a tokenizer is built from; the defaults are the format's own.

    ``prefixed`` is its ``add_dummy_prefix``, ``single_spaces`` its ``remove_extra_whitespaces``.
    """

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    unk_piece: str = "<unk>"
    bos_piece: str = "<s>"
    eos_piece: str = "</s>"
    charsmap: bytes = b""
    prefixed: bool = True
    single_spaces: bool = True

    def added_tokens(self) -> list[AddedToken]:
        """The control and user-defined pieces, which text never splits."""
        return [
            AddedToken(piece.text, normalized=False, special=piece.kind == _CONTROL)
            for piece in self.pieces
            if piece.kind in (_CONTROL, _USER_DEFINED)
        ]

    def vocabulary(self) -> dict[str, int]:
        """Pieces and their ids."""
        return {piece.text: index for index, piece in enumerate(self.pieces)}

    def merges(self) -> list[tuple[str, str]]:
        """The merges of a BPE vocabulary: a file lists the results only, in order of merging.

        Each piece is what every split of it into two other pieces merges into; those that make an earlier piece come
        first, and of several splits that with the shorter left part.

        Raises:
            ConfigError: finding them would take more than :data:`MOST_WORK`.
        """
        vocabulary = self.vocabulary()
        lengths = sorted({len(piece) for piece in vocabulary})
        work = sum(bisect_left(lengths, len(piece)) * len(piece) for piece in vocabulary)
        if work > MOST_WORK:
            raise ConfigError(
                "the vocabulary's pieces are too long, of too many lengths, to find its merges",
                where="sentencepiece model",
                expected=f"up to {MOST_WORK} characters to compare",
                found=f"{work}, the longest piece of {lengths[-1]}",
            )
        known = set(lengths)
        return [
            (piece[:cut], piece[cut:])
            for piece, _ in sorted(vocabulary.items(), key=lambda item: item[1])
            for cut in lengths[: bisect_left(lengths, len(piece))]
            if len(piece) - cut in known and piece[:cut] in vocabulary and piece[cut:] in vocabulary
        ]


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a ``.model`` file.

    Raises:
        RepoError: it cannot be read.
        ConfigError: it is no sentencepiece model, or a damaged one.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise ConfigError(
                "the file is too large for a sentencepiece model",
                where=str(path),
                expected=f"up to {LARGEST_FILE} bytes",
                found=f"{size} bytes",
            )
        data = path.read_bytes()
    except OSError as error:
        raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1:
                if len(model.pieces) == MOST_PIECES:
                    raise ValueError(f"more than {MOST_PIECES} pieces")
                model.pieces.append(_piece(_as_bytes(value)))
            elif number == 2:
                _read_trainer(model, _as_bytes(value))
            elif number == 3:
                for inner, content in _fields(_as_bytes(value)):
                    if inner == 2:
                        model.charsmap = _as_bytes(content)
                    elif inner == 3:
                        model.prefixed = bool(_as_int(content))
                    elif inner == 4:
                        model.single_spaces = bool(_as_int(content))
    except (ValueError, IndexError, struct.error) as error:
        raise ConfigError(
            "the file is no sentencepiece model, or it is damaged",
            where=str(path),
            found=str(error),
            remedy="Where the repository has a tokenizer.json, that holds the same vocabulary.",
        ) from error
    if not model.pieces:
        raise ConfigError("the sentencepiece model holds no pieces", where=str(path))
    return model


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1:
            text = _as_bytes(value).decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", _as_bytes(value))
        elif number == 3:
            kind = _as_int(value)
    return Piece(text, score, kind)


def _read_trainer(model: SentencePieceModel, data: bytes) -> None:
    for number, value in _fields(data):
        match number:
            case 3:
                model.model_type = _as_int(value)
            case 35:
                model.byte_fallback = bool(_as_int(value))
            case 40:
                model.unk_id = _as_int(value)
            case 41:
                model.bos_id = _as_int(value)
            case 42:
                model.eos_id = _as_int(value)
            case 45:
                model.unk_piece = _as_bytes(value).decode("utf-8")
            case 46:
                model.bos_piece = _as_bytes(value).decode("utf-8")
            case 47:
                model.eos_piece = _as_bytes(value).decode("utf-8")
            case _:
                pass  # how the vocabulary was trained


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message as (number, value): a varint as an integer, everything else as its bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            # Negative int32 values are written as 64-bit two's complement.
            yield number, value - (1 << 64) if value >= 1 << 63 else value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if number == 0 or position + length > len(data):
            raise ValueError(f"a field of {length} bytes at byte {position} of {len(data)}")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"an endless number at byte {position}")


def _as_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message or text belongs")
    return value


def _as_int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a message or text where a number belongs")
    return value
