"""Bases of image processors of the user's own, under the ecosystem's names."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from omniform.core.auto_class import AutoNamed
from omniform.core.batch import Batch
from omniform.core.errors import InputError, OmniformError, brief
from omniform.core.pushing import PushToHub
from omniform.inputs.kept import Kept

Image = npt.NDArray[np.generic]
"""A picture, or several of one size. Shape: [..., C, H, W], or [..., H, W, C]."""


class ImageProcessingMixin(Kept, AutoNamed, PushToHub):
    """What turns pictures into a model's inputs: its attributes are its settings (:class:`~omniform.inputs.kept.Kept`).

    ``image_processor_type`` in the file is the class's name.
    """

    _usual_auto_class: ClassVar[str] = "AutoImageProcessor"
    kept_as = "image_processor"
    type_key = "image_processor_type"
    model_input_names: ClassVar[Sequence[str]] = ("pixel_values",)

    def fetch_images(self, image_url_or_urls: object) -> object:
        """Pictures by their addresses or paths, in the lists that they come in; a picture stays as it is."""
        from omniform.inputs.images.load import load_image

        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(one) for one in image_url_or_urls]
        return load_image(image_url_or_urls) if isinstance(image_url_or_urls, str) else image_url_or_urls


class BaseImageProcessor(ImageProcessingMixin):
    """An image processor of the user's own: it defines ``preprocess``, which a call hands everything to.

    ``preprocess(images, ..., return_tensors=None)`` returns a :class:`~omniform.core.batch.Batch` (``BatchFeature``).
    """

    def __call__(self, images: object, *args: object, **kwargs: object) -> Batch:
        """The same as :meth:`preprocess`."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(self, images: object, *args: object, **kwargs: object) -> Batch:
        """Turn pictures into a model's inputs."""
        raise OmniformError(f"{type(self).__name__} does not define preprocess")

    def to_dict(self) -> dict[str, object]:
        """What is saved: every attribute but those that are None by default, and the class's name."""
        usual = {name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()}
        kept = super().to_dict().items()
        return {name: value for name, value in kept if value is not None or usual.get(name) is not None}

    def rescale(
        self, image: Image, scale: float, data_format: str | None = None, input_data_format: str | None = None
    ) -> Image:
        """The picture times a factor, float32.

        Args:
            data_format, input_data_format: ``"channels_first"`` or ``"channels_last"``: what it is to be, and is.
        """
        array = np.asarray(image).astype(np.float64) * scale
        return _laid(array.astype(np.float32), data_format, input_data_format)

    def normalize(
        self,
        image: Image,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        data_format: str | None = None,
        input_data_format: str | None = None,
    ) -> Image:
        """``(image - mean) / std``, channel by channel; arguments as for :meth:`rescale`."""
        array = np.asarray(image)
        array = array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float32)
        last = _is_last(array, input_data_format)
        channels = array.shape[-1 if last else -3]
        middle, spread = (_per_channel(name, value, channels) for name, value in (("mean", mean), ("std", std)))
        shape = (channels,) if last else (channels, 1, 1)
        made = (array - middle.reshape(shape).astype(array.dtype)) / spread.reshape(shape).astype(array.dtype)
        return _laid(made, data_format, "channels_last" if last else "channels_first")

    def center_crop(
        self,
        image: Image,
        size: dict[str, int],
        data_format: str | None = None,
        input_data_format: str | None = None,
    ) -> Image:
        """The middle of a picture, with zeros where it is smaller.

        Args:
            size: ``{"height": ..., "width": ...}``.
        """
        if not isinstance(size, dict) or not {"height", "width"} <= size.keys():
            raise InputError("no height and width", where="size", found=brief(size))
        array = np.asarray(image)
        last = _is_last(array, input_data_format)
        array = np.moveaxis(array, -1, -3) if last else array
        for axis, wanted in ((-2, size["height"]), (-1, size["width"])):
            have = array.shape[axis]
            if have < wanted:
                before = int(np.ceil((wanted - have) / 2))
                widths = [(0, 0)] * array.ndim
                widths[axis] = (before, wanted - have - before)
                array = np.pad(array, widths)
            start = (array.shape[axis] - wanted) // 2
            array = np.take(array, range(start, start + wanted), axis=axis)
        array = np.moveaxis(array, -3, -1) if last else array
        return _laid(array, data_format, "channels_last" if last else "channels_first")


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> npt.NDArray[np.float64]:
    values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if values.shape not in ((1,), (channels,)):
        raise InputError("not one number per channel", where=name, expected=f"{channels} of them", found=len(values))
    return np.broadcast_to(values, (channels,))


def _is_last(array: Image, said: str | None) -> bool:
    """Whether the channels of a picture come last: as it is said, else as few as channels are."""
    if said is not None:
        return _layout(said) == "channels_last"
    if array.ndim < 3:
        raise InputError("no channels", where="image", expected="[C, H, W] or [H, W, C]", found=list(array.shape))
    if array.shape[-3] in (1, 3):
        return False
    if array.shape[-1] in (1, 3):
        return True
    raise InputError(
        "nobody says which axis the channels are", where="input_data_format", found=f"shape {list(array.shape)}"
    )


def _layout(said: str) -> str:
    for name in ("channels_first", "channels_last"):
        if said == name:  # an enumeration of strings equals them
            return name
    expected = "'channels_first' or 'channels_last'"
    raise InputError("no such layout", where="data_format", expected=expected, found=brief(said))


def _laid(array: Image, wanted: str | None, is_now: str | None) -> Image:
    if wanted is None:
        return array
    last = _is_last(array, is_now)
    if (_layout(wanted) == "channels_last") == last:
        return array
    return np.moveaxis(array, -1, -3) if last else np.moveaxis(array, -3, -1)
