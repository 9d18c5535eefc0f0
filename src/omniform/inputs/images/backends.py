"""The two ways in which the reference computes pixels: its fast classes on torch, its slow ones on Pillow and numpy.

They differ in the last digit of a resized byte, in which side gets the odd pixel of a border, and in whether rescaling
is folded into the mean. A processor's class says which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from torch import Tensor

from omniform.inputs.images import ops, pillow_ops
from omniform.inputs.images.arrays import to_rgb


class Backend(Protocol):
    """How pixels are computed. Pictures are ``[C, H, W]``."""

    @property
    def name(self) -> Literal["torchvision", "pil"]:
        """The ecosystem's word for it."""

    def rgb(self, image: Tensor, where: str) -> Tensor:
        """Three channels, from an array of one, three or four."""

    def resize(self, image: Tensor, height: int, width: int, resample: int) -> Tensor:
        """Another size, in the same type of numbers (in bytes where Pillow needs them)."""

    def center_crop(self, image: Tensor, height: int, width: int) -> Tensor:
        """The middle, with zeros where the picture is smaller."""

    def rescale(self, image: Tensor, factor: float) -> Tensor:
        """The values times a factor."""

    def rescale_into(self, out: Tensor, image: Tensor, factor: float) -> None:
        """As :meth:`rescale`, into a place of the result's shape and type."""

    def normalize(
        self,
        image: Tensor,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        rescale_factor: float | None = None,
    ) -> Tensor:
        """``(image * rescale_factor - mean) / std``."""

    def normalize_into(
        self,
        out: Tensor,
        image: Tensor,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        rescale_factor: float | None = None,
    ) -> None:
        """As :meth:`normalize`, into a place of the result's shape and type."""

    def loose(self, tensor: Tensor) -> object:
        """What nobody asked to be of a kind, as the class returns it."""


@dataclass(frozen=True, slots=True)
class Torchvision:
    """torch's kernels, as torchvision calls them."""

    name: Literal["torchvision", "pil"] = "torchvision"

    def rgb(self, image: Tensor, where: str) -> Tensor:
        return to_rgb(image, where)

    def resize(self, image: Tensor, height: int, width: int, resample: int) -> Tensor:
        return ops.resize(image, height, width, resample=resample)

    def center_crop(self, image: Tensor, height: int, width: int) -> Tensor:
        return ops.center_crop(image, height, width)

    def rescale(self, image: Tensor, factor: float) -> Tensor:
        return ops.rescale(image, factor)

    def rescale_into(self, out: Tensor, image: Tensor, factor: float) -> None:
        out.copy_(image).mul_(factor)

    def normalize(
        self,
        image: Tensor,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        rescale_factor: float | None = None,
    ) -> Tensor:
        return ops.normalize(image, mean, std, rescale_factor=rescale_factor)

    def normalize_into(
        self,
        out: Tensor,
        image: Tensor,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        rescale_factor: float | None = None,
    ) -> None:
        ops.normalize_into(out, image, mean, std, rescale_factor=rescale_factor)

    def loose(self, tensor: Tensor) -> object:
        return tensor


@dataclass(frozen=True, slots=True)
class Pillow:
    """Pillow's filters, and numpy's numbers."""

    name: Literal["torchvision", "pil"] = "pil"

    def rgb(self, image: Tensor, where: str) -> Tensor:
        return pillow_ops.to_rgb(image, where)

    def resize(self, image: Tensor, height: int, width: int, resample: int) -> Tensor:
        return pillow_ops.resize(image, height, width, resample=resample)

    def center_crop(self, image: Tensor, height: int, width: int) -> Tensor:
        return pillow_ops.center_crop(image, height, width)

    def rescale(self, image: Tensor, factor: float) -> Tensor:
        return pillow_ops.rescale(image, factor)

    def rescale_into(self, out: Tensor, image: Tensor, factor: float) -> None:
        out.copy_(pillow_ops.rescale(image, factor))

    def normalize(
        self,
        image: Tensor,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        rescale_factor: float | None = None,
    ) -> Tensor:
        return pillow_ops.normalize(image, mean, std, rescale_factor=rescale_factor)

    def normalize_into(
        self,
        out: Tensor,
        image: Tensor,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        rescale_factor: float | None = None,
    ) -> None:
        out.copy_(self.normalize(image, mean, std, rescale_factor))

    def loose(self, tensor: Tensor) -> object:
        return tensor.numpy()


TORCHVISION: Final = Torchvision()
PILLOW: Final = Pillow()
