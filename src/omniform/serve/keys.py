"""API keys: who may ask, how often, and how much at once."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from omniform.core.errors import InputError
from omniform.serve.errors import APIError

log = logging.getLogger("omniform.serve")

VARIABLE: Final = "OMNIFORM_API_KEYS"
"""The environment's variable with keys, lines as in files or parted by commas."""

LOOK_SECONDS: Final = 1.0
"""After which the files are looked at again, whether they changed."""

HIGHEST_PRIORITY: Final = 100

_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,64}")
_LIMITS: Final = ("rpm", "tpm", "running", "priority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key, of which only a digest is kept.

    Attributes:
        name: whose it is; logs and metrics say it.
        digest: SHA-256 of the key.
        rpm: requests a minute; None for any number.
        tpm: tokens a minute, read and written; None for any number.
        running: requests at once; None for any number.
        priority: of its requests before those of others, -100 to 100.
        admin: whether it may reload models and read the metrics.
    """

    name: str
    digest: bytes
    rpm: int | None = None
    tpm: int | None = None
    running: int | None = None
    priority: int = 0
    admin: bool = False


def parse(text: str, where: str) -> list[Key]:
    """Keys of lines ``NAME:KEY [rpm=60] [tpm=100000] [running=4] [priority=5] [admin]``; ``#`` begins a comment.

    Raises:
        InputError: a line that is none. It is named by its number: its words may be a secret.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        cut = next((place for place, word in enumerate(words) if word.startswith("#")), len(words))
        if words[:cut]:
            found.append(_key(words[:cut], f"{where}, line {number}"))
    return found


def _key(words: Sequence[str], where: str) -> Key:
    name, colon, secret = words[0].partition(":")
    if not colon or not secret or not _NAME.fullmatch(name):
        raise InputError("this is no key", where=where, expected="NAME:KEY, the name of letters, digits and _.@-")
    limits: dict[str, int] = {}
    admin = False
    for word in words[1:]:
        what, equals, value = word.partition("=")
        if word == "admin":
            admin = True
            continue
        least = -HIGHEST_PRIORITY if what == "priority" else 1
        number = int(value) if re.fullmatch(r"-?\d{1,12}", value) else least - 1
        if not equals or what not in _LIMITS or number < least or (what == "priority" and number > HIGHEST_PRIORITY):
            raise InputError(
                "this is no limit of a key", where=where, expected=f"{'=, '.join(_LIMITS)}= with a number, or admin"
            )
        limits[what] = number
    digest = hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
    return Key(
        name=name, digest=digest, rpm=limits.get("rpm"), tpm=limits.get("tpm"), running=limits.get("running"),
        priority=limits.get("priority", 0), admin=admin,
    )  # fmt: skip


class Bucket:
    """So much a minute: it fills as time goes by, and is emptied by what is taken.

    Args:
        most: what it holds when full, which is what a minute brings.
        clock: seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._level, self._clock, self._at = float(most), clock, clock()
        self._lock = threading.Lock()  # tokens are charged by the engine's thread

    @property
    def level(self) -> float:
        """What is in it; below zero where more was taken than there was."""
        with self._lock:
            now = self._clock()
            self._level = min(self.most, self._level + (now - self._at) * self.most / 60)
            self._at = now
            return self._level

    def take(self, much: float) -> None:
        """Take out, also more than there is."""
        with self._lock:
            self._level -= much

    def seconds_to(self, level: float) -> float:
        """When there will be so much."""
        return max(0.0, (level - self.level) * 60 / self.most)


@dataclass(slots=True)
class Pace:
    """What the requests of one key have used.

    Attributes:
        running: requests at the moment.
        requests, tokens: what is left of a minute's; None without a limit.
    """

    running: int = 0
    requests: Bucket | None = None
    tokens: Bucket | None = None

    def enter(self, key: Key) -> None:
        """Count a request in.

        Raises:
            APIError: it is too many; ``Retry-After`` says when it would not be.
        """
        self.requests = _bucket(self.requests, key.rpm)
        self.tokens = _bucket(self.tokens, key.tpm)
        if key.running is not None and self.running >= key.running:
            raise self._refused(f"this key may run {key.running} requests at once", 1.0)
        if self.requests is not None and self.requests.level < 1:
            raise self._refused(f"this key may make {key.rpm} requests a minute", self.requests.seconds_to(1))
        if self.tokens is not None and self.tokens.level <= 0:
            raise self._refused(f"this key may use {key.tpm} tokens a minute", self.tokens.seconds_to(1))
        if self.requests is not None:
            self.requests.take(1)
        self.running += 1

    def leave(self) -> None:
        """Count a request out."""
        self.running -= 1

    def charge(self, tokens: int) -> None:
        """Count the tokens of a request."""
        if self.tokens is not None:
            self.tokens.take(tokens)

    def headers(self) -> dict[str, str]:
        """What is left, as OpenAI's clients read it.

        Source: https://platform.openai.com/docs/guides/rate-limits
        """
        told = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                told[f"x-ratelimit-limit-{name}"] = str(bucket.most)
                told[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level)))
                told[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_to(bucket.most):.3f}s"
        return told

    def _refused(self, message: str, seconds: float) -> APIError:
        waits = {"Retry-After": str(max(1, math.ceil(seconds))), "retry-after-ms": str(math.ceil(seconds * 1000))}
        return APIError(429, message, code="rate_limit_exceeded", headers={**waits, **self.headers()})


def _bucket(old: Bucket | None, most: int | None) -> Bucket | None:
    if most is None:
        return None
    return old if old is not None and old.most == most else Bucket(most)


@dataclass(slots=True)
class Keys:
    """All keys of a server: those of its files, which are read anew when they change, and of the environment.

    Attributes:
        files: with keys.
        given: keys that are in no file.
        paces: what the requests of each key have used, by name.
    """

    files: tuple[str, ...]
    given: tuple[Key, ...] = ()
    paces: dict[str, Pace] = field(default_factory=dict)
    _held: tuple[Key, ...] = ()
    _seen: dict[str, object] = field(default_factory=dict)
    _looked: float = -math.inf

    @classmethod
    def of(cls, files: Sequence[str], environment: Mapping[str, str] = os.environ) -> Keys:
        """The keys that a server is started with.

        Raises:
            InputError: a file that cannot be read or holds no key, or a line that is none.
        """
        given = parse(environment.get(VARIABLE, "").replace(",", "\n"), VARIABLE)
        keys = cls(tuple(files), tuple(given))
        keys.read()
        return keys

    @property
    def asked(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self.files or self.given)

    def read(self) -> None:
        """Read the files anew.

        Raises:
            InputError: one cannot be read or holds no key; two names have one key. Then all stays as it was.
        """
        found, seen = list(self.given), {}
        for name in self.files:
            try:
                seen[name] = _state(name)
                text = Path(name).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) else "no text"
                raise InputError("the keys cannot be read", where=name, found=why) from error
            own = parse(text, name)
            if not own:
                raise InputError("there is no key in this file", where=name, expected="lines of NAME:KEY")
            found += own
        owners: dict[bytes, str] = {}
        for key in found:
            if owners.setdefault(key.digest, key.name) != key.name:
                raise InputError("two names have one key", where="keys", found=f"{owners[key.digest]} and {key.name}")
        self._held, self._seen = tuple(found), seen

    def find(self, secret: bytes) -> Key | None:
        """Whose key this is; None if it is nobody's. It takes as long either way."""
        self._look()
        digest = hashlib.sha256(secret).digest()
        found = None
        for key in self._held:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def pace(self, key: Key) -> Pace:
        """What the requests of a key have used."""
        return self.paces.setdefault(key.name, Pace())

    def __iter__(self) -> Iterator[Key]:
        return iter(self._held)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            changed = any(_state(name) != self._seen.get(name) for name in self.files)
            if changed:
                self.read()
                log.info("the API keys were read anew: %d", len(self._held))
        except (InputError, OSError) as error:  # whoever had a key still has it
            log.error("the API keys stay as they were: %s", error)


def _state(name: str) -> object:
    """What changes when a file does."""
    found = os.stat(name)
    return found.st_mtime_ns, found.st_size, found.st_ino
