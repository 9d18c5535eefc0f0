"""The image processor: pictures in, ``pixel_values`` out, by the options of a checkpoint's file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, TypeAlias, Unpack, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.core.pushing import SaveOptions
from omniform.core.upstairs import upstairs
from omniform.inputs.images.arrays import Layout, is_array
from omniform.inputs.images.backends import TORCHVISION, Backend
from omniform.inputs.images.base import BaseImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.options import ImageOptions, as_json, changed, saved
from omniform.inputs.images.pixels import Channels, image_tensor
from omniform.inputs.images.steps import Plan
from omniform.inputs.media_access import MediaAccess, checked_access

logger = logging.getLogger("omniform")

ImageInput: TypeAlias = "ImageSource | Sequence[ImageSource] | Sequence[Sequence[ImageSource]]"
"""One picture, a list of pictures, a list of such lists (one for each prompt), or an array of pictures."""

TensorKind: TypeAlias = Literal["pt", "np"]

# Factors up to this are meant for bytes: 1/255, 1/127.5.
_BYTE_FACTOR = 0.01

# Values of pictures in 0..1 stay below this, also where a filter has overshot.
_UNIT = 2.0


def _as_it_is(given: dict[str, object], where: str) -> None:
    """Nothing to modernise."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of processor: all that sets it apart from the others.

    Attributes:
        name: the type, as files write it (``image_processor_type``).
        defaults: the options of a file that states none.
        square: whether a bare length as ``size`` means both edges.
        plan: what is done, in which order.
        processor: the class of its processors.
        modernise: what turns the keys of older releases' files into those of today, in place; told the file's name.
        backend: how pixels are computed.
        slow: whether the reference has a slow class of this kind, on Pillow, as well.
    """

    name: str
    defaults: ImageOptions
    square: bool
    plan: Callable[[ImageOptions, Backend], Plan]
    processor: type[ImageProcessor]
    modernise: Callable[[dict[str, object], str], None] = _as_it_is
    backend: Backend = TORCHVISION
    slow: bool = True


class ImageProcessor(BaseImageProcessor):
    """Turns pictures into the tensors that a vision model reads.

    Made by :func:`omniform.inputs.images.kinds.image_processor` from a checkpoint's file; any option can be changed
    for one call by keyword. Options read as attributes of :attr:`options`, the common ones of the processor itself.

    Args:
        kind: the type of processor.
        options: its options.
        extra: keys of the file that this type does not know, kept for saving.
    """

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values",)
    beside: ClassVar[tuple[str, ...]] = ()
    """Names by which files and calls may say an option that has another name."""

    def __init__(self, kind: Kind, options: ImageOptions, extra: Mapping[str, object] | None = None) -> None:
        self.kind = kind
        self.options = options
        self.extra: Mapping[str, object] = dict(extra or {})

    def __call__(  # type: ignore[override] # what the user's own take is their affair
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures.

        Args:
            images: one picture or several; lists of lists are flattened, in reading order.
            return_tensors: ``"pt"`` or ``"np"`` for one tensor ``[N, C, H, W]``; None for a list of ``[C, H, W]``.
            media_access: which files and addresses may be read, and how many pixels; see
                :class:`~omniform.inputs.media_access.MediaAccess`.
            overrides: options of :class:`~omniform.inputs.images.options.ImageOptions`, for this call.

        Returns:
            ``pixel_values``, float32 once rescaled or normalised.

        Raises:
            InputError: a picture is unusable, an option has a wrong value, or the results differ in size and
                ``return_tensors`` asks for one tensor.
            RepoError: a picture's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        options = self._changed(return_tensors, overrides)
        plan = self.plan(options)
        # Shaped one by one as they are loaded: only one is held in its full size.
        pixels = plan.finish(plan.shape(load_tensors(images, options, self.kind.backend, media_access)))
        return Batch({"pixel_values": self.gathered(pixels, options)})

    @property
    def backend(self) -> Literal["torchvision", "pil"]:
        """How pixels are computed: ``"torchvision"`` as the reference's fast classes, ``"pil"`` as its slow ones."""
        return self.kind.backend.name

    def plan(self, options: ImageOptions) -> Plan:
        """What is done with these options."""
        return self.kind.plan(options, self.kind.backend)

    def gathered(self, pixels: Tensor | list[Tensor], options: ImageOptions) -> object:
        """The pictures as one tensor of the kind asked for, or as the list they are.

        Raises:
            InputError: they differ in shape.
        """
        if options.return_tensors is None:
            return [self.kind.backend.loose(image) for image in pixels]
        return as_kind(stacked(pixels), options.return_tensors)

    def given(self, tensor: Tensor, options: ImageOptions) -> object:
        """One tensor as the kind asked for."""
        kind = options.return_tensors
        return self.kind.backend.loose(tensor) if kind is None else as_kind(tensor, kind)

    def preprocess(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """The same as calling the processor."""
        return self(images, return_tensors=return_tensors, media_access=media_access, **overrides)

    def to_dict(self) -> dict[str, object]:
        """What to save as ``preprocessor_config.json``: reading it back gives this processor, in either library."""
        return {**self.extra, **saved(self.options, self.kind.defaults), "image_processor_type": self.kind.name}

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub: Unpack[SaveOptions]
    ) -> None:
        """Save as ``preprocessor_config.json``, whole or not at all; other files in the folder stay.

        Args:
            push_to_hub: also commit it to a repository.
            hub: to which, and how; see :class:`~omniform.core.pushing.SaveOptions`.

        Raises:
            RepoError: the folder cannot be written. Or the Hub refuses the files.
        """
        upstairs("hub.auto_inputs:save_inputs")(self, save_directory, push_to_hub, **hub)

    def __repr__(self) -> str:
        stated = saved(self.options, self.options)
        return f"{self.kind.name}({', '.join(f'{name}={value!r}' for name, value in stated.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageProcessor) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    @property
    def size(self) -> dict[str, int] | None:
        """The size to resize to, as the file states it."""
        return cast("dict[str, int] | None", as_json(self.options.size))

    @property
    def crop_size(self) -> dict[str, int] | None:
        """The size to crop to, as the file states it."""
        return cast("dict[str, int] | None", as_json(self.options.crop_size))

    @property
    def pad_size(self) -> dict[str, int] | None:
        """The size to pad to, as the file states it."""
        return cast("dict[str, int] | None", as_json(self.options.pad_size))

    @property
    def image_mean(self) -> float | list[float] | None:
        """What is subtracted, per channel."""
        return cast("float | list[float] | None", as_json(self.options.image_mean))

    @property
    def image_std(self) -> float | list[float] | None:
        """What is divided by, per channel."""
        return cast("float | list[float] | None", as_json(self.options.image_std))

    @property
    def resample(self) -> int | None:
        """Pillow's number of the resampling filter."""
        return self.options.resample

    @property
    def rescale_factor(self) -> float | None:
        """What the values are multiplied by."""
        return self.options.rescale_factor

    @property
    def do_resize(self) -> bool:
        """Whether pictures are resized."""
        return bool(self.options.do_resize)

    @property
    def do_center_crop(self) -> bool:
        """Whether the middle is cut out."""
        return bool(self.options.do_center_crop)

    @property
    def do_rescale(self) -> bool:
        """Whether values are rescaled."""
        return bool(self.options.do_rescale)

    @property
    def do_normalize(self) -> bool:
        """Whether values are normalised."""
        return bool(self.options.do_normalize)

    @property
    def do_convert_rgb(self) -> bool:
        """Whether pictures are made RGB."""
        return bool(self.options.do_convert_rgb)

    @property
    def do_pad(self) -> bool:
        """Whether pictures are padded."""
        return bool(self.options.do_pad)

    def _changed(self, return_tensors: str | None, overrides: Mapping[str, object]) -> ImageOptions:
        known = [field.name for field in fields(self.options)]
        check_arguments(self.kind.name, overrides, known)
        given = dict(overrides) if return_tensors is None else {**overrides, "return_tensors": return_tensors}
        options = changed(self.options, given, square=self.kind.square, where=None, error=InputError)
        if given.get("data_format") == "channels_last":
            logger.warning("data_format='channels_last' has no effect: pixel_values are always channels first")
        return options


def load_tensors(
    images: ImageInput, options: ImageOptions, backend: Backend, media_access: MediaAccess | None
) -> Iterator[Tensor]:
    """The pictures of a call one by one, flattened, as ``[C, H, W]`` on the device asked for.

    Raises:
        InputError: there is none, the nesting is too deep, one is unusable, they are too large together, or the device
            is not there.
        RepoError: a picture's file or address cannot be read.
    """
    flat = flattened(images)
    if not flat:
        raise InputError("there is no picture", where="images", expected="at least one")
    return _loaded(flat, options, backend, checked_access(media_access))


def _loaded(
    flat: Sequence[ImageSource], options: ImageOptions, backend: Backend, access: MediaAccess
) -> Iterator[Tensor]:
    layout = cast("Layout | None", options.input_data_format)
    channels = _channels(options)
    device = options.device if backend.name == "torchvision" else None  # Pillow works where it is
    total = 0
    odd: str | None = None

    def count(pixels: int) -> None:
        nonlocal total
        total += pixels
        if total > access.max_total_pixels:
            raise InputError(
                "the pictures are too large together",
                where="images",
                expected=f"at most {access.max_total_pixels:,} pixels in one call",
                found=f"{total:,} up to images[{number}]",
                remedy="Pass fewer at a time, or media_access=MediaAccess(max_total_pixels=...) if you trust them.",
            )

    for number, image in enumerate(flat):
        where = f"images[{number}]" if len(flat) > 1 else "image"
        tensor = image_tensor(
            image, channels=channels, layout=layout, where=where, access=access, count=count, backend=backend
        )
        odd = odd or _odd_range(tensor, where, options)
        try:
            yield tensor if device is None else tensor.to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError("no such device here", where="device", found=options.device) from error
    if odd is not None:
        logger.warning(odd)


def _channels(options: ImageOptions) -> Channels:
    """Which channels pictures get. Where the file does not say, what is not RGB becomes it if three means wait for it;
    the reference fails there."""
    if options.do_convert_rgb is not None:
        return "rgb" if options.do_convert_rgb else "own"
    statistics = (options.image_mean, options.image_std)
    three = any(isinstance(values, tuple) and len(values) == 3 for values in statistics)
    return "rgb" if options.do_normalize and three else "colours"


def _odd_range(image: Tensor, where: str, options: ImageOptions) -> str | None:
    """What to say of values that are not on the scale which rescaling, or normalising without it, expects."""
    factor = options.rescale_factor
    if not options.do_rescale:
        return _unscaled(image, where, options)
    if not image.is_floating_point() or factor is None or not 0 < factor <= _BYTE_FACTOR:
        return None
    low, high = (float(edge) for edge in image.aminmax())
    if (low >= 0 and 1 < high <= 255) or low == high == 0:
        return None
    return (
        f"{where}: floats from {low:g} to {high:g} are multiplied by {factor:g} (do_rescale); it expects 0 to 255. "
        "Pass do_rescale=False for pictures in 0..1."
    )


def _unscaled(image: Tensor, where: str, options: ImageOptions) -> str | None:
    """What to say of bytes that are normalised by the statistics of values in 0..1."""
    statistics = (options.image_mean, options.image_std)
    flat = [one for values in statistics for one in (values if isinstance(values, tuple) else (values,))]
    if not options.do_normalize or not all(one is not None and 0 <= one <= 1 for one in flat):
        return None
    high = float(image.max())
    if high <= _UNIT:
        return None
    return (
        f"{where}: values up to {high:g} are normalised as they are (do_rescale=False); image_mean and image_std are "
        "those of values in 0..1. Leave do_rescale on for pictures in 0..255."
    )


def stacked(pixels: Tensor | list[Tensor]) -> Tensor:
    """The pictures as one tensor ``[N, C, H, W]``.

    Raises:
        InputError: they differ in shape.
    """
    if isinstance(pixels, Tensor):
        return pixels
    shapes = sorted({tuple(image.shape) for image in pixels})
    if len(shapes) > 1:
        raise InputError(
            "pictures of different sizes do not make one tensor",
            where="images",
            found=", ".join(map(str, shapes[:4])),
            remedy="Resize or crop them to one height and width, pad them, or leave return_tensors out.",
        )
    try:
        return torch.stack(pixels)
    except RuntimeError as error:
        raise InputError(
            "pictures of these number types do not make one tensor",
            where="images",
            found=", ".join(sorted({str(image.dtype) for image in pixels})),
        ) from error


def as_kind(tensor: Tensor, kind: str | None) -> object:
    """The tensor, as a numpy array if that kind is asked for."""
    return tensor.cpu().numpy() if kind == "np" else tensor


def flattened(images: ImageInput, depth: int = 0) -> list[ImageSource]:
    """The pictures of a call, out of their lists and arrays.

    Raises:
        InputError: they are nested too deep.
    """
    if isinstance(images, (list, tuple)):
        if depth == 2:
            raise InputError("pictures are nested too deep", where="images", expected="a list of lists at most")
        return [one for image in images for one in flattened(image, depth + 1)]
    if isinstance(images, Tensor) or is_array(images):
        batch = cast("Tensor", images)
        return list(batch) if batch.ndim == 4 else [batch]
    return [cast("ImageSource", images)]
