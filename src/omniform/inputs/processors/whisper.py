"""Whisper's processor: sound in, and transcripts as labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch

from omniform.core.errors import InputError
from omniform.inputs.processors.speech import SpeechProcessor
from omniform.inputs.text.whisper import Transcript, TranscriptOptions, WhisperTokenizer


class WhisperProcessor(SpeechProcessor):
    """Sound, and the transcripts of it, for Whisper."""

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
        return self._whisper().get_prompt_ids(text, return_tensors)

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
