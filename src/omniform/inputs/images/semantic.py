"""Processors of models that name every pixel: maps go through the steps of their pictures, and come back out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.inputs.images import maps as m
from omniform.inputs.images import options as of
from omniform.inputs.images.class_maps import ClassMaps
from omniform.inputs.images.maps import MapInput
from omniform.inputs.images.options import ImageOptions, nearest_resize
from omniform.inputs.images.postprocess import TargetSizes
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, load_tensors
from omniform.inputs.images.segments import SemanticOutput, semantic_maps
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess


class SemanticImageProcessor(ClassMaps[SemanticOutput], ImageProcessor):
    """Preprocesses pictures and their maps, and turns a model's logits into maps (Segformer, MobileNetV2)."""

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
            images: one picture or several.
            segmentation_maps: one for each: grey or palette pictures, files, or arrays ``[H, W]`` of classes.
            return_tensors: ``"pt"`` or ``"np"`` for tensors; None for lists.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options, for this call.

        Returns:
            ``pixel_values [N, C, H, W]``; with maps also ``labels [N, H, W]``, int64.

        Raises:
            InputError: as for every processor; or a map is none, or lies not over its picture.
        """
        options = self._changed(return_tensors, overrides)
        plan = self.plan(options)
        pixels = plan.finish(plan.shape(load_tensors(images, options, self.kind.backend, media_access)))
        data: dict[str, object] = {"pixel_values": self.gathered(pixels, options)}
        if segmentation_maps is not None:
            loaded = m.load_maps(segmentation_maps, len(pixels), media_access)
            data["labels"] = self.gathered(self._labels(loaded, pixels, options), options)
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

    def map_options(self, options: ImageOptions) -> ImageOptions:
        """The options by which maps are shaped: as pictures are, but every pixel gets the class of one."""
        return nearest_resize(options)

    def _labels(self, maps: Sequence[Tensor], pixels: Tensor | Sequence[Tensor], options: ImageOptions) -> list[Tensor]:
        plan = self.plan(self.map_options(options))
        reduce = bool(cast(of.LabelOptions, options).do_reduce_labels)
        labels = []
        for number, (image, picture) in enumerate(zip(maps, pixels, strict=True)):
            shaped = through((*plan.shaping, *plan.valuing), m.reduced(image) if reduce else image)
            m.check_size(shaped, tuple(picture.shape[-2:]), f"segmentation_maps[{number}]")
            labels.append(shaped[0].to(torch.int64))
        return labels

    def scored_maps(self, outputs: SemanticOutput, target_sizes: TargetSizes | None) -> list[Batch]:
        """See :func:`~omniform.inputs.images.segments.semantic_maps`."""
        return semantic_maps(outputs, target_sizes=target_sizes)


class BeitImageProcessor(SemanticImageProcessor):
    """BEiT's, whose maps go through the very filter that pictures go through, as its reference has it."""

    def map_options(self, options: ImageOptions) -> ImageOptions:
        """The options by which maps are shaped."""
        return replace(options, do_rescale=False, do_normalize=False)


class MobileViTImageProcessor(SemanticImageProcessor):
    """MobileViT's, whose pictures are blue first."""

    def map_options(self, options: ImageOptions) -> ImageOptions:
        """The options by which maps are shaped."""
        return replace(nearest_resize(cast(of.FlipOptions, options)), do_flip_channel_order=False)

    def _changed(self, return_tensors: str | None, overrides: Mapping[str, object]) -> ImageOptions:
        # Never normalised, so no mean asks for three channels.
        return replace(super()._changed(return_tensors, overrides), do_normalize=None)
