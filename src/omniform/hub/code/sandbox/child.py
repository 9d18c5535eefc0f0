"""The process inside: makes sure that it is locked up, loads a checkpoint with its code, and answers calls.

Run as ``python -P -m omniform.hub.code.sandbox.child DESCRIPTOR``, a socket to the process outside.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import platform
import resource
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


def leaks(root: Path = Path("/")) -> list[str]:
    """What is open that should be closed; nothing of a checkpoint's is read before this is empty."""
    found = []
    status = dict(
        line.split(":\t", 1) for line in (root / "proc/self/status").read_text().splitlines() if ":\t" in line
    )
    if int(status["CapEff"], 16) or int(status["CapBnd"], 16):
        found.append("capabilities are left")
    if status["NoNewPrivs"].strip() != "1":
        found.append("privileges can be gained")
    networks = {line.split(":")[0].strip() for line in (root / "proc/net/dev").read_text().splitlines()[2:]}
    if networks - {"lo"}:
        found.append("there is a network")
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        point, options = line.split()[4:6]
        if "ro" not in options.split(",") and point != "/tmp" and not point.startswith("/dev/"):
            found.append(f"{point} can be written to")
    return found


def bound() -> None:
    """Give up what namespaces leave: the session's keys (keyctl(2)), and more of the kernel than a model needs."""
    number = {"x86_64": 250, "aarch64": 219}.get(platform.machine())  # keyctl
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING: a new one, which is empty
    for what, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 4096), (resource.RLIMIT_NPROC, 4096)):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


@dataclass(slots=True)
class Kept:
    """The objects that the process outside speaks of by number."""

    objects: dict[int, object] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    lent: Counter[int] = field(default_factory=Counter)
    given: int = 0

    def keep(self, value: object) -> object:
        from omniform.core.outputs import ModelOutput
        from omniform.hub.code.sandbox.wire import Handle, Record

        if isinstance(value, ModelOutput):
            return Record(type(value).__name__, dict(value.items()))
        number = self.numbers.get(id(value))
        if number is None:
            self.given += 1
            number = self.numbers[id(value)] = self.given
            self.objects[number] = value
        self.lent[number] += 1
        return Handle(number, type(value).__name__)

    def drop(self, number: int) -> None:
        """One that was lent is no longer spoken of outside; after the last it is let go of."""
        self.lent[number] -= 1
        if self.lent[number] > 0:
            return
        del self.lent[number]
        held = self.objects.pop(number, None)
        self.numbers.pop(id(held), None)

    def meant(self, value: object, held: object) -> object:
        """A value from outside that is for an object here, with the objects in it that it speaks of."""
        from omniform.hub.code.sandbox.wire import SETTINGS, Handle, Record

        if isinstance(value, Handle):
            return self.objects[value.number]
        if isinstance(value, Record):
            values = {key: self.meant(item, held) for key, item in value.values.items()}
            return settings_for(held, values) if value.kind == SETTINGS else values
        if isinstance(value, Mapping):
            return {key: self.meant(item, held) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.meant(item, held) for item in value)
        return value


def answered(request: Mapping[str, object], kept: Kept) -> object:
    """What one request comes to."""
    what, number = request["do"], request.get("of")
    held = kept.objects[number] if isinstance(number, int) else None
    args, named = kept.meant(request.get("args", []), held), kept.meant(request.get("kwargs", {}), held)
    assert isinstance(args, list) and isinstance(named, dict)
    if what == "load":
        from omniform.hub import auto, auto_inputs

        kind = {**vars(auto_inputs), **vars(auto)}[str(request["auto"])]
        return kept.keep(kind.from_pretrained(*args, **named))
    name = str(request["name"])
    if what == "call":
        called = held if not name else getattr(held, name)
        assert callable(called), f"{name} cannot be called"
        return called(*args, **named)
    if what == "set":
        setattr(held, name, args[0])
        return None
    value = getattr(held, name)
    # A module is called like a method, and has attributes to ask for besides.
    return {"method": True} if inspect.isroutine(value) else {"value": value}


def settings_for(held: object, values: Mapping[str, object]) -> object:
    """Settings of generation as the library has them that an object is of."""
    if any(base.__module__.partition(".")[0] == "transformers" for base in type(held).__mro__):
        from importlib import import_module

        return import_module("transformers").GenerationConfig.from_dict(dict(values))
    from omniform.core.generation import GenerationConfig

    return GenerationConfig.from_dict(dict(values))


def serve(channel: socket.socket) -> None:
    """Answer requests until the other side has gone."""
    import torch

    from omniform.core.errors import InputError
    from omniform.hub.code.sandbox.wire import READY, receive, send

    kept = Kept()
    send(channel, {"ok": READY})
    with torch.no_grad():
        while True:
            try:
                request = receive(channel)
            except EOFError:
                return
            assert isinstance(request, Mapping)
            for number in request["dropped"]:
                kept.drop(number)
            try:
                answer: dict[str, object] = {"ok": answered(request, kept)}
            except BaseException as error:  # a stranger's code may raise what it likes, and leave by any door
                answer = told(error)
            try:
                send(channel, answer, kept.keep)
            except InputError as error:  # what it returned cannot be passed; nothing was sent yet
                send(channel, told(error))


def told(error: BaseException) -> dict[str, object]:
    """An error in words."""
    words = "".join(traceback.format_exception(error))
    return {"error": type(error).__name__, "text": str(error)[:4000], "trace": words[-8000:]}


def main() -> None:
    """Entry of the process."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    open_doors = leaks()
    if open_doors:
        sys.exit(f"the sandbox leaks: {'; '.join(open_doors)}")
    bound()
    os.umask(0o077)
    serve(channel)


if __name__ == "__main__":
    main()
