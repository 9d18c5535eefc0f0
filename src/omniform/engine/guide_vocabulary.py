"""What a grammar has to know of a tokenizer: the bytes that every token stands for; made once per tokenizer.

Two things are unlike the lists that grammar libraries make themselves. End tokens are no part of it: which tokens end
an answer is a matter of each request, so one made-up token stands for all of them. And many tokenizers drop the space
in front of a text's first word (``▁Paris`` alone reads ``Paris``): a token that reads otherwise at the beginning of an
answer stands in the list a second time, as it reads there, so that the answer's text is what the grammar says.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from omniform.core.errors import DependencyError, InputError, brief
from omniform.engine.stop import Pieces, backend_of
from omniform.engine.text import Decodes

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from tokenizers import Tokenizer as Backend

    from omniform.engine.guide import Guide
    from omniform.engine.guides import Grammar

WORD: Final = 32
"""Tokens in one word of a mask."""

_SAMPLE: Final = 256
"""So many tokens tell whether a short way of reading them is right."""

_MARK: Final = 0xFF
"""A byte that no text holds; the library puts it in front of special tokens."""

_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CACHE: Final[WeakKeyDictionary[object, tuple[object, GuideVocabulary]]] = WeakKeyDictionary()
_LOCK: Final = threading.Lock()


@runtime_checkable
class _Named(Protocol):
    """The ecosystem's tokenizers."""

    @property
    def all_special_ids(self) -> list[int]: ...

    def get_vocab(self) -> dict[str, int]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Spellings:
    """The bytes of tokens.

    Attributes:
        tokens: each token's text anywhere but at the beginning of an answer; empty for those that have none.
        opening: how tokens read that read otherwise at the beginning of an answer.
        special: special tokens' names, by id; they are written only where a grammar names them.
    """

    tokens: tuple[bytes, ...]
    opening: Mapping[int, bytes]
    special: Mapping[int, bytes]


class GuideVocabulary:
    """A tokenizer as grammars see it.

    Args:
        spellings: the bytes of its tokens.

    Attributes:
        size: how many ids there are.
        words: 32-bit words of a mask over them.
        all_words: words of the masks that the library fills: the tokens, then those of :attr:`opening`, then the end.
        spells_bytes: whether any text can be written, byte by byte if need be.
        opening: ids of the tokens that read otherwise at the beginning. Shape: [m].
        library: the library's own view.
        ready: grammars that were made ready for it, the last used last.
    """

    def __init__(self, spellings: Spellings) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self.spellings = spellings
        self.ready: OrderedDict[Guide, Grammar] = OrderedDict()
        self.size = len(spellings.tokens)
        self.words = -(-self.size // WORD)
        single = {piece[0] for piece in spellings.tokens if len(piece) == 1}
        self.spells_bytes = single >= {*range(0xF5)} - {0xC0, 0xC1}
        self.opening: NDArray[np.int64] = np.array(sorted(spellings.opening), dtype=np.int64)
        self._first = self.words * WORD
        self._places = {int(token): self._first + i for i, token in enumerate(self.opening)}
        table = [piece if piece[:1] != bytes([_MARK]) else b"" for piece in spellings.tokens]
        for token, name in spellings.special.items():
            table[token] = name
        table += [b""] * (self._first - self.size)
        table += [spellings.opening[int(token)] for token in self.opening]
        end = len(table)
        table.append(b"</end>")
        self.all_words = -(-len(table) // WORD)
        listed = _Listed(table, end, [*(t for t, name in spellings.special.items() if name), end])
        self.library: LLTokenizer = LLTokenizer(TokenizerWrapper(listed))

    @staticmethod
    def of(tokenizer: Decodes) -> GuideVocabulary:
        """The view of a tokenizer, made at the first call; made anew once it has other tokens.

        Raises:
            DependencyError: llguidance is not installed.
            InputError: the tokenizer does not tell its tokens.
        """
        need_library()
        named = _named(tokenizer)
        try:
            stamp: object = (len(named), tuple(named.all_special_ids))
            with _LOCK:
                known = _CACHE.get(named)
                if known is None or known[0] != stamp:
                    known = _CACHE[named] = (stamp, GuideVocabulary(spellings(named)))
                return known[1]
        except TypeError:  # it cannot be kept by
            return GuideVocabulary(spellings(named))

    def place(self, token: int, *, first: bool) -> int:
        """The library's number of a token."""
        return self._places.get(token, token) if first else token

    def opening_words(self, words: NDArray[np.int32]) -> NDArray[np.int32]:
        """The mask of an answer's first token, of what the library says. Shape: [all_words] to [words]."""
        if not self.opening.size:
            return words[: self.words]
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        bits[self.opening] = bits[self._first : self._first + self.opening.size]
        return np.packbits(bits[: self._first], bitorder="little").view(np.int32)


class _Listed:
    """What the library asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], end: int, special: Sequence[int]) -> None:
        self.tokens = tokens
        self.eos_token_id = end
        self.special_token_ids = special
        self._ids = {piece: token for token, piece in enumerate(tokens) if piece and token not in {*special}}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes | str) -> list[int]:
        """The longest tokens that spell a text; what no token spells is left out."""
        rest = text if isinstance(text, bytes) else text.encode()
        found: list[int] = []
        while rest:
            ends = range(min(len(rest), self._longest), 0, -1)
            length = next((end for end in ends if rest[:end] in self._ids), 0)
            if length:
                found.append(self._ids[rest[:length]])
            rest = rest[length or 1 :]
        return found


def need_library() -> None:
    """Raise :class:`DependencyError` where llguidance is not installed."""
    try:
        import llguidance  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "grammars need the package llguidance", where="guide", remedy="pip install 'omniform[grammar]'"
        ) from error


def spellings(tokenizer: Decodes) -> Spellings:
    """The bytes of a tokenizer's tokens."""
    named = _named(tokenizer)
    backend = backend_of(tokenizer)
    vocabulary = named.get_vocab()
    size = max(vocabulary.values(), default=-1) + 1
    named_special = {token for token in named.all_special_ids if token is not None and token < size}
    if backend is not None:
        named_special |= {token for token, added in backend.get_added_tokens_decoder().items() if added.special}
    names = {token: name for name, token in vocabulary.items()}
    special = {token: names[token].encode() for token in named_special if names.get(token)}
    read = _reader(tokenizer, backend, names)
    tokens = [b""] * size
    for token in names:
        if token not in named_special:
            tokens[token] = read(token)
    return Spellings(tuple(tokens), _opening(tokenizer, backend, tokens, names), special)


def _named(tokenizer: Decodes) -> _NamedReader:
    from omniform.inputs.processors.base import Processor

    if isinstance(tokenizer, Processor):
        tokenizer = tokenizer.tokenizer
    if not isinstance(tokenizer, _NamedReader):
        raise InputError(
            "a grammar has to know every token's text, which this does not tell",
            where="tokenizer",
            expected="a tokenizer with get_vocab() and all_special_ids",
            found=brief(tokenizer),
        )
    return tokenizer


@runtime_checkable
class _NamedReader(_Named, Decodes, Protocol):
    """A tokenizer that tells its tokens, and reads them."""


def _reader(tokenizer: Decodes, backend: Backend | None, names: Mapping[int, str]) -> Callable[[int], bytes]:
    """Reads single tokens: the short way where that gives the same for a sample of them."""
    pieces = Pieces(tokenizer)

    def whole(token: int) -> bytes:
        piece = pieces[token]
        return b"" if "\ufffd".encode() in piece and "\ufffd" not in names[token] else piece

    def short(token: int) -> bytes:
        byte = _BYTE.fullmatch(names[token])
        return bytes([int(byte[1], 16)]) if byte else names[token].replace("▁", " ").encode()

    if backend is None:
        byte_token = _byte_tokens(tokenizer)
        return whole if byte_token is None else byte_token
    return short if all(short(token) == whole(token) for token in _sample(names)) else whole


def _byte_tokens(tokenizer: Decodes) -> Callable[[int], bytes] | None:
    """Reads the tokens of a tokenizer that has one for each byte, which are no text alone."""
    from omniform.inputs.text.scripted import Scripted
    from omniform.inputs.text.scripts import ByteScript
    from omniform.inputs.text.tokenizer import Tokenizer

    if not (isinstance(tokenizer, Tokenizer) and isinstance(tokenizer.backend, Scripted)):
        return None
    script, backend = tokenizer.backend.script, tokenizer.backend
    if not isinstance(script, ByteScript):
        return None
    added = backend.get_added_tokens_decoder()

    def read(token: int) -> bytes:
        name = added[token].content if token in added else backend.id_to_token(token)
        if name is None:
            return b""
        return name.encode() if token in added else bytes([ord(name)])

    return read


def _opening(
    tokenizer: Decodes, backend: Backend | None, tokens: Sequence[bytes], names: Mapping[int, str]
) -> dict[int, bytes]:
    """How tokens read at the beginning of an answer, where that is otherwise than elsewhere."""

    def alone(token: int) -> bytes:
        # Not the tokenizer's own decode, which may tidy the text up.
        if backend is None:
            text = str(tokenizer.decode([token]))
        else:
            text = names[token] if backend.decoder is None else str(backend.decoder.decode([names[token]]))
        return tokens[token] if "\ufffd" in text else text.encode()

    spaced = [t for t, piece in enumerate(tokens) if piece[:1] == b" " and len(piece) > 1]
    others = [t for t, piece in enumerate(tokens) if piece and piece[:1] != b" "]
    if all(alone(t) == tokens[t] for t in _sample(others)):
        if all(alone(t) == tokens[t] for t in _sample(spaced)):
            return {}
        if all(alone(t) == tokens[t][1:] for t in _sample(spaced)):
            return {t: piece[1:] for t, piece in enumerate(tokens) if piece[:1] == b" "}
    return {t: alone(t) for t, piece in enumerate(tokens) if piece and alone(t) != piece}


def _sample(tokens: Iterable[int]) -> list[int]:
    """Some of them, from all parts of a vocabulary."""
    every = sorted(tokens)
    return every[:: max(1, len(every) // _SAMPLE)]
