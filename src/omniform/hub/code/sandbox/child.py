"""The process inside: makes sure that it is locked up, loads a checkpoint with its code, and answers calls.

Run as ``python -P -m omniform.hub.code.sandbox.child DESCRIPTOR``, a socket to the process outside.
"""

from __future__ import annotations

import os
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

    def meant(self, value: object) -> object:
        """A value from outside, with the objects in it that it speaks of."""
        from omniform.hub.code.sandbox.wire import Handle, Record

        if isinstance(value, Handle):
            return self.objects[value.number]
        if isinstance(value, Record):
            return self.meant(dict(value.values))
        if isinstance(value, Mapping):
            return {key: self.meant(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.meant(item) for item in value)
        return value


def answered(request: Mapping[str, object], kept: Kept) -> object:
    """What one request comes to."""
    from omniform.hub import auto, auto_inputs

    what, args, named = request["do"], kept.meant(request.get("args", [])), kept.meant(request.get("kwargs", {}))
    assert isinstance(args, list) and isinstance(named, dict)
    if what == "load":
        kind = {**vars(auto_inputs), **vars(auto)}[str(request["auto"])]
        return kept.keep(kind.from_pretrained(*args, **named))
    number = request["of"]
    assert isinstance(number, int)
    held = kept.objects[number]
    name = str(request["name"])
    if what == "call":
        called = held if not name else getattr(held, name)
        assert callable(called), f"{name} cannot be called"
        return called(*args, **named)
    value = getattr(held, name)
    return {"method": True} if callable(value) and not isinstance(value, type) else {"value": value}


def serve(channel: socket.socket) -> None:
    """Answer requests until the other side has gone."""
    import torch

    from omniform.core.errors import InputError
    from omniform.hub.code.sandbox.wire import receive, send

    kept = Kept()
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
    os.umask(0o077)
    serve(channel)


if __name__ == "__main__":
    main()
