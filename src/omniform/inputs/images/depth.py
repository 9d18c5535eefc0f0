"""Processors of models that measure depth, and their depths in pixels of the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.checks import check_flag
from omniform.inputs.images.options import ImageOptions
from omniform.inputs.images.postprocess import TargetSizes, sizes_of
from omniform.inputs.images.processor import ImageProcessor
from omniform.inputs.images.segments import check_map
from omniform.inputs.images.semantic import SemanticImageProcessor
from omniform.inputs.images.targets import depth_border


class DepthOutput(Protocol):
    """What a model of depth returns: ``predicted_depth [N, h, w]``."""

    @property
    def predicted_depth(self) -> Tensor | None: ...


class Depth(TypedDict):
    """One picture's depth, ``predicted_depth [H, W]``, in the unit that the model was trained with."""

    predicted_depth: Tensor


class DPTImageProcessor(SemanticImageProcessor):
    """DPT's (Depth Anything's): maps go through the filter that pictures go through, as its reference has it."""

    def map_options(self, options: ImageOptions) -> ImageOptions:
        """The options by which maps are shaped."""
        return replace(options, do_rescale=False, do_normalize=False)

    def post_process_depth_estimation(
        self, outputs: DepthOutput, target_sizes: TargetSizes | None = None
    ) -> list[Depth]:
        """See :func:`depths`."""
        return depths(outputs, target_sizes=target_sizes)


class GLPNImageProcessor(ImageProcessor):
    """GLPN's."""

    def post_process_depth_estimation(
        self, outputs: DepthOutput, target_sizes: TargetSizes | None = None
    ) -> list[Depth]:
        """See :func:`depths`."""
        return depths(outputs, target_sizes=target_sizes)


class ZoeDepthImageProcessor(ImageProcessor):
    """ZoeDepth's: pictures get a mirrored border, which is cut off their depths again."""

    def post_process_depth_estimation(
        self,
        outputs: DepthOutput,
        source_sizes: TargetSizes | None = None,
        target_sizes: TargetSizes | None = None,
        outputs_flipped: DepthOutput | None = None,
        do_remove_padding: bool | None = None,
    ) -> list[Depth]:
        """The depth of each picture.

        Args:
            outputs: the model's.
            source_sizes: the sizes of the pictures that were preprocessed, by which their borders are known.
            target_sizes: what the depths are brought to.
            outputs_flipped: the model's for the same pictures mirrored left to right; both are averaged.
            do_remove_padding: cut the border off; by default where the processor adds one.

        Raises:
            InputError: the outputs have no depth or differ in shape, a border is to go and nobody says from which
                pictures, or the number of sizes is not that of the pictures.
        """
        depth = _depth(outputs)
        check_flag("do_remove_padding", do_remove_padding)
        cut = bool(self.options.do_pad) if do_remove_padding is None else do_remove_padding
        if outputs_flipped is not None:
            flipped = _depth(outputs_flipped, "outputs_flipped")
            if flipped.shape != depth.shape:
                raise InputError(
                    "the flipped outputs have another shape",
                    where="outputs_flipped",
                    expected=list(depth.shape),
                    found=list(flipped.shape),
                )
            depth = (depth + flipped.flip(-1)) / 2
        sources = sizes_of(source_sizes, len(depth), "source_sizes")
        targets = sizes_of(target_sizes, len(depth))
        if sources is None and cut:
            raise InputError(
                "nobody says how wide the border is",
                where="source_sizes",
                expected="the sizes of the pictures",
                remedy="Pass source_sizes, or do_remove_padding=False.",
            )
        found: list[Depth] = []
        for number, one in enumerate(depth):
            if sources is not None:
                one = _without_border(one, sources[number], cut)
            found.append({"predicted_depth": one if targets is None else _to_size(one, targets[number])})
        return found


def depths(outputs: DepthOutput, *, target_sizes: TargetSizes | None = None) -> list[Depth]:
    """The depth of each picture.

    Args:
        outputs: the model's.
        target_sizes: the pictures' sizes, to which depths are brought (bicubic); without them they keep the model's.

    Raises:
        InputError: the outputs have no depth, or the number of sizes is not that of the pictures.
    """
    depth = _depth(outputs)
    sizes = sizes_of(target_sizes, len(depth))
    if sizes is None:
        return [{"predicted_depth": one} for one in depth]
    return [{"predicted_depth": _to_size(one, size)} for one, size in zip(depth, sizes, strict=True)]


def _without_border(depth: Tensor, size: tuple[int, int], bordered: bool) -> Tensor:
    rows, columns = depth_border(*size) if bordered else (0, 0)
    height, width = size
    depth = _to_size(depth, (height + 2 * rows, width + 2 * columns))
    return depth[rows : rows + height, columns : columns + width]


def _to_size(depth: Tensor, size: tuple[int, int]) -> Tensor:
    check_map(*size)
    return F.interpolate(depth[None, None], size=size, mode="bicubic", align_corners=False)[0, 0]


def _depth(outputs: DepthOutput, where: str = "outputs") -> Tensor:
    return _read(lambda: outputs.predicted_depth, where)


def _read(read: Callable[[], object], where: str) -> Tensor:
    try:
        value = read()
    except Exception as error:  # an object of any class
        raise InputError("these are no outputs of a model", where=where, expected="predicted_depth") from error
    if not isinstance(value, Tensor) or value.ndim != 3 or value.dtype == torch.bool:
        found = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError("the model's outputs have no depth", where=where, expected="[N, height, width]", found=found)
    return value
