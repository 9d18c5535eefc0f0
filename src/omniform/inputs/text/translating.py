"""Tokenizers of translators, whose texts are framed by the code of their language: mBART, mBART-50, NLLB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from tokenizers import processors

from omniform.core.errors import InputError, nearest
from omniform.inputs.text import language_codes
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.ids import shown
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.scripted import Machinery
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.tokenizer import Tokenizer


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
            raise InputError(
                "there is no such language",
                where="src_lang or tgt_lang",
                found=shown(lang),
                remedy=nearest(str(lang), self.CODES),
            )
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


CLASSES: Mapping[str, type[Tokenizer]] = {
    kind.recipe_name: kind for kind in (MBartTokenizer, MBart50Tokenizer, NllbTokenizer)
}
