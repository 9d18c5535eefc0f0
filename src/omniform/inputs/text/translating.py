"""Tokenizers of translators, whose texts are framed by their language: mBART, NLLB, M2M-100; and Marian's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from tokenizers import processors

from omniform.core.errors import InputError, nearest
from omniform.inputs.text import language_codes
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.ids import shown
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.pieces import LANGUAGES, PairScript
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.scripted import Machinery, Scripted
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.tokenizer import Tokenizer


def no_such_language(lang: object, known: Sequence[str]) -> InputError:
    """The error for a language that a tokenizer does not know."""
    remedy = nearest(str(lang), known)
    return InputError("there is no such language", where="src_lang or tgt_lang", found=shown(lang), remedy=remedy)


class TranslatingTokenizer(Tokenizer):
    """A :class:`Tokenizer` that knows which language it reads and which it is to be answered in.

    Attributes:
        tgt_lang: the language of ``text_target``; the source's where there is none.
        CODES: the languages' codes.
        USUAL: the source language where nobody says.
    """

    CODES: ClassVar[list[str]] = []
    USUAL: ClassVar[str] = ""
    prefix_tokens: list[int]
    suffix_tokens: list[int]

    def _begin(
        self,
        backend: Machinery,
        recipe: Recipe,
        settings: Settings,
        post_processor: processors.PostProcessor | None,
    ) -> None:
        self._src_lang = settings.text("src_lang") or self.USUAL
        self.tgt_lang = settings.text("tgt_lang")
        super()._begin(backend, recipe, settings, post_processor)

    def _frame(self) -> None:
        self.set_src_lang_special_tokens(self._src_lang)

    # ---- languages

    def lang_token(self, language: str) -> str:
        """The token of a language: its code."""
        return language

    def get_lang_id(self, lang: str) -> int:
        """The id of a language's token, which ``forced_bos_token_id`` takes.

        Raises:
            InputError: there is no such language.
        """
        token = self.lang_token(lang) if isinstance(lang, str) else ""
        index = self.backend.token_to_id(token)
        if index is None:
            raise no_such_language(lang, self.CODES)
        return index

    @property
    def lang_code_to_id(self) -> dict[str, int]:
        """The ids of all languages, by their codes."""
        found = {code: self.backend.token_to_id(self.lang_token(code)) for code in self.CODES}
        return {code: index for code, index in found.items() if index is not None}

    @property
    def id_to_lang_code(self) -> dict[int, str]:
        """The codes of all languages, by id."""
        return {index: code for code, index in self.lang_code_to_id.items()}

    @property
    def src_lang(self) -> str:
        """The language of texts; setting it frames them anew."""
        return self._src_lang

    @src_lang.setter
    def src_lang(self, value: str) -> None:
        self.set_src_lang_special_tokens(value)
        self._src_lang = value

    def set_src_lang_special_tokens(self, src_lang: str) -> None:
        """Frame texts as those of a language that is read."""
        self._frame_as(src_lang)

    def set_tgt_lang_special_tokens(self, lang: str) -> None:
        """Frame texts as those of a language that is written."""
        self._frame_as(lang)

    def around(self, language: int) -> tuple[list[int], list[int]]:
        """The ids before a text and after it, given that of its language."""
        return [language], [self.eos_token_id or 0]

    def _frame_as(self, language: str) -> None:
        self.cur_lang_code = self.cur_lang_code_id = self.cur_lang_id = self.get_lang_id(language)
        self.prefix_tokens, self.suffix_tokens = self.around(self.cur_lang_code)
        before, after = ([str(self.id_token(i)) for i in ids] for ids in (self.prefix_tokens, self.suffix_tokens))
        used = dict(zip([*before, *after], [*self.prefix_tokens, *self.suffix_tokens], strict=True))
        self.backend.post_processor = processors.TemplateProcessing(
            single=[*before, "$A", *after], pair=[*before, "$A", "$B", *after], special_tokens=list(used.items())
        )

    @contextmanager
    def as_target_tokenizer(self) -> Iterator[None]:
        """Texts inside are framed as answers are."""
        self._switch_to_target_mode()
        try:
            yield
        finally:
            self._switch_to_input_mode()

    def _switch_to_input_mode(self) -> None:
        self.set_src_lang_special_tokens(self._src_lang)

    def _switch_to_target_mode(self) -> None:
        if self.tgt_lang is None:
            self.tgt_lang = self._src_lang
        self.set_tgt_lang_special_tokens(self.tgt_lang)

    # ---- texts

    def _encode(self, text: object, text_pair: object, options: EncodeOptions, argument: str) -> BatchEncoding:
        if argument != "text_target":
            return super()._encode(text, text_pair, options, argument)
        with self.as_target_tokenizer():
            return super()._encode(text, text_pair, options, argument)

    def _build_translation_inputs(
        self, raw_inputs: object, src_lang: str | None = None, tgt_lang: str | None = None, **options: object
    ) -> BatchEncoding:
        """What ``generate`` takes to translate texts: their ids, and the language to begin with."""
        if src_lang is None or tgt_lang is None:
            raise InputError("a translation is from a language and into one", where="src_lang and tgt_lang")
        self.src_lang = src_lang
        inputs = self(raw_inputs, **options)  # type: ignore[arg-type]  # checked when it is called
        inputs["forced_bos_token_id"] = self.get_lang_id(tgt_lang)
        return inputs

    def _changeable(self) -> dict[str, object]:
        return {**super()._changeable(), "src_lang": self._src_lang, "tgt_lang": self.tgt_lang}


class MBartTokenizer(TranslatingTokenizer):
    """mBART's: text, end, language."""

    recipe_name = "MBartTokenizer"
    CODES = language_codes.MBART
    USUAL = "en_XX"

    def around(self, language: int) -> tuple[list[int], list[int]]:
        return [], [self.eos_token_id or 0, language]


class MBart50Tokenizer(TranslatingTokenizer):
    """mBART-50's: language, text, end."""

    recipe_name = "MBart50Tokenizer"
    CODES = language_codes.MBART50
    USUAL = "en_XX"


class NllbTokenizer(TranslatingTokenizer):
    """NLLB's: language, text, end; or text, end, language, as its first release had it (``legacy_behaviour``)."""

    recipe_name = "NllbTokenizer"
    CODES = language_codes.NLLB
    USUAL = "eng_Latn"

    @property
    def legacy_behaviour(self) -> bool:
        """Whether a text's language stands behind it."""
        return self.settings.flag("legacy_behaviour", False)

    def around(self, language: int) -> tuple[list[int], list[int]]:
        end = self.eos_token_id or 0
        return ([], [end, language]) if self.legacy_behaviour else ([language], [end])


class M2M100Tokenizer(TranslatingTokenizer):
    """M2M-100's: language, text, end; a language's token is its code between underscores."""

    recipe_name = "M2M100Tokenizer"
    CODES = language_codes.M2M100
    USUAL = "en"

    def lang_token(self, language: str) -> str:
        return self.get_lang_token(language)

    @property
    def lang_code_to_token(self) -> dict[str, str]:
        """The tokens of all languages, by their codes."""
        kind = LANGUAGES.get(self.settings.text("language_codes") or "", self.CODES)
        return {code: f"__{code}__" for code in kind}

    @property
    def lang_token_to_id(self) -> dict[str, int]:
        """The ids of all languages, by their tokens."""
        tokens = self.lang_code_to_token.values()
        return {token: index for token in tokens if (index := self.backend.token_to_id(token)) is not None}

    @property
    def lang_code_to_id(self) -> dict[str, int]:
        return {code: self.lang_token_to_id[token] for code, token in self.lang_code_to_token.items()}

    @property
    def id_to_lang_token(self) -> dict[int, str]:
        """The tokens of all languages, by id."""
        return {index: token for token, index in self.lang_token_to_id.items()}

    def get_lang_token(self, lang: str) -> str:
        """The token of a language.

        Raises:
            InputError: there is no such language.
        """
        if not isinstance(lang, str) or lang not in self.lang_code_to_token:
            raise no_such_language(lang, list(self.lang_code_to_token))
        return self.lang_code_to_token[lang]


class MarianTokenizer(Tokenizer):
    """Marian's: text, end; answers are cut by a file of their own."""

    recipe_name = "MarianTokenizer"

    @property
    def source_lang(self) -> str | None:
        """The language that it reads, where the folder says so."""
        return self.settings.text("source_lang")

    @property
    def target_lang(self) -> str | None:
        """The language that it writes, where the folder says so."""
        return self.settings.text("target_lang")

    @property
    def separate_vocabs(self) -> bool:
        """Whether answers have a vocabulary of their own."""
        return self.settings.flag("separate_vocabs", False)

    @property
    def supported_language_codes(self) -> list[str]:
        """What a text may begin with to say which language it is to be put into: ``>>fr<<``."""
        held = [] if self.separate_vocabs else self.backend.get_vocab(with_added_tokens=False)
        return [token for token in held if token.startswith(">>") and token.endswith("<<")]

    def _encode(self, text: object, text_pair: object, options: EncodeOptions, argument: str) -> BatchEncoding:
        script = self.backend.script if isinstance(self.backend, Scripted) else None
        if argument != "text_target" or not isinstance(script, PairScript):
            return super()._encode(text, text_pair, options, argument)
        script.writes = True
        try:
            return super()._encode(text, text_pair, options, argument)
        finally:
            script.writes = False


CLASSES: Mapping[str, type[Tokenizer]] = {
    kind.recipe_name: kind
    for kind in (MBartTokenizer, MBart50Tokenizer, NllbTokenizer, M2M100Tokenizer, MarianTokenizer)
}
