"""Whisper's processor: sound in, and transcripts as labels."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self, Unpack, cast

import torch

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.audio import FeatureExtractor, WhisperFeatureExtractor, load_audio
from omniform.inputs.images import ImageProcessor
from omniform.inputs.media_access import checked_access
from omniform.inputs.processors.base import TEXT_OPTIONS, PartName, Parts, Processor
from omniform.inputs.processors.media import is_encoded, sounds
from omniform.inputs.processors.options import Part
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.text.whisper import Transcript, TranscriptOptions, WhisperTokenizer

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource
    from omniform.inputs.audio.samples import Waves

_AUDIO_OPTIONS = frozenset(
    name
    for name, parameter in inspect.signature(WhisperFeatureExtractor.__call__).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
) | {"media_access"}


class WhisperProcessor(Processor):
    """Sound, and the transcripts of it, for Whisper.

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
            options: of the feature extractor (see
                :meth:`~omniform.inputs.audio.whisper.WhisperFeatureExtractor.__call__`) and of the tokenizer
                (:class:`~omniform.inputs.text.options.EncodeOptions`), flat (what both have goes to both) or as
                ``audio_kwargs`` and ``text_kwargs``.

        Returns:
            ``input_features [B, bands, frames]``; with text also ``labels``, the ids of the transcripts.

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
        """The samples of every sound, files read and resampled; samples as they are, whose rate is checked later."""
        access = checked_access(options.pop("media_access", None))
        given = sounds(audio)
        if not any(is_encoded(sound) for sound in given):
            return cast("Waves", audio)
        rate = self.feature_extractor.sampling_rate

        def heard(sound: object) -> torch.Tensor:
            return load_audio(cast("AudioSource", sound), rate, media_access=access)

        stated = options.pop("sampling_rate", None)
        if all(is_encoded(sound) for sound in given):
            return [heard(sound) for sound in given]
        options["sampling_rate"] = stated  # of the samples among them
        return [heard(sound) if is_encoded(sound) else cast("torch.Tensor", sound) for sound in given]

    def get_decoder_prompt_ids(
        self, task: str | None = None, language: str | None = None, no_timestamps: bool = True
    ) -> list[tuple[int, int]]:
        """Set what transcripts begin with, and give its tokens after the first as (position, id).

        Raises:
            InputError: the language or the task is unknown, or the tokenizer is none of Whisper's.
        """
        return self._whisper().get_decoder_prompt_ids(task=task, language=language, no_timestamps=no_timestamps)

    def get_prompt_ids(self, text: str, return_tensors: str | None = "np") -> object:
        """The ids of text that is to come before the transcript: names and words to expect.

        Args:
            text: the words.
            return_tensors: ``"np"``, ``"pt"``, or None for a list.
        """
        return Batch({"ids": self._whisper().get_prompt_ids(text)}).as_tensors(return_tensors)["ids"]

    def decode(  # type: ignore[override]
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Unpack[TranscriptOptions],
    ) -> str | list[str] | Transcript | list[Transcript]:
        """The text of ids; see :meth:`~omniform.inputs.text.whisper.WhisperTokenizer.decode`.

        Raises:
            InputError: an id is none, or there are options and the tokenizer is none of Whisper's.
        """
        if not options:
            return super().decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)
        return self._whisper().decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces, **options)

    def batch_decode(  # type: ignore[override]
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Unpack[TranscriptOptions],
    ) -> list[str] | list[Transcript]:
        """The texts of rows of ids; see :meth:`decode`."""
        if not options:
            return super().batch_decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return self._whisper().batch_decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **options)

    def _whisper(self) -> WhisperTokenizer:
        if not isinstance(self.tokenizer, WhisperTokenizer):
            raise InputError("this is not Whisper's tokenizer", where="tokenizer", found=self.tokenizer.recipe.name)
        return self.tokenizer

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"feature_extractor": self.feature_extractor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"text": TEXT_OPTIONS, "audio": _AUDIO_OPTIONS}
