"""Pictures as tensors: from every source to ``[C, H, W]``, in the pixels that the reference would see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.images.arrays import Layout, array_picture, finite, in_bytes, is_array
from omniform.inputs.images.backends import TORCHVISION, Backend
from omniform.inputs.images.decoded import pixels
from omniform.inputs.images.load import ImageSource, damaged, open_image
from omniform.inputs.images.modes import is_numbers, numbers, on_white
from omniform.inputs.media_access import OWN, MediaAccess

if TYPE_CHECKING:
    from PIL.Image import Image

Channels: TypeAlias = Literal["rgb", "colours", "own"]
"""Which channels a picture gets: three; its own, where a palette stands for the colours in it; or its own as stored."""


def image_tensor(
    source: ImageSource,
    *,
    channels: Channels,
    layout: Layout | None = None,
    where: str = "image",
    access: MediaAccess = OWN,
    count: Callable[[int], None] | None = None,
    backend: Backend = TORCHVISION,
) -> Tensor:
    """One picture as ``[C, H, W]`` of bytes, or of floats where it has floats; upright by its EXIF tag.

    Its numbers lie as they came, channels last in memory where Pillow decoded them.

    Args:
        source: see :func:`~omniform.inputs.images.load.load_image`; floats may have any values.
        channels: ``"rgb"``: grey is repeated, transparency is laid on white.
        layout: where the channels of an array are; without it they are looked for.
        where: how to name the picture in an error.
        access: what may be read.
        count: told how many pixels the picture has, before they are decoded; it may refuse.
        backend: how arrays with an alpha become RGB.

    Raises:
        RepoError, InputError: as :func:`~omniform.inputs.images.load.load_image`; or it cannot be converted.
    """
    if isinstance(source, Tensor) or is_array(source):
        image = array_picture(source, layout, where, access.max_pixels)
        if count is not None:
            count(image.shape[-2] * image.shape[-1])
    else:
        opened, where = open_image(source, access, where, count=count)
        image = _pil_tensor(opened, channels, where, backend)
    return backend.rgb(image, where) if channels == "rgb" else image


def _pil_tensor(image: Image, channels: Channels, where: str, backend: Backend) -> Tensor:
    if is_numbers(image):
        return finite(numbers(image, where), where)
    if image.mode in ("P", "PA") and channels == "own":
        raise InputError(
            "a palette picture holds numbers of colours, not colours", where=where, remedy="Pass do_convert_rgb=True."
        )
    try:
        shown = on_white(image) if channels == "rgb" or image.mode in ("P", "PA") else image
        tensor = pixels(shown, where, lend=backend.name == "torchvision")
    # Not every mode becomes every other.
    except Exception as error:
        raise damaged(where, error) from error
    tensor = in_bytes(tensor, where)
    return tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.permute(2, 0, 1)
