"""The structs of ``native/abi.h``, and its functions' signatures."""

from __future__ import annotations

import ctypes
import enum
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_void_p

VERSION = 2
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


class Act(enum.IntEnum):
    """Activations, and a gate's alone: ``of_act``."""

    LINEAR = 0
    GELU = 1
    GELU_TANH = 2
    SILU = 3
    RELU = 4
    RELU2 = 5
    QUICK_GELU = 6
    SIGMOID = 7
    TANH = 8
    SOFTPLUS = 9
    GELU_10 = 10
    HARDSWISH = 11
    LAPLACE = 12
    LEAKY_RELU = 13
    MISH = 14
    RELU6 = 15
    SELU = 16
    CLAMPED_SWISH = 17


ACTS: dict[str, Act] = {
    "gelu": Act.GELU,
    "gelu_10": Act.GELU_10,
    "gelu_accurate": Act.GELU_TANH,
    "gelu_fast": Act.GELU_TANH,
    "gelu_new": Act.GELU_TANH,
    "gelu_python": Act.GELU,
    "gelu_pytorch_tanh": Act.GELU_TANH,
    "gelu_python_tanh": Act.GELU_TANH,
    "hardswish": Act.HARDSWISH,
    "laplace": Act.LAPLACE,
    "leaky_relu": Act.LEAKY_RELU,
    "linear": Act.LINEAR,
    "mish": Act.MISH,
    "quick_gelu": Act.QUICK_GELU,
    "relu": Act.RELU,
    "relu2": Act.RELU2,
    "relu6": Act.RELU6,
    "selu": Act.SELU,
    "sigmoid": Act.SIGMOID,
    "silu": Act.SILU,
    "softplus": Act.SOFTPLUS,
    "swish": Act.SILU,
    "tanh": Act.TANH,
}
"""Activations by the names that configs use, as :data:`omniform.blocks.mlp.ACTIVATIONS` has them."""


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


class State(ctypes.Structure):
    """What is kept of every token: ``of_state``."""

    _fields_ = (
        ("at", c_void_p),
        ("scales", c_void_p),
        ("heads", c_int64),
        ("width", c_int64),
        ("head_stride", c_int64),
        ("slot_stride", c_int64),
        ("scale_stride", c_int64),
        ("kind", c_int32),
        ("unused", c_int32),
    )


class Range(ctypes.Structure):
    """Slots that follow one another: ``of_range``."""

    _fields_ = (("first", c_int64), ("stop", c_int64))


class Segment(ctypes.Structure):
    """One row's share of a step: ``of_segment``."""

    _fields_ = (
        ("query", c_int64),
        ("queries", c_int64),
        ("range", c_int64),
        ("ranges", c_int64),
        ("first_key", c_int64),
    )


class Attention(ctypes.Structure):
    """A call of attention: ``of_attention``."""

    _fields_ = (
        ("q", c_void_p),
        ("q_stride", c_int64),
        ("q_head_stride", c_int64),
        ("out", c_void_p),
        ("out_stride", c_int64),
        ("out_head_stride", c_int64),
        ("keys", POINTER(State)),
        ("values", POINTER(State)),
        ("heads", c_int64),
        ("segments", POINTER(Segment)),
        ("segment_count", c_int64),
        ("ranges", POINTER(Range)),
        ("low", c_void_p),
        ("high", c_void_p),
        ("sinks", c_void_p),
        ("bias", c_void_p),
        ("places", c_void_p),
        ("bias_width", c_int64),
        ("bias_offset", c_int64),
        ("scale", c_float),
        ("cap", c_float),
    )


class Blocks(ctypes.Structure):
    """Rows of blocks as a GGUF file holds them: ``of_blocks``."""

    _fields_ = (
        ("rows", c_void_p),
        ("type", c_int32),
        ("unused", c_int32),
    )


STRUCTS: tuple[type[ctypes.Structure], ...] = (Rows, PackedMatrix, State, Range, Segment, Attention, Blocks)
"""In the order of ``of_struct_sizes``."""

FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "of_version": (c_int32, ()),
    "of_struct_sizes": (POINTER(c_int32), ()),
    "of_variant": (c_char_p, ()),
    "of_set_threads": (None, (c_int32,)),
    "of_threads": (c_int32, ()),
    "of_packed_bytes": (c_int64, (c_int32, c_int64, c_int64)),
    "of_in_large_pages": (None, (c_void_p, c_int64)),
    "of_pack": (c_int32, (POINTER(Rows), c_int32, c_void_p)),
    "of_unpack": (c_int32, (POINTER(PackedMatrix), POINTER(Rows))),
    "of_quantize": (c_int32, (POINTER(Rows), POINTER(PackedMatrix))),
    "of_pack_scales": (c_int32, (POINTER(Rows), c_void_p)),
    "of_pack_blocks": (c_int32, (POINTER(Blocks), POINTER(PackedMatrix))),
    "of_matmul": (c_int32, (POINTER(PackedMatrix), POINTER(Rows), POINTER(c_float), POINTER(Rows), c_int32)),
    "of_normalise": (
        c_int32,
        (POINTER(Rows), POINTER(Rows), c_int64, c_void_p, c_void_p, c_int64, c_float, c_int32),
    ),
    "of_rotate": (c_int32, (POINTER(Rows), POINTER(Rows), c_int64, POINTER(Rows), POINTER(Rows), c_int32)),
    "of_activate": (c_int32, (c_int32, POINTER(Rows), POINTER(Rows))),
    "of_gate": (c_int32, (c_int32, c_float, c_float, c_int64, POINTER(Rows), POINTER(Rows), POINTER(Rows))),
    "of_add": (c_int32, (POINTER(Rows), POINTER(Rows), c_float, POINTER(Rows))),
    "of_softmax": (c_int32, (POINTER(Rows), POINTER(Rows))),
    "of_bounded": (c_int32, (c_float, POINTER(Rows), POINTER(Rows))),
    "of_convert": (c_int32, (POINTER(Rows), POINTER(Rows))),
    "of_attend": (c_int32, (POINTER(Attention),)),
    "of_keep": (c_int32, (POINTER(State), POINTER(Rows), c_void_p)),
    "of_sort": (c_int32, (POINTER(Rows), POINTER(Rows), c_void_p)),
    "of_cut": (c_int32, (POINTER(Rows), c_int32, c_double, c_void_p)),
    "of_count_within": (c_int32, (POINTER(Rows), c_void_p, c_void_p)),
    "of_take_within": (c_int32, (POINTER(Rows), c_void_p, POINTER(Rows), c_void_p)),
    "of_draw": (c_int64, (POINTER(Rows), c_void_p, c_void_p)),
    "of_draw_on": (c_int64, (POINTER(Rows), c_void_p, c_int64, c_void_p)),
    "of_highest": (c_int32, (POINTER(Rows), c_void_p)),
}
"""Name, result and arguments of every function that is called."""
