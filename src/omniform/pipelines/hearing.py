"""What the pipelines that hear share: how sounds come, and how they share a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.inputs.audio import SequenceFeatureExtractor, load_audio, open_recording
from omniform.inputs.media_access import MediaAccess, checked_access
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import BatchSize, Inputs, Padding, in_order

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.audio.recording import Recording

READING = ("timeout", "media_access")
"""The options of all pipelines of sounds: how a sound is read."""


class Hearing(Pipeline):
    """A pipeline that hears.

    A sound is whatever :func:`~omniform.inputs.audio.load.load_audio` reads: a path, an address, bytes, samples at the
    model's rate, or samples that come with theirs: ``(samples, rate)``, ``{"raw": samples, "sampling_rate": rate}``,
    which are resampled. Options of all of them, for the pipeline or for a call:

        timeout: seconds that a download may take.
        media_access: which files and addresses may be read.
    """

    _load_feature_extractor = True
    _load_processor = _load_image_processor = False
    _load_tokenizer: bool | None = False

    window: ClassVar[int] = 32  # prepared sounds are large

    def reading(self, given: Mapping[str, object]) -> Params:
        """How sounds are read, out of a call's options.

        Raises:
            InputError: a timeout that is none, or no access.
        """
        found: Params = {}
        if given.get("media_access") is not None:
            found["media_access"] = checked_access(given["media_access"])
        if given.get("timeout") is not None:
            seconds = given["timeout"]
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise InputError("no time", where="timeout", expected="seconds", found=brief(seconds))
            access = cast(MediaAccess, found.get("media_access", MediaAccess()))
            found["media_access"] = replace(access, timeout=float(seconds))
        return found

    @property
    def extractor(self) -> SequenceFeatureExtractor:
        """What makes features of sounds.

        Raises:
            InputError: the pipeline has none.
        """
        if not isinstance(self.feature_extractor, SequenceFeatureExtractor):
            raise InputError(
                "the pipeline has no feature extractor", where="feature_extractor", remedy="Pass it beside the model."
            )
        return self.feature_extractor

    @property
    def rate(self) -> int:
        """Samples per second that the model hears."""
        return self.extractor.sampling_rate

    def wave(self, source: object, given: Mapping[str, object]) -> Tensor:
        """The samples of a sound, mono, at the model's rate. Shape: [samples].

        Args:
            given: the parameters of ``preprocess``.
        """
        access = cast("MediaAccess | None", given.get("media_access"))
        return load_audio(cast("AudioSource", source), self.rate, media_access=access)

    def recording(self, source: object, given: Mapping[str, object]) -> Recording:
        """A sound that is read as it is needed, mono, at the model's rate."""
        access = cast("MediaAccess | None", given.get("media_access"))
        return open_recording(cast("AudioSource", source), self.rate, media_access=access)

    def features(self, wave: Tensor, **options: object) -> Batch:
        """What the feature extractor makes of samples, in the dtype that the model computes in."""
        read = self.extractor(wave.numpy(), sampling_rate=self.rate, return_tensors="pt", **options)  # type: ignore[operator]
        return cast(Batch, read).to(self.dtype)

    def together(self, chunks: Sequence[Inputs], size: BatchSize, padding: Padding) -> list[list[int]]:
        """Sounds share batches as they come."""
        return super().together(chunks, size, padding) if size == "auto" else in_order(len(chunks), size)


def row(*numbers: int) -> Tensor:
    """Whole numbers that go along with one input of a batch. Shape: [1, N]."""
    return torch.tensor([numbers], dtype=torch.long)
