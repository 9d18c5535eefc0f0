"""Letters of speech: what connectionist temporal classification writes, one token for each step of time.

A run of one token is one letter, padding between two keeps them apart, and a token stands for the space between words
(Graves et al. 2006, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import ClassVar, TypedDict, Unpack, cast

import torch
from tokenizers import processors

from omniform.core.errors import InputError, check_arguments, nearest
from omniform.inputs.text.ctc_script import CTCScript, add_letters
from omniform.inputs.text.ids import read_id_rows, shown
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.scripted import Machinery, Scripted
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.tokenizer import Tokenizer


class Letter(TypedDict):
    """A letter, and its steps of time."""

    char: str
    start_offset: int
    end_offset: int


class Word(TypedDict):
    """A word, and its steps of time."""

    word: str
    start_offset: int
    end_offset: int


class Speech(dict[str, object]):
    """What was read, with the steps of its letters and words where they were asked for; lists of each for rows."""

    @property
    def text(self) -> object:
        """What was said."""
        return self["text"]

    @property
    def char_offsets(self) -> object:
        """The letters, each a :class:`Letter`; ``None`` where they were not asked for."""
        return self.get("char_offsets")

    @property
    def word_offsets(self) -> object:
        """The words, each a :class:`Word`; ``None`` where they were not asked for."""
        return self.get("word_offsets")


class SpeechOptions(TypedDict, total=False):
    """How steps are read.

    Attributes:
        group_tokens: ``True``: a run of one token is one letter.
        spaces_between_special_tokens: ``False``: write a space between any two letters.
        output_char_offsets: ``False``: give ``char_offsets`` too, the steps of each letter.
        output_word_offsets: ``False``: give ``word_offsets`` too, the steps of each word; not of phonemes.
        filter_word_delimiter_token: ``True``: leave out what stands between words; of phonemes alone.
    """

    group_tokens: bool
    spaces_between_special_tokens: bool
    output_char_offsets: bool | None
    output_word_offsets: bool | None
    filter_word_delimiter_token: bool


class SpeechTokenizer(Tokenizer):
    """A :class:`Tokenizer` that reads the steps of speech recognizers."""

    speech_options: ClassVar[frozenset[str]]
    """Which of :class:`SpeechOptions` there are."""

    def decode(  # type: ignore[override]
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Unpack[SpeechOptions],
    ) -> str | list[str] | Speech:
        """The text of the ids of all steps; a list of texts for rows of them.

        Args:
            token_ids: ids, rows of them, or a tensor of either.
            skip_special_tokens: leave special tokens out, padding too, before runs are joined.
            clean_up_tokenization_spaces: as for :meth:`Tokenizer.decode`.
            options: see :class:`SpeechOptions`. With offsets ``text``, ``char_offsets`` and ``word_offsets`` are
                given by name.

        Raises:
            InputError: an id is none, or an option has a wrong type.
            UnknownArgumentError: there is no such option.
        """
        check_arguments(f"{type(self).__name__}.decode", options, self.speech_options)
        for name, value in options.items():
            if not isinstance(value, bool) and not (value is None and name.startswith("output_")):
                raise InputError("the option is true or false", where=name, found=shown(value))
        skip = read_flag(skip_special_tokens, "skip_special_tokens")
        rows, many = read_id_rows(token_ids)
        found = [self._read(row, skip, clean_up_tokenization_spaces, options) for row in rows]
        if not options.get("output_char_offsets") and not options.get("output_word_offsets"):
            texts = [str(row["text"]) for row in found]
            return texts if many else texts[0]
        return Speech({name: [row[name] for row in found] for name in found[0]}) if many else found[0]

    def batch_decode(  # type: ignore[override]
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Unpack[SpeechOptions],
    ) -> list[str] | Speech:
        """The texts of rows of ids; see :meth:`decode`."""
        found = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **options)
        return [found] if isinstance(found, str) else found

    def convert_tokens_to_string(self, tokens: Sequence[str], **options: Unpack[SpeechOptions]) -> Speech:  # type: ignore[override]
        """What the tokens of all steps say: ``text``, and ``char_offsets`` and ``word_offsets``, ``None`` where they
        were not asked for; see :class:`SpeechOptions`."""
        return self._spoken([*tokens], options)

    def _read(self, ids: list[int], skip: bool, clean_up: bool | None, options: SpeechOptions) -> Speech:
        spoken = self._spoken(self._kept(ids, skip), options)
        spoken["text"] = self._tidy(str(spoken["text"]), clean_up)
        return Speech({name: value for name, value in spoken.items() if value is not None})

    def _kept(self, ids: Sequence[int], skip: bool) -> list[str]:
        """The tokens that are read; with ``skip`` without special ones."""
        special = {*self.all_special_ids} if skip else set()
        return [token for index in ids if index not in special and (token := self.id_token(index)) is not None]

    def _spoken(self, tokens: Sequence[str], options: SpeechOptions) -> Speech:
        """The text of the tokens of all steps, ``char_offsets`` and ``word_offsets``: None where not asked for."""
        raise NotImplementedError


class Wav2Vec2CTCTokenizer(SpeechTokenizer):
    """Letters, with a token that stands between words."""

    recipe_name = "Wav2Vec2CTCTokenizer"
    speech_options = frozenset(SpeechOptions.__annotations__) - {"filter_word_delimiter_token"}

    def _begin(
        self,
        backend: Machinery,
        recipe: Recipe,
        settings: Settings,
        post_processor: processors.PostProcessor | None,
    ) -> None:
        super()._begin(backend, recipe, settings, post_processor)
        if isinstance(backend, Scripted):
            add_letters(backend)

    @property
    def _script(self) -> CTCScript:
        backend = self.backend
        assert isinstance(backend, Scripted) and isinstance(backend.script, CTCScript)
        return backend.script

    @property
    def target_lang(self) -> str | None:
        """The language whose letters are read, where the vocabulary has several."""
        return self._script.language

    @property
    def do_lower_case(self) -> bool:
        """Whether texts are in small letters."""
        return self._script.lowers

    @property
    def replace_word_delimiter_char(self) -> str:
        """What stands between words."""
        return self._script.space

    @property
    def vocab(self) -> dict[str, int]:
        """What the vocabulary's file holds: letters and their ids, by language where there are several."""
        return cast("dict[str, int]", dict(self._script.tables))

    @property
    def encoder(self) -> dict[str, int]:
        """The letters that are read, and their ids."""
        return self._script.vocabulary()

    @property
    def decoder(self) -> dict[int, str]:  # type: ignore[override] # as the ecosystem has it: no part of steps
        """The ids of the letters that are read, and the letters."""
        return {index: letter for letter, index in self._script.table().items()}

    def set_target_lang(self, target_lang: str) -> None:
        """Read the letters of another language.

        Raises:
            InputError: the vocabulary does not have several, or not this one.
        """
        script, backend = self._script, self.backend
        assert isinstance(backend, Scripted)
        if script.language is None:
            raise InputError("the vocabulary is that of one language", where="target_lang", found=shown(target_lang))
        if not isinstance(target_lang, str) or not isinstance(script.tables.get(target_lang), dict):
            raise InputError(
                "the vocabulary holds no such language",
                where="target_lang",
                found=shown(target_lang),
                remedy=nearest(str(target_lang), script.tables),
            )
        script.speak(target_lang)
        self.settings.values["target_lang"] = target_lang
        backend.forget(set(script.table().values()))
        add_letters(backend)

    @staticmethod
    def _get_word_offsets(offsets: Sequence[Letter], word_delimiter_char: str = " ") -> list[Word]:
        """The words of letters, by the ecosystem's name."""
        return _words([(one["char"], one["start_offset"], one["end_offset"]) for one in offsets], word_delimiter_char)

    def _kept(self, ids: Sequence[int], skip: bool) -> list[str]:
        # What stands between words is read, though it be special; unknown ids are special too, as the token they show.
        special = {*self.all_special_tokens} - {self._script.delimiter} if skip else set()
        return [token for token in super()._kept(ids, False) if token not in special]

    def _spoken(self, tokens: Sequence[str], options: SpeechOptions) -> Speech:
        script = self._script
        between = " " if options.get("spaces_between_special_tokens", False) else ""
        text, letters = script.spoken(tokens, options.get("group_tokens", True), between)
        spoken = Speech(text=text, char_offsets=None, word_offsets=None)
        if options.get("output_char_offsets") or not tokens:
            spoken["char_offsets"] = [Letter(char=c, start_offset=start, end_offset=end) for c, start, end in letters]
        if options.get("output_word_offsets") or not tokens:
            spoken["word_offsets"] = _words(letters, script.space)
        return spoken


def _words(letters: Sequence[tuple[str, int, int]], space: str) -> list[Word]:
    words: list[Word] = []
    for is_space, run in groupby(letters, lambda letter: letter[0] == space):
        part = list(run)
        if not is_space:
            words.append(Word(word="".join(c for c, _, _ in part), start_offset=part[0][1], end_offset=part[-1][2]))
    return words
