"""The process outside: starts a sandbox, and lends what was loaded in there as if it were here."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self, cast

from omniform.core.errors import InputError, OmniformError, SandboxError, UnknownAttributeError
from omniform.hub.code.sandbox.jail import bare_environment, jail, python_folders
from omniform.hub.code.sandbox.wire import Handle, Record, WireError, receive, send

PATIENCE: Final = 120.0
"""Seconds after which a sandbox that has not come up is given up."""

LAST_WORDS: Final = 60
"""Lines kept of what the code in there prints."""


class SandboxedOutput(dict[str, object]):
    """What a call in a sandbox returned under names: read by key, by attribute, or by position.

    Attributes:
        kind: the name of its class in there.
    """

    def __init__(self, kind: str, values: Mapping[str, object]) -> None:
        super().__init__(values)
        self.kind = kind

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise UnknownAttributeError(f"the output holds no {name!r}", found=", ".join(self)) from None

    def __getitem__(self, key: str | int | slice) -> object:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[object, ...]:
        """The values that are not None, in order."""
        return tuple(value for value in self.values() if value is not None)


class SandboxedError(SandboxError):
    """What a checkpoint's code raised in its sandbox.

    Attributes:
        raised: the name of the error's class.
    """

    def __init__(self, raised: str, text: str) -> None:
        self.raised = raised
        super().__init__("the checkpoint's code failed in its sandbox", found=f"{raised}: {text}")


class Sandbox:
    """A process with a stranger's code in it.

    Args:
        readable: the checkpoint's files, the only ones of the user's that it may read.
        cache: the Hub's cache as it is to be known in there.

    Raises:
        SandboxError: this machine has none, or it does not come up.
    """

    def __init__(self, readable: Sequence[Path], cache: Path | None = None) -> None:
        way = jail()
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._lock = threading.Lock()
        self._said: deque[str] = deque(maxlen=LAST_WORDS)
        self.dropped: deque[int] = deque()
        # -P: nothing is imported from the working directory, which is where the code may write.
        program = [sys.executable, "-P", "-m", "omniform.hub.code.sandbox.child", str(theirs.fileno())]
        self._mount_point = tempfile.mkdtemp(prefix="omniform-")
        environment = {**bare_environment(), "PYTHONPATH": str(Path(__file__).resolve().parents[4])}
        if cache is not None:
            environment["HF_HUB_CACHE"] = str(cache)
        try:
            self._process = subprocess.Popen(
                way.command(program, [*python_folders(), *readable], Path(self._mount_point)),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=environment, cwd="/", pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        finally:
            theirs.close()
        words = (self._process.stdout, self._said)  # not this object itself, which ends when its last user lets go
        self._listener = threading.Thread(target=_listen, args=words, name="omniform-sandbox", daemon=True)
        self._listener.start()
        self.close = weakref.finalize(self, _end, self._process, ours, self._mount_point)

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self.close.alive

    def ask(self, request: Mapping[str, object], *, patience: float | None = None) -> object:
        """Have something done in there.

        Args:
            patience: seconds to wait; None waits as long as it takes.

        Raises:
            InputError: the request holds what cannot be passed.
            SandboxError: the code failed, or its process has ended.
        """
        with self._lock, self._closed_on_trouble():
            if not self.is_open:
                raise SandboxError("the sandbox has ended", remedy="Load the model again.")
            try:
                dropped = [self.dropped.popleft() for _ in range(len(self.dropped))]
                send(self._channel, {**request, "dropped": dropped})
                self._channel.settimeout(patience)
                answer = receive(self._channel)
            except InputError:
                raise
            except TimeoutError:
                raise _EndedError("the sandbox does not answer", f"nothing within {patience:.0f} s") from None
            except WireError as error:
                raise _EndedError("the sandbox sends what is no answer", str(error)) from None
            except (OSError, EOFError):
                raise _EndedError("the sandbox's process has ended", self._last_words()) from None
        if not isinstance(answer, Mapping) or not ({"ok"} <= answer.keys() or {"error", "text"} <= answer.keys()):
            raise SandboxError("the sandbox sends what is no answer", found=type(answer).__name__)
        if "ok" in answer:
            return answer["ok"]
        raise SandboxedError(str(answer["error"]), str(answer["text"])) from OmniformError(str(answer.get("trace")))

    @contextlib.contextmanager
    def _closed_on_trouble(self) -> Iterator[None]:
        # After half a message nothing that comes could be understood.
        try:
            yield
        except (InputError, SandboxError) as error:
            if isinstance(error, _EndedError):
                self.close()
            raise
        except BaseException:
            self.close()
            raise

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._listener.join(1)
        code = self._process.returncode
        return "\n".join([f"exit code {code}", *list(self._said)[-12:]])


class _EndedError(SandboxError):
    """After which the process is of no use."""

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message, found=found)


def _listen(output: IO[bytes], said: deque[str]) -> None:
    with contextlib.suppress(ValueError, OSError):  # it is closed while it is read from, at the end
        while line := output.readline(10_000):
            said.append(line.decode(errors="replace").rstrip())


def _end(process: subprocess.Popen[bytes], channel: socket.socket, mount_point: str) -> None:
    channel.close()
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
    shutil.rmtree(mount_point, ignore_errors=True)


class Sandboxed:
    """An object in a sandbox: a model, a tokenizer, a config of a stranger's own class.

    It is called, and its public methods and attributes are used, as if it were here: ``model(**inputs).logits``,
    ``model.generate(...)``, ``model.config.hidden_size``. Numbers, texts, tensors, lists and mappings pass; other
    objects stay in there and are lent likewise (a cache of keys and values), so that they can be handed back. Tensors
    are on the CPU, come and go through shared memory, and carry no gradients.

    Args:
        sandbox: the process that it is in.
        number: what it is called there.
        kind: its class's name.
    """

    def __init__(self, sandbox: Sandbox, number: int, kind: str) -> None:
        self._sandbox, self._number, self._kind = sandbox, number, kind
        # Told with the next request: this may happen in the middle of one.
        weakref.finalize(self, sandbox.dropped.append, number).atexit = False

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call it in there."""
        return self._call("", args, kwargs)

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise UnknownAttributeError(f"a sandbox lends no private names: {name}", where=self._kind)
        try:
            found = self._sandbox.ask({"do": "get", "of": self._number, "name": name})
        except SandboxedError as error:
            if error.raised not in ("AttributeError", "UnknownAttributeError"):
                raise
            raise UnknownAttributeError(f"there is no {name!r} in the sandbox", where=self._kind) from error
        if not isinstance(found, Mapping):
            raise SandboxError("the sandbox sends what is no answer", found=type(found).__name__)
        return Method(self, name) if found.get("method") else self._here(found.get("value"))

    def _call(self, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        there = {"args": [_there(a) for a in args], "kwargs": {k: _there(v) for k, v in kwargs.items()}}
        return self._here(self._sandbox.ask({"do": "call", "of": self._number, "name": name, **there}))

    def _here(self, value: object) -> object:
        if isinstance(value, Handle):
            if value.number != self._number:
                return Sandboxed(self._sandbox, value.number, value.kind)
            self._sandbox.dropped.append(value.number)
            return self
        if isinstance(value, Record):
            return SandboxedOutput(value.kind, {name: self._here(item) for name, item in value.values.items()})
        if isinstance(value, Mapping):
            return {name: self._here(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._here(item) for item in value)
        return value

    def __len__(self) -> int:
        length = self._call("__len__", (), {})
        assert isinstance(length, int)
        return length

    def __getitem__(self, key: object) -> object:
        return self._call("__getitem__", (key,), {})

    def __iter__(self) -> Iterator[object]:
        walk = self._call("__iter__", (), {})
        if not isinstance(walk, Sandboxed):
            raise SandboxError("this cannot be gone through", where=self._kind)
        while True:
            try:
                item = walk._call("__next__", (), {})
            except SandboxedError as error:
                if error.raised == "StopIteration":
                    return
                raise
            yield item

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        """End its process; it and everything else from there can no longer be used."""
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Sandboxed({self._kind}{'' if self._sandbox.is_open else ', ended'})"

    def __reduce__(self) -> tuple[object, ...]:
        raise SandboxError("what is in a sandbox cannot be pickled or copied", where=self._kind)


class Method:
    """A method of an object in a sandbox."""

    def __init__(self, owner: Sandboxed, name: str) -> None:
        self._owner, self._name = owner, name

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call it in there."""
        return self._owner._call(self._name, args, kwargs)

    def __repr__(self) -> str:
        return f"{self._owner!r}.{self._name}"


def _there(value: object) -> object:
    """A value as the sandbox is told of it."""
    if isinstance(value, Sandboxed):
        return Handle(value._number, value._kind)
    if isinstance(value, Mapping):
        return {name: _there(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(cast("list[object]", value))(_there(item) for item in cast("list[object]", value))
    return value


def load_in_sandbox(
    auto: str, folder: Path, kwargs: Mapping[str, object], readable: Sequence[Path] = (), *, cache: Path | None = None
) -> Sandboxed:
    """Load a checkpoint in a sandbox, by the code that it brings.

    Args:
        auto: the Auto class that is asked for.
        folder: the checkpoint's files.
        kwargs: keywords of its ``from_pretrained``.
        readable: what the files of the folder link to, and other folders that it needs.
        cache: the Hub's cache, of which it sees what is in ``readable``.

    Raises:
        SandboxError: this machine has no sandbox; the code failed in there.
        InputError: a keyword that cannot be passed.
    """
    real = Path(os.path.realpath(folder))
    sandbox = Sandbox([real, *(path.resolve() for path in readable)], cache)
    named = {name: _there(value) for name, value in kwargs.items()} | {"trust_remote_code": True}
    try:
        loaded = sandbox.ask({"do": "load", "auto": auto, "args": [str(real)], "kwargs": named})
        if not isinstance(loaded, Handle):
            raise SandboxError("the sandbox sends what is no answer", found=type(loaded).__name__)
    except BaseException:
        sandbox.close()
        raise
    return Sandboxed(sandbox, loaded.number, loaded.kind)
