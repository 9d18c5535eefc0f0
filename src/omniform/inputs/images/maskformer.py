"""Processors of MaskFormer and Mask2Former: maps become a mask for each segment, and queries become segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.checks import check_flag, fraction
from omniform.inputs.images import maps as m
from omniform.inputs.images import options as of
from omniform.inputs.images.binary_masks import Masks, Semantics, binary_masks, semantics_of
from omniform.inputs.images.class_maps import ClassMaps
from omniform.inputs.images.detr import fused_classes
from omniform.inputs.images.maps import MapInput
from omniform.inputs.images.masked import pixel_mask
from omniform.inputs.images.options import ImageOptions, nearest_resize
from omniform.inputs.images.postprocess import TargetSizes
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, load_tensors
from omniform.inputs.images.segments import (
    MaskOutput,
    Queries,
    Segmentation,
    by_queries,
    instances,
    query_maps,
    segments,
    with_run_lengths,
)
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess


class QueryImageProcessor(ImageProcessor):
    """What MaskFormer's, Mask2Former's and OneFormer's processors share: pictures padded to one size, and masks."""

    model_input_names: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_mask")

    def _pictures(
        self, images: ImageInput, options: ImageOptions, media_access: MediaAccess | None
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]], Tensor]:
        """The pictures' own sizes, the sizes to which they were resized, and all of them padded to one."""
        plan = self.plan(options)
        loaded = list(load_tensors(images, options, self.kind.backend, media_access))
        shaped = plan.shape(loaded)
        pixels = plan.finish(shaped)
        assert isinstance(pixels, Tensor)
        return _sizes(loaded), _sizes(shaped), pixels

    def _masks(
        self,
        maps: MapInput,
        semantics: Semantics | None,
        sizes: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]],
        options: of.MaskFormerOptions | of.OneFormerOptions,
        media_access: MediaAccess | None,
    ) -> list[Masks]:
        """The segments of each picture, in the size to which it was resized."""
        olds, news = sizes
        plan = self.plan(nearest_resize(options))
        loaded = m.load_maps(maps, len(olds), media_access)
        found = []
        for number, (image, own) in enumerate(zip(loaded, semantics_of(semantics, len(olds)), strict=True)):
            where = f"segmentation_maps[{number}]"
            m.check_size(image, olds[number], where)
            shaped = through(plan.shaping, image)
            m.check_size(shaped, news[number], where)
            found.append(binary_masks(shaped[0], own, options.ignore_index, bool(options.do_reduce_labels), where))
        return found


class MaskFormerImageProcessor(ClassMaps[MaskOutput], QueryImageProcessor):
    """MaskFormer's."""

    mask_size: ClassVar[tuple[int, int] | None] = None
    """What masks are brought to before they are looked at; None for the model's own size."""

    # The base takes any keyword in its signature, and refuses these names when called.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        segmentation_maps: MapInput | None = None,
        instance_id_to_semantic_id: Semantics | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures and, for training, their maps of segments.

        Args:
            images: one picture or several, of any sizes.
            segmentation_maps: one for each: the number of a segment (or class) for every pixel.
            instance_id_to_semantic_id: the class of each number, for all pictures or for each.
            return_tensors: ``"pt"`` or ``"np"`` for tensors; None for lists.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.MaskFormerOptions`, for this call.

        Returns:
            ``pixel_values [N, C, H, W]`` and ``pixel_mask [N, H, W]``, 1 where a picture is; with maps also
            ``mask_labels``, for each picture ``[K, H, W]``, and ``class_labels``, for each ``[K]``.

        Raises:
            InputError: as for every processor; or a map is none or of another size than its picture, or a segment has
                no class.
        """
        options = cast(of.MaskFormerOptions, self._changed(return_tensors, overrides))
        olds, news, pixels = self._pictures(images, options, media_access)
        height, width = pixels.shape[-2:]
        mask = pixel_mask(news, height, width, pixels.device)
        data = {"pixel_values": self.gathered(pixels, options), "pixel_mask": self.gathered(mask, options)}
        if segmentation_maps is not None:
            found = self._masks(segmentation_maps, instance_id_to_semantic_id, (olds, news), options, media_access)
            value = options.ignore_index or 0
            data["mask_labels"] = [self.given(one.padded(height, width, value), options) for one in found]
            data["class_labels"] = [self.given(one.classes, options) for one in found]
        return Batch(data)

    def preprocess(  # type: ignore[override]
        self,
        images: ImageInput,
        segmentation_maps: MapInput | None = None,
        instance_id_to_semantic_id: Semantics | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """The same as calling the processor."""
        return self(
            images,
            segmentation_maps,
            instance_id_to_semantic_id,
            return_tensors=return_tensors,
            media_access=media_access,
            **overrides,
        )

    def scored_maps(self, outputs: MaskOutput, target_sizes: TargetSizes | None) -> list[Batch]:
        """See :func:`~omniform.inputs.images.segments.query_maps`."""
        return query_maps(self._queries(outputs), target_sizes=target_sizes)

    def post_process_instance_segmentation(
        self,
        outputs: MaskOutput,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: TargetSizes | None = None,
        return_coco_annotation: bool = False,
        return_binary_maps: bool = False,
    ) -> list[Segmentation]:
        """See :func:`~omniform.inputs.images.segments.instances`.

        Args:
            mask_threshold, overlap_mask_area_threshold: inert here: a mask is where its logit is above 0.
            return_coco_annotation: give run lengths.
            return_binary_maps: give a mask for each instance.

        Raises:
            InputError: as there; or both are asked for.
        """
        check_flag("return_coco_annotation", return_coco_annotation)
        check_flag("return_binary_maps", return_binary_maps)
        for name, value in (
            ("mask_threshold", mask_threshold), ("overlap_mask_area_threshold", overlap_mask_area_threshold)
        ):  # fmt: skip
            fraction(name, value)
        if return_coco_annotation and return_binary_maps:
            raise InputError(
                "a segmentation is either run lengths or masks",
                where="return_binary_maps",
                remedy="Ask for return_coco_annotation or return_binary_maps.",
            )
        found = instances(
            self._queries(outputs), threshold=threshold, target_sizes=target_sizes, binary=bool(return_binary_maps)
        )
        return [with_run_lengths(one) for one in found] if return_coco_annotation else found

    def post_process_panoptic_segmentation(
        self,
        outputs: MaskOutput,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: set[int] | None = None,
        target_sizes: TargetSizes | None = None,
    ) -> list[Segmentation]:
        """See :func:`~omniform.inputs.images.segments.segments`."""
        return segments(
            self._queries(outputs),
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            fuse=fused_classes(label_ids_to_fuse),
            target_sizes=target_sizes,
        )

    def _queries(self, outputs: MaskOutput) -> Queries:
        return by_queries(outputs, self.mask_size)


class Mask2FormerImageProcessor(MaskFormerImageProcessor):
    """Mask2Former's, whose masks are brought to 384 x 384 before they are looked at."""

    mask_size: ClassVar[tuple[int, int] | None] = (384, 384)


def _sizes(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(image.shape[-2], image.shape[-1]) for image in images]
