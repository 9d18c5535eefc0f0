"""A map of segments as one mask for each, with its class: what models with queries learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import InputError, brief

Semantics: TypeAlias = "Mapping[int, int] | Sequence[Mapping[int, int]]"
"""The class of each segment's number: for all pictures, or for each."""


@dataclass(frozen=True, slots=True)
class Masks:
    """One picture's segments.

    Attributes:
        masks: float32, 1 where a segment is. Shape: [K, H, W].
        classes: int64. Shape: [K].
    """

    masks: Tensor
    classes: Tensor

    def padded(self, height: int, width: int, value: float) -> Tensor:
        """The masks with a border below and to the right. Shape: [K, height, width]."""
        rows, columns = self.masks.shape[-2:]
        return F.pad(self.masks, (0, width - columns, 0, height - rows), value=value)


def binary_masks(
    image: Tensor, semantics: Mapping[int, int] | None, ignore_index: int | None, reduce: bool, where: str
) -> Masks:
    """The segments of a map, in the order of their numbers.

    Args:
        image: ``[H, W]``.
        semantics: the class of each number; without it a number is its class.
        ignore_index: the number of what is no segment.
        reduce: numbers count from 1; 0 becomes ``ignore_index``.
        where: the map, for messages.

    Raises:
        InputError: numbers are to be reduced and there is no ``ignore_index``, or a number has no class.
    """
    image = image.to(torch.int64)
    if reduce:
        if ignore_index is None:
            raise InputError("do_reduce_labels needs ignore_index, which is not set", where="ignore_index")
        image = torch.where(image == 0, torch.full_like(image, ignore_index), image - 1)
    numbers: Tensor = image.unique()  # type: ignore[no-untyped-call]
    if ignore_index is not None:
        numbers = numbers[numbers != ignore_index]
    masks = (image == numbers[:, None, None]).to(torch.float32)
    if semantics is None:
        return Masks(masks, numbers)
    shift = int(reduce)
    classes = [_class(semantics, number + shift, where) - shift for number in numbers.tolist()]
    return Masks(masks, torch.tensor(classes, dtype=torch.int64, device=image.device))


def semantics_of(given: object, count: int) -> list[Mapping[int, int] | None]:
    """The classes of segments for each picture.

    Args:
        given: a mapping for all, a list of one for each, or None.
        count: how many pictures there are.

    Raises:
        InputError: it is none of these.
    """
    if given is None or isinstance(given, Mapping):
        return [given] * count
    if (
        not isinstance(given, (list, tuple))
        or len(given) != count
        or not all(one is None or isinstance(one, Mapping) for one in given)
    ):
        raise InputError(
            "the classes of segments are a mapping, or one for each picture",
            where="instance_id_to_semantic_id",
            expected=f"{count} mappings of numbers",
            found=brief(given),
        )
    return list(given)


def _class(semantics: Mapping[int, int], number: int, where: str) -> int:
    found = semantics.get(number)
    if isinstance(found, bool) or not isinstance(found, int):
        raise InputError(
            f"segment {number} has no class",
            where=f"instance_id_to_semantic_id for {where}",
            expected="a whole number for each number in the map",
            found=brief(found) if number in semantics else f"classes of {brief(list(semantics))}",
        )
    return found
