"""The folders of checkpoints: which there are, which is the last whole one, which go, and what dead processes left.

A checkpoint appears and disappears under its name in one step. While it is written, and once it is to be removed, it
lies beside under a hidden name that tells whose it is (:func:`hidden`); the next start removes those of dead processes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PREFIX_CHECKPOINT_DIR: Final = "checkpoint"
TRAINER_STATE_NAME: Final = "trainer_state.json"
UNFINISHED: Final = "checkpoint-is-incomplete.txt"
"""Written by libraries that save into the folder itself, and removed when it is whole."""

_ABANDONED: Final = 3600.0
"""What a process on another machine left is removed if nothing in it changed for so many seconds."""

_NUMBERED: Final = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
_HIDDEN: Final = re.compile(
    r"\.(?P<within>\.)?[\w-]+-\d+\.(?P<host>[^.]*)\.(?P<process>\d+)\.(?P<start>\d+)\.[0-9a-f]{8}"
    r"(?(within)-\d+-[a-z0-9_]{8})"
)
"""The last part is of folders that ``save_pretrained`` makes beside the one that it writes into."""


def get_last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """The folder ``checkpoint-N`` with the highest number; None where there is none."""
    found = [(int(match[1]), match[0]) for match in map(_NUMBERED.fullmatch, os.listdir(folder)) if match]
    found = [one for one in found if os.path.isdir(os.path.join(folder, one[1]))]
    return os.path.join(folder, max(found)[1]) if found else None


def last_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The checkpoint with the highest number that is whole, and those with higher numbers that are not."""
    broken: list[Path] = []
    names = [match for match in map(_NUMBERED.fullmatch, os.listdir(folder)) if match] if folder.is_dir() else []
    for match in sorted(names, key=lambda match: int(match[1]), reverse=True):
        path = folder / match[0]
        if is_whole(path):
            return path, broken
        if path.is_dir():
            broken.append(path)
    return None, broken


def is_whole(checkpoint: Path) -> bool:
    """Whether a folder holds what is written last (of our checkpoints, all of it)."""
    return (checkpoint / TRAINER_STATE_NAME).is_file() and not (checkpoint / UNFINISHED).exists()


def sort_checkpoints(
    output_dir: str | os.PathLike[str],
    checkpoint_prefix: str = PREFIX_CHECKPOINT_DIR,
    use_mtime: bool = False,
    best_model_checkpoint: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Folders of checkpoints, oldest first, by their numbers.

    Args:
        use_mtime: by when they were changed, unless that tells them not apart.
        best_model_checkpoint: one that stands last but one, so that it goes late.
    """
    numbered = re.compile(rf"{re.escape(checkpoint_prefix)}-(\d+)")
    found: list[tuple[float, str]] = []
    for path in Path(output_dir).glob(f"{checkpoint_prefix}-*"):
        match = numbered.match(path.name)
        if path.is_dir() and (match or use_mtime):
            found.append((path.stat().st_mtime if use_mtime else int(match[1]) if match else 0, str(path)))
    found.sort()
    if use_mtime and len(found) > 1 and found[-1][0] - found[0][0] < 1.0:
        return sort_checkpoints(output_dir, checkpoint_prefix, False, best_model_checkpoint)
    names = [name for _, name in found]
    best = None if best_model_checkpoint is None else str(Path(best_model_checkpoint))
    if best in names and names[-1] != best:
        names = [*(name for name in names[:-1] if name != best), best, names[-1]]
    return names


def rotate_checkpoints(
    output_dir: str | os.PathLike[str],
    save_total_limit: int | None = None,
    best_model_checkpoint: str | os.PathLike[str] | None = None,
    use_mtime: bool = False,
    checkpoint_prefix: str = PREFIX_CHECKPOINT_DIR,
) -> None:
    """Remove the oldest checkpoints until there are ``save_total_limit``; the last and the best one stay."""
    if save_total_limit is None or save_total_limit <= 0:
        return
    names = sort_checkpoints(output_dir, checkpoint_prefix, use_mtime)
    kept = set(names[-1:])
    if best_model_checkpoint is not None:
        kept.add(str(Path(best_model_checkpoint)))
    surplus = len(names) - max(save_total_limit, len(kept))
    for name in [name for name in names if name not in kept][: max(surplus, 0)]:
        remove(Path(name))


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint: at once under its name, then its files."""
    gone = hidden(checkpoint)
    try:
        checkpoint.rename(gone)
    except OSError:  # it cannot be renamed (a mount point): at least it is no longer whole before its files go
        (checkpoint / TRAINER_STATE_NAME).unlink(missing_ok=True)
        gone = checkpoint
    shutil.rmtree(gone, ignore_errors=True)


def hidden(checkpoint: Path) -> Path:
    """A name beside a checkpoint's for while it is not whole; it tells the machine and the process."""
    owner = f"{_host()}.{os.getpid()}.{_start_of(os.getpid())}.{secrets.token_hex(4)}"
    return checkpoint.with_name(f".{checkpoint.name}.{owner}")


def remove_dead(folder: Path) -> None:
    """Remove what processes that are no longer there left beside checkpoints."""
    for left, match in _hidden_in(folder):
        process, start = int(match["process"]), int(match["start"])
        # A process's number may be another's by now, after a restart of a container usually is.
        here = match["host"] == _host()
        dead = _start_of(process) != start if here else _is_abandoned(left)
        if dead:
            shutil.rmtree(left, ignore_errors=True)


def _hidden_in(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    if folder.is_dir():
        for path in folder.glob(".*-*.*.*.*.*"):
            match = _HIDDEN.fullmatch(path.name)
            if match and path.is_dir():
                yield path, match


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())


def _start_of(process: int) -> int | None:
    """When a process began, in ticks of the kernel's clock; None if there is none, 0 where that is not told."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass
        return 0
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])  # the name in parentheses may hold anything; see proc(5)


def _is_abandoned(folder: Path) -> bool:
    times = [folder.stat().st_mtime]
    for path in folder.rglob("*"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return time.time() - max(times) > _ABANDONED


__all__ = ["PREFIX_CHECKPOINT_DIR", "get_last_checkpoint", "rotate_checkpoints", "sort_checkpoints"]
