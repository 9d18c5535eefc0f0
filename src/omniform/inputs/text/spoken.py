"""Tokenizers of texts that are to be spoken: VITS's letters or phonemes, SpeechT5's letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from omniform.core.errors import InputError
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.ids import shown
from omniform.inputs.text.numbers import spoken_numbers
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.scripted import Scripted
from omniform.inputs.text.spoken_scripts import SpelledScript, SpelledScripted, VitsScript, VitsScripted
from omniform.inputs.text.tokenizer import Tokenizer


class VitsTokenizer(Tokenizer):
    """Letters or phonemes of a text that VITS is to speak."""

    recipe_name = "VitsTokenizer"

    @property
    def _script(self) -> VitsScript:
        backend = self.backend
        assert isinstance(backend, Scripted) and isinstance(backend.script, VitsScript)
        return backend.script

    @property
    def language(self) -> str | None:
        """The language of the texts."""
        return self._script.language

    @property
    def add_blank(self) -> bool:
        """Whether a blank stands around each letter."""
        return self._script.blank

    @property
    def normalize(self) -> bool:
        """Whether texts are written small, without what the vocabulary lacks."""
        return self._script.normalize

    @property
    def phonemize(self) -> bool:
        """Whether words become phonemes."""
        return self._script.phonemizes

    @property
    def is_uroman(self) -> bool:
        """Whether other scripts than Latin become Latin."""
        return self._script.romanizes

    def normalize_text(self, input_string: str) -> str:
        """A text in small letters, but for what is in the vocabulary as it stands."""
        backend = self.backend
        assert isinstance(backend, Scripted)
        return self._script.small(input_string, [t.content for t in backend.get_added_tokens_decoder().values()])

    def __call__(
        self, text: object = None, *args: object, normalize: bool | None = None, **options: Unpack[EncodeOptions]
    ) -> BatchEncoding:
        """Encode texts; see :meth:`Tokenizer.__call__`.

        Args:
            normalize: whether these texts are written small, if not as the tokenizer says.
        """
        if normalize is not None and not isinstance(normalize, bool):
            raise InputError("the option is true or false", where="normalize", found=shown(normalize))
        backend = self.backend
        assert isinstance(backend, VitsScripted)
        backend.normalized = normalize
        try:
            return super().__call__(text, *args, **options)
        finally:
            backend.normalized = None


class SpeechT5Tokenizer(Tokenizer):
    """Letters of a text that SpeechT5 is to speak, or has heard."""

    recipe_name = "SpeechT5Tokenizer"

    @property
    def normalize(self) -> bool:
        """Whether numbers are read in words."""
        backend = self.backend
        assert isinstance(backend, Scripted) and isinstance(backend.script, SpelledScript)
        return backend.script.spells

    @property
    def normalizer(self) -> Callable[[str], str]:
        """What writes numbers in words."""
        return spoken_numbers

    def __call__(
        self, text: object = None, *args: object, normalize: bool | None = None, **options: Unpack[EncodeOptions]
    ) -> BatchEncoding:
        """Encode texts; see :meth:`Tokenizer.__call__`.

        Args:
            normalize: whether numbers in these texts are read in words, if not as the tokenizer says.
        """
        if normalize is not None and not isinstance(normalize, bool):
            raise InputError("the option is true or false", where="normalize", found=shown(normalize))
        backend = self.backend
        assert isinstance(backend, SpelledScripted)
        backend.spelled = normalize
        try:
            return super().__call__(text, *args, **options)
        finally:
            backend.spelled = None
