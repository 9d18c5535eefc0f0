"""Calls into the Rust tokenizer: guarded, by turns, and without a trace.

The backend keeps padding and truncation as state, raises bare exceptions, and panics on some inputs. Here its state is
set for one call and put back however that ends, and whatever it raises becomes one typed error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from tokenizers import Encoding

from omniform.core.errors import ConfigError, InputError, OmniformError
from omniform.inputs.text.options import Limits
from omniform.inputs.text.rows import Row
from omniform.inputs.text.scripted import Machinery
from omniform.inputs.text.settings import Side

LARGEST_OVERFLOW = 10**7
"""One row may overflow into rows of so many tokens together: a pair that is cut twice makes every combination."""

_COLUMNS = ("ids", "type_ids", "tokens", "words", "offsets", "special_tokens_mask", "attention_mask")


@contextmanager
def guarded(
    message: str, kind: type[InputError] | type[ConfigError] = InputError, where: str | None = None
) -> Iterator[None]:
    """Turn what the backend raises into one typed error, its panics too, which are no ``Exception``."""
    try:
        yield
    except OmniformError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        raise kind(message, where=where, found=str(error).strip(" ,") or type(error).__name__) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How rows are encoded, besides the limits of their length.

    Attributes:
        framed: whether special tokens frame them.
        in_words: whether they are split into words already.
        split_special: whether special tokens in them are plain text.
        side: the side that is cut.
        overflow: whether what is cut off makes further rows.
        pad_id: the token to pad with, by its id,
        pad_token: and its text.
    """

    framed: bool
    in_words: bool
    split_special: bool
    side: Side
    overflow: bool
    pad_id: int
    pad_token: str


def encode_rows(backend: Machinery, turn: Lock, rows: Sequence[Row], limits: Limits, asked: Asked) -> list[Encoding]:
    """Encode rows, cut and padded as the limits say.

    Args:
        backend: the tokenizer proper, which is left as it is.
        turn: held while the backend's state is set, for calls from several threads.

    Raises:
        InputError: rows cannot be cut as asked, or the backend fails.
    """
    with guarded("the text cannot be encoded as asked"), turn, _left_as_it_is(backend):
        added = {pair: backend.num_special_tokens_to_add(pair) if asked.framed else 0 for pair in (False, True)}
        _check_room(limits, added[any(isinstance(row, tuple) for row in rows)])
        backend.encode_special_tokens = asked.split_special
        if limits.truncation is None or limits.max_length is None:
            found = _batch(backend, rows, asked, asked.framed)
        elif asked.overflow or not any(isinstance(row, tuple) for row in rows):
            for index, row in enumerate(rows) if asked.overflow else ():
                _check_overflow(backend, row, limits, asked, added, index)
            stride = limits.stride if asked.overflow else 0
            backend.enable_truncation(
                limits.max_length, stride=stride, strategy=limits.truncation, direction=asked.side
            )
            found = _batch(backend, rows, asked, asked.framed)
        else:
            found = _batch(backend, rows, asked, asked.framed)
            for index, row in enumerate(rows):
                if len(found[index]) > limits.max_length:
                    room = limits.max_length - added[isinstance(row, tuple)]
                    found[index] = _cut(backend, row, room, limits.truncation, asked)
    _pad(found, limits, asked)
    return found


@contextmanager
def _left_as_it_is(backend: Machinery) -> Iterator[None]:
    """Without truncation and padding inside; with what was set before, after."""
    truncation, padding, split = backend.truncation, backend.padding, backend.encode_special_tokens
    frame = backend.post_processor
    try:
        backend.no_truncation()
        backend.no_padding()
        yield
    finally:
        backend.encode_special_tokens = split
        backend.post_processor = frame
        if truncation is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def _batch(backend: Machinery, rows: Sequence[Row], asked: Asked, framed: bool) -> list[Encoding]:
    return backend.encode_batch(list(rows), is_pretokenized=asked.in_words, add_special_tokens=framed)


# ---- cutting


def _check_room(limits: Limits, least: int) -> None:
    if limits.truncation is None or limits.max_length is None:
        return
    if limits.max_length < least:
        # The backend would leave such rows as long as they are.
        raise InputError(
            "the special tokens alone are longer than this",
            where="max_length",
            expected=f"{least} or more",
            found=limits.max_length,
            remedy="add_special_tokens=False leaves them out.",
        )
    if limits.stride and limits.stride >= limits.max_length - least:
        raise InputError(
            "rows would share all their tokens with the row before",
            where="stride",
            expected=f"under {limits.max_length - least}, what max_length leaves beside special tokens",
            found=limits.stride,
        )


def _kept(first: int, second: int, room: int, strategy: str) -> tuple[int, int]:
    """How many tokens of two texts stay, of which together more than ``room`` are there."""
    excess = first + second - room
    if room == 0:
        return 0, 0
    if strategy == "longest_first":
        shorter, longer = sorted((first, second))
        if shorter <= room:
            longer = max(shorter, room - shorter)
        else:
            longer = shorter
        if shorter + longer > room:
            shorter, longer = room // 2, room - room // 2
        return (shorter, longer) if first <= second else (longer, shorter)
    length = first if strategy == "only_first" else second
    if length <= excess:
        raise InputError(
            "the text that is to be cut is too short for it",
            where="truncation",
            expected=f"over {excess} tokens in the {'first' if strategy == 'only_first' else 'second'} text",
            found=length,
            remedy="truncation='longest_first' cuts both.",
        )
    return (first - excess, second) if strategy == "only_first" else (first, second - excess)


def _cut(backend: Machinery, row: Row, room: int, strategy: str, asked: Asked) -> Encoding:
    """One row that is too long, without what overflows: the backend would make that anyway, of every combination."""
    frame = backend.post_processor
    parts = _parts(backend, row, asked)
    backend.post_processor = frame
    second = parts[1] if len(parts) > 1 else None
    kept = _kept(len(parts[0]), 0 if second is None else len(second), room, strategy)
    first = _sliced(parts[0], kept[0], asked.side, 0)
    return backend.post_process(first, second and _sliced(second, kept[1], asked.side, 1), asked.framed)


def _parts(backend: Machinery, row: Row, asked: Asked) -> list[Encoding]:
    """The texts of a row, not framed."""
    backend.post_processor = None
    return _batch(backend, list(row) if isinstance(row, tuple) else [row], asked, False)


def _sliced(encoding: Encoding, count: int, side: Side, type_id: int) -> Encoding:
    # Encoding.truncate() keeps what it cuts off; only its state can be written without.
    state = json.loads(encoding.__getstate__())
    for name in _COLUMNS:
        state[name] = state[name][:count] if side == "right" else state[name][len(state[name]) - count :]
    state |= {"type_ids": [type_id] * count, "overflowing": []}
    sliced = Encoding()
    sliced.__setstate__(json.dumps(state).encode())
    return sliced


def _check_overflow(
    backend: Machinery, row: Row, limits: Limits, asked: Asked, added: dict[bool, int], index: int
) -> None:
    """Refuse a row whose overflow would fill the memory: by its length in bytes, and if that may be, by its tokens."""
    assert limits.max_length is not None and limits.truncation is not None
    texts = row if isinstance(row, tuple) else (row,)
    lengths = [sum(len(word.encode()) for word in ([text] if isinstance(text, str) else text)) for text in texts]
    room = limits.max_length - added[len(texts) > 1]
    if (max(lengths) + 1) ** len(texts) * limits.max_length <= LARGEST_OVERFLOW:
        return
    frame = backend.post_processor
    lengths = [len(part) for part in _parts(backend, row, asked)]
    backend.post_processor = frame
    if sum(lengths) <= room or room == 0:
        return
    kept = _kept(lengths[0], sum(lengths[1:]), room, limits.truncation)
    made = limits.max_length
    for length, stays in zip(lengths, kept, strict=False):
        made *= 1 if length <= stays else 1 + -(-(length - stays) // max(1, stays - limits.stride))
    if made > LARGEST_OVERFLOW:
        raise InputError(
            "what overflows is too much to give",
            where=f"row {index}",
            expected=f"up to {LARGEST_OVERFLOW} tokens in all rows that a row makes",
            found=f"about {made}",
            remedy="Ask for a smaller stride or a larger max_length, or cut one text of a pair only.",
        )


# ---- padding


def _pad(encodings: Sequence[Encoding], limits: Limits, asked: Asked) -> None:
    if limits.padding is None:
        return
    length = limits.max_length if limits.padding == "max_length" else max(map(len, encodings), default=0)
    if length is None:
        return
    if limits.multiple:
        length = -(-length // limits.multiple) * limits.multiple
    for encoding in encodings:
        if len(encoding) < length or encoding.overflowing:
            encoding.pad(length, direction=limits.side, pad_id=asked.pad_id, pad_token=asked.pad_token)
