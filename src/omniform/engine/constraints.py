"""Constraints of a beam search: words that every answer must hold.

A constraint is a small machine that is told token by token what a row writes. The classes and their methods are those
that the ecosystem knows from transformers 4 (``generation/beam_constraints.py``), so that a user's own subclass works;
how beams are shared out among rows that have fulfilled more or less is that of Post and Vilar 2018
(https://arxiv.org/abs/1804.06609, section 3), in :mod:`omniform.engine.constrained`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from omniform.core.errors import InputError, brief


class Constraint(ABC):
    """Something that an answer must hold, told of its tokens one by one.

    Attributes:
        seqlen: how many tokens fulfil it at least.
        completed: whether it is fulfilled.
    """

    seqlen: int = 0
    completed: bool = False

    @abstractmethod
    def advance(self) -> int | list[int] | None:
        """The token or tokens that would bring it one step nearer; None where it is fulfilled."""

    @abstractmethod
    def does_advance(self, token_id: int) -> bool:
        """Whether a token would bring it nearer."""

    @abstractmethod
    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Take a token: whether it was a step, whether that fulfilled it, whether what was begun is lost."""

    @abstractmethod
    def reset(self) -> None:
        """Begin again."""

    @abstractmethod
    def remaining(self) -> int:
        """How many steps are left."""

    @abstractmethod
    def copy(self, stateful: bool = False) -> Self:
        """Another of the same; ``stateful``: as far on as this one."""


class PhrasalConstraint(Constraint):
    """A run of tokens that must stand somewhere in the answer.

    Args:
        token_ids: the run.

    Raises:
        InputError: no such run.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = _run(token_ids, "token_ids")
        self.seqlen = len(self.token_ids)
        self.fulfilled_idx = -1
        self.completed = False

    def advance(self) -> int | None:
        return None if self.completed else self.token_ids[self.fulfilled_idx + 1]

    def does_advance(self, token_id: int) -> bool:
        return not self.completed and token_id == self.token_ids[self.fulfilled_idx + 1]

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if self.does_advance(token_id):
            self.fulfilled_idx += 1
            self.completed = self.fulfilled_idx == self.seqlen - 1
            return True, self.completed, False
        lost = self.fulfilled_idx >= 0
        self.reset()
        return False, False, lost

    def reset(self) -> None:
        self.completed = False
        self.fulfilled_idx = -1

    def remaining(self) -> int:
        return self.seqlen - (self.fulfilled_idx + 1)

    def copy(self, stateful: bool = False) -> Self:
        twin = type(self)(self.token_ids)
        if stateful:
            twin.fulfilled_idx, twin.completed = self.fulfilled_idx, self.completed
        return twin


class DisjunctiveConstraint(Constraint):
    """One of several runs of tokens, whichever is written first.

    Args:
        nested_token_ids: the runs; none of them may be the beginning of another.

    Raises:
        InputError: no such runs.
    """

    def __init__(self, nested_token_ids: Sequence[Sequence[int]]) -> None:
        if not isinstance(nested_token_ids, (list, tuple)) or not nested_token_ids:
            raise InputError(
                "these are no runs of tokens", where="nested_token_ids", expected="a list of lists of token ids",
                found=brief(nested_token_ids),
            )  # fmt: skip
        self.token_ids = [_run(run, "nested_token_ids") for run in nested_token_ids]
        for one in self.token_ids:
            for other in self.token_ids:
                if one is not other and other[: len(one)] == one:
                    raise InputError(
                        "one alternative is the beginning of another, which could never be written",
                        where="nested_token_ids", found=f"{one} and {other}",
                    )  # fmt: skip
        self.seqlen = max(map(len, self.token_ids))
        self.current_seq: list[int] = []
        self.completed = False

    def _next(self) -> list[int]:
        so_far = len(self.current_seq)
        found = [run[so_far] for run in self.token_ids if len(run) > so_far and run[:so_far] == self.current_seq]
        return list(dict.fromkeys(found))

    def advance(self) -> list[int] | None:
        return self._next() or None

    def does_advance(self, token_id: int) -> bool:
        return token_id in self._next()

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        if self.does_advance(token_id):
            self.current_seq.append(token_id)
            self.completed = self.current_seq in self.token_ids
            return True, self.completed, False
        lost = bool(self.current_seq)
        self.reset()
        return False, False, lost

    def reset(self) -> None:
        self.completed = False
        self.current_seq = []

    def remaining(self) -> int:
        return 0 if self.completed else self.seqlen - len(self.current_seq)

    def copy(self, stateful: bool = False) -> Self:
        twin = type(self)(self.token_ids)
        if stateful:
            twin.current_seq, twin.completed = list(self.current_seq), self.completed
        return twin


class Fulfilled:
    """How far one beam is with all constraints: those fulfilled, the one begun, and those not begun.

    Args:
        constraints: as they are at the beginning; copied.
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self.pending = [constraint.copy() for constraint in constraints]
        self.begun: Constraint | None = None
        self.complete: list[Constraint] = []

    @property
    def completed(self) -> bool:
        """Whether all are fulfilled."""
        return not self.pending and self.begun is None

    @property
    def bank(self) -> int:
        """How much is fulfilled: whole constraints count their tokens, one begun those that were written."""
        done = sum(c.seqlen for c in self.complete)
        return done + (0 if self.begun is None else self.begun.seqlen - self.begun.remaining())

    def advance(self) -> list[int]:
        """The tokens that would bring any of them nearer."""
        asked = self.pending if self.begun is None else [self.begun]
        found: list[int] = []
        for constraint in asked:
            step = constraint.advance()
            found += [] if step is None else [step] if isinstance(step, int) else step
        return list(dict.fromkeys(found))

    def after(self, token: int) -> Fulfilled:
        """How far a beam is that continues this one with a token."""
        twin = Fulfilled(())
        twin.pending = list(self.pending)
        twin.complete = list(self.complete)
        if self.begun is not None:
            begun = self.begun.copy(stateful=True)
            stepped, done, lost = begun.update(token)
            if done:
                twin.complete.append(begun)
            elif stepped:
                twin.begun = begun
            if stepped:
                return twin
            # What was begun begins again, perhaps with this very token.
            twin.pending.append(begun.copy() if lost else begun)
        for place, constraint in enumerate(twin.pending):
            if constraint.does_advance(token):
                begun = constraint.copy(stateful=True)
                _, done, _ = begun.update(token)
                del twin.pending[place]
                if done:
                    twin.complete.append(begun)
                else:
                    twin.begun = begun
                break
        return twin


def _run(tokens: object, where: str) -> list[int]:
    """A run of token ids."""
    run = list(tokens) if isinstance(tokens, (list, tuple)) else []
    if not run or not all(isinstance(t, int) and not isinstance(t, bool) and t >= 0 for t in run):
        raise InputError(
            "this is no run of tokens", where=where, expected="a list of token ids, not empty", found=brief(tokens)
        )
    return run


def read_constraints(words: object, constraints: object) -> tuple[Constraint, ...]:
    """What a call asks for.

    Args:
        words: ``force_words_ids``: runs of tokens; an entry that is a list of runs asks for any one of them.
        constraints: objects of the ecosystem's kind.

    Raises:
        InputError: neither.
    """
    found: list[Constraint] = []
    if words is not None:
        if not isinstance(words, (list, tuple)) or not words:
            raise InputError(
                "these are no words", where="force_words_ids", expected="a list of lists of token ids",
                found=brief(words),
            )  # fmt: skip
        for word in words:
            several = isinstance(word, (list, tuple)) and bool(word) and all(isinstance(w, (list, tuple)) for w in word)
            found.append(DisjunctiveConstraint(word) if several else PhrasalConstraint(_run(word, "force_words_ids")))
    if constraints is not None:
        given = constraints if isinstance(constraints, (list, tuple)) else [constraints]
        strange = next((c for c in given if not isinstance(c, Constraint)), None)
        if strange is not None or not given:
            raise InputError(
                "this is no constraint", where="constraints",
                expected="objects of PhrasalConstraint, DisjunctiveConstraint or another Constraint",
                found=brief(strange if given else constraints),
            )  # fmt: skip
        found += [c for c in given if isinstance(c, Constraint)]
    return tuple(found)
