"""NVIDIA's management library, the few functions that measuring needs, through ctypes.

Source of names and layouts: NVML API Reference Manual (nvml.h).
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from typing import Any, Self

_MOST = 256


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Use(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("instance", ctypes.c_uint),
        ("compute", ctypes.c_uint),
    )


class Nvml:
    """One device.

    Args:
        library: as :meth:`open` found it.
        handle: of the device.
    """

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library = library
        self._handle = handle

    @classmethod
    def open(cls, index: int = 0) -> Self | None:
        """The device of an index; None where there is no library, driver or device."""
        library = _library()
        handle = ctypes.c_void_p()
        if library is None or library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
            return None
        return cls(library, handle)

    @staticmethod
    def names() -> list[str]:
        """What devices there are."""
        library, count, found = _library(), ctypes.c_uint(), []
        if library is None or library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        for index in range(count.value):
            one, text = Nvml.open(index), ctypes.create_string_buffer(_MOST)
            if one is not None and library.nvmlDeviceGetName(one._handle, text, _MOST) == 0:
                found.append(text.value.decode(errors="replace"))
        return found

    def use(self) -> float | None:
        """Share of the last sampling period in which the device computed, in %."""
        use = _Use()
        done = self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(use))
        return float(use.gpu) if done == 0 else None

    def memory(self, pids: set[int]) -> float | None:
        """Bytes that these processes hold, or, where the driver does not tell processes apart, that are in use."""
        count = ctypes.c_uint(_MOST)
        held = (_Process * _MOST)()
        with suppress(AttributeError):
            if self._library.nvmlDeviceGetComputeRunningProcesses_v3(self._handle, ctypes.byref(count), held) == 0:
                own = [one.used for one in held[: count.value] if one.pid in pids and one.used < 1 << 62]
                if own:
                    return float(sum(own))
        memory = _Memory()
        done = self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(memory))
        return float(memory.used) if done == 0 else None

    def joules(self) -> float | None:
        """Energy since the driver was loaded."""
        energy = ctypes.c_ulonglong()
        done = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(energy))
        return energy.value / 1000 if done == 0 else None

    def throttled(self) -> bool:
        """Whether heat or power hold the clock down now."""
        reasons = ctypes.c_ulonglong()
        done = self._library.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle, ctypes.byref(reasons))
        # Software and hardware thermal slowdown, hardware slowdown, power brake.
        return done == 0 and bool(reasons.value & (0x8 | 0x20 | 0x40 | 0x80))


@cache
def _library() -> Any:
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        with suppress(OSError):
            library = ctypes.CDLL(name)
            if library.nvmlInit_v2() == 0:
                return library
    return None
