"""Processors of SAM's pictures and maps: the longer edge to a length, padded to a square. (Prompts are another's.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.inputs.images import maps as m
from omniform.inputs.images import options as of
from omniform.inputs.images.maps import MapInput
from omniform.inputs.images.options import nearest_resize
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors
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

    def told(self, loaded: Sequence[Tensor], shaped: Sequence[Tensor]) -> dict[str, Sequence[Tensor]]:
        """The pictures whose sizes are told, by what these are called."""
        return {"original_sizes": loaded, "reshaped_input_sizes": shaped}

    def map_options(self, options: of.SamOptions) -> of.SamOptions:
        """The options by which maps are shaped."""
        return replace(nearest_resize(options), size=options.mask_size, pad_size=options.mask_pad_size)


class Sam2ImageProcessor(_PromptedImageProcessor):
    """SAM 2's, whose pictures are squeezed to a square."""
