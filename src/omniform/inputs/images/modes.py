"""Pillow's modes: which of them are colours, which are mere numbers, and how each becomes RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from omniform.inputs.images.arrays import from_numpy, in_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow cuts these at 255 on the way to RGB; they are read as the arrays that they are.
_NUMBERS: Final = ("I", "F")
_PREMULTIPLIED: Final = {"RGBa": "RGBA", "La": "LA"}


def is_numbers(image: Image) -> bool:
    """Whether a picture holds grey values wider than a byte."""
    return image.mode.startswith("I;16") or image.mode in _NUMBERS


def numbers(image: Image, where: str) -> Tensor:
    """The grey values of a picture of such a mode, as bytes or floats. Shape: ``[1, H, W]``.

    A grey that stands for transparency becomes white.

    Raises:
        InputError: they are integers of 32 bits beyond 0..255.
    """
    import numpy as np

    grey = from_numpy(np.array(image), where)
    key = image.info.get("transparency")
    if isinstance(key, int) and grey.dtype == torch.uint16:
        wide = grey.to(torch.int32)
        grey = torch.where(wide == key, 65535, wide).to(torch.uint16)
    grey = in_bytes(grey, where)
    return (grey if grey.is_floating_point() else grey.to(torch.uint8)).unsqueeze(0)


def has_alpha(image: Image) -> bool:
    """Whether a picture of colours has transparent places. (The A of LAB is a colour.)"""
    bands = image.getbands()
    return bands[-1] == "A" or image.mode in _PREMULTIPLIED or image.info.get("transparency") is not None


def on_white(image: Image) -> Image:
    """A picture of colours as RGB, what is transparent laid on white."""
    from PIL import Image

    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if not has_alpha(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
