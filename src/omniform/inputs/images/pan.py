"""Pictures, and crops of those that are much wider than high or much higher than wide (Gemma 3's pan and scan)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images import options as of
from omniform.inputs.images.backends import PILLOW
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors, stacked
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess


def crops_along(long: int, short: int, least: int, most: int, ratio: float) -> int:
    """How many crops a picture is cut into along its longer side; 0 for none.

    Args:
        long: its longer side, in pixels.
        short: its shorter side.
        least: the shortest side that a crop may have.
        most: how many crops there may be.
        ratio: of the sides, from which on there are any.
    """
    if long / short < ratio:
        return 0
    count = min(most, max(2, min(long // least, int(long / short + 0.5))))
    return 0 if min(-(-long // count), short) < least else count


class PanImageProcessor(ImageProcessor):
    """Gemma 3's."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "num_crops")

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures.

        Args:
            images: one picture or several, of any sizes; lists of lists are flattened, in reading order.
            return_tensors: ``"pt"`` or ``"np"`` for tensors; None for lists.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`~omniform.inputs.images.options.PanOptions`, for this call.

        Returns:
            ``pixel_values [all pictures and crops, C, H, W]``, each picture in front of its crops; and ``num_crops
            [N]``.

        Raises:
            InputError: as for every processor; or crops are asked for, and nobody says how large they may be.
        """
        options = cast(of.PanOptions, self._changed(return_tensors, overrides))
        loaded = load_tensors(images, options, self.kind.backend, media_access)
        parts = [[image, *self._crops(image, options)] for image in loaded]
        if options.do_pan_and_scan and self.kind.backend is not PILLOW:
            options = replace(options, do_resize=True)  # the whole and its crops are of one size
        plan = self.plan(options)
        steps = (*plan.shaping, *plan.valuing)
        made = [through(steps, part) for own in parts for part in own]
        counts: object = [len(own) - 1 for own in parts]
        kind = options.return_tensors
        if kind is None:
            return Batch({"pixel_values": [self.kind.backend.loose(one) for one in made], "num_crops": counts})
        return Batch({"pixel_values": as_kind(stacked(made), kind), "num_crops": as_kind(torch.tensor(counts), kind)})

    def _crops(self, image: Tensor, o: of.PanOptions) -> list[Tensor]:
        if not o.do_pan_and_scan:
            return []
        least, most = o.pan_and_scan_min_crop_size, o.pan_and_scan_max_num_crops
        ratio = o.pan_and_scan_min_ratio_to_activate
        if least is None or most is None or ratio is None:
            raise InputError(
                "crops need a size, a number and a ratio",
                where="do_pan_and_scan",
                remedy="Set pan_and_scan_min_crop_size, pan_and_scan_max_num_crops and "
                "pan_and_scan_min_ratio_to_activate (Gemma 3: 256, 4 and 1.2).",
            )
        height, width = image.shape[-2:]
        count = crops_along(max(height, width), min(height, width), least, most, ratio)
        if not count:
            return []
        edge = -(-max(height, width) // count)
        starts = range(0, count * edge, edge)
        if width >= height:
            return [image[..., start : start + edge] for start in starts]
        return [image[..., start : start + edge, :] for start in starts]
