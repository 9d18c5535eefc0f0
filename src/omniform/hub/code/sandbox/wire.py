"""Messages between two processes of which one is not trusted: plain data as JSON, tensors in sealed shared memory.

No pickle: whoever reads a message builds numbers, texts, lists, mappings and tensors from it, and nothing else. Tensors
lie in a memory file (memfd_create(2)) that travels beside the message; its sender has sealed it, so that it can neither
shrink under the reader nor change once it was checked (F_ADD_SEALS, fcntl(2)).
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.config import DTYPES
from omniform.core.errors import InputError, brief

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_MESSAGE: Final = 2**26
"""Bytes of JSON beyond which a message is refused."""

READY: Final = "ready"
"""What a sandbox says first, once it has found itself locked up."""

SETTINGS: Final = "settings of generation"
"""What their record is called; which class they are is known to the other side."""

DEEPEST: Final = 50
"""Lists and mappings within one another beyond this many are refused."""

MOST_AXES: Final = 64

PICTURES: Final[Mapping[str, int]] = {
    "L": 1,
    "LA": 2,
    "RGB": 3,
    "RGBA": 4,
    "CMYK": 4,
    "YCbCr": 3,
    "HSV": 3,
    "I": 4,
    "F": 4,
}
"""Modes of pictures and the bytes of a point; those of other modes are passed in colour."""

ALIGNMENT: Final = 64
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
HEADER: Final = struct.Struct("<QB")

_KINDS: Final[Mapping[str, torch.dtype]] = {
    str(kind).removeprefix("torch."): kind
    for kind in (*DTYPES.values(), torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
                 torch.float64, torch.complex64)
}  # fmt: skip


class WireError(ValueError):
    """A message that is none; the other side is not to be listened to any longer."""


@dataclass(frozen=True, slots=True)
class Handle:
    """An object that stays where it is and is spoken of by number.

    Attributes:
        number: which.
        kind: its class's name, to be read by people.
    """

    number: int
    kind: str


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with the name of its class: a model's output, a batch.

    Attributes:
        kind: its class's name, to be read by people.
        values: what it holds.
    """

    kind: str
    values: Mapping[str, object]


@dataclass(slots=True)
class _Packer:
    """Values on their way into a message."""

    keep: Callable[[object], object] | None
    tensors: list[Tensor] = field(default_factory=list)

    def plain(self, value: object, where: str, depth: int = 0) -> object:
        if depth > DEEPEST:
            raise InputError("this is nested too deep for a sandbox", where=where, expected=f"{DEEPEST} levels")
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, float)) and not isinstance(value, (np.generic,)):
            return value if isinstance(value, int) else {"$": "float", "v": value.hex()}
        if isinstance(value, np.generic):
            return self.plain(value.item(), where, depth)
        if isinstance(value, Tensor):
            return self._tensor(value, where)
        if isinstance(value, np.ndarray):
            return {"$": "array", "v": self._tensor(_as_tensor(value, where), where)}
        if isinstance(value, torch.dtype):
            return {"$": "dtype", "v": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"$": "device", "v": str(value)}
        if isinstance(value, Handle):
            return {"$": "handle", "v": value.number, "k": value.kind}
        if isinstance(value, Record):
            return {**cast("dict[str, object]", self.plain(value.values, where, depth)), "k": value.kind}
        if isinstance(value, bytes):
            return {"$": "bytes", "v": value.hex()}
        if _is_picture(value):
            return self._picture(value, where)
        if isinstance(value, (set, frozenset)):
            return {"$": "set", "v": [self.plain(v, where, depth + 1) for v in value]}
        if isinstance(value, (list, tuple)):
            inner = [self.plain(v, f"{where}[{n}]", depth + 1) for n, v in enumerate(value)]
            return inner if isinstance(value, list) else {"$": "tuple", "v": inner}
        if isinstance(value, Mapping) and all(type(key) in (str, int) for key in value):
            if type(value) is not dict:
                return self.plain(Record(type(value).__name__, dict(value)), where, depth)
            return {"$": "map", "v": [[k, self.plain(v, f"{where}[{k!r}]", depth + 1)] for k, v in value.items()]}
        if self.keep is not None:
            return self.plain(self.keep(value), where, depth)
        raise InputError(
            "this cannot be passed into a sandbox",
            where=where,
            expected="numbers, texts, tensors, lists and mappings of them",
            found=brief(value),
        )

    def _picture(self, picture: Image, where: str) -> object:
        if picture.mode not in PICTURES:
            picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
        pixels = torch.frombuffer(bytearray(picture.tobytes()) or bytearray(1), dtype=torch.uint8)
        return {"$": "picture", "v": self._tensor(pixels, where), "m": picture.mode, "s": list(picture.size)}

    def _tensor(self, tensor: Tensor, where: str) -> object:
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in _KINDS or tensor.layout != torch.strided:
            raise InputError("tensors of this kind do not pass", where=where, found=f"{tensor.dtype}, {tensor.layout}")
        self.tensors.append(tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous())
        return {"$": "tensor", "v": len(self.tensors) - 1}


def _as_tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], where: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except (TypeError, ValueError):
        raise InputError("arrays of this kind do not pass", where=where, found=str(array.dtype)) from None


def _is_picture(value: object) -> TypeGuard[Image]:
    # Whoever has one has imported PIL.
    kind = "PIL.Image" in sys.modules and vars(sys.modules["PIL.Image"])["Image"]
    return isinstance(kind, type) and isinstance(value, kind)


def send(channel: socket.socket, message: object, keep: Callable[[object], object] | None = None) -> None:
    """Send a message.

    Args:
        keep: makes a handle of an object that cannot travel; without it such objects are refused.

    Raises:
        InputError: it holds what cannot be passed; nothing was sent.
        OSError: the other side has gone.
    """
    try:
        text, memory = _packed(_Packer(keep), message)
    except InputError:
        raise
    except Exception as error:  # a mapping of somebody's own, a tensor without numbers: nothing was sent yet
        raise InputError("this cannot be passed into a sandbox", found=f"{type(error).__name__}: {error}") from error
    try:
        # A file descriptor travels beside at least one byte: the header's.
        socket.send_fds(channel, [HEADER.pack(len(text), memory is not None)], [] if memory is None else [memory])
        channel.sendall(text)
    finally:
        if memory is not None:
            os.close(memory)


def _packed(packer: _Packer, message: object) -> tuple[bytes, int | None]:
    """A message's text, and the memory file of its tensors, if it has any."""
    body = packer.plain(message, "message")
    table, start = [], 0
    for tensor in packer.tensors:
        table.append([str(tensor.dtype).removeprefix("torch."), list(tensor.shape), start])
        start += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
    text = json.dumps({"body": body, "tensors": table}, allow_nan=False).encode()
    if len(text) > LONGEST_MESSAGE:
        raise InputError("this is too much for one message", expected=f"{LONGEST_MESSAGE} bytes", found=len(text))
    return text, _sealed(packer.tensors, table, start) if start else None


def _sealed(tensors: list[Tensor], table: list[list[object]], size: int) -> int:
    """A memory file that holds the tensors, and can no longer be changed."""
    memory = os.memfd_create("omniform", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size)
        with mmap.mmap(memory, size) as mapped:
            whole = torch.frombuffer(mapped, dtype=torch.uint8)
            for tensor, (_, _, start) in zip(tensors, table, strict=True):
                nbytes = tensor.numel() * tensor.element_size()
                if nbytes:
                    assert isinstance(start, int)
                    whole[start : start + nbytes].copy_(tensor.reshape(-1).view(torch.uint8))
            del whole
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


def receive(channel: socket.socket) -> object:
    """The next message.

    Raises:
        EOFError: the other side has gone.
        WireError: what came is no message.
    """
    head, handed, _, _ = socket.recv_fds(channel, HEADER.size, 4)
    try:
        while head and len(head) < HEADER.size:
            more = channel.recv(HEADER.size - len(head))
            head = head + more if more else b""
        if not head:
            raise EOFError
        length, with_memory = HEADER.unpack(head)
        if length > LONGEST_MESSAGE or len(handed) != with_memory or with_memory > 1:
            raise WireError("a header that is none")
        text = _exactly(channel, length)
        memory = _mapped(handed[0]) if handed else torch.empty(0, dtype=torch.uint8)
    finally:
        for descriptor in handed:
            os.close(descriptor)
    try:
        message = json.loads(text)
        tensors = [_placed(row, memory) for row in message["tensors"]]
        return _value(message["body"], tensors, 0)
    except WireError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError, ImportError) as error:
        raise WireError(f"{type(error).__name__}: {error}"[:200]) from None


def _exactly(channel: socket.socket, length: int) -> bytes:
    parts = bytearray()
    while len(parts) < length:
        more = channel.recv(min(length - len(parts), 2**20))
        if not more:
            raise EOFError
        parts += more
    return bytes(parts)


def _mapped(descriptor: int) -> Tensor:
    """What a sealed memory file holds. What is written to it here stays here."""
    try:
        sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise WireError("tensors in a file that is no memory file") from None
    size = os.fstat(descriptor).st_size
    if sealed & SEALS != SEALS or not size:
        raise WireError("tensors in memory that may still change")
    return torch.frombuffer(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE), dtype=torch.uint8)


def _placed(row: object, memory: Tensor) -> Tensor:
    if not (isinstance(row, list) and len(row) == 3 and isinstance(row[1], list)):
        raise WireError("a tensor that is not described")
    kind, shape, start = _KINDS[row[0]], row[1], row[2]
    if not all(type(n) is int and n >= 0 for n in (*shape, start)):
        raise WireError("a tensor without a shape")
    nbytes = math.prod(shape) * kind.itemsize
    if start + nbytes > len(memory) or start % ALIGNMENT:
        raise WireError("a tensor outside its memory")
    if len(shape) > MOST_AXES:
        raise WireError("a tensor of too many axes")
    if not nbytes:
        return torch.empty(shape, dtype=kind)
    held = memory[start : start + nbytes]
    # What is neither true nor false must not pass for either: torch reckons with such a byte as if it were one.
    return (held != 0 if kind == torch.bool else held.view(kind)).reshape(shape)


def _picture(pixels: object, mode: object, size: object) -> object:
    from PIL import Image

    width, height = size if isinstance(size, list) and all(type(n) is int and n >= 0 for n in size) else (-1, -1)
    if not isinstance(pixels, Tensor) or not isinstance(mode, str) or mode not in PICTURES or width < 0:
        raise WireError("a picture that is none")
    data = pixels.numpy().tobytes() if width * height else b""
    if len(data) != width * height * PICTURES[mode]:
        raise WireError("a picture of another size")
    return Image.frombytes(mode, (width, height), data) if data else Image.new(mode, (width, height))


def _value(plain: object, tensors: list[Tensor], depth: int) -> object:
    if depth > 2 * DEEPEST:
        raise WireError("nested too deep")
    if isinstance(plain, list):
        return [_value(item, tensors, depth + 1) for item in plain]
    if not isinstance(plain, dict):
        return plain
    held = plain["v"]
    match plain["$"]:
        case "float":
            return float.fromhex(held)
        case "tensor" if type(held) is int and held >= 0:
            return tensors[held]
        case "array":
            found = _value(held, tensors, depth + 1)
            if isinstance(found, Tensor):
                return found.numpy()
        case "bytes":
            return bytes.fromhex(held)
        case "set":
            return {_value(item, tensors, depth + 1) for item in held}
        case "picture":
            return _picture(_value(held, tensors, depth + 1), plain["m"], plain["s"])
        case "dtype":
            return _KINDS[held]
        case "device":
            return torch.device(held)
        case "handle" if type(held) is int:
            return Handle(held, str(plain["k"])[:100])
        case "tuple":
            return tuple(_value(item, tensors, depth + 1) for item in held)
        case "map":
            if not all(type(key) in (str, int) for key, _ in held):
                raise WireError("a key that is none")
            values = {key: _value(item, tensors, depth + 1) for key, item in held}
            return Record(str(plain["k"])[:100], values) if "k" in plain else values
    raise WireError("a value of no kind")
