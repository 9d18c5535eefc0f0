"""Pictures of any size as patches end to end in one long row, as Qwen's vision-language models read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, brief
from omniform.inputs.images.backends import Backend
from omniform.inputs.images.options import ImageOptions
from omniform.inputs.images.plans import resizing, valuing
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, load_tensors
from omniform.inputs.images.sizes import PixelRange, Size
from omniform.inputs.images.steps import Plan
from omniform.inputs.images.targets import unusable
from omniform.inputs.media_access import MediaAccess

LONGEST_SHAPE = 200
"""How many times longer than the other one edge may be."""

EDGES = ("shortest_edge", "longest_edge")
"""What files call the least and the most pixels of a picture, within ``size``."""
PIXELS = ("min_pixels", "max_pixels")
"""What first releases called them, beside ``size`` or within it; and what calls may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchOptions(ImageOptions):
    """The options of processors that cut pictures into patches.

    Attributes:
        patch_size: pixels of a patch, down and across.
        temporal_patch_size: frames of a patch; a picture is as many alike.
        merge_size: rows and columns of patches that the model makes one token of.
    """

    patch_size: int | None = 14
    temporal_patch_size: int | None = 2
    merge_size: int | None = 2


class Patches(Protocol):
    """How patches are cut; see :class:`PatchOptions`."""

    @property
    def patch_size(self) -> int | None: ...

    @property
    def temporal_patch_size(self) -> int | None: ...

    @property
    def merge_size(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Budget:
    """As many pixels as between two numbers, edges multiples of a third, the shape nearly kept.

    Attributes:
        step: what both edges are multiples of.
        least: pixels.
        most: pixels.
    """

    step: int
    least: int
    most: int

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width.

        Raises:
            InputError: one edge is too many times longer than the other.
        """
        check_shape_of(height, width)
        step = self.step
        tall, wide = round(height / step) * step, round(width / step) * step
        if tall * wide > self.most:
            scale = math.sqrt((height * width) / self.most)
            return tuple(max(step, math.floor(edge / scale / step) * step) for edge in (height, width))  # type: ignore[return-value]
        if tall * wide < self.least:
            scale = math.sqrt(self.least / (height * width))
            return tuple(math.ceil(edge * scale / step) * step for edge in (height, width))  # type: ignore[return-value]
        return tall, wide


def check_shape_of(height: int, width: int) -> None:
    """Raise :class:`InputError` where one edge is too many times longer than the other."""
    if max(height, width) / min(height, width) > LONGEST_SHAPE:
        raise InputError(
            "the picture is too long for its width",
            where="images",
            expected=f"edges that differ at most {LONGEST_SHAPE} times",
            found=f"{height} x {width}",
        )


def pixel_range(
    given: dict[str, object], usual: PixelRange, where: str | None, error: type[ConfigError | InputError]
) -> None:
    """Bring the numbers of pixels that files and calls state in several ways into ``size``, in place.

    Args:
        given: options by name.
        usual: what counts where one of the two is said beside ``size``.
        where: the file; None for a call.
        error: what to raise.
    """
    beside = [given.pop(name, None) for name in PIXELS]
    size = given.get("size")
    if isinstance(size, Mapping):
        said = {name: number for name, number in size.items() if number is not None}
        within = [said.pop(edge, said.pop(name, None)) for edge, name in zip(EDGES, PIXELS, strict=True)]
        if said:
            return  # of another form, which is refused by whoever reads it
        found = [b if b is not None else w for b, w in zip(beside, within, strict=True)]
    elif size is not None or beside == [None, None]:
        return
    else:
        found = [b if b is not None else u for b, u in zip(beside, (usual.min_pixels, usual.max_pixels), strict=True)]
    if None in found:
        expected = "shortest_edge and longest_edge, the least and the most pixels of a picture"
        raise error("size has a wrong value", where=where, expected=expected, found=brief(size))
    given["size"] = dict(zip(PIXELS, found, strict=True))


def modern_pixels(given: dict[str, object], where: str) -> None:
    """What files of all releases say of numbers of pixels, in today's words."""
    pixel_range(given, USUAL_PIXELS, where, ConfigError)


USUAL_PIXELS = PixelRange(56 * 56, 28 * 28 * 1280)
"""The least and the most pixels of a picture, where a file does not say."""


def as_edges(size: object) -> object:
    """A size as files state it."""
    if isinstance(size, PixelRange):
        return dict(zip(EDGES, (size.min_pixels, size.max_pixels), strict=True))
    return size


def packed(o: ImageOptions, b: Backend) -> Plan:
    """Resize within a budget of pixels and normalise; nothing is cropped or padded."""

    def budget(size: Size) -> Budget:
        if not isinstance(size, PixelRange):
            raise unusable(size, "shortest_edge and longest_edge")
        return Budget(step_of(cast(PatchOptions, o)), size.min_pixels, size.max_pixels)

    return Plan(resizing(o, b, budget), valuing(o, b), None)


def step_of(o: Patches) -> int:
    """What the edges of pictures are multiples of: the pixels of a token."""
    return number_of(o, "patch_size") * number_of(o, "merge_size")


def number_of(o: Patches, name: str) -> int:
    """One of the numbers that say how patches are cut.

    Raises:
        InputError: it is not set.
    """
    found = {"patch_size": o.patch_size, "merge_size": o.merge_size, "temporal_patch_size": o.temporal_patch_size}[name]
    if found is None:
        raise InputError("patches need it, and it is not set", where=name)
    return found


def cut(frames_TCHW: Tensor, o: Patches) -> tuple[Tensor, tuple[int, int, int]]:
    """Frames as patches, those that become one token side by side; and how many in time, down and across.

    Where frames do not fill the last patch in time, the last one is repeated.

    Returns:
        Shape: [patches, channels * time * height * width].

    Raises:
        InputError: edges are no multiples of a token's pixels.
    """
    size, merge, time = (number_of(o, name) for name in ("patch_size", "merge_size", "temporal_patch_size"))
    height, width = frames_TCHW.shape[2:]
    if height % (size * merge) or width % (size * merge):
        raise InputError(
            "patches do not fill the picture",
            where="images",
            expected=f"height and width as multiples of {size * merge} (patch_size * merge_size)",
            found=f"{height} x {width}",
            remedy="Leave do_resize on.",
        )
    if missing := -len(frames_TCHW) % time:
        frames_TCHW = torch.cat((frames_TCHW, frames_TCHW[-1:].expand(missing, -1, -1, -1)))
    channels, rows, columns = frames_TCHW.shape[1], height // size, width // size
    patches = frames_TCHW.reshape(
        -1, time, channels, rows // merge, merge, size, columns // merge, merge, size
    ).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    grid = (len(frames_TCHW) // time, rows, columns)
    return patches.reshape(grid[0] * rows * columns, channels * time * size * size), grid


class PackedImageProcessor(ImageProcessor):
    """Qwen2-VL's: pictures as patches end to end, and how many each has in time, down and across."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "image_grid_thw")
    beside = PIXELS

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures; see :meth:`~omniform.inputs.images.processor.ImageProcessor.__call__`.

        Args:
            overrides: options of :class:`PatchOptions`, for this call; ``min_pixels`` and ``max_pixels`` too.

        Returns:
            ``pixel_values [patches, numbers of a patch]`` and ``image_grid_thw [pictures, 3]``.
        """
        options = self._changed(return_tensors, overrides)
        plan = self.plan(options)
        images_CHW = list(plan.finish(plan.shape(load_tensors(images, options, self.kind.backend, media_access))))
        patches, grids = zip(*(cut(image[None], self._patching(options)) for image in images_CHW), strict=True)
        whole = patches[0] if len(patches) == 1 else torch.cat(patches)
        if self.backend == "pil":
            whole = whole.float()
        return Batch(
            {"pixel_values": self.given(whole, options), "image_grid_thw": self.given(torch.tensor(grids), options)}
        )

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: Mapping[str, object] | None = None
    ) -> int:
        """How many patches a picture of a size has, with these options of a call."""
        asked = {name: x for name, x in (images_kwargs or {}).items() if name not in ("return_tensors", "media_access")}
        options = self._patching(self._changed(None, asked))
        assert isinstance(options.size, PixelRange)
        budget = Budget(step_of(options), options.size.min_pixels, options.size.max_pixels)
        tall, wide = budget.target(height, width)
        size = number_of(options, "patch_size")
        return (tall // size) * (wide // size)

    @property
    def size(self) -> dict[str, int] | None:
        return cast("dict[str, int] | None", as_edges(self.options.size))

    @property
    def patch_size(self) -> int | None:
        """Pixels of a patch, down and across."""
        return self._patching(self.options).patch_size

    @property
    def temporal_patch_size(self) -> int | None:
        """Frames of a patch."""
        return self._patching(self.options).temporal_patch_size

    @property
    def merge_size(self) -> int | None:
        """Rows and columns of patches that the model makes one token of."""
        return self._patching(self.options).merge_size

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), "size": self.size}

    def _changed(self, return_tensors: str | None, overrides: Mapping[str, object]) -> ImageOptions:
        given, usual = dict(overrides), self.options.size
        pixel_range(given, usual if isinstance(usual, PixelRange) else USUAL_PIXELS, None, InputError)
        return super()._changed(return_tensors, given)

    @staticmethod
    def _patching(options: ImageOptions) -> PatchOptions:
        assert isinstance(options, PatchOptions)
        return options
