"""Pictures as tensors: from Pillow images and arrays of any layout and type to ``[C, H, W]``, and to RGB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.images.load import ImageSource, check_pixels, load_image

if TYPE_CHECKING:
    from PIL.Image import Image

Layout: TypeAlias = Literal["channels_first", "channels_last"]

_CHANNELS: Final = (1, 3, 4)


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
    if isinstance(source, Tensor) or _is_array(source):
        image = _channels_first(_array_tensor(source, where), layout, where)
        check_pixels(image.shape[-1], image.shape[-2], where)
        return (to_rgb(image, where) if rgb else image).contiguous()
    return _pil_tensor(load_image(source), rgb, where)


def to_rgb(image: Tensor, where: str = "image") -> Tensor:
    """Three channels from one (repeated) or from four (red, green, blue, alpha, laid on white).

    Args:
        image: ``[C, H, W]``; floats with alpha are expected in 0..1.

    Returns:
        ``[3, H, W]`` in the same number type. Integers are blended in float32 and truncated as torchvision's
        ``to_dtype`` does, so that the pixels are the reference's.

    Raises:
        InputError: it has another number of channels, or floats with alpha outside 0..1.
    """
    channels = image.shape[0]
    if channels == 3:
        return image
    if channels == 1:
        return image.repeat(3, 1, 1)
    if channels != 4:
        raise InputError("cannot become RGB", where=where, expected="1, 3 or 4 channels", found=channels)
    if image.is_floating_point():
        low, high = image.aminmax()
        if low < 0 or high > 1:
            raise InputError(
                "floats with alpha must lie in 0..1", where=where, found=f"{low.item():g} to {high.item():g}"
            )
        unit = image.to(torch.float32)
    elif image.dtype in (torch.uint8, torch.int8, torch.int16, torch.uint16):
        unit = image.to(torch.float32) * (1.0 / torch.iinfo(image.dtype).max)
    else:
        raise InputError("cannot blend alpha in this number type", where=where, expected="uint8", found=image.dtype)
    colour, alpha = unit[:3], unit[3:]
    blended = colour * alpha + (1 - alpha)
    if image.is_floating_point():
        return blended.to(image.dtype)
    return (blended * (torch.iinfo(image.dtype).max + 1.0 - 1e-3)).to(image.dtype)


def array_to_pil(source: object, where: str) -> Image:
    """A Pillow RGB image from an array of uint8, or of floats in 0..1.

    Raises:
        InputError: it is no array, or one with another layout or other numbers.
    """
    from PIL import Image

    if not isinstance(source, Tensor) and not _is_array(source):
        raise InputError(
            "this is not a picture",
            where=where,
            expected="a path, a URL, base64, bytes, an open file, a Pillow image, an array or a tensor",
            found=type(source).__name__,
        )
    image = to_rgb(_channels_first(_array_tensor(source, where), None, where), where)
    if image.is_floating_point():
        low, high = image.aminmax()
        if low < 0 or high > 1:
            raise InputError("floats must lie in 0..1", where=where, found=f"{low.item():g} to {high.item():g}")
        image = (image * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise InputError("unsupported number type", where=where, expected="uint8, or floats in 0..1", found=image.dtype)
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


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
    tensor = _from_numpy(array, where)
    return tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()


def _pil_rgb(image: Image) -> Image:
    from PIL import Image

    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _is_array(source: object) -> bool:
    import numpy as np

    return isinstance(source, np.ndarray)


def _array_tensor(source: object, where: str) -> Tensor:
    if isinstance(source, Tensor):
        tensor = source.detach()
        if tensor.is_complex():
            raise InputError("unsupported number type", where=where, expected="real numbers", found=tensor.dtype)
    else:
        tensor = _from_numpy(source, where)
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InputError("the picture holds NaN or infinite values", where=where)
    return tensor


def _from_numpy(source: object, where: str) -> Tensor:
    import numpy as np

    array = np.asarray(source)
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise InputError("unsupported number type", where=where, expected="uint8 or floats", found=array.dtype)
    # torch takes neither foreign byte order nor negative strides.
    return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))


def _channels_first(image: Tensor, layout: Layout | None, where: str) -> Tensor:
    if image.ndim == 2:
        return image.unsqueeze(0)
    if image.ndim != 3:
        raise InputError(
            "this is not one picture",
            where=where,
            expected="[height, width], [height, width, channels] or [channels, height, width]",
            found=list(image.shape),
        )
    if layout is None:
        layout = "channels_first" if image.shape[0] in _CHANNELS else "channels_last"
        if layout == "channels_last" and image.shape[2] not in _CHANNELS:
            raise InputError(
                "no dimension looks like channels",
                where=where,
                expected="1, 3 or 4 channels, first or last",
                found=list(image.shape),
                remedy="Pass input_data_format= if it has others.",
            )
    return image if layout == "channels_first" else image.permute(2, 0, 1)
