"""Pillow's decoded pixels as tensors, without a copy where Pillow lends its memory.

Pillow keeps a picture of colours as four bytes for each pixel and hands it out through the Arrow C data interface
(https://arrow.apache.org/docs/format/CDataInterface.html). To ask for an array instead copies every pixel three times,
which takes longer than to resize it.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from omniform.inputs.images.arrays import from_numpy

if TYPE_CHECKING:
    from PIL.Image import Image

# How many channels there are, of those that Pillow keeps as bytes and whose order in memory is their order.
_LENT: Final = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}
# So many pixels are copied at a time of a picture that is not lent: a copy of all of it would be one too many.
_STRIP: Final = 1 << 22


class _Array(ctypes.Structure):
    """``struct ArrowArray``."""


_Array._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    *((name, ctypes.c_void_p) for name in ("dictionary", "release", "private_data")),
]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def pixels(image: Image, where: str, *, lend: bool = True) -> Tensor:
    """The pixels of a decoded picture. Shape: [H, W], or [H, W, C].

    Args:
        image: the picture.
        where: how to name it.
        lend: whether the tensor may be Pillow's own memory: it is read and never written. Its pixels are then four
            bytes apart, which Pillow itself cannot read as fast.

    Raises:
        InputError: the mode has no numbers that torch has.
    """
    lent = _lent(image) if lend and image.mode in _LENT else None
    if lent is not None:
        return lent
    if image.width * image.height <= _STRIP:
        return from_numpy(np.array(image), where)
    rows = max(_STRIP // image.width, 1)
    whole: Tensor | None = None
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = from_numpy(np.array(image.crop((0, top, image.width, bottom))), where)
        if whole is None:
            whole = strip.new_empty(image.height, *strip.shape[1:])
        whole[top:bottom] = strip
    assert whole is not None
    return whole


def _lent(image: Image) -> Tensor | None:
    """The picture's own memory, where Pillow has it in one piece."""
    try:
        capsules = image.__arrow_c_array__()
    except (AttributeError, ValueError, MemoryError):  # an older Pillow; a picture in several pieces
        return None
    array = ctypes.cast(_pointer(capsules[1], b"arrow_array"), ctypes.POINTER(_Array)).contents
    inner = array.children[0].contents if array.n_children else array
    count = image.width * image.height
    if inner.length % count or array.offset or inner.offset:
        return None
    memory = (ctypes.c_uint8 * inner.length).from_address(inner.buffers[1])
    memory.owner = capsules  # which end the loan when nobody holds them
    lent = torch.frombuffer(memory, dtype=torch.uint8)
    if image.mode == "L":
        return lent.view(image.height, image.width)
    return lent.view(image.height, image.width, -1)[..., : _LENT[image.mode]]
