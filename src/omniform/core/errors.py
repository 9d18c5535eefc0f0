"""The typed errors of omniform.

Each says what is wrong in one sentence and, where they apply, *where* it is, what was *expected*, what was *found* and
the *remedy*. Each also derives from the builtin that the ecosystem raises in the same place, so that existing
``except OSError`` and ``except ValueError`` clauses keep working.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Sequence

LONGEST_VALUE = 1000
"""A value is shown up to so many characters."""

LONGEST_TEXT = 1900
"""A whole message is shown up to so many characters: a screen of 24 lines."""

MOST_NAMES = 20
"""So many known names are listed where none is like the one that was given."""


class OmniformError(Exception):
    """Base of every error that omniform raises on purpose.

    Args:
        message: one sentence: what is wrong.
        where: the file, the key, the row or the argument it concerns.
        expected: what would have been right.
        found: what was there instead.
        remedy: what the user can do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.where = where
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        # A message can be printed whatever it quotes: halves of characters, terminals' commands.
        return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], self._text())

    def _text(self) -> str:
        message = _shown(self.message)
        parts = [f"{_cut(self.where, LONGEST_VALUE // 2)}: {message}" if self.where else message]
        if self.expected is not None:
            parts.append(f"expected {_shown(self.expected)}")
        if self.found is not None:
            parts.append(f"found {_shown(self.found)}")
        text = "; ".join(parts)
        if not self.remedy:
            return _cut(text, LONGEST_TEXT)
        return f"{_cut(text, LONGEST_TEXT - min(len(self.remedy), LONGEST_VALUE // 2))}. {_shown(self.remedy)}"


def _shown(value: object) -> str:
    # What a damaged file holds may be of any length; a message is to be read.
    return _cut(str(value), LONGEST_VALUE)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_BRIEF = reprlib.Repr()
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxset = _BRIEF.maxfrozenset = _BRIEF.maxdict = 6
_BRIEF.maxlong, _BRIEF.maxstring, _BRIEF.maxother = 40, 80, 80


def brief(value: object) -> str:
    """A value's ``repr`` in a few words, whatever it is; one that cannot be written is named by its type."""
    try:
        return " ".join(_BRIEF.repr(value).split())
    except Exception:  # a foreign object's own mistake is not the caller's
        return f"a {type(value).__name__}"


class ConfigError(OmniformError, ValueError):
    """A config, tokenizer or preprocessor file is malformed, or holds a value that is not supported."""


class WeightsError(OmniformError, ValueError, RuntimeError):
    """A weights file is damaged, or its tensors do not fit the model: missing, unexpected or mis-shaped."""


class RepoError(OmniformError, OSError):
    """A folder, a repository or a file in it cannot be found or reached."""


class RepoNotFoundError(RepoError):
    """There is no such repository, or nobody may know of it without the right token."""


class GatedRepoError(RepoError):
    """A repository may be read only by those whom its owners have let in."""


class RevisionError(RepoError):
    """A repository has no such branch, tag, commit or pull request."""


class OfflineError(RepoError):
    """The Hub is not to be asked, or does not answer, and what is wanted is not cached."""


class WriteRefusedError(RepoError):
    """The Hub does not let this token write."""


class InputError(OmniformError, ValueError):
    """What the user handed over (text, picture, sound, tensor) cannot be used."""


class LengthError(InputError):
    """A prompt is longer than a model's positions, or than what an engine has room for."""


class DependencyError(OmniformError, ImportError):
    """An optional package is needed for this and is not installed; the remedy names the extra."""


class MissingToolError(DependencyError, RuntimeError):
    """A tool that a training is to be reported to is not installed; the remedy names its package."""


class CodeError(OmniformError, ImportError, ValueError):
    """Code that a checkpoint brings cannot be read or imported, or is not what the checkpoint says it is."""


class OutsideError(CodeError):
    """Code names a file that lies outside its folder."""


class TrustError(OmniformError, ValueError):
    """Code that a checkpoint brings would have to run, and the user has not said that it may."""


class MissingPartError(OmniformError, NotImplementedError):
    """A part is asked for that this kind of model does not have."""


class SandboxError(OmniformError, RuntimeError):
    """Code cannot be run in a sandbox on this machine, or what ran there failed or ended."""


class WorkerError(OmniformError, RuntimeError):
    """A process that this one needs (to load data, to hold a part of a model) has died."""


class StoreError(OmniformError, OSError):
    """A database of measurements cannot be reached, read or written."""


class UnknownNameError(OmniformError, KeyError):
    """A name (task, family, architecture) that nothing is registered under."""

    # KeyError prints the repr of its argument; ours is a sentence.
    __str__ = OmniformError.__str__


class UnknownArgumentError(OmniformError, TypeError):
    """A keyword argument that the callee does not have."""


class UnknownAttributeError(UnknownArgumentError, AttributeError):
    """An attribute that an object does not have."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that suggest the name most like ``name``, or list what there is: ``Did you mean 'top_k'?``"""
    names = sorted(name for name in known if not name.startswith("_"))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    if not names:
        return "There are none."
    return f"Known: {listed(names)}."


def listed(names: Iterable[object]) -> str:
    """Names one after another, the first of them where there are very many."""
    shown = [str(name) for name in names]
    more = f", ... ({len(shown)} in all)" if len(shown) > MOST_NAMES else ""
    return _shown(f"{', '.join(shown[:MOST_NAMES])}{more}")


def check_shape(problem: str, found: Sequence[int], expected: Sequence[int], *, where: str) -> None:
    """Raise :class:`InputError` with these words for ``problem`` unless two shapes are the same."""
    if tuple(found) != tuple(expected):
        raise InputError(problem, where=where, expected=f"shape {list(expected)}", found=f"shape {list(found)}")


def check_arguments(callee: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise :class:`UnknownArgumentError` for the first name in ``given`` that is not in ``known``."""
    names = set(known)
    for name in given:
        if name not in names:
            raise UnknownArgumentError(f"{callee} has no argument {name!r}", remedy=nearest(name, names))
