"""Tokenizers that the ``tokenizers`` package has no steps for: bytes, code points, letters of speech, Japanese words.

Each is a :class:`Script`, which cuts texts and joins tokens; :class:`Scripted` gives it what a ``tokenizers.Tokenizer``
has besides: added tokens, framing, truncation. The last two are those of that package, on encodings made here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from tokenizers import AddedToken, Encoding, models, processors
from tokenizers import Tokenizer as Backend

from omniform.core.errors import ConfigError
from omniform.inputs.text.special import Token


@dataclass(frozen=True, slots=True)
class Cut:
    """A token, and the characters that it stands for, from ``start`` to before ``end``."""

    token: str
    start: int
    end: int


class Script(Protocol):
    """How one kind of tokenizer cuts texts and joins tokens.

    Attributes:
        size: of the vocabulary without added tokens.
        lowers: whether added tokens that are not special are kept in small letters.
        once: the token that ends a framed text once only, though the text may end with it already.
        unsplit: tokens that texts are cut at, as at added ones.
    """

    lowers: bool
    once: str | None
    unsplit: tuple[str, ...]

    @property
    def size(self) -> int: ...

    def vocabulary(self) -> dict[str, int]:
        """Tokens and their ids, without added ones."""

    def holds(self, token: str) -> bool:
        """Whether a token is of the vocabulary."""

    def id_of(self, token: str) -> int | None:
        """The id of a token of the vocabulary, or of what stands for unknown ones."""

    def token_of(self, index: int) -> str | None:
        """The token of an id, or ``None``."""

    def cut(self, text: str, special: Sequence[str]) -> list[Cut]:
        """The tokens of a text without added tokens; ``special`` are those that stand apart."""

    def join(self, tokens: Sequence[str], added: Mapping[str, int]) -> str:
        """The text of tokens, added ones among them."""

    def files(self) -> Mapping[str, str | bytes]:
        """The vocabulary's files."""


class Scripted:
    """A script with added tokens and a framing; what a ``tokenizers.Tokenizer`` is for the other kinds.

    Args:
        script: what cuts and joins.
        added: tokens that have their ids already.
    """

    normalizer: ClassVar[None] = None
    model: ClassVar[None] = None
    padding: ClassVar[None] = None

    def __init__(self, script: Script, added: Mapping[int, AddedToken]) -> None:
        self.script = script
        self._added = dict(added)
        self._ids = {token.content: index for index, token in added.items()}
        self.encode_special_tokens = False
        # It frames and truncates; its own vocabulary is never asked.
        self._frame = Backend(models.WordLevel({"": 0}, ""))
        self._pattern: re.Pattern[str] | None = None

    # ---- the vocabulary

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """Tokens and their ids."""
        return {**self.script.vocabulary(), **(self._ids if with_added_tokens else {})}

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """How many tokens there are."""
        if not with_added_tokens:
            return self.script.size
        return self.script.size + sum(not self.script.holds(token) for token in self._ids)

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by id."""
        return dict(sorted(self._added.items()))

    def token_to_id(self, token: str) -> int | None:
        """The id of a token."""
        return self._ids[token] if token in self._ids else self.script.id_of(token)

    def id_to_token(self, index: int) -> str | None:
        """The token of an id."""
        return self._added[index].content if index in self._added else self.script.token_of(index)

    def add_special_tokens(self, tokens: Sequence[Token]) -> int:
        """Add tokens as special ones; how many the vocabulary lacked."""
        return self._add(tokens, special=True)

    def add_tokens(self, tokens: Sequence[Token]) -> int:
        """Add tokens; how many the vocabulary lacked."""
        return self._add(tokens, special=False)

    def _add(self, tokens: Sequence[Token], special: bool) -> int:
        new = 0
        for token in tokens:
            if isinstance(token, str):
                if token in self._ids:
                    continue
                token = AddedToken(token, normalized=not special, special=special)
            elif special:
                token = _flagged(token, token.content)
            if not token.content or token in self._added.values():
                continue
            if self.script.lowers and token.normalized and not token.special:
                token = _flagged(token, token.content.lower(), special=False)
            if token.content in self._ids:
                index = self._ids[token.content]
            elif self.script.holds(token.content):
                index = self._id(token.content)
            else:
                index = self.get_vocab_size()
                new += 1
            self._added[index], self._ids[token.content] = token, index
        self._pattern = None
        return new

    def forget(self, ids: set[int]) -> None:
        """Take back that tokens with these ids were added."""
        self._added = {index: token for index, token in self._added.items() if index not in ids}
        self._ids = {token.content: index for index, token in self._added.items()}
        self._pattern = None

    # ---- framing and truncation

    @property
    def post_processor(self) -> processors.PostProcessor | None:
        """What frames texts."""
        frame: processors.PostProcessor | None = self._frame.post_processor
        return frame

    @post_processor.setter
    def post_processor(self, frame: processors.PostProcessor | None) -> None:
        self._frame.post_processor = frame

    @property
    def truncation(self) -> dict[str, object] | None:
        """How texts are cut."""
        return self._frame.truncation

    def no_truncation(self) -> None:
        """Do not cut texts."""
        self._frame.no_truncation()

    def no_padding(self) -> None:
        """Padding is never done here."""

    def enable_padding(self, **options: object) -> None:
        """Padding is never done here."""

    def enable_truncation(
        self, max_length: int, stride: int = 0, strategy: str = "longest_first", direction: str = "right"
    ) -> None:
        """Cut texts."""
        self._frame.enable_truncation(max_length, stride=stride, strategy=strategy, direction=direction)

    def num_special_tokens_to_add(self, pair: bool) -> int:
        """How many tokens frame a text, or a pair."""
        return int(self._frame.num_special_tokens_to_add(pair))

    def post_process(self, first: Encoding, second: Encoding | None = None, framed: bool = True) -> Encoding:
        """Frame and cut."""
        made = self._frame.post_process(first, second, framed)
        return self._ended_once(made) if framed and self.script.once is not None else made

    def _ended_once(self, encoding: Encoding) -> Encoding:
        """A framed text without the framing's end where its own last token is one."""
        end, framing = self.token_to_id(str(self.script.once)), encoding.special_tokens_mask
        ids = encoding.ids
        twice = [i for i in range(1, len(ids)) if framing[i] and not framing[i - 1] and ids[i] == ids[i - 1] == end]
        if not twice:
            return encoding
        state = json.loads(encoding.__getstate__())
        for name, column in state.items():
            if isinstance(column, list) and name != "overflowing":
                state[name] = [value for index, value in enumerate(column) if index not in twice]
        for span in state["sequence_ranges"].values():
            span.update({edge: place - sum(i < place for i in twice) for edge, place in span.items()})
        made = Encoding()
        made.__setstate__(json.dumps(state).encode())
        return made

    # ---- texts

    def encode_batch(
        self, rows: Sequence[object], is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> list[Encoding]:
        """Encode texts, or pairs of texts."""
        return [self._row(row, is_pretokenized, add_special_tokens) for row in rows]

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        """Encode one text."""
        return self._row(text, False, add_special_tokens)

    def _row(self, row: object, in_words: bool, framed: bool) -> Encoding:
        parts = row if isinstance(row, tuple) else (row,)
        encodings = [self._text(part, in_words, index) for index, part in enumerate(parts)]
        return self.post_process(encodings[0], encodings[1] if len(encodings) > 1 else None, framed)

    def _text(self, text: object, in_words: bool, type_id: int) -> Encoding:
        cuts: list[Cut] = []
        words: list[int] = []
        pieces = text if in_words and isinstance(text, list) else [text]
        for index, piece in enumerate(pieces):
            found = self.cut(str(piece))
            words += [index] * len(found) if in_words else range(len(found))
            cuts += found
        return encoding_of(
            [self._id(cut.token) for cut in cuts],
            type_id,
            tokens=[cut.token for cut in cuts],
            words=words,
            offsets=[(cut.start, cut.end) for cut in cuts],
        )

    def _id(self, token: str) -> int:
        index = self.token_to_id(token)
        if index is None:
            raise ConfigError("the vocabulary has neither this token nor one for what is unknown", found=token)
        return index

    def cut(self, text: str) -> list[Cut]:
        """The tokens of a text: added ones as they stand, what is between them by the script."""
        special = [token.content for token in self._added.values() if token.special]
        if self.encode_special_tokens:
            return self.script.cut(text, special)
        cuts: list[Cut] = []
        for part in self._parts(text):
            if part.token in self._ids:
                cuts.append(part)
                continue
            inner = self.script.cut(part.token, special) if part.token else []
            cuts += [Cut(cut.token, cut.start + part.start, cut.end + part.start) for cut in inner]
        return cuts

    def _parts(self, text: str) -> list[Cut]:
        """Added tokens and what is between them, spaces beside them stripped where they say so."""
        if self._pattern is None:
            ends = sorted({*self._ids, *self.script.unsplit}, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, ends)) if ends else "(?!)")
        parts, last = [], 0
        for match in self._pattern.finditer(text):
            if match.start() > last:
                parts.append(Cut(text[last : match.start()], last, match.start()))
            parts.append(Cut(match[0], match.start(), match.end()))
            last = match.end()
        if last < len(text):
            parts.append(Cut(text[last:], last, len(text)))
        for index, part in enumerate(parts):
            if part.token in self._ids:
                _strip_beside(parts, index, self._added[self._ids[part.token]])
        return parts

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; those that stand for nothing are left out. Which are special is the tokenizer's to know."""
        return self.script.join([token for token in map(self.id_to_token, ids) if token is not None], self._ids)

    @property
    def decoder(self) -> Joiner:
        """What joins tokens."""
        return Joiner(self)

    def __getstate__(self) -> dict[str, object]:
        state = dict(vars(self))
        return {**state, "_frame": self._frame.to_str(), "_pattern": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state, _frame=Backend.from_str(str(state["_frame"])))


Machinery = Backend | Scripted
"""The tokenizer proper."""


class Joiner:
    """What a ``tokenizers`` decoder is for the other kinds."""

    def __init__(self, backend: Scripted) -> None:
        self.backend = backend

    def decode(self, tokens: Sequence[str]) -> str:
        """The text of tokens."""
        return self.backend.script.join(tokens, self.backend._ids)


def encoding_of(
    ids: Sequence[int],
    type_id: int,
    tokens: Sequence[str] | None = None,
    words: Sequence[int | None] | None = None,
    offsets: Sequence[tuple[int, int]] | None = None,
) -> Encoding:
    """What a ``tokenizers.Tokenizer`` would have found, had it found these ids."""
    count = len(ids)
    state = {
        "ids": list(ids),
        "type_ids": [type_id] * count,
        "tokens": list(tokens) if tokens is not None else [""] * count,
        "words": list(words) if words is not None else [None] * count,
        "offsets": list(offsets) if offsets is not None else [[0, 0]] * count,
        "special_tokens_mask": [0] * count,
        "attention_mask": [1] * count,
        "overflowing": [],
        "sequence_ranges": {},
    }
    made = Encoding()
    made.__setstate__(json.dumps(state).encode())
    return made


def _strip_beside(parts: list[Cut], index: int, token: AddedToken) -> None:
    left = parts[index - 1] if index > 0 else None
    right = parts[index + 1] if index + 1 < len(parts) else None
    if token.rstrip and right is not None:
        text = right.token.lstrip()
        parts[index + 1] = right = Cut(text, right.end - len(text), right.end)
    if token.lstrip and left is not None:
        text = left.token.rstrip()
        parts[index - 1] = left = Cut(text, left.start, left.start + len(text))
    if not token.single_word:
        return
    here = parts[index]
    if left is not None and left.token and left.token[-1] != " ":
        parts[index - 1] = Cut(left.token + here.token, left.start, here.end)
        parts[index] = Cut("", here.start, here.start)
    elif right is not None and right.token and right.token[0] != " ":
        parts[index + 1] = Cut(here.token + right.token, here.start, right.end)
        parts[index] = Cut("", here.start, here.start)


def _flagged(token: AddedToken, content: str, special: bool = True) -> AddedToken:
    return AddedToken(
        content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=special,
    )
