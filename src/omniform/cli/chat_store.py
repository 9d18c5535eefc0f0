"""Where conversations are kept between two starts: a folder for each model, which only its owner may read."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

log = logging.getLogger("omniform")


def state_folder(model: str) -> Path:
    """Where what was said to a model is kept: ``$XDG_STATE_HOME/omniform/chat/NAME-DIGEST``.

    Args:
        model: a folder, which counts by where it is, or a Hub id.
    """
    given = os.environ.get("XDG_STATE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".local" / "state"
    whole = os.path.realpath(model) if os.path.exists(model) else model
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", whole.rstrip("/").rpartition("/")[2])[:40] or "model"
    return base / "omniform" / "chat" / f"{slug}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


class Store:
    """Keeps a conversation, and the lines that were typed; says once if it cannot.

    Args:
        folder: where; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @property
    def lines(self) -> Path | None:
        """The file of the lines that were typed."""
        return None if self.folder is None else self.folder / "lines"

    def read(self) -> str | None:
        """The conversation that was kept; None where there is none."""
        if self.folder is None:
            return None
        try:
            return (self.folder / "conversation.json").read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            log.warning("the last conversation cannot be read: %s", error)
            return None

    def set_aside(self) -> None:
        """Put a conversation that cannot be used where it is not written over."""
        if self.folder is not None:
            kept = self.folder / "conversation.json"
            kept.replace(kept.with_suffix(".damaged.json"))

    def write(self, conversation: str) -> None:
        """Keep a conversation instead of the one before."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self.folder / f"conversation.{os.getpid()}.part"
            write_privately(part, conversation)
            part.replace(self.folder / "conversation.json")
        except OSError as error:
            log.warning("conversations are not kept: %s", error)
            self.folder = None

    def clear(self) -> None:
        """Forget the conversation and the lines."""
        if self.folder is not None:
            for name in ("conversation.json", "lines"):
                (self.folder / name).unlink(missing_ok=True)


def write_privately(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    with open(path, "w", encoding="utf-8", errors="replace", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(text)
