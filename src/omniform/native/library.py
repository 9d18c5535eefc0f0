"""The compiled library that fits this processor: found, checked, and loaded once."""

from __future__ import annotations

import ctypes
import os
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from omniform.native import abi
from omniform.native.cpu import NEEDS, Cpu, available_threads, features, opened, path_of

ERRORS = {
    1: "there is no memory left",
    2: "the kernels do not know this kind of numbers",
    3: "numbers are out of the range that scales hold",
}
"""What a function's result other than zero means."""

TESTED = frozenset({"v3"})
"""Variants that every run of the tests has been through; others prove themselves when they are loaded."""


class NativeError(RuntimeError):
    """A kernel refused; our own bug, or no memory."""


class OutOfRangeError(NativeError):
    """Scales of float16 would not do for these numbers."""


@dataclass(frozen=True, slots=True)
class Library:
    """A loaded library.

    Attributes:
        variant: its name, such as ``"v3"``.
        c: its functions.
    """

    variant: str
    c: ctypes.CDLL

    def call(self, name: str, *args: Any) -> None:
        """Call a function that returns whether it went well, with as many threads as torch has.

        Raises:
            NativeError: it did not.
        """
        self.follow_torch()
        wrong = getattr(self.c, name)(*args)
        if wrong:
            raise (OutOfRangeError if wrong == 3 else NativeError)(f"{name}: {ERRORS.get(wrong, wrong)}")

    def follow_torch(self) -> None:
        """Compute with as many threads as torch does now, and never more than this process is given."""
        self.c.of_set_threads(min(torch.get_num_threads(), available()))


@cache
def available() -> int:
    """See :func:`~omniform.native.cpu.available_threads`; asked once."""
    return available_threads()


@dataclass(frozen=True, slots=True)
class _Found:
    library: Library | None
    why_not: str


def library() -> Library | None:
    """The library for this processor; None where there is none: :func:`why_not` says why."""
    return _find(os.environ.get("OMNIFORM_NATIVE", ""), os.environ.get("OMNIFORM_CPU", "")).library


def why_not() -> str:
    """Why torch computes everything here; empty where the library does."""
    return _find(os.environ.get("OMNIFORM_NATIVE", ""), os.environ.get("OMNIFORM_CPU", "")).why_not


@cache
def _find(switch: str, forced: str) -> _Found:
    if switch == "0":
        return _Found(None, "OMNIFORM_NATIVE=0 turns the native kernels off")
    try:
        able = features()
    except OSError as wrong:
        return _warned(f"the native kernels cannot be loaded ({wrong}); torch computes instead, which is slower")
    if forced:
        return _forced(forced, able)
    fitting = [name for name, needs in NEEDS.items() if needs & able == needs and path_of(name).is_file()]
    for name in fitting:
        found = _load(name)
        if isinstance(found, Library):
            return _Found(found, "")
        _warned(found)
    if fitting:
        return _Found(None, "no compiled variant could be loaded")
    if not any(path_of(name).is_file() for name in NEEDS):
        return _warned(
            "omniform was installed without native kernels (no C++ compiler was there): torch computes. With them, "
            "most processors read prompts in bfloat16 several times as fast; reinstall where there is a compiler, "
            "or set OMNIFORM_NATIVE=0 to hear no more of it"
        )
    return _Found(None, "this processor has none of the instructions that the kernels are compiled for")


def _forced(name: str, able: Cpu) -> _Found:
    """The variant that ``OMNIFORM_CPU`` names; another one is never used in its place."""
    needs = NEEDS.get(name)
    if needs is None:
        return _warned(f"OMNIFORM_CPU={name}: no such variant; there are {', '.join(NEEDS)}. torch computes instead")
    lacks = needs & ~able
    if lacks:
        return _warned(f"OMNIFORM_CPU={name}: this processor lacks {lacks.name}. torch computes instead")
    if not path_of(name).is_file():
        return _warned(f"OMNIFORM_CPU={name}: this variant was not compiled. torch computes instead")
    found = _load(name)
    return _Found(found, "") if isinstance(found, Library) else _warned(found)


def _load(name: str) -> Library | str:
    """A variant, or why it cannot be used."""
    path = path_of(name)
    try:
        c = opened(path)
        for called, (result, arguments) in abi.FUNCTIONS.items():
            function = getattr(c, called)  # which keeps it: c[...] would make another at every call
            function.restype, function.argtypes = result, arguments
        version = c.of_version()
        sizes = c.of_struct_sizes()
        held = [sizes[n] for n in range(len(abi.STRUCTS) + 1)] if version == abi.VERSION else []
    except (OSError, AttributeError) as wrong:
        return f"{path.name} is damaged or foreign ({wrong}); reinstall omniform to have its native kernels"
    if version != abi.VERSION or held != [*map(ctypes.sizeof, abi.STRUCTS), 0]:
        return f"{path.name} belongs to another version of omniform; reinstall omniform to have its native kernels"
    found = Library(name, c)
    if name in TESTED:
        return found
    from omniform.native.proof import disproved  # which packs matrices, and those ask for a library

    fault = disproved(found)
    return f"{path.name} computes {fault} on this processor; please report it" if fault else found


def _warned(what: str) -> _Found:
    warnings.warn(what, stacklevel=4)
    return _Found(None, what)
