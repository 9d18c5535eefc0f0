"""Sound beside the words that are spoken in it: what the processors of speech recognizers share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self, cast

import torch

from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.inputs.audio import FeatureExtractor, load_audio
from omniform.inputs.audio.base import SequenceFeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.media_access import checked_access
from omniform.inputs.processors.base import TEXT_OPTIONS, PartName, Parts, Processor
from omniform.inputs.processors.media import is_encoded, sounds
from omniform.inputs.processors.options import Part
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.audio.samples import Waves


class SpeechProcessor(Processor):
    """Sound, and the transcripts of it.

    Args:
        feature_extractor: of the sound.
        tokenizer: of the transcripts.
        chat_template: the template for conversations; by default the tokenizer's.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("feature_extractor", "tokenizer")

    def __init__(
        self, feature_extractor: FeatureExtractor, tokenizer: Tokenizer, *, chat_template: ChatTemplates = None
    ) -> None:
        super().__init__(tokenizer, chat_template=chat_template)
        self.feature_extractor = feature_extractor

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.feature_extractor is not None
        return cls(parts.feature_extractor, parts.tokenizer, chat_template=parts.chat_template)

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        audio: Waves | AudioSource | Sequence[AudioSource] | None = None,
        text: str | Sequence[str] | None = None,
        *,
        sampling_rate: int | None = None,
        **options: object,
    ) -> Batch:
        """Turn sound, transcripts or both into the model's inputs.

        Args:
            audio: one sound or several: samples (see ``sampling_rate``), or whatever
                :func:`~omniform.inputs.audio.load.load_audio` reads, which is resampled.
            text: the transcripts; without sound they are encoded as the tokenizer does.
            sampling_rate: rate of samples in Hz, to be checked.
            options: of the feature extractor (see its call) and of the tokenizer
                (:class:`~omniform.inputs.text.options.EncodeOptions`), flat (what both have goes to both) or as
                ``audio_kwargs`` and ``text_kwargs``.

        Returns:
            What the feature extractor gives; with text also ``labels``, the ids of the transcripts.

        Raises:
            InputError: there is neither sound nor text, one of them cannot be used, or the sampling rate is wrong.
            RepoError: a sound's file or address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        given = options if sampling_rate is None else {**options, "sampling_rate": sampling_rate}
        asked = self._options(given)
        if audio is None and text is None:
            raise InputError("there is neither sound nor text", where=type(self).__name__)
        encoded = None if text is None else self.tokenizer(text, **cast(EncodeOptions, asked.text))
        if audio is None:
            assert encoded is not None
            return encoded
        batch = self.feature_extractor(self._waves(audio, asked.audio), **asked.audio)  # type: ignore[arg-type]
        if encoded is not None:
            batch["labels"] = encoded["input_ids"]
        return batch

    def _waves(self, audio: object, options: dict[str, object]) -> Waves:
        """See :func:`waves_of`."""
        return waves_of(audio, self.feature_extractor.sampling_rate, options)

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"feature_extractor": self.feature_extractor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"text": TEXT_OPTIONS, "audio": audio_options(type(self.feature_extractor))}


class Wav2Vec2Processor(SpeechProcessor):
    """Waves, and the letters that are spoken in them, for Wav2Vec2 and its kin."""

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has."""
        return [*self.feature_extractor.model_input_names, "labels"]

    def pad(
        self,
        input_features: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None,
        labels: Mapping[str, object] | Sequence[Mapping[str, object]] | None = None,
        **options: object,
    ) -> Batch:
        """Bring examples that were read before to one length, as a collate function does.

        Args:
            input_features: what the processor made of sounds; see
                :meth:`~omniform.inputs.audio.base.SequenceFeatureExtractor.pad`.
            labels: what it made of transcripts, each with ``input_ids``.
            options: of both.

        Returns:
            The features; with transcripts also ``labels``, their padded ids.

        Raises:
            InputError: there is neither, or examples do not fit together.
            UnknownArgumentError: there is no such option.
        """
        check_arguments(f"{type(self).__name__}.pad", options, {*PAD_SOUNDS, *PAD_TEXTS})
        if input_features is None and labels is None:
            raise InputError("there is nothing to pad", where=f"{type(self).__name__}.pad")
        texts = {name: value for name, value in options.items() if name in PAD_TEXTS}
        padded = None if labels is None else self.tokenizer.pad(labels, **texts)  # type: ignore[arg-type]
        if input_features is None:
            assert padded is not None
            return padded
        waves = {name: value for name, value in options.items() if name in PAD_SOUNDS}
        batch = self.feature_extractor.pad(input_features, **waves)  # type: ignore[arg-type]
        if padded is not None:
            batch["labels"] = padded["input_ids"]
        return batch


class Wav2Vec2BertProcessor(Wav2Vec2Processor):
    """Filter banks of sounds, and the letters that are spoken in them, for Wav2Vec2-BERT."""


def waves_of(audio: object, rate: int, options: dict[str, object]) -> Waves:
    """The samples of every sound, files read and resampled; samples as they are, whose rate is checked later.

    Args:
        rate: samples per second that are wanted.
        options: of the feature extractor's call; what is about files is taken out of them.
    """
    access = checked_access(options.pop("media_access", None))
    given = sounds(audio)
    if not any(is_encoded(sound) for sound in given):
        return cast("Waves", audio)

    def heard(sound: object) -> torch.Tensor:
        return load_audio(cast("AudioSource", sound), rate, media_access=access)

    stated = options.pop("sampling_rate", None)
    if all(is_encoded(sound) for sound in given):
        return [heard(sound) for sound in given]
    options["sampling_rate"] = stated  # of the samples among them
    return [heard(sound) if is_encoded(sound) else cast("torch.Tensor", sound) for sound in given]


def audio_options(kind: type[FeatureExtractor]) -> frozenset[str]:
    """The options of a feature extractor's call."""
    return frozenset(_keywords(kind.__call__)) | {"media_access"}


def _keywords(function: object) -> list[str]:
    parameters = inspect.signature(function).parameters.items()  # type: ignore[arg-type]
    return [
        name
        for name, one in parameters
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and name not in ("self", *_FIRST)
    ]


_FIRST = ("audio", "audio_target", "raw_speech", "processed_features", "encoded_inputs")
PAD_SOUNDS = frozenset(_keywords(SequenceFeatureExtractor.pad))
PAD_TEXTS = frozenset(_keywords(Tokenizer.pad))
