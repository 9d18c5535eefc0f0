"""CLAP's processor: texts and sounds side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.processors.base import read_texts
from omniform.inputs.processors.speech import SpeechProcessor
from omniform.inputs.text.options import EncodeOptions

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.audio.samples import Waves


class ClapProcessor(SpeechProcessor):
    """Texts and sounds, independent of one another: any number of each."""

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str] | None = None,
        audio: Waves | AudioSource | Sequence[AudioSource] | None = None,
        *,
        sampling_rate: int | None = None,
        **options: object,
    ) -> Batch:
        """Turn texts, sounds or both into the model's inputs.

        Args:
            text: a text or several.
            audio: one sound or several: samples (see ``sampling_rate``), or whatever
                :func:`~omniform.inputs.audio.load.load_audio` reads, which is resampled.
            sampling_rate: rate of samples in Hz, to be checked.
            options: of the feature extractor (see its call) and of the tokenizer
                (:class:`~omniform.inputs.text.options.EncodeOptions`), flat (what both have goes to both) or as
                ``audio_kwargs`` and ``text_kwargs``.

        Returns:
            ``input_ids`` and ``attention_mask [texts, T]``, ``input_features [sounds, views, frames, bands]`` and
            ``is_longer [sounds, 1]``: what there is input for.

        Raises:
            InputError: there is neither sound nor text, one of them cannot be used, or the sampling rate is wrong.
            RepoError: a sound's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        asked = self._options(options if sampling_rate is None else {**options, "sampling_rate": sampling_rate})
        if audio is None and text is None:
            raise InputError("there is neither sound nor text", where=type(self).__name__)
        batch = Batch()
        if text is not None:
            texts = text if isinstance(text, str) else read_texts(text)
            batch = self.tokenizer(texts, **cast(EncodeOptions, asked.text))
        if audio is not None:
            waves = self._waves(audio, asked.audio)
            batch.update(self.feature_extractor(waves, **asked.audio))  # type: ignore[arg-type]
        return batch
