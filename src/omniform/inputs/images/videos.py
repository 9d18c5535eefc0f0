"""Image processors that read films as lists of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images.arrays import is_array
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors, stacked
from omniform.inputs.media_access import MediaAccess

VideoInput: TypeAlias = "ImageInput | Sequence[Sequence[ImageSource]]"
"""One film as a list of pictures (or ``[T, C, H, W]``), or a list of films (or ``[N, T, C, H, W]``)."""


class VideoMAEImageProcessor(ImageProcessor):
    """VideoMAE's and TimeSformer's: every film's pictures become one tensor."""

    def __call__(  # type: ignore[override]
        self,
        videos: VideoInput | None = None,
        *,
        images: VideoInput | None = None,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess films.

        Args:
            videos: one film or several; a single picture is a film of one.
            images: another name of it.
            return_tensors: ``"pt"`` or ``"np"`` for one tensor; None for a list of ``[T, C, H, W]``.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options, for this call.

        Returns:
            ``pixel_values [N, T, C, H, W]``.

        Raises:
            InputError: as for every processor; or films differ in length and are to make one tensor.
        """
        given = videos if images is None else images
        if given is None or (videos is not None and images is not None):
            raise InputError("films come in one argument", where="videos", expected="videos or images")
        options = self._changed(return_tensors, overrides)
        films = _films(given)
        lengths = [len(film) for film in films]
        plan = self.plan(options)
        frames = [frame for film in films for frame in film]
        loaded = load_tensors(frames, options, self.kind.backend, media_access)
        pixels = plan.finish(plan.shape(loaded))
        tensors = [stacked(list(part)) for part in _parts(pixels, lengths)]
        if options.return_tensors is None:
            return Batch({"pixel_values": [self.kind.backend.loose(one) for one in tensors]})
        if len(set(lengths)) > 1:
            raise InputError(
                "films of different lengths do not make one tensor",
                where="videos",
                found=", ".join(map(str, lengths[:8])),
                remedy="Take as many pictures of each, or leave return_tensors out.",
            )
        return Batch({"pixel_values": as_kind(stacked(tensors), options.return_tensors)})

    def preprocess(  # type: ignore[override]
        self,
        videos: VideoInput | None = None,
        *,
        images: VideoInput | None = None,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """The same as calling the processor."""
        return self(videos, images=images, return_tensors=return_tensors, media_access=media_access, **overrides)


def _films(videos: object) -> list[list[ImageSource]]:
    if isinstance(videos, Tensor) or is_array(videos):
        array = cast(Tensor, videos)
        if array.ndim == 5:
            return [cast("list[ImageSource]", list(film)) for film in array]
        return [cast("list[ImageSource]", list(array) if array.ndim == 4 else [array])]
    if not isinstance(videos, (list, tuple)):
        return [[cast(ImageSource, videos)]]
    if not videos:
        raise InputError("there is no film", where="videos", expected="at least one")
    nested = [one for one in videos if isinstance(one, (list, tuple)) or _is_film(one)]
    if not nested:
        return [list(videos)]
    if len(nested) < len(videos):
        raise InputError("films and pictures are mixed", where="videos", expected="a list of films, or one of pictures")
    films = [list(cast("Sequence[ImageSource]", film)) for film in videos]
    if not all(films):
        raise InputError("a film has no pictures", where=f"videos[{next(n for n, f in enumerate(films) if not f)}]")
    return films


def _is_film(value: object) -> bool:
    return (isinstance(value, Tensor) or is_array(value)) and cast(Tensor, value).ndim == 4


def _parts(pixels: Tensor | Sequence[Tensor], lengths: Sequence[int]) -> list[Sequence[Tensor]]:
    listed = list(pixels) if not isinstance(pixels, Tensor) else list(torch.unbind(pixels))
    parts: list[Sequence[Tensor]] = []
    for length in lengths:
        parts.append(listed[:length])
        listed = listed[length:]
    return parts
