"""The structs of ``native/abi.h``, and its functions' signatures."""

from __future__ import annotations

import ctypes
import enum
from ctypes import POINTER, c_char_p, c_float, c_int32, c_int64, c_void_p

VERSION = 1
"""Of the interface; a library of another one is not used."""


class Kind(enum.IntEnum):
    """Of numbers, and of layouts."""

    F32 = 0
    BF16 = 1
    F16 = 2
    F8_E4M3 = 3
    F8_E5M2 = 4
    I8 = 5
    N4 = 6


class Flag(enum.IntFlag):
    """How a product is made."""

    ACCUMULATE = 1
    EXACT = 2


class Rows(ctypes.Structure):
    """Rows of numbers: ``of_rows``."""

    _fields_ = (
        ("at", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("stride", c_int64),
        ("kind", c_int32),
        ("unused", c_int32),
    )


class PackedMatrix(ctypes.Structure):
    """A matrix in panels: ``of_matrix``."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("minima", c_void_p),
        ("table", c_void_p),
        ("outs", c_int64),
        ("ins", c_int64),
        ("group", c_int64),
        ("kind", c_int32),
        ("scale_kind", c_int32),
    )


STRUCTS: tuple[type[ctypes.Structure], ...] = (Rows, PackedMatrix)
"""In the order of ``of_struct_sizes``."""

FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "of_version": (c_int32, ()),
    "of_struct_sizes": (POINTER(c_int32), ()),
    "of_variant": (c_char_p, ()),
    "of_set_threads": (None, (c_int32,)),
    "of_threads": (c_int32, ()),
    "of_packed_bytes": (c_int64, (c_int32, c_int64, c_int64)),
    "of_pack": (c_int32, (POINTER(Rows), c_int32, c_void_p)),
    "of_unpack": (c_int32, (POINTER(PackedMatrix), POINTER(Rows))),
    "of_matmul": (c_int32, (POINTER(PackedMatrix), POINTER(Rows), POINTER(c_float), POINTER(Rows), c_int32)),
}
"""Name, result and arguments of every function that is called."""
