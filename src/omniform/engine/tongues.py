"""What an assistant's tokens are to the model that it helps, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Protocol

from omniform.engine.request import NAMELESS, Request, Row


class Tongue(Protocol):
    """One row of the target, in the words of an assistant.

    Attributes:
        whole: the assistant reads the prompt as it is, pictures and vectors included.
        follows: it has been able to tell everything so far.
    """

    whole: bool
    follows: bool

    @property
    def prompt(self) -> list[int]:
        """The prompt in the assistant's tokens."""
        ...

    def room(self, new: int) -> int:
        """How many tokens of its own the assistant may need for so many of the target's."""
        ...

    def begin(self) -> None:
        """The assistant's row is the prompt alone."""
        ...

    def listen(self, row: Row, own: Row) -> tuple[int, list[int]]:
        """What the target's row has become.

        Returns:
            How many of the assistant's tokens stay, and what comes after them.
        """
        ...

    def goes_on(self, token: int) -> bool:
        """Whether there is anything to guess after a guess of the assistant's."""
        ...

    def say(self, row: Row, own: Row, guesses: Sequence[int]) -> list[int]:
        """The assistant's guesses in the target's tokens."""
        ...


class SameTokens:
    """Both have the same tokens.

    Args:
        request, row: of the target.
        reads: whether the assistant knows a token.
        knows: whether the target does.
        whole: whether the assistant reads the pictures and sounds of the prompt; if not, it reads what is left.
    """

    def __init__(
        self, request: Request, row: Row, reads: Callable[[int], bool], knows: Callable[[int], bool], *, whole: bool
    ) -> None:
        self.whole = whole
        self.follows = True
        self._reads, self._knows = reads, knows
        self._ends = request.settings.eos_set
        tokens = row.tokens[: row.prompt]
        if not whole:
            gone = {at for p in request.placed for at in range(p.start, p.start + p.length)}
            tokens = [t for at, t in enumerate(tokens) if at not in gone and t != NAMELESS]
        elif not request.prompt.encoder:
            tokens = list(request.prompt.tokens)
        self._prompt = tokens
        self.follows = all(reads(token) or token == NAMELESS for token in tokens)
        self._told = 0

    @property
    def prompt(self) -> list[int]:
        return self._prompt if self.follows else []

    def room(self, new: int) -> int:
        return new

    def begin(self) -> None:
        self._told = 0

    def listen(self, row: Row, own: Row) -> tuple[int, list[int]]:
        """The guesses that came true stay; see :class:`Tongue`."""
        new = row.tokens[row.prompt + self._told :]
        known = own.prompt + self._told
        guessed = own.tokens[known:]
        same = next((n for n, (a, b) in enumerate(zip(new, guessed, strict=False)) if a != b), None)
        same = min(len(new), len(guessed)) if same is None else same
        self._told += len(new)
        self.follows = self.follows and all(map(self._reads, new))
        return (known + same, new[same:]) if self.follows else (known, [])

    def goes_on(self, token: int) -> bool:
        return token not in self._ends and self._knows(token)

    def say(self, row: Row, own: Row, guesses: Sequence[int]) -> list[int]:
        return list(guesses)


class Spells(Protocol):
    """A tokenizer, as far as another's tokens are read with it."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""
        ...


class OtherTokens:
    """The assistant has another tokenizer: texts go between them, the last tokens of each read again by the other.

    Args:
        row: of the target.
        target, assistant: their tokenizers.
        target_lookbehind: how many of the target's tokens before new ones are read again.
        assistant_lookbehind: how many of the assistant's before its guesses.
        ends: the assistant's tokens that end an answer.
        reads: whether the assistant knows a token.
    """

    def __init__(
        self,
        row: Row,
        target: Spells,
        assistant: Spells,
        *,
        target_lookbehind: int,
        assistant_lookbehind: int,
        ends: frozenset[int],
        reads: Callable[[int], bool],
    ) -> None:
        self.whole = False
        self.follows = True
        self._target, self._assistant = target, assistant
        self._back, self._forth = target_lookbehind, assistant_lookbehind
        self._ends, self._reads = ends, reads
        tokens = [t for t in row.tokens[: row.prompt] if t != NAMELESS]
        self._prompt = assistant.encode(target.decode(tokens), special=True)
        self.follows = all(map(reads, self._prompt))
        self._told = 0
        self._sure = len(self._prompt)

    @property
    def prompt(self) -> list[int]:
        return self._prompt if self.follows else []

    def room(self, new: int) -> int:
        # A token of the one may be several of the other; rows that grow beyond this are no longer guessed for.
        return 4 * new + 64

    def begin(self) -> None:
        self._told, self._sure = 0, len(self._prompt)

    def listen(self, row: Row, own: Row) -> tuple[int, list[int]]:
        """Read the end of the target's text with the assistant's tokenizer, and join it to what the assistant has."""
        first = max(0, row.prompt + self._told - self._back)
        tail = [t for t in row.tokens[first:] if t != NAMELESS]
        again = self._assistant.encode(self._target.decode(tail), special=False)
        # The guesses are among what may be found again: those that came true need not be read twice.
        start = max(0, self._sure - len(again))
        stays, taken = _joined(own.tokens[start:], again)
        known = start + stays if taken else self._sure
        taken += max(0, own.prompt - known)  # a prompt stays as it was read
        known = max(known, own.prompt)
        new = again[taken:]
        self._told = row.written
        self._sure = known + len(new)
        self.follows = all(map(self._reads, new)) and self._sure < own.prompt + self.room(0) + 4 * max(1, row.written)
        return known, new

    def goes_on(self, token: int) -> bool:
        return token not in self._ends

    def say(self, row: Row, own: Row, guesses: Sequence[int]) -> list[int]:
        """Read the guesses and a little before them with the target's tokenizer; what goes beyond its own is new."""
        guesses = [token for token in guesses if token not in self._ends]
        before = own.tokens[max(0, self._sure - self._forth) : self._sure]
        again = self._target.encode(self._assistant.decode([*before, *guesses]), special=False)
        return again[_after(row.tokens, again) :]


def _joined(old: Sequence[int], new: Sequence[int]) -> tuple[int, int]:
    """Where two readings of a text are alike for longest: where that ends in the one and in the other; (0, 0) if never.

    Args:
        old: the end of what was read before, and what was guessed after it.
        new: another reading of the end, and of what comes after it.
    """
    found = SequenceMatcher(None, old, new, autojunk=False).find_longest_match()
    return (found.a + found.size, found.b + found.size) if found.size else (0, 0)


def _after(row: Sequence[int], again: Sequence[int]) -> int:
    """Where what was read again goes beyond the end of a row; all of it, where it is not to be found there."""
    best, at = 0, len(again)
    for stop in range(1, len(again) + 1):
        length = 0
        while length < min(stop, len(row)) and row[-1 - length] == again[stop - 1 - length]:
            length += 1
        # The first token may be spelled otherwise for standing at the beginning; so may what was cut within a word.
        if length > best:
            best, at = length, stop
    return at
