"""Whisper's tokenizer: prefixes that name language and task, and timestamps among the tokens.

A transcript begins ``<|startoftranscript|><|language|><|task|>``, and ``<|notimestamps|>`` where there are none
(Radford et al. 2022, section 2.3). The ids above the last special token are times, 20 ms apart, counted anew in each
window of 30 s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict, Unpack, cast

import torch
from tokenizers import processors

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, check_arguments, nearest
from omniform.core.languages import CODES, LANGUAGES
from omniform.inputs.text.ids import read_id_rows, read_ids, shown
from omniform.inputs.text.options import read_flag
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.saving import Files
from omniform.inputs.text.scripted import Machinery
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.spoken_texts import BasicTextNormalizer, EnglishTextNormalizer
from omniform.inputs.text.spoken_words import Word, words_of
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.text.transcripts import WINDOW, Stretches, Timestamps, Vocabulary, Windows, joined

_TASKS = ("translate", "transcribe")
_TIMESTAMP = re.compile(r"<\|\d+\.\d+\|>")


class Offset(TypedDict):
    """A stretch of a transcript: its text, and when it begins and ends, in seconds."""

    text: str
    timestamp: tuple[float, float]


class Transcript(TypedDict):
    """A decoded transcript, with the times of its stretches."""

    text: str | list[str]
    offsets: list[Offset]


class TranscriptOptions(TypedDict, total=False):
    """How transcripts are decoded.

    Attributes:
        output_offsets: ``False``: give the stretches between timestamps as well, in seconds.
        time_precision: ``0.02``: seconds from one timestamp to the next.
        decode_with_timestamps: ``False``: write timestamps out, ``<|1.08|>``.
        normalize: ``False``; English in one way of writing, see :meth:`WhisperTokenizer.normalize`.
        basic_normalize: ``False``; any language so, see :meth:`WhisperTokenizer.basic_normalize`.
        remove_diacritics: ``False``; take the marks off letters in ``basic_normalize``.
        spaces_between_special_tokens: inert.
    """

    output_offsets: bool
    time_precision: float
    decode_with_timestamps: bool
    normalize: bool
    basic_normalize: bool
    remove_diacritics: bool
    spaces_between_special_tokens: bool


class WhisperTokenizer(Tokenizer):
    """A :class:`Tokenizer` that frames texts with Whisper's prefix and reads timestamps."""

    recipe_name = "WhisperTokenizer"

    def _begin(
        self,
        backend: Machinery,
        recipe: Recipe,
        settings: Settings,
        post_processor: processors.PostProcessor | None,
    ) -> None:
        self.language = settings.text("language")
        self.task = settings.text("task")
        self.predict_timestamps = settings.flag("predict_timestamps", False)
        self.english_spelling_normalizer = settings.spellings
        super()._begin(backend, recipe, settings, post_processor)

    def _frame(self) -> None:
        prefix = self.prefix_tokens
        tokens = [self.id_token(index) for index in prefix]
        end, end_id = self.eos_token, self.eos_token_id
        if end is None or end_id is None or None in tokens:
            raise ConfigError("the vocabulary lacks tokens of the prefix", where=self.settings.where, found=prefix)
        start = " ".join(f"{token}:0" for token in tokens)
        self.backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A:0 {end}:0",
            pair=f"{start} $A:0 $B:1 {end}:1",
            special_tokens=[(end, end_id), *((str(token), index) for token, index in zip(tokens, prefix, strict=True))],
        )

    @property
    def prefix_tokens(self) -> list[int]:
        """The ids that every transcript begins with.

        Raises:
            InputError: the language or the task is unknown.
            ConfigError: the vocabulary lacks one of the tokens.
        """
        start = self._known_id("<|startoftranscript|>")
        prefix = [start]
        if self.language is not None:
            # By the order of languages, as the ids are: a vocabulary may spell its language tokens otherwise.
            prefix.append(start + 1 + list(LANGUAGES).index(_language_code(self.language)))
        if self.task is not None:
            if self.task not in _TASKS:
                raise InputError("unknown task", where="task", found=repr(self.task), remedy=nearest(self.task, _TASKS))
            prefix.append(self._known_id(f"<|{self.task}|>"))
        if not self.predict_timestamps:
            prefix.append(self._known_id("<|notimestamps|>"))
        return prefix

    def _known_id(self, token: str) -> int:
        index = self.token_id(token)
        if index is None:
            raise ConfigError("the vocabulary lacks a token of the prefix", where=self.settings.where, found=token)
        return index

    def set_prefix_tokens(
        self, language: str | None = None, task: str | None = None, predict_timestamps: bool | None = None
    ) -> None:
        """Change what every transcript begins with; what is left out stays as it is.

        Args:
            language: a name (``"french"``) or a code (``"fr"``).
            task: ``"transcribe"`` or ``"translate"``.
            predict_timestamps: whether times stand among the tokens.

        Raises:
            InputError: the language or the task is unknown.
        """
        for name, value in (("language", language), ("task", task)):
            if value is not None and not isinstance(value, str):
                raise InputError("this is a name", where=name, expected="a string", found=shown(value))
        if predict_timestamps is not None:
            predict_timestamps = read_flag(predict_timestamps, "predict_timestamps")
        before = self.language, self.task, self.predict_timestamps
        self.language = self.language if language is None else language.lower()
        self.task = self.task if task is None else task
        self.predict_timestamps = self.predict_timestamps if predict_timestamps is None else predict_timestamps
        try:
            self._frame()
        except (InputError, ConfigError):
            self.language, self.task, self.predict_timestamps = before
            raise
        self.settings.values.update(language=self.language, task=self.task, predict_timestamps=self.predict_timestamps)

    def get_decoder_prompt_ids(
        self, task: str | None = None, language: str | None = None, no_timestamps: bool = True
    ) -> list[tuple[int, int]]:
        """Set the prefix, and give its tokens after the first as (position, id)."""
        self.set_prefix_tokens(
            task=task, language=language, predict_timestamps=not read_flag(no_timestamps, "no_timestamps")
        )
        return list(enumerate(self.prefix_tokens[1:], start=1))

    def get_prompt_ids(self, text: str, return_tensors: str | None = "np") -> object:
        """The ids of text that is to come before the transcript: names and words to expect.

        Args:
            text: the words.
            return_tensors: ``"np"``, ``"pt"``, or None for a list. Shape: [T].

        Raises:
            InputError: the text holds a special token.
        """
        return Batch({"ids": self.prompt_ids(text)}).as_tensors(return_tensors)["ids"]

    def prompt_ids(self, text: str) -> list[int]:
        """The same as a list."""
        if not isinstance(text, str):
            raise InputError("this is not text", where="text", expected="a string", found=shown(text))
        encoding = self("<|startofprev|>", " " + text.strip(), add_special_tokens=False)
        ids = encoding["input_ids"]
        assert isinstance(ids, list)
        lowest = self.all_special_ids[0]
        for index in ids[1:]:
            if index >= lowest:
                raise InputError("a prompt may not hold special tokens", where="text", found=self.id_token(index))
        return ids

    def timestamp_ids(self, time_precision: float = 0.02) -> list[int | None]:
        """The ids of the times from 0.00 to 30.00 seconds.

        Args:
            time_precision: seconds from one to the next; times that have no token have the unknown token's id.
        """
        step = _read_precision(time_precision)
        names = [f"<|{number * step:.2f}|>" for number in range(WINDOW + 1)]
        return cast("list[int | None]", self.convert_tokens_to_ids(names))

    def decode(  # type: ignore[override]
        self,
        token_ids: int | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Unpack[TranscriptOptions],
    ) -> str | list[str] | Transcript | list[Transcript]:
        """The text of ids, without its timestamps unless they are asked for; a list of texts for rows of ids.

        Args:
            token_ids: ids, rows of them, or a tensor of either.
            skip_special_tokens: leave special tokens out, and the prompt before the transcript.
            clean_up_tokenization_spaces: as for :meth:`Tokenizer.decode`.
            options: see :class:`TranscriptOptions`.

        Raises:
            InputError: an id is none.
            UnknownArgumentError: there is no such option.
        """
        precision = _read_options(options)
        skip_special_tokens = read_flag(skip_special_tokens, "skip_special_tokens")
        rows, many = read_id_rows(token_ids)
        # As the ecosystem has it, the prompt stays in where rows are given.
        kept = [self._without_prompt(row) for row in rows] if skip_special_tokens and not many else rows
        if options.get("decode_with_timestamps", False):
            texts = [self._decode_with_times(row, skip_special_tokens, precision) for row in kept]
        else:
            decoded = (self._decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in kept)
            texts = [_TIMESTAMP.sub("", self._normalized(text, options)) for text in decoded]
        if not options.get("output_offsets", False):
            return texts if many else texts[0]
        timed = [
            Transcript(text=text, offsets=self._offsets(row, precision)) for text, row in zip(texts, rows, strict=True)
        ]
        return timed if many else timed[0]

    def batch_decode(  # type: ignore[override]
        self,
        sequences: Sequence[int] | Sequence[Sequence[int]] | torch.Tensor,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **options: Unpack[TranscriptOptions],
    ) -> list[str] | list[Transcript]:
        """The texts of rows of ids; see :meth:`decode`."""
        found = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **options)
        return found if isinstance(found, list) else cast("list[str] | list[Transcript]", [found])

    def _normalized(self, text: str, options: TranscriptOptions) -> str:
        if options.get("normalize", False):
            return self.normalize(text)
        if options.get("basic_normalize", False):
            return self.basic_normalize(text, options.get("remove_diacritics", False))
        return text

    def normalize(self, text: str) -> str:
        """An English transcript in one way of writing, spelled as the folder's ``normalizer.json`` says."""
        return EnglishTextNormalizer(self.english_spelling_normalizer)(text)

    @staticmethod
    def basic_normalize(text: str, remove_diacritics: bool = False) -> str:
        """A transcript of any language in lower case, without punctuation."""
        return BasicTextNormalizer(read_flag(remove_diacritics, "remove_diacritics"))(text)

    def _files_beside(self) -> Files:
        spellings = self.english_spelling_normalizer
        if spellings is None:
            return {}
        return {"normalizer.json": json.dumps(spellings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"}

    def words_of(self, token_ids: Sequence[int], language: str | None = None) -> list[Word]:
        """The words that tokens make, each with its tokens and where they stand.

        Args:
            token_ids: of a transcript.
            language: its name or code; by default the tokenizer's own, else English. Some are written without spaces.

        Raises:
            InputError: an id is none, or the language is no name.
        """
        token_ids = read_ids(token_ids)
        if language is not None and not isinstance(language, str):
            raise InputError("this is a name", where="language", expected="a string", found=shown(language))
        named = self.language if language is None else language
        named = "english" if named is None else named.lower()
        end = self.eos_token_id
        return words_of(
            token_ids,
            lambda ids: self._decode_with_times(ids, False, 0.02),
            LANGUAGES.get(named, LANGUAGES.get(CODES.get(named, ""), named)),
            len(self) if end is None else end,
        )

    def _decode_asr(
        self,
        model_outputs: Iterable[Mapping[str, object]],
        *,
        return_timestamps: Timestamps = None,
        return_language: bool | None = None,
        time_precision: float = 0.02,
    ) -> tuple[str, Stretches]:
        """One transcript of the pieces of a recording; pipelines ask for it by this name.

        Args:
            model_outputs: see :func:`~omniform.inputs.text.transcripts.joined`; so are the others.
        """
        special = {index: self.id_token(index) or "" for index in self.all_special_ids}
        vocabulary = Vocabulary(
            decode=lambda ids: cast(str, self.decode(ids)),
            words=self.words_of,
            unprompted=self._without_prompt,
            special=special,
            first_time=self._known_id("<|notimestamps|>") + 1,
        )
        return joined(
            model_outputs,
            vocabulary,
            timestamps=return_timestamps,
            language=bool(return_language),
            precision=time_precision,
        )

    def _without_prompt(self, ids: list[int]) -> list[int]:
        if not ids or ids[0] != self.token_id("<|startofprev|>"):
            return ids
        start = self.token_id("<|startoftranscript|>")
        return ids[ids.index(start) :] if start in ids else []

    @property
    def _first_time(self) -> int:
        return self.all_special_ids[-1] + 1

    def _decode_with_times(self, ids: list[int], skip_special_tokens: bool, time_precision: float) -> str:
        """Text with its timestamps; a time that runs backwards begins a new window of 30 s."""
        first = self._first_time
        parts: list[str | list[int]] = [[]]
        windows = Windows(time_precision, first)
        for index, token in enumerate(ids):
            if token < first:
                run = parts[-1]
                assert isinstance(run, list)
                run.append(token)
                continue
            if windows.passed(ids, index):
                parts = parts[:-2]
            parts += [f"<|{windows.latest + windows.before:.2f}|>", []]
        return "".join(
            part if isinstance(part, str) else self._decode(part, skip_special_tokens, None) if part else ""
            for part in parts
        )

    def _offsets(self, ids: list[int], time_precision: float) -> list[Offset]:
        """The stretches between pairs of timestamps, with their times in seconds."""
        first = self._first_time
        times = [index for index, token in enumerate(ids) if token >= first]
        ends = [index + 1 for index in times if index + 1 < len(ids) and ids[index + 1] >= first]
        if not ends and len(times) <= 1:
            return []
        if times[-1] + 1 not in ends:
            ends.append(times[-1] + 1)
        offsets: list[Offset] = []
        begin, latest, before = times[0], 0, 0
        for end in ends:
            stretch = ids[begin:end]
            if len(stretch) > 1:
                start, stop = stretch[0] - first, stretch[-1] - first
                if start < latest:
                    alone = begin >= 2 and not (ids[begin - 2] >= first and ids[begin - 1] >= first)
                    before += WINDOW if alone else latest
                latest = stop
                text = _TIMESTAMP.sub("", self._decode(stretch, False, None))
                span = (
                    start * time_precision + before * time_precision,
                    stop * time_precision + before * time_precision,
                )
                offsets.append({"text": text, "timestamp": span})
            begin = end
        return offsets


def _read_options(options: TranscriptOptions) -> float:
    """Check the options, and give the seconds from one timestamp to the next."""
    check_arguments("WhisperTokenizer.decode", options, TranscriptOptions.__annotations__)
    precision = options.get("time_precision", 0.02)
    for name, value in options.items():
        if name != "time_precision" and not isinstance(value, bool):
            raise InputError("the option is true or false", where=name, found=shown(value))
    return _read_precision(precision)


def _read_precision(precision: object) -> float:
    if isinstance(precision, bool) or not isinstance(precision, (int, float)) or not 0 < precision < float("inf"):
        raise InputError("this is no length of time", where="time_precision", found=shown(precision))
    return float(precision)


def _language_code(language: str) -> str:
    language = language.lower()
    code = CODES.get(language, language)
    if code not in LANGUAGES:
        known = LANGUAGES if len(language) == 2 else CODES
        raise InputError("unknown language", where="language", found=repr(language), remedy=nearest(language, known))
    return code
