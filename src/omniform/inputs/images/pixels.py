"""Pictures as tensors: from every source to ``[C, H, W]``, in the pixels that the reference would see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.images.arrays import (
    Layout,
    array_tensor,
    channels_first,
    check_pixels,
    from_numpy,
    is_array,
    to_rgb,
)
from omniform.inputs.images.load import ImageSource, load_image

if TYPE_CHECKING:
    from PIL.Image import Image


def image_tensor(source: ImageSource, *, rgb: bool, layout: Layout | None = None, where: str = "image") -> Tensor:
    """One picture as ``[C, H, W]``, in the number type it came with.

    What names a file (a path, a URL, bytes, base64) is loaded upright and in RGB; a Pillow image and an array are
    taken as they stand.

    Args:
        source: see :func:`~omniform.inputs.images.load.load_image`; arrays may hold any real numbers.
        rgb: convert to three channels: grey is repeated, transparency is laid on white.
        layout: where the channels of an array are; without it they are looked for, first in front.
        where: how to name the picture in an error.

    Raises:
        RepoError, InputError: as :func:`~omniform.inputs.images.load.load_image`; or the array has no such layout,
            holds NaN or infinities, or cannot be converted.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _pil_tensor(source, rgb, where)
    if isinstance(source, Tensor) or is_array(source):
        image = channels_first(array_tensor(source, where), layout, where)
        check_pixels(image.shape[-1], image.shape[-2], where)
        return (to_rgb(image, where) if rgb else image).contiguous()
    return _pil_tensor(load_image(source), rgb, where)


def _pil_tensor(image: Image, rgb: bool, where: str) -> Tensor:
    import numpy as np

    check_pixels(image.width, image.height, where)
    if image.mode in ("P", "PA") and not rgb:
        raise InputError(
            "a palette picture holds numbers of colours, not colours", where=where, remedy="Pass do_convert_rgb=True."
        )
    try:
        array = np.array(_pil_rgb(image) if rgb else image)
    # A Pillow image is decoded only here, and a damaged one raises anything: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise InputError(
            "the picture is cut or damaged", where=where, found=f"{type(error).__name__}: {str(error)[:200]}"
        ) from error
    tensor = from_numpy(array, where)
    return tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


def _pil_rgb(image: Image) -> Image:
    from PIL import Image

    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")
