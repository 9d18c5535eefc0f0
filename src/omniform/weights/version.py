"""Which weights a model has now: a number that rises whenever anything changed that outputs depend on.

Whatever is kept beside a model and was computed with its weights (keys of tokens, features of pictures, packed
matrices) is kept together with the number, and is of no use once that has risen.

Nobody tells when weights change: optimizers, ``load_state_dict``, merged adapters and hands at a prompt write into
tensors. So a :class:`WeightWatch` looks, when somebody asks, and sees

- other modules, parameters or buffers than before, other settings of a module (an adapter that was switched off, the
  scale of another, training or not) and other hooks;
- tensors that moved (``to``, ``half``, ``.data = ...``) or that torch counted a write to;
- what torch does not count, writes through ``.data``: in views of mapped files every one, from the kernel's table of
  pages; in ordinary memory every one while there are at most :data:`WHOLE` bytes of it, and in bigger models those that
  change any of :data:`SAMPLES` words spread evenly over each (an adapter that is merged, a step of an optimizer, a
  matrix written anew; but not a few numbers, for which there is :meth:`WeightWatch.raise_`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from itertools import chain
from threading import RLock
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn

from omniform.weights.pages import Span, maps_of_private_files, span_of, written

WHOLE = 4 * 2**20
"""Bytes of ordinary memory that are compared as a whole, which takes less than a millisecond."""

SAMPLES = 2**14
"""Words of eight bytes that are compared in a model whose ordinary memory is bigger: each costs a cache miss."""

LEAST = 16
"""Words that are compared of every tensor."""

_PLAIN = frozenset({bool, int, float, str, type(None)})
_CONTAINERS = (list, tuple, dict, set)
_OURS = ("torch", "omniform")


class Contents:
    """Some or all of the bytes that a stretch of the CPU's memory holds.

    Args:
        span: it must still be there whenever it is asked about.
        words: how many of its words of eight bytes to look at; all, if it has no more.
    """

    __slots__ = ("_now", "_then")

    def __init__(self, span: Span, words: int) -> None:
        start, nbytes = span
        memory = memoryview((ctypes.c_char * nbytes).from_address(start))
        if nbytes <= words * 8:
            self._now: np.ndarray[tuple[int], np.dtype[np.generic]] = np.frombuffer(memory, np.uint8)
        else:
            whole = np.frombuffer(memory, np.uint64, nbytes // 8)
            self._now = whole[:: len(whole) // words]
        self._then = self._now.tobytes()

    def are_as_they_were(self) -> bool:
        """Whether those bytes are the same now."""
        return self._now.tobytes() == self._then


class Memory:
    """What lies behind some tensors, watched for writes that torch does not count.

    Args:
        tensors: they must be where they were whenever it is asked about.
        words: how many words of eight bytes to look at in all, where there is more than :data:`WHOLE` of memory that is
            no file's.
    """

    def __init__(self, tensors: Iterable[Tensor], words: int = SAMPLES) -> None:
        files = maps_of_private_files()
        pages: dict[Span, None] = {}
        loose: dict[Span, None] = {}
        for tensor in tensors:
            if tensor.device.type == "cpu" and tensor.layout == torch.strided and tensor.numel() and tensor.data_ptr():
                for span in files.parts(*span_of(tensor)):
                    (pages if span.of_file else loose)[span.start, span.nbytes] = None
        self.pages = joined(pages)
        total = sum(nbytes for _, nbytes in loose)
        if total > WHOLE:
            self.contents = [Contents(span, max(LEAST, words * span[1] // total)) for span in loose]
        else:
            self.contents = [Contents(span, total) for span in loose]

    def was_written(self) -> bool:
        """Whether somebody wrote to it since."""
        return were_written([self])


def were_written(memories: Iterable[Memory]) -> bool:
    """Whether somebody wrote to any of some memories."""
    memories = list(memories)
    return written(span for memory in memories for span in memory.pages) or not all(
        contents.are_as_they_were() for memory in memories for contents in memory.contents
    )


def counted(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies, and how many writes torch has counted; none for what inference mode made."""
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


class WeightWatch:
    """Looks whether a model's weights are those of the last time. One for each model: :meth:`of`.

    Attributes:
        version: rises with every change that was seen.
        lock: whoever drops what was made of the weights because of a change holds it from looking until that is done,
            or another would find the change known, and what was made of the old weights still there.
    """

    def __init__(self, model: nn.Module) -> None:
        self.version = 0
        self._model = ref(model)
        self.lock = RLock()
        self._remember()

    @staticmethod
    def of(model: nn.Module) -> WeightWatch:
        """The watch of a model; all who ask get the same."""
        with _LOCK:
            watch = _WATCHES.get(model)
            if watch is None:
                watch = _WATCHES[model] = WeightWatch(model)
            return watch

    def look(self) -> int:
        """Look now; returns the version, raised if anything changed since the last look."""
        with self.lock:
            if not self._is_as_it_was():
                self.raise_()
            return self.version

    def raise_(self) -> None:
        """Say that the weights have changed, where nobody could see it."""
        with self.lock:
            self.version += 1
            self._remember()

    def accept(self) -> None:
        """Take what the modules do now for unchanged, after an edit that changes no output and no tensor (prepack)."""
        with self.lock:
            self._facts = _facts(list(self._whole().modules()))

    def _remember(self) -> None:
        modules = list(self._whole().modules())
        tensors = list(_tensors(modules))
        self._facts = _facts(modules)
        # No weak references: torch swaps no tensors that somebody watches (`torch.utils.swap_tensors`).
        self._ids = [id(tensor) for tensor in tensors]
        self._counts = [counted(tensor) for tensor in tensors]
        self._memory = Memory(tensors)
        self._elsewhere = [tensor.device.type not in ("cpu", "meta") for tensor in tensors]
        self._far = _far(tensors, self._elsewhere)

    def _is_as_it_was(self) -> bool:
        modules = list(self._whole().modules())
        tensors = list(_tensors(modules))
        return (
            [id(tensor) for tensor in tensors] == self._ids
            and [counted(tensor) for tensor in tensors] == self._counts
            and _facts(modules) == self._facts
            and not self._memory.was_written()
            and _far(tensors, self._elsewhere) == self._far
        )

    def _whole(self) -> nn.Module:
        model = self._model()
        assert model is not None, "a watch is asked by those who hold the model"
        return model


_WATCHES: WeakKeyDictionary[nn.Module, WeightWatch] = WeakKeyDictionary()
_LOCK = RLock()


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        for tensor in chain(module._parameters.values(), module._buffers.values()):
            if tensor is not None:
                yield tensor


def _facts(modules: Sequence[nn.Module]) -> list[object]:
    """What modules do, beside their tensors: settings and hooks. Those of others may keep theirs in containers."""
    facts: list[object] = []
    for module in modules:
        kind, own = type(module), module.__dict__
        facts.append(kind.__qualname__)
        facts += [value if type(value) in _PLAIN else _Object.of(value) for value in own.values()]
        if module._forward_hooks or module._forward_pre_hooks:
            facts += [*module._forward_hooks, None, *module._forward_pre_hooks]
        if kind.__module__.partition(".")[0] not in _OURS:
            facts += [repr(value) for value in own.values() if isinstance(value, (list, tuple, dict)) and _small(value)]
    return facts


class _Object:
    """What a module holds as an attribute: a function in the place of ``forward``, the ``Scores`` of an attention.

    Objects are told apart by what they are, and not kept alive: a patched ``forward`` often knows its model.
    """

    __slots__ = ("_self",)

    def __init__(self, value: object) -> None:
        self._self = ref(value)

    @classmethod
    def of(cls, value: object) -> object:
        """What stands for an attribute among the facts; containers are looked into elsewhere."""
        if isinstance(value, _CONTAINERS):
            return None
        if isinstance(value, Tensor):
            return id(value), counted(value)
        try:
            return cls(value)
        except TypeError:  # cannot be referred to weakly: a value of ours, or one that is as good as its text
            return value if is_dataclass(value) else str(value)

    def __eq__(self, other: object) -> bool:
        # Of an object there is one such reference as long as it lives.
        return isinstance(other, _Object) and self._self is other._self

    __hash__ = None  # type: ignore[assignment]


def _small(value: Iterable[object]) -> bool:
    values = chain.from_iterable(value.items()) if isinstance(value, dict) else value
    return all(type(one) in _PLAIN for one in values)


def joined(spans: Iterable[Span]) -> list[Span]:
    """Stretches of memory, those that touch or overlap as one."""
    found: list[Span] = []
    for start, nbytes in sorted(spans):
        if found and start <= sum(found[-1]):
            first, before = found[-1]
            found[-1] = first, max(before, start + nbytes - first)
        else:
            found.append((start, nbytes))
    return found


def _far(tensors: Sequence[Tensor], elsewhere: Sequence[bool]) -> bytes:
    """A few numbers of each tensor that another device holds, brought here in one go."""
    flat = [t.detach().reshape(-1) for t, far in zip(tensors, elsewhere, strict=True) if far and t.numel()]
    if not flat:
        return b""
    with torch.inference_mode():
        few = [x[:: max(1, len(x) // LEAST)][: 2 * LEAST].float().to(flat[0].device) for x in flat]
        return bytes(torch.cat(few).cpu().numpy().tobytes())
