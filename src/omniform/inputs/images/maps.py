"""Segmentation maps: pictures whose every pixel is the number of a class or a segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.images.arrays import array_tensor, check_pixels, finite, from_numpy, is_array
from omniform.inputs.images.load import ImageSource, open_image
from omniform.inputs.images.modes import is_numbers
from omniform.inputs.media_access import MediaAccess, checked_access

MapInput: TypeAlias = "ImageSource | Sequence[ImageSource]"
"""One map or several; an array of three dimensions is several."""

# Of Pillow's modes those whose numbers may be classes; a palette's are.
_MODES = ("1", "L", "P")
_BACKGROUND = 255


def load_maps(maps: MapInput, count: int, media_access: MediaAccess | None) -> list[Tensor]:
    """The maps of a call, as ``[1, H, W]`` each, in the number type they have.

    Args:
        maps: Pillow's pictures of one channel (of a palette its indices), files, arrays of whole numbers.
        count: how many pictures there are.

    Raises:
        InputError: there are more or fewer maps than pictures, or one is none.
        RepoError: a file cannot be read.
    """
    access = checked_access(media_access)
    found = [_load(one, f"segmentation_maps[{number}]", access) for number, one in enumerate(_flat(maps))]
    if len(found) != count:
        raise InputError("every picture needs one map", where="segmentation_maps", expected=count, found=len(found))
    return found


def reduced(image: Tensor) -> Tensor:
    """A map whose classes count from 1, as one whose classes count from 0; 0, the background, becomes 255."""
    image = torch.where(image == 0, torch.full_like(image, _BACKGROUND), image) - 1
    return torch.where(image == _BACKGROUND - 1, torch.full_like(image, _BACKGROUND), image)


def check_size(image: Tensor, size: tuple[int, int], where: str) -> None:
    """Refuse a map that does not lie over its picture.

    Raises:
        InputError: its height and width are others.
    """
    if tuple(image.shape[-2:]) != tuple(size):
        raise InputError(
            "the map has another size than its picture",
            where=where,
            expected=f"{size[0]} x {size[1]} (height x width)",
            found=f"{image.shape[-2]} x {image.shape[-1]}",
        )


def _flat(maps: object) -> list[object]:
    if isinstance(maps, (list, tuple)):
        return [one for inner in maps for one in _flat(inner)]
    if isinstance(maps, Tensor) or is_array(maps):
        array = cast(Tensor, maps)
        return list(array) if array.ndim == 3 else [array]
    return [maps]


def _load(source: object, where: str, access: MediaAccess) -> Tensor:
    if isinstance(source, Tensor) or is_array(source):
        image = array_tensor(source, where)
    else:
        opened, where = open_image(cast(ImageSource, source), access, where)
        if opened.mode not in _MODES and not is_numbers(opened):
            raise InputError(
                "a map has one number for each pixel",
                where=where,
                expected="a grey or palette picture",
                found=f"mode {opened.mode}",
            )
        import numpy as np

        image = from_numpy(np.array(opened), where)
    if image.ndim != 2:
        raise InputError("this is not one map", where=where, expected="[height, width]", found=list(image.shape))
    check_pixels(image.shape[1], image.shape[0], where, access.max_pixels)
    return _whole(image, where).unsqueeze(0)


def _whole(image: Tensor, where: str) -> Tensor:
    """The same in a type that torch computes with."""
    if image.is_floating_point():
        if not bool((finite(image, where).trunc() == image).all()):
            raise InputError("a map holds whole numbers", where=where, found=brief(image.dtype))
        return image.to(torch.float32) if image.dtype in (torch.float16, torch.bfloat16) else image
    if image.dtype == torch.bool:
        return image.to(torch.uint8)
    return image.to(torch.int64) if image.dtype in (torch.uint16, torch.uint32, torch.uint64) else image
