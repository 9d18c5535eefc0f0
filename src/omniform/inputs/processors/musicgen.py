"""MusicGen's processor: what is to be played, and sounds that are gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.processors.speech import SpeechProcessor
from omniform.inputs.text.options import EncodeOptions

if TYPE_CHECKING:
    import numpy as np

    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.audio.samples import Waves


class MusicgenProcessor(SpeechProcessor):
    """Texts and sounds, both of which are read."""

    def __call__(  # type: ignore[override]
        self,
        audio: Waves | AudioSource | Sequence[AudioSource] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        sampling_rate: int | None = None,
        **options: object,
    ) -> Batch:
        """Turn texts, sounds or both into the model's inputs; see :meth:`SpeechProcessor.__call__`.

        Returns:
            ``input_ids`` with ``attention_mask`` of the texts, ``input_values`` with ``padding_mask`` of the sounds.
        """
        given = options if sampling_rate is None else {**options, "sampling_rate": sampling_rate}
        asked = self._options(given)
        if audio is None and text is None:
            raise InputError("there is neither sound nor text", where=type(self).__name__)
        batch = None if text is None else self.tokenizer(text, **cast(EncodeOptions, asked.text))
        if audio is None:
            assert batch is not None
            return batch
        heard = self.feature_extractor(self._waves(audio, asked.audio), **asked.audio)  # type: ignore[arg-type]
        if batch is None:
            return heard
        batch.update(heard)
        return batch

    def batch_decode(  # type: ignore[override]
        self, *args: object, audio: object = None, padding_mask: object = None, **options: object
    ) -> list[str] | list[np.ndarray]:
        """Sounds without their padding, or the texts of rows of ids.

        Args:
            args: sounds, Shape: [B, channels, samples]; ids go by the name ``sequences``, or after them.
            audio: the same by name.
            padding_mask: 1 for samples of what was gone on with; what was written after it counts.
        """
        args_left = list(args)
        if args_left and audio is None:
            audio = args_left.pop(0)
        if audio is None:
            return super().batch_decode(*args_left, **options)  # type: ignore[arg-type]
        return self._sounds(torch.as_tensor(audio), padding_mask)

    def _sounds(self, audio: Tensor, padding_mask: object) -> list[np.ndarray]:
        sounds = audio.detach().cpu()
        if padding_mask is None:
            return list(sounds.numpy())
        mask = torch.as_tensor(padding_mask).cpu()
        fill = self.feature_extractor.padding_value
        rest = mask.new_full((len(mask), max(0, sounds.shape[-1] - mask.shape[-1])), 1 - int(fill))
        kept = torch.cat((mask, rest), dim=1) != fill
        return [sound[:, keep].numpy() for sound, keep in zip(sounds, kept, strict=True)]
