"""The process outside: starts a sandbox, and lends what was loaded in there as if it were here."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, OmniformError, SandboxError, UnknownAttributeError
from omniform.core.generation import GenerationConfig
from omniform.hub.code.sandbox.jail import bare_environment, jail, python_folders
from omniform.hub.code.sandbox.wire import READY, SETTINGS, Handle, Record, WireError, receive, send

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

    def to(self, *args: object, **kwargs: object) -> Self:
        """Move its tensors, as :meth:`torch.Tensor.to`; a dtype changes those of floats only. Changed in place."""
        rest = [arg for arg in args if not isinstance(arg, torch.dtype)]
        others = {name: value for name, value in kwargs.items() if name != "dtype"}
        for name, value in self.items():
            if isinstance(value, Tensor):
                move = cast("Callable[..., Tensor]", value.to)
                if value.is_floating_point():
                    self[name] = move(*args, **kwargs)
                elif rest or others:
                    self[name] = move(*rest, **others)
        return self


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
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._said: deque[str] = deque(maxlen=LAST_WORDS)
        self.dropped: deque[int] = deque()
        environment = {**bare_environment(), **_imported_from()}
        if cache is not None:
            environment["HF_HUB_CACHE"] = str(cache)
        mount_point = Path(tempfile.mkdtemp(prefix="omniform-"))
        ours, theirs = socket.socketpair()
        try:
            # -P: nothing is imported from the working directory, which is where the code may write.
            program = [sys.executable, "-P", "-m", "omniform.hub.code.sandbox.child", str(theirs.fileno())]
            command = way.command(program, [*python_folders(), *readable], mount_point)
            self._process, self._listener = _started(command, environment, theirs.fileno(), self._said)
            theirs.close()
            self._channel = ours
            self.close = weakref.finalize(self, _end, self._process, ours, self._owner)
            with self._closed_on_trouble():
                if (said := self._answer(PATIENCE)) != {"ok": READY}:
                    raise _EndedError("the sandbox does not come up", f"a message of type {type(said).__name__}")
        except BaseException:
            theirs.close()
            ours.close()
            raise
        finally:  # in there it is the root by now
            with contextlib.suppress(OSError):
                mount_point.rmdir()

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
        if os.getpid() != self._owner:  # two who ask at one socket would get each other's answers
            raise SandboxError(
                "this sandbox belongs to the process that this one was forked from",
                remedy="Load the model in the process that uses it.",
            )
        with self._lock, self._closed_on_trouble():
            if not self.is_open:
                raise SandboxError("the sandbox has ended", remedy="Load the model again.")
            dropped = [self.dropped.popleft() for _ in range(len(self.dropped))]
            try:
                self._channel.settimeout(patience)
                send(self._channel, {**request, "dropped": dropped})
            except InputError:
                self.dropped.extend(dropped)
                raise
            except OSError:
                raise _EndedError("the sandbox's process has ended", self._last_words()) from None
            answer = self._answer(patience)
        if not isinstance(answer, Mapping) or not ({"ok"} <= answer.keys() or {"error", "text"} <= answer.keys()):
            raise SandboxError("the sandbox sends what is no answer", found=type(answer).__name__)
        if "ok" in answer:
            return answer["ok"]
        error, text, trace = (_text(answer.get(name)) for name in ("error", "text", "trace"))
        raise SandboxedError(error, text) from OmniformError(trace)

    def _answer(self, patience: float | None) -> object:
        try:
            self._channel.settimeout(patience)
            return receive(self._channel)
        except TimeoutError:
            raise _EndedError("the sandbox does not answer", f"nothing within {patience:.0f} s") from None
        except WireError as error:
            raise _EndedError("the sandbox sends what is no answer", str(error)) from None
        except (OSError, EOFError):
            raise _EndedError("the sandbox's process has ended", self._last_words()) from None

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


def _imported_from() -> dict[str, str]:
    """Where omniform is to be imported from, if not from where packages are installed."""
    home = Path(__file__).resolve().parents[4]
    return {} if home.name.endswith("-packages") else {"PYTHONPATH": str(home)}


def _started(
    command: Sequence[str], environment: Mapping[str, str], channel: int, said: deque[str]
) -> tuple[subprocess.Popen[bytes], threading.Thread]:
    """A process, started by a thread that lives as long as it does and keeps what it says.

    It is killed when the thread ends that started it, however this process ends (see :class:`Jail`); the caller's own
    may be a pool's, which ends before.

    Raises:
        SandboxError: it cannot be started.
    """
    came: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()

    def work() -> None:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=environment, cwd="/", pass_fds=[channel], start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            came.put(error)
            return
        came.put(process)
        assert process.stdout is not None
        with process.stdout, contextlib.suppress(ValueError, OSError):
            while line := process.stdout.readline(10_000):
                said.append(line.decode(errors="replace").rstrip())
        process.wait()

    thread = threading.Thread(target=work, name="omniform-sandbox", daemon=True)
    thread.start()
    process = came.get()
    if isinstance(process, OSError):
        raise SandboxError("the sandbox cannot be started", found=process.strerror) from process
    return process, thread


def _text(value: object) -> str:
    return value if isinstance(value, str) else f"a {type(value).__name__}"


def _end(process: subprocess.Popen[bytes], channel: socket.socket, owner: int) -> None:
    channel.close()
    if os.getpid() == owner:  # else it is another's, that this process was forked from
        process.kill()
        process.wait()


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

    def __setattr__(self, name: str, value: object) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._sandbox.ask({"do": "set", "of": self._number, "name": name, "args": [_there(value)]})

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
        if isinstance(value, (list, tuple, set)):
            return type(value)(self._here(item) for item in value)
        return value

    def __len__(self) -> int:
        length = self._call("__len__", (), {})
        if not isinstance(length, int) or length < 0:
            raise SandboxError("the sandbox sends what is no answer", found=type(length).__name__)
        return length

    def __contains__(self, item: object) -> bool:
        return bool(self._call("__contains__", (item,), {}))

    def __setitem__(self, key: object, value: object) -> None:
        self._call("__setitem__", (key, value), {})

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
    if isinstance(value, GenerationConfig):
        return Record(SETTINGS, value.to_diff_dict())
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
