"""DETR's image processor: pictures of any sizes in one batch, with the mask that tells pixels from padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import ClassVar, cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.inputs.checks import check_flag
from omniform.inputs.images import coco, postprocess
from omniform.inputs.images.backends import Backend
from omniform.inputs.images.class_maps import ClassMaps
from omniform.inputs.images.coco import Annotation, Target
from omniform.inputs.images.masked import pixel_mask
from omniform.inputs.images.options import DetrOptions
from omniform.inputs.images.postprocess import DetectionOutput, Detections, TargetSizes
from omniform.inputs.images.processor import (
    ImageInput,
    ImageProcessor,
    TensorKind,
    load_tensors,
)
from omniform.inputs.images.segments import (
    Queries,
    Segmentation,
    SegmentationOutput,
    by_pred_masks,
    query_maps,
    segments,
    with_run_lengths,
)
from omniform.inputs.media_access import MediaAccess


class DetectingImageProcessor(ImageProcessor):
    """Preprocesses pictures, and COCO annotations, for DETR and its kin."""

    model_input_names: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_mask")

    # The base takes any keyword in its signature, and refuses these names when called.
    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        annotations: Annotation | Sequence[Annotation] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | Path | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures and, for training, their annotations.

        Args:
            images: one picture or several, of any sizes.
            annotations: one for each picture, in the ``format`` of the options.
            return_segmentation_masks: put masks into the labels; by default for panoptic annotations only.
            masks_path: the folder of the pictures that code panoptic segments.
            return_tensors: ``"pt"`` or None for torch tensors, ``"np"`` for numpy arrays.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.DetrOptions`, for this call.

        Returns:
            ``pixel_values [N, 3, H, W]``, or a list where sizes differ and no tensor is asked for; with ``do_pad`` also
            ``pixel_mask [N, H, W]``, 1 where a picture is and 0 in the padding; with annotations also ``labels``, one
            :class:`Batch` for each picture.

        Raises:
            InputError: as for every processor; or an annotation is malformed, or their number is wrong.
        """
        options = cast(DetrOptions, self._changed(return_tensors, overrides))
        plan = self.plan(options)
        images_CHW = list(load_tensors(images, options, self.kind.backend, media_access))
        targets = self._targets(images_CHW, annotations, return_segmentation_masks, masks_path, options)
        shaped = plan.shape(images_CHW)
        sizes = [(image.shape[-2], image.shape[-1]) for image in shaped]
        if targets is not None:
            olds = [(image.shape[-2], image.shape[-1]) for image in images_CHW]
            backend = self.kind.backend
            targets = [_follow(t, old, new, options, backend) for t, old, new in zip(targets, olds, sizes, strict=True)]
        data: dict[str, object] = {}
        pixels = plan.finish(shaped)
        if plan.pad is not None:
            device, (height, width) = pixels[0].device, pixels[0].shape[-2:]
            data["pixel_mask"] = self._batch(pixel_mask(sizes, height, width, device), options)
            if targets is not None:
                fractions = bool(options.do_convert_annotations)
                new = (height, width)
                targets = [
                    coco.pad_target(t, old, new, fractions=fractions) for t, old in zip(targets, sizes, strict=True)
                ]
        data["pixel_values"] = self._batch(pixels, options)
        if targets is not None:
            data["labels"] = [Batch({name: self.given(value, options) for name, value in t.items()}) for t in targets]
        return Batch(data)

    def _batch(self, tensor: Tensor | list[Tensor], options: DetrOptions) -> object:
        """What there is of every picture: one tensor, where sizes allow it and the slow class does not leave a list."""
        slow = options.return_tensors is None and self.backend == "pil"
        return self.gathered(tensor, options) if slow or isinstance(tensor, list) else self.given(tensor, options)

    def preprocess(  # type: ignore[override]
        self,
        images: ImageInput,
        annotations: Annotation | Sequence[Annotation] | None = None,
        return_segmentation_masks: bool | None = None,
        masks_path: str | Path | None = None,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """The same as calling the processor."""
        return self(
            images,
            annotations,
            return_segmentation_masks,
            masks_path,
            return_tensors=return_tensors,
            media_access=media_access,
            **overrides,
        )

    def _targets(
        self,
        images: Sequence[Tensor],
        annotations: Annotation | Sequence[Annotation] | None,
        masks: bool | None,
        masks_path: str | Path | None,
        options: DetrOptions,
    ) -> list[Target] | None:
        if annotations is None:
            return None
        if options.format is None:
            raise InputError(
                "annotations need their format", where="format", expected="coco_detection or coco_panoptic"
            )
        check_flag("return_segmentation_masks", masks)
        if not isinstance(annotations, (Mapping, list, tuple)):
            raise InputError("annotations are objects", where="annotations", found=brief(annotations))
        listed = [annotations] if isinstance(annotations, Mapping) else list(annotations)
        if len(listed) != len(images):
            raise InputError(
                "every picture needs one annotation", where="annotations", expected=len(images), found=len(listed)
            )
        targets = []
        for number, (image, annotation) in enumerate(zip(images, listed, strict=True)):
            where = f"annotations[{number}]"
            if not isinstance(annotation, Mapping):
                raise InputError("malformed annotation", where=where, expected="an object", found=brief(annotation))
            height, width = image.shape[-2:]
            if options.format == "coco_panoptic":
                keep = masks is None or masks
                target = coco.panoptic_target(annotation, height, width, masks_path=masks_path, masks=keep, where=where)
            else:
                target = coco.detection_target(annotation, height, width, masks=bool(masks), where=where)
            targets.append(target)
        return targets


class DetrImageProcessor(ClassMaps[SegmentationOutput], DetectingImageProcessor):
    """DETR's, and its outputs as boxes and segments."""

    def post_process_object_detection(
        self, outputs: DetectionOutput, threshold: float = 0.5, target_sizes: TargetSizes | None = None
    ) -> list[Detections]:
        """See :func:`~omniform.inputs.images.postprocess.object_detection`."""
        return postprocess.object_detection(outputs, threshold=threshold, target_sizes=target_sizes)

    def scored_maps(self, outputs: SegmentationOutput, target_sizes: TargetSizes | None) -> list[Batch]:
        """See :func:`~omniform.inputs.images.segments.query_maps`."""
        return self._semantic(by_pred_masks(outputs), target_sizes)

    def _semantic(self, queries: Queries, target_sizes: TargetSizes | None) -> list[Batch]:
        return query_maps(queries, target_sizes=target_sizes)

    def post_process_instance_segmentation(
        self,
        outputs: SegmentationOutput,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: TargetSizes | None = None,
        return_coco_annotation: bool = False,
    ) -> list[Segmentation]:
        """See :func:`~omniform.inputs.images.segments.segments`.

        ``return_coco_annotation`` gives run lengths; a map of nothing stays a map.
        """
        check_flag("return_coco_annotation", return_coco_annotation)
        found = segments(
            by_pred_masks(outputs),
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            target_sizes=target_sizes,
        )
        return [_run_lengths(one) for one in found] if return_coco_annotation else found

    def post_process_panoptic_segmentation(
        self,
        outputs: SegmentationOutput,
        threshold: float = 0.5,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        label_ids_to_fuse: set[int] | None = None,
        target_sizes: TargetSizes | None = None,
    ) -> list[Segmentation]:
        """See :func:`~omniform.inputs.images.segments.segments`."""
        return segments(
            by_pred_masks(outputs),
            threshold=threshold,
            mask_threshold=mask_threshold,
            overlap_mask_area_threshold=overlap_mask_area_threshold,
            fuse=fused_classes(label_ids_to_fuse),
            target_sizes=target_sizes,
        )


def fused_classes(ids: object) -> frozenset[int]:
    """The classes of a set, or none.

    Raises:
        InputError: it holds no classes.
    """
    if ids is None:
        return frozenset()
    if not isinstance(ids, (set, frozenset, list, tuple)) or not all(isinstance(one, Integral) for one in ids):
        raise InputError("classes are whole numbers", where="label_ids_to_fuse", expected="a set", found=brief(ids))
    return frozenset(map(int, ids))


def _run_lengths(found: Segmentation) -> Segmentation:
    ids = found["segmentation"]
    nothing = isinstance(ids, Tensor) and ids.is_floating_point()
    return found if nothing else with_run_lengths(found)


def _follow(
    target: Target, old: tuple[int, int], new: tuple[int, int], options: DetrOptions, backend: Backend
) -> Target:
    if options.do_resize:
        target = coco.resize_target(target, old, new, backend)
    return coco.centred_target(target, new) if options.do_convert_annotations else target
