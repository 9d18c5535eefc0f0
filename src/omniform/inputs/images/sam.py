"""Processors of SAM's pictures and maps: the longer edge to a length, padded to a square. (Prompts are another's.)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images import automatic_masks as am
from omniform.inputs.images import maps as m
from omniform.inputs.images import options as of
from omniform.inputs.images.maps import MapInput
from omniform.inputs.images.options import nearest_resize
from omniform.inputs.images.postprocess import TargetSizes, sizes_of
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors
from omniform.inputs.images.sizes import size_entries
from omniform.inputs.media_access import MediaAccess


class _PromptedImageProcessor(ImageProcessor):
    """What SAM's and SAM 2's processors share."""

    # The base takes any keyword in its signature, and refuses these names when called.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        segmentation_maps: MapInput | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures and, for training, their maps.

        Args:
            images: one picture or several, of any sizes.
            segmentation_maps: one for each.
            return_tensors: ``"pt"`` or ``"np"`` for tensors; None for lists.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.SamOptions`, for this call.

        Returns:
            ``pixel_values [N, C, H, W]`` and ``original_sizes [N, 2]``; of SAM also ``reshaped_input_sizes [N, 2]``,
            the sizes before padding; with maps ``labels [N, h, w]``, int64.

        Raises:
            InputError: as for every processor; or a map is none, or lies not over its picture.
        """
        options = cast(of.SamOptions, self._changed(return_tensors, overrides))
        plan = self.plan(options)
        loaded = list(load_tensors(images, options, self.kind.backend, media_access))
        shaped = plan.shape(loaded)
        data: dict[str, object] = {"pixel_values": self.gathered(plan.finish(shaped), options)}
        for name, pictures in self.told(loaded, shaped).items():
            sizes = [(image.shape[-2], image.shape[-1]) for image in pictures]
            kind = options.return_tensors
            data[name] = sizes if kind is None else as_kind(torch.tensor(sizes), kind)
        if segmentation_maps is not None:
            maps = m.load_maps(segmentation_maps, len(loaded), media_access)
            data["labels"] = self.gathered(self._labels(maps, loaded, options), options)
        return Batch(data)

    def preprocess(  # type: ignore[override]
        self,
        images: ImageInput,
        segmentation_maps: MapInput | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """The same as calling the processor."""
        return self(images, segmentation_maps, return_tensors=return_tensors, media_access=media_access, **overrides)

    def told(self, loaded: Sequence[Tensor], shaped: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:
        """The pictures whose sizes are told, by what these are called."""
        return {"original_sizes": loaded}

    def generate_crop_boxes(
        self,
        image: ImageInput,
        target_size: int,
        crop_n_layers: int = 0,
        overlap_ratio: float = 512 / 1500,
        points_per_crop: int = 32,
        crop_n_points_downscale_factor: float = 1,
        media_access: MediaAccess | None = None,
    ) -> am.Crops:
        """A picture cut into crops, and where to point in each; see :func:`.automatic_masks.crops_of`.

        Raises:
            InputError: several pictures, or an unusable one; crops with other numbers of points.
        """
        loaded = list(load_tensors(image, self.options, self.kind.backend, media_access))
        if len(loaded) != 1:
            raise InputError("one picture is cut at a time", where="image", expected=1, found=len(loaded))
        return am.crops_of(
            loaded[0], target_size, crop_n_layers, overlap_ratio, points_per_crop, crop_n_points_downscale_factor
        )

    def filter_masks(
        self,
        masks: Tensor,
        iou_scores: Tensor,
        original_size: Sequence[int],
        cropped_box_image: Tensor,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        mask_threshold: float = 0,
        stability_score_offset: float = 1,
    ) -> tuple[list[am.RunLengths], Tensor, Tensor]:
        """The masks of a crop that are good, stable and whole; see :func:`.automatic_masks.kept_masks`.

        Raises:
            InputError: there is not one score per mask.
        """
        if masks.shape[:2] != iou_scores.shape[:2]:
            told = list(masks.shape[:2])
            raise InputError("every mask has a score", where="iou_scores", expected=told, found=list(iou_scores.shape))
        size = (int(original_size[0]), int(original_size[1]))
        return am.kept_masks(
            masks,
            iou_scores,
            size,
            cropped_box_image,
            iou=pred_iou_thresh,
            stability=stability_score_thresh,
            threshold=mask_threshold,
            offset=stability_score_offset,
        )

    def post_process_for_mask_generation(
        self, all_masks: Sequence[am.RunLengths], all_scores: Tensor, all_boxes: Tensor, crops_nms_thresh: float
    ) -> tuple[list[Tensor], Tensor, list[am.RunLengths], Tensor]:
        """The masks that no better one covers: as tensors, with scores, as runs, with boxes."""
        return am.best_masks(all_masks, all_scores, all_boxes, crops_nms_thresh)

    def map_options(self, options: of.SamOptions) -> of.SamOptions:
        """The options by which maps are shaped."""
        return replace(nearest_resize(options), size=options.mask_size)

    def _labels(self, maps: Sequence[Tensor], pictures: Sequence[Tensor], options: of.SamOptions) -> list[Tensor]:
        for number, (image, picture) in enumerate(zip(maps, pictures, strict=True)):
            m.check_size(image, (picture.shape[-2], picture.shape[-1]), f"segmentation_maps[{number}]")
        plan = self.plan(self.map_options(options))
        return [image[0].to(torch.int64) for image in plan.finish(plan.shape(maps))]


class SamImageProcessor(_PromptedImageProcessor):
    """SAM's."""

    def post_process_masks(
        self,
        masks: Sequence[Tensor],
        original_sizes: TargetSizes,
        reshaped_input_sizes: TargetSizes,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        pad_size: Mapping[str, int] | None = None,
    ) -> list[Tensor]:
        """Masks in pixels of the original pictures: without padding, and enlarged.

        Args:
            masks: of each picture, Shape: [prompts, masks, h, w].
            original_sizes: height and width of each.
            reshaped_input_sizes: their sizes before padding.
            mask_threshold: scores above it are inside.
            binarize: give true and false, not scores.
            pad_size: ``height`` and ``width`` of padded pictures, if not the processor's.
        """
        pad = size_entries(self.options.pad_size) if pad_size is None and self.options.pad_size else pad_size
        if pad is None:
            raise InputError("nobody knows how large padded pictures are", where="pad_size")
        found = []
        originals, reshaped = _sizes(original_sizes, masks), _sizes(reshaped_input_sizes, masks)
        for mask, original, real in zip(_tensors(masks), originals, reshaped, strict=True):
            whole = _resized(mask, (pad["height"], pad["width"]))
            found.append(_resized(whole[..., : real[0], : real[1]], original))
        return [mask > mask_threshold for mask in found] if binarize else found

    def told(self, loaded: Sequence[Tensor], shaped: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:
        """The pictures whose sizes are told, by what these are called."""
        return {"original_sizes": loaded, "reshaped_input_sizes": shaped}

    def map_options(self, options: of.SamOptions) -> of.SamOptions:
        """The options by which maps are shaped."""
        return replace(nearest_resize(options), size=options.mask_size, pad_size=options.mask_pad_size)


class Sam2ImageProcessor(_PromptedImageProcessor):
    """SAM 2's, whose pictures are squeezed to a square."""

    def post_process_masks(
        self,
        masks: Sequence[Tensor],
        original_sizes: TargetSizes,
        mask_threshold: float = 0.0,
        binarize: bool = True,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        apply_non_overlapping_constraints: bool = False,
        reshaped_input_sizes: TargetSizes | None = None,
    ) -> list[Tensor]:
        """Masks in pixels of the original pictures.

        Args:
            masks: of each picture, Shape: [prompts, masks, h, w].
            original_sizes: height and width of each.
            mask_threshold: scores above it are inside.
            binarize: give true and false, not scores.
            max_hole_area, max_sprinkle_area: nothing, as in the ecosystem.
            apply_non_overlapping_constraints: a pixel is of the prompt only that scores most there.
            reshaped_input_sizes: nothing; pictures have no padding.
        """
        found = []
        for mask, original in zip(_tensors(masks), _sizes(original_sizes, masks), strict=True):
            whole = _resized(mask, original)
            if apply_non_overlapping_constraints and len(whole) > 1:
                best = (
                    whole.argmax(0, keepdim=True) == torch.arange(len(whole), device=mask.device)[:, None, None, None]
                )
                whole = torch.where(best, whole, whole.clamp(max=-10.0))
            found.append(whole)
        return [mask > mask_threshold for mask in found] if binarize else found


def _tensors(masks: Sequence[object]) -> list[Tensor]:
    found = [torch.from_numpy(mask) if isinstance(mask, np.ndarray) else mask for mask in masks]
    for number, mask in enumerate(found):
        if not isinstance(mask, Tensor) or mask.dim() != 4:
            raise InputError("this is no mask", where=f"masks[{number}]", expected="shape [prompts, masks, h, w]")
    return cast("list[Tensor]", found)


def _sizes(sizes: TargetSizes, masks: Sequence[object]) -> list[tuple[int, int]]:
    return cast("list[tuple[int, int]]", sizes_of(sizes, len(masks), "original_sizes"))


def _resized(masks: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(masks, size, mode="bilinear", align_corners=False)
