"""Phonemes of speech: what recognizers of sounds without words write, one token for each step of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from omniform.core.errors import InputError
from omniform.inputs.text.ctc import Letter, Speech, SpeechOptions, SpeechTokenizer
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.ids import shown
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.phone_script import PhoneScript
from omniform.inputs.text.scripted import Scripted


class Wav2Vec2PhonemeCTCTokenizer(SpeechTokenizer):
    """Phonemes."""

    recipe_name = "Wav2Vec2PhonemeCTCTokenizer"
    speech_options = frozenset(SpeechOptions.__annotations__) - {"output_word_offsets"}

    @property
    def _script(self) -> PhoneScript:
        backend = self.backend
        assert isinstance(backend, Scripted) and isinstance(backend.script, PhoneScript)
        return backend.script

    @property
    def do_phonemize(self) -> bool:
        """Whether texts are words, to be made into phonemes."""
        return self._script.phonemizes

    @property
    def phonemizer_lang(self) -> str:
        """The language of the words."""
        return self._script.language

    @property
    def phonemizer_backend(self) -> str:
        """What of phonemizer makes phonemes."""
        return self._script.backend

    @property
    def word_delimiter_token(self) -> str | None:
        """What stands between words; it is no special token."""
        return self._script.delimiter

    @property
    def word_delimiter_token_id(self) -> int | None:
        """Its id."""
        return None if self._script.delimiter is None else self._script.id_of(self._script.delimiter)

    @property
    def phone_delimiter_token(self) -> str:
        """What phonemizer writes between phonemes."""
        return self._script.between

    @property
    def encoder(self) -> dict[str, int]:
        """The phonemes and their ids."""
        return self._script.vocabulary()

    @property
    def decoder(self) -> dict[int, str]:  # type: ignore[override] # as the ecosystem has it: no part of steps
        """The ids and their phonemes."""
        return {index: phone for phone, index in self._script.table.items()}

    def phonemize(self, text: str, phonemizer_lang: str | None = None) -> str:
        """The phonemes of words, between spaces.

        Raises:
            DependencyError: phonemizer or espeak is not there.
        """
        return self._script.phonemes(text, phonemizer_lang)

    def __call__(
        self,
        text: object = None,
        *args: object,
        do_phonemize: bool | None = None,
        phonemizer_lang: str | None = None,
        **options: Unpack[EncodeOptions],
    ) -> BatchEncoding:
        """Encode texts; see :meth:`Tokenizer.__call__`.

        Args:
            do_phonemize: whether texts are words; it stays so for later calls, as in the ecosystem.
            phonemizer_lang: the language of the words, likewise.
        """
        if do_phonemize is not None:
            if not isinstance(do_phonemize, bool):
                raise InputError("the option is true or false", where="do_phonemize", found=shown(do_phonemize))
            self._script.phonemizes = self.settings.values["do_phonemize"] = do_phonemize
        if phonemizer_lang is not None:
            self._script.language = phonemizer_lang
            self.settings.values["phonemizer_lang"] = phonemizer_lang
        return super().__call__(text, *args, **options)

    def _spoken(self, tokens: Sequence[str], options: SpeechOptions) -> Speech:
        bare = options.get("filter_word_delimiter_token", True)
        phones = self._script.spoken(tokens, options.get("group_tokens", True), bare)
        spoken = Speech(text=" ".join(phone for phone, _, _ in phones).strip(), char_offsets=None)
        if options.get("output_char_offsets"):
            spoken["char_offsets"] = [Letter(char=c, start_offset=start, end_offset=end) for c, start, end in phones]
        return spoken
