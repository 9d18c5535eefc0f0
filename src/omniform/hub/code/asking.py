"""Showing code before it runs: which files, what they import, what has changed; and asking whether it may."""

from __future__ import annotations

import difflib
import logging
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from omniform.core.errors import TrustError, listed
from omniform.hub.code import trust
from omniform.hub.code.closure import File, digest_of, digests
from omniform.hub.code.imports import legible
from omniform.hub.code.mode import untrusted

log = logging.getLogger("omniform")

_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")
"""Kinds of characters that move the cursor, turn the direction of text or are not seen: code is shown as it runs."""

_EMPTY = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters and marks that nobody sees, some of which may stand in names."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How files compare with what was accepted.

    Attributes:
        state: ``"known"``: accepted before. ``"new"``: nobody has been asked yet. ``"changed"``: they are others than
            were accepted.
        before: the version that was accepted last.
        changed: paths of files that are others now.
        added: paths of files that were not there.
    """

    state: Literal["known", "new", "changed"]
    before: Mapping[str, str]
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def judge(key: str, files: Iterable[File], named: Iterable[str] | None = None, commit: str = "") -> Judged:
    """Compare files with what was accepted of a repository.

    Args:
        commit: which they are of; of one that was accepted further files may be asked for.
        named: paths that the checkpoint itself leads to; a new file counts as a change if it is one of these, and not
            if the user has asked for it by name. All, by default.
    """
    now = digests(files)
    versions = trust.accepted(key)
    if any(one.holds(now) for one in versions):
        return Judged("known", versions[-1].files)
    if not versions:
        return Judged("new", {}, added=tuple(now))
    # What is asked for may be another part of the code than was accepted last; it is compared with its own.
    before = next((one.files for one in reversed(versions) if one.files.keys() & now), versions[-1].files)
    changed = tuple(path for path, sha in now.items() if path in before and before[path] != sha)
    added = tuple(path for path in now if path not in before)
    led = set(now if named is None else named)
    same = commit != "" and any(one.commit == commit for one in versions)  # then nothing can have changed
    state: Literal["new", "changed"] = "changed" if changed or (led.intersection(added) and not same) else "new"
    return Judged(state, before, changed, added)


def admit(
    key: str,
    name: str,
    files: Sequence[File],
    commit: str,
    named: Iterable[str] | None = None,
    *,
    said: bool = True,
    command: str | None = None,
) -> None:
    """Let files run that the user trusts, after showing them once; ask where they have changed.

    Args:
        key: what the repository is remembered by.
        name: what the user calls it.
        named: see :func:`judge`.
        said: whether the user has said in this call that the code may run; else it must have been accepted before.
        command: what shows these files at the command line.

    Raises:
        TrustError: they are others than were accepted, and nobody has said that these may run.
    """
    found = judge(key, files, named, commit)
    command = f"omniform trust {name}" if command is None else command
    if found.state == "known":
        return
    if found.state == "new" and not said:
        _ask_first(name, files, commit, command)
    elif found.state == "new":
        log.warning("%s brings code of its own, which runs now and is remembered:\n%s", name, overview(files, commit))
    else:
        _ask(name, files, commit, found, command)
    trust.accept(key, files, commit)


def _ask_first(name: str, files: Sequence[File], commit: str, command: str) -> None:
    refusal = untrusted(
        name,
        "this runs code that the checkpoint brings, which you have not accepted",
        f"{listed(file.path for file in files)}, digest {digest_of(digests(files))[:16]}",
        command,
    )
    if not at_terminal():
        raise refusal
    print(f"{name} brings code of its own:\n{overview(files, commit)}", file=sys.stderr)
    if not yes(f"May the code of {name} run?"):
        raise refusal


def _ask(name: str, files: Sequence[File], commit: str, found: Judged, command: str) -> None:
    said = listed([*(f"{path} (changed)" for path in found.changed), *(f"{path} (new)" for path in found.added)])
    refusal = TrustError(
        "the code of this checkpoint has changed since you accepted it",
        where=name,
        expected=f"digest {digest_of(found.before)[:16]}",
        found=f"digest {digest_of(digests(files))[:16]}: {said}",
        remedy=f"{command} shows what has changed and records your answer.",
    )
    if not at_terminal():
        raise refusal
    print(f"The code of {name} has changed since you accepted it.", file=sys.stderr)
    print(overview(files, commit), file=sys.stderr)
    print(difference(files, found.before), file=sys.stderr)
    if not yes(f"May this code of {name} run?"):
        raise refusal


def at_terminal() -> bool:
    """Whether somebody can be asked."""
    try:
        return sys.stdin.isatty() and sys.stderr.isatty()
    except (AttributeError, ValueError):  # a process without, or with closed ones
        return False


def yes(question: str) -> bool:
    """Ask; anything but a clear yes is a no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    try:
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except (OSError, ValueError):
        return False


def overview(files: Sequence[File], commit: str) -> str:
    """The files with their sizes and digests, and what they import."""
    paths = [ascii(file.path)[1:-1] for file in files]  # letters of other scripts look like those of ours
    wide = max(map(len, paths), default=0)
    lines = [
        f"  {path:{wide}}  {len(file.text):>8} bytes  sha256 {file.sha256}"
        for path, file in zip(paths, files, strict=True)
    ]
    packages = sorted({ascii(name)[1:-1] for file in files for name in file.imports.named})
    lines.append(f"  imports: {', '.join(packages) or 'nothing'}")
    unseen = sorted({name for file in files for name in file.imports.unseen})
    if unseen:
        lines.append(f"  may run what is not shown here: {', '.join(unseen)}")
    lines += [f"  {shown(str(file.fault))}" for file in files if file.fault is not None]
    whole = digest_of(digests(files))
    return "\n".join([*lines, f"  digest of all: {whole}{f', commit {commit}' if commit else ''}"])


def difference(files: Iterable[File], before: Mapping[str, str]) -> str:
    """What has changed since a version was accepted, as a unified diff."""
    now = {file.path: file for file in files}
    parts: list[str] = []
    for path in sorted({*now, *before}):
        file, old = now.get(path), before.get(path)
        if file is not None and file.sha256 == old:
            continue
        text = "" if old is None else trust.text_of(old)
        if text is None:
            parts.append(f"--- {shown(path)}: the text that was accepted is not kept (sha256 {old})")
            text = ""
        new = "" if file is None else legible(file.text)
        lines = difflib.unified_diff(
            text.split("\n") if text else [],
            new.split("\n") if new else [],
            f"accepted/{path}" if old else "/dev/null",
            f"now/{path}" if file is not None else "/dev/null",
            lineterm="",
        )
        parts += [shown(line) for line in lines]
    return "\n".join(parts)


def shown(text: str) -> str:
    """A text as it can be printed: what would hide or move something is spelled out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(ascii(one)[1:-1] if _is_hidden(one) else one for one in text)


def _is_hidden(one: str) -> bool:
    if one in "\t\n ":
        return False
    return unicodedata.category(one) in _HIDDEN or one in _EMPTY or "\ufe00" <= one <= "\ufe0f"
