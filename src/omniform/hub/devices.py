"""The places that weights can be in, how much each has room for, and how users name both."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from omniform.core.errors import InputError

Place = int | str
"""A GPU's index, ``"cpu"``, ``"disk"``, or another device's name: the values of the ecosystem's device maps."""

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

SPARE = 0.1
"""The share of a device's free memory that is left for activations and state where the user names no bounds."""

LARGEST_INDEX = 1023
"""No machine has more accelerators than this."""


def parse_size(size: object, where: str | None = None) -> int:
    """Bytes from a number or from text like ``"5GB"`` or ``"500MiB"``.

    Raises:
        InputError: it is no size, or not positive.
    """
    text = str(size).strip().upper().replace(" ", "")
    unit = next((u for u in sorted(UNITS, key=len, reverse=True) if text.endswith(u)), "")
    try:
        value = float(text.removesuffix(unit)) * UNITS.get(unit, 1)
    except ValueError:
        value = 0
    # Nor what is no number at all, nor more than any address can count.
    if isinstance(size, bool) or not isinstance(size, (int, float, str)) or not 1 <= value < 2**63:
        raise InputError(
            "no such size", where=where, expected="a number of bytes, or a text like '5GB'", found=repr(size)
        )
    return int(value)


def place_named(name: object, where: str) -> Place:
    """The place that a user's value means: an index, a torch device, or its name.

    Raises:
        InputError: it means none.
    """
    wrong = InputError("no such device", where=where, expected="an index, 'cpu', 'disk' or a device", found=repr(name))
    if isinstance(name, bool) or not isinstance(name, (int, str, torch.device)):
        raise wrong
    if isinstance(name, str) and name in ("cpu", "disk"):
        return name
    if isinstance(name, int) or (isinstance(name, str) and re.fullmatch(r"\d{1,4}", name)):
        index = int(name)
        if not 0 <= index <= LARGEST_INDEX:
            raise wrong
        return index
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):
        raise wrong from None
    if device.type == "meta":
        raise InputError("weights cannot be loaded to the meta device", where=where, found=repr(name))
    if device.type == "cpu":
        return "cpu"
    return (device.index or 0) if device.type == _accelerator() else str(device)


def as_device(place: Place) -> torch.device:
    """The torch device of a place; the disk's is the CPU, which reads it."""
    if isinstance(place, int):
        return torch.device(_accelerator(), place)
    return torch.device("cpu" if place == "disk" else place)


def need_device(place: Place, where: str) -> None:
    """Raise :class:`InputError` unless this machine has the place."""
    try:
        torch.empty(0, device=as_device(place))
    except (RuntimeError, ValueError, AssertionError, NotImplementedError):
        raise InputError(
            "no such device here", where=where, found=repr(place), expected=" or ".join(map(repr, (*gpus(), "cpu")))
        ) from None


def gpus() -> tuple[int, ...]:
    """The indices of this machine's accelerators."""
    return tuple(range(torch.accelerator.device_count())) if torch.accelerator.is_available() else ()


def bounds(max_memory: object) -> dict[Place, int]:
    """How many bytes of weights each place may hold: what the user says, or else most of what is free now.

    Places that the user leaves out are not used.

    Raises:
        InputError: a key is no place, or a value no size.
    """
    if max_memory is None:
        free: dict[Place, int] = {index: _free_on(index) for index in gpus()}
        free["cpu"] = free_memory()
        return {place: int(nbytes * (1 - SPARE)) for place, nbytes in free.items()}
    if not isinstance(max_memory, Mapping):
        expected = "sizes by device, as {0: '8GB', 'cpu': '30GB'}"
        raise InputError("no bounds of memory", where="max_memory", expected=expected, found=repr(max_memory))
    if not max_memory:
        raise InputError("no device may hold anything", where="max_memory", expected="at least one device")
    found: dict[Place, int] = {}
    for name, size in max_memory.items():
        place = place_named(name, "max_memory")
        if place in found:
            raise InputError("the same device twice", where="max_memory", found=repr(name))
        # Nothing at all is a bound like any other: that device is not to be used.
        none = size == 0 and not isinstance(size, bool)
        found[place] = 0 if none else parse_size(size, f"max_memory: {name!r}")
    return dict(sorted(found.items(), key=lambda item: _rank(item[0])))


def free_memory() -> int:
    """Bytes of memory that processes can still take without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not a Linux machine
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_on(index: int) -> int:
    # What torch holds and does not use is free as well.
    free, _ = torch.cuda.mem_get_info(index)
    return int(free) + torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)


def _rank(place: Place) -> tuple[int, str]:
    # Accelerators first, by index, then others by name, then the CPU, then the disk.
    if isinstance(place, int):
        return place, ""
    return LARGEST_INDEX + {"cpu": 2, "disk": 3}.get(place, 1), place


def _accelerator() -> str:
    found = torch.accelerator.current_accelerator()
    return "cuda" if found is None else found.type
