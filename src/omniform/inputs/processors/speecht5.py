"""SpeechT5's processor: text or sound in, and what is to be said or written as labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.inputs.audio.speecht5 import SpeechT5FeatureExtractor
from omniform.inputs.processors.base import TEXT_OPTIONS
from omniform.inputs.processors.options import Part
from omniform.inputs.processors.speech import PAD_SOUNDS, PAD_TEXTS, SpeechProcessor, audio_options
from omniform.inputs.text.options import EncodeOptions

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.audio.samples import Waves

Examples = Mapping[str, object] | Sequence[Mapping[str, object]]


class SpeechT5Processor(SpeechProcessor):
    """Texts and sounds, each as what is read or as what is to come of it, for SpeechT5."""

    def __call__(  # type: ignore[override]
        self,
        audio: Waves | AudioSource | Sequence[AudioSource] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        text_target: str | Sequence[str] | None = None,
        audio_target: Waves | AudioSource | Sequence[AudioSource] | None = None,
        sampling_rate: int | None = None,
        **options: object,
    ) -> Batch:
        """Turn what is read, and what is to come of it, into the model's inputs.

        Args:
            audio: one sound to be heard or several: samples (see ``sampling_rate``), or whatever
                :func:`~omniform.inputs.audio.load.load_audio` reads, which is resampled.
            text: texts to be spoken, instead.
            text_target: what was said, as labels.
            audio_target: speech, as labels, instead: a spectrogram is made of it.
            sampling_rate: rate of samples in Hz, to be checked.
            options: of the feature extractor and of the tokenizer, flat (what both have goes to both) or as
                ``audio_kwargs`` and ``text_kwargs``.

        Returns:
            ``input_values`` or ``input_ids`` with ``attention_mask``, ``labels`` and ``decoder_attention_mask``; where
            there are labels only, under the names of inputs.

        Raises:
            InputError: there is nothing, or two of a kind; one of them cannot be used.
            RepoError: a sound's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        for pair in (
            (("audio", audio), ("text", text)),
            (("audio_target", audio_target), ("text_target", text_target)),
        ):
            if all(value is not None for _, value in pair):
                first, second = (name for name, _ in pair)
                raise InputError(
                    "there is a sound and a text where one of them belongs",
                    where=f"{first}, {second}",
                    remedy="What is to come of the other goes by the name of a target.",
                )
        asked = self._options(options if sampling_rate is None else {**options, "sampling_rate": sampling_rate})
        texts, batch, aim = cast(EncodeOptions, asked.text), None, None
        if audio is not None:
            heard = dict(asked.audio)
            batch = self._reader(self._waves(audio, heard), **heard)  # type: ignore[arg-type]
        elif text is not None:
            batch = self.tokenizer(text, **texts)
        if audio_target is not None:
            heard = dict(asked.audio)
            aim = self._reader(audio_target=self._waves(audio_target, heard), **heard)  # type: ignore[arg-type]
        elif text_target is not None:
            aim = self.tokenizer(text_target, **texts)
        return self._joined(batch, aim)

    def pad(
        self,
        *,
        input_values: Examples | None = None,
        input_ids: Examples | None = None,
        labels: Examples | None = None,
        **options: object,
    ) -> Batch:
        """Bring examples that were read before to one length, as a collate function does.

        Args:
            input_values: what the processor made of sounds.
            input_ids: what it made of texts, instead.
            labels: what it made of targets, of texts or of sounds.
            options: of :meth:`~omniform.inputs.audio.base.SequenceFeatureExtractor.pad` and of the tokenizer's.

        Raises:
            InputError: there is nothing, or both kinds of inputs; examples do not fit together.
            UnknownArgumentError: there is no such option.
        """
        check_arguments(f"{type(self).__name__}.pad", options, {*PAD_SOUNDS, *PAD_TEXTS})
        if input_values is not None and input_ids is not None:
            raise InputError("there are sounds and texts where one of them belongs", where="input_values, input_ids")
        batch = aim = None
        if input_values is not None:
            batch = self._padded(input_values, options, texts=False)
        elif input_ids is not None:
            batch = self._padded(input_ids, options, texts=True)
        if labels is not None:
            one = labels if isinstance(labels, Mapping) else labels[0]
            aim = self._padded(labels, options, texts="input_ids" in one)
        return self._joined(batch, aim)

    def _padded(self, examples: Examples, options: Mapping[str, object], *, texts: bool) -> Batch:
        known = {name: value for name, value in options.items() if name in (PAD_TEXTS if texts else PAD_SOUNDS)}
        if texts:
            return self.tokenizer.pad(examples, **known)  # type: ignore[arg-type]
        return self.feature_extractor.pad(examples, **known)  # type: ignore[arg-type]

    def _joined(self, batch: Batch | None, aim: Batch | None) -> Batch:
        """Inputs, and what is to come of them as labels; what there is of the two, where it is one."""
        if batch is None or aim is None:
            found = aim if batch is None else batch
            if found is None:
                raise InputError("there is neither sound nor text", where=type(self).__name__)
            return found
        batch["labels"] = aim["input_values" if "input_values" in aim else "input_ids"]
        if "attention_mask" in aim:
            batch["decoder_attention_mask"] = aim["attention_mask"]
        return batch

    @property
    def _reader(self) -> SpeechT5FeatureExtractor:
        if not isinstance(self.feature_extractor, SpeechT5FeatureExtractor):
            raise InputError(
                "this is not SpeechT5's feature extractor",
                where="feature_extractor",
                found=type(self.feature_extractor).__name__,
            )
        return self.feature_extractor

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"text": TEXT_OPTIONS | {"normalize"}, "audio": audio_options(type(self.feature_extractor))}
