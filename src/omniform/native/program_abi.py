"""The structs of programs in ``native/abi.h``, and the call that computes a step of one."""

from __future__ import annotations

import ctypes
import enum
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p

import numpy as np

from omniform.native import abi
from omniform.native.library import Library


class Code(enum.IntEnum):
    """Operations: ``of_code``."""

    PRODUCTS = 0
    NORM = 1
    ROTATE = 2
    STORE = 3
    ATTEND = 4
    LOOK = 5
    ACT = 6
    SCALE = 7
    CLAMP = 8
    GATE = 9
    ADD = 10
    TIMES = 11
    WEIGH = 12
    SPREAD = 13
    PICK = 14
    ROUTE = 15
    EXPERTS = 16
    CONVOLVE = 17
    RECUR = 18
    SCAN = 19
    JOIN = 20


class Place(Structure):
    """Columns of a buffer: ``of_place``."""

    _fields_ = tuple((name, c_int32) for name in ("buffer", "at", "heads", "size", "stride", "unused"))


class Buffer(Structure):
    """Rows of numbers: ``of_buffer``."""

    _fields_ = (("width", c_int32), ("storage", c_int32))


class Storage(Structure):
    """Memory for a buffer at a time: ``of_storage``."""

    _fields_ = (("width", c_int32), ("wanted", c_int32))


class Op(Structure):
    """An operation: ``of_op``."""

    _fields_ = (
        ("code", c_int32), ("m", c_int32), ("x", Place), ("y", Place), ("z", Place), ("out", Place),
        ("weight", c_void_p), ("bias", c_void_p), ("n", c_int32), ("k", c_int32), ("a", c_float), ("b", c_float),
    )  # fmt: skip


class Product(Structure):
    """A matrix and a bias: ``of_product``."""

    _fields_ = (("matrix", POINTER(abi.PackedMatrix)), ("bias", c_void_p), ("at", c_int64), ("from", c_int64))


class Routing(Structure):
    """How experts are chosen: ``of_routing``."""

    _fields_ = (
        ("bias", c_void_p), ("likely", c_int32), ("top", c_int32), ("groups", c_int32), ("top_groups", c_int32),
        ("best", c_int32), ("normed", c_int32), ("least", c_float), ("scale", c_float),
    )  # fmt: skip


class ExpertsOf(Structure):
    """The matrices of experts: ``of_experts``."""

    _fields_ = (
        ("gate_up", POINTER(Product)), ("down", POINTER(Product)), ("count", c_int64), ("hidden", c_int64),
        ("act", c_int32), ("beside", c_int32), ("limit", c_float), ("alpha", c_float),
    )  # fmt: skip


class RecurrenceOf(Structure):
    """What heads keep: ``of_recurrence``."""

    _fields_ = (*((name, Place) for name in ("q", "k", "g", "beta")), ("heads", c_int64), ("corrects", c_int64))


class ScanOf(Structure):
    """What channels keep: ``of_scan``."""

    _fields_ = (*((name, Place) for name in ("b", "c", "dt")), ("rates", c_void_p))


class ProgramOf(Structure):
    """A program: ``of_program``."""

    _fields_ = (
        ("ops", POINTER(Op)), ("buffers", POINTER(Buffer)), ("storages", POINTER(Storage)), ("op_count", c_int64),
        ("buffer_count", c_int64), ("storage_count", c_int64), ("out", Place),
    )  # fmt: skip


_STATE = [
    ("at", "u8"), ("scales", "u8"), ("heads", "i8"), ("width", "i8"), ("head_stride", "i8"), ("slot_stride", "i8"),
    ("scale_stride", "i8"), ("kind", "i4"), ("unused", "i4"),
]  # fmt: skip
KEPT = np.dtype([("keys", _STATE), ("values", _STATE), ("slots", "i8"), ("sights", "i8")])
"""``of_kept``, as arrays of numpy: there is one for each layer, and they may change with every step."""

SIGHT = np.dtype([
    ("segments", "u8"), ("ranges", "u8"), ("low", "u8"), ("high", "u8"), ("query", "u8"), ("origin", "u8"),
    ("segment_count", "i8"),
])  # fmt: skip
"""``of_sight`` likewise."""

TABLE = np.dtype([("cos", "u8"), ("sin", "u8"), ("dim", "i8")])
"""``of_table`` likewise."""

BIAS = np.dtype([("at", "u8"), ("width", "i8"), ("offset", "i8"), ("by_place", "i8"), ("places", "u8")])
"""``of_bias`` likewise."""

READING = np.dtype([("first", "i8"), ("count", "i8"), ("row", "i8"), ("fresh", "i8")])
"""``of_reading`` likewise."""

FIXED = np.dtype([("from", "u8"), ("to", "u8"), ("places", "u8"), ("stride", "i8"), ("kind", "i4"), ("unused", "i4")])
"""``of_fixed`` likewise."""


class Step(Structure):
    """What changes from step to step: ``of_step``."""

    _fields_ = (
        ("x", abi.Rows), ("out", abi.Rows), ("wanted", c_void_p), ("kept", c_void_p), ("slots", c_void_p),
        ("memories", c_void_p), ("sights", c_void_p), ("tables", c_void_p), ("biases", c_void_p),
        ("readings", c_void_p), ("fixed", c_void_p), ("reading_count", c_int64), ("arena", c_void_p),
    )  # fmt: skip


_SIZES = [
    *map(ctypes.sizeof, (Place, Buffer, Storage, Op, Product, Routing, ExpertsOf, RecurrenceOf, ScanOf, ProgramOf)),
    *(kind.itemsize for kind in (KEPT, SIGHT, TABLE, BIAS, READING, FIXED)), ctypes.sizeof(Step), 0,
]  # fmt: skip


def knows_programs(by: Library) -> bool:
    """Whether a library computes programs laid out as here."""
    try:
        sizes, run = by.c.of_program_sizes, by.c.of_run
    except AttributeError:
        return False
    sizes.restype, sizes.argtypes = POINTER(c_int32), ()
    run.restype, run.argtypes = c_int32, (POINTER(ProgramOf), POINTER(Step))
    return [sizes()[n] for n in range(len(_SIZES))] == _SIZES


def keeps_nibbles(by: Library) -> bool:
    """Whether a library knows pages of four bits a number; those that were compiled before there were any do not."""
    return hasattr(by.c, "of_keeps_nibbles")
