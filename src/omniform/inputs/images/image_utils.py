"""Small tools of the ecosystem's ``image_utils``, for image processors that users write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Final, cast

import numpy as np
import PIL.Image
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.images.base import Image
from omniform.inputs.images.load import load_image as opened

ImageInput = object
"""A picture (PIL, array, tensor), or a list of them."""

IMAGENET_DEFAULT_MEAN: Final = [0.485, 0.456, 0.406]
IMAGENET_DEFAULT_STD: Final = [0.229, 0.224, 0.225]
IMAGENET_STANDARD_MEAN: Final = [0.5, 0.5, 0.5]
IMAGENET_STANDARD_STD: Final = [0.5, 0.5, 0.5]
OPENAI_CLIP_MEAN: Final = [0.48145466, 0.4578275, 0.40821073]
OPENAI_CLIP_STD: Final = [0.26862954, 0.26130258, 0.27577711]


class ChannelDimension(StrEnum):
    """Where the channels of a picture stand."""

    FIRST = "channels_first"
    LAST = "channels_last"


class PILImageResampling(IntEnum):
    """PIL's filters, by its numbers."""

    NEAREST = 0
    LANCZOS = 1
    BILINEAR = 2
    BICUBIC = 3
    BOX = 4
    HAMMING = 5


def is_pil_image(img: object) -> bool:
    """Whether it is PIL's."""
    return isinstance(img, PIL.Image.Image)


def is_valid_image(img: object) -> bool:
    """Whether it is a picture: PIL's, an array or a tensor."""
    return isinstance(img, (PIL.Image.Image, np.ndarray, Tensor))


def is_batched(img: object) -> bool:
    """Whether it is a list that begins with a picture."""
    return isinstance(img, (list, tuple)) and bool(img) and is_valid_image(img[0])


def valid_images(imgs: object) -> bool:
    """Whether all in lists of any depth are pictures."""
    if isinstance(imgs, (list, tuple)):
        return all(valid_images(one) for one in imgs)
    return is_valid_image(imgs)


def to_numpy_array(img: object) -> Image:
    """A picture as an array, as it is laid.

    Raises:
        InputError: it is none.
    """
    if not is_valid_image(img):
        raise InputError("not a picture", where="to_numpy_array", found=brief(img))
    return np.array(img) if isinstance(img, PIL.Image.Image) else np.asarray(img)


def make_list_of_images(images: object, expected_ndims: int = 3) -> list[object]:
    """A list of pictures, from one or several.

    Args:
        expected_ndims: of one picture; an array of one more is several.

    Raises:
        InputError: no pictures.
    """
    if is_batched(images):
        return list(cast("Sequence[object]", images))
    if isinstance(images, PIL.Image.Image):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim in (expected_ndims, expected_ndims + 1):
        return [images] if images.ndim == expected_ndims else list(images)
    raise InputError("no pictures", where="images", expected="PIL pictures, arrays or tensors", found=brief(images))


def make_flat_list_of_images(images: object, expected_ndims: int = 3) -> list[object]:
    """A list of pictures, from one or from lists of them."""
    if isinstance(images, (list, tuple)):
        return [one for inner in images for one in make_flat_list_of_images(inner, expected_ndims)]
    return make_list_of_images(images, expected_ndims)


def infer_channel_dimension_format(image: Image, num_channels: int | tuple[int, ...] | None = None) -> ChannelDimension:
    """Where a picture's channels stand: on the side that counts as many as channels do, the first if both do.

    Args:
        num_channels: how many channels there may be; 1 or 3 by default.

    Raises:
        InputError: neither side does.
    """
    counts = (1, 3) if num_channels is None else (num_channels,) if isinstance(num_channels, int) else num_channels
    if image.ndim not in (3, 4, 5):
        raise InputError("no channels", where="image", expected="[C, H, W] or [H, W, C]", found=list(image.shape))
    if image.shape[-3] in counts:
        return ChannelDimension.FIRST
    if image.shape[-1] in counts:
        return ChannelDimension.LAST
    raise InputError("nobody says which axis the channels are", where="image", found=f"shape {list(image.shape)}")


def get_channel_dimension_axis(image: Image, input_data_format: str | None = None) -> int:
    """The axis of a picture's channels."""
    said = infer_channel_dimension_format(image) if input_data_format is None else ChannelDimension(input_data_format)
    return image.ndim - (3 if said is ChannelDimension.FIRST else 1)


def get_image_size(image: Image, channel_dim: str | None = None) -> tuple[int, int]:
    """Height and width."""
    said = infer_channel_dimension_format(image) if channel_dim is None else ChannelDimension(channel_dim)
    first = said is ChannelDimension.FIRST
    return (image.shape[-2], image.shape[-1]) if first else (image.shape[-3], image.shape[-2])


def is_scaled_image(image: Image) -> bool:
    """Whether pixels are numbers from 0 to 1 already."""
    numbers = image.astype(np.float64)
    return image.dtype != np.uint8 and bool((numbers >= 0).all() and (numbers <= 1).all())


def get_size_dict(
    size: object = None,
    max_size: int | None = None,
    height_width_order: bool = True,
    default_to_square: bool = True,
    param_name: str = "size",
) -> dict[str, int]:
    """A size as a mapping of lengths, from any of its forms.

    Args:
        size: a mapping, a pair, or a length: of a square, or with ``default_to_square=False`` of the shorter side.
        max_size: the longer side's bound, beside the shorter side's length.
        height_width_order: False if a pair is width and height.

    Raises:
        InputError: it has none of these forms.
    """
    made: object = size
    if isinstance(size, (tuple, list)) and len(size) == 2:
        made = dict(zip(("height", "width"), size if height_width_order else size[::-1], strict=True))
    elif isinstance(size, int) and not default_to_square:
        made = {"shortest_edge": size} | ({} if max_size is None else {"longest_edge": max_size})
    elif size is None and max_size is not None and not default_to_square:
        made = {"longest_edge": max_size}
    elif isinstance(size, int) and max_size is None:
        made = {"height": size, "width": size}
    if not isinstance(made, Mapping) or frozenset(made) not in _SIZES:
        raise InputError("no size", where=param_name, expected="keys like height and width", found=brief(size))
    return dict(made)


_SIZES: Final = frozenset(
    map(frozenset, (
        ("height", "width"), ("shortest_edge",), ("longest_edge",), ("shortest_edge", "longest_edge"),
        ("max_height", "max_width"),
    ))
)  # fmt: skip


def load_image(image: object, timeout: float | None = None) -> PIL.Image.Image:
    """A picture in RGB, from a path, an address, its bytes in base64 or PIL."""
    return opened(cast(str, image)).convert("RGB")


def load_images(images: object, timeout: float | None = None) -> object:
    """Pictures, in the lists that their paths come in."""
    if isinstance(images, (list, tuple)):
        return [load_images(one, timeout) for one in images]
    return load_image(images, timeout)


def validate_preprocess_arguments(
    do_rescale: bool | None = None,
    rescale_factor: float | None = None,
    do_normalize: bool | None = None,
    image_mean: float | Sequence[float] | None = None,
    image_std: float | Sequence[float] | None = None,
    do_pad: bool | None = None,
    pad_size: Mapping[str, int] | int | None = None,
    do_center_crop: bool | None = None,
    crop_size: Mapping[str, int] | None = None,
    do_resize: bool | None = None,
    size: Mapping[str, int] | None = None,
    resample: int | None = None,
    **more: object,
) -> None:
    """Refuse a step whose settings are not given.

    Raises:
        InputError: a step has none.
    """
    needs: tuple[tuple[object, str, tuple[object, ...]], ...] = (
        (do_rescale, "rescale_factor", (rescale_factor,)),
        (do_normalize, "image_mean and image_std", (image_mean, image_std)),
        (do_pad, "pad_size", (pad_size,)),
        (do_center_crop, "crop_size", (crop_size,)),
        (do_resize, "size and resample", (size, resample)),
    )
    for asked, names, values in needs:
        if asked and any(value is None for value in values):
            raise InputError("a step without its settings", where="preprocess", expected=names, found="None")


__all__ = [
    "IMAGENET_DEFAULT_MEAN",
    "IMAGENET_DEFAULT_STD",
    "IMAGENET_STANDARD_MEAN",
    "IMAGENET_STANDARD_STD",
    "OPENAI_CLIP_MEAN",
    "OPENAI_CLIP_STD",
    "ChannelDimension",
    "ImageInput",
    "PILImageResampling",
    "get_channel_dimension_axis",
    "get_image_size",
    "get_size_dict",
    "infer_channel_dimension_format",
    "is_batched",
    "is_pil_image",
    "is_scaled_image",
    "is_valid_image",
    "load_image",
    "load_images",
    "make_flat_list_of_images",
    "make_list_of_images",
    "to_numpy_array",
    "valid_images",
    "validate_preprocess_arguments",
]
