"""Words with their places on a page: LayoutLMv3's tokenizer gives every token the box of its word, and its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Unpack, cast

import numpy as np
from tokenizers import Encoding, processors
from torch import Tensor

from omniform.core.errors import ConfigError, InputError, brief
from omniform.inputs.text.encoding import BatchEncoding, Ids, input_ids
from omniform.inputs.text.options import EncodeOptions, check_options
from omniform.inputs.text.padding import Filler, pad_rows
from omniform.inputs.text.recipes import Recipe
from omniform.inputs.text.scripted import Machinery
from omniform.inputs.text.settings import Settings
from omniform.inputs.text.tokenizer import Tokenizer

Box = list[int]
NOWHERE: Box = [0, 0, 0, 0]


class LayoutLMv3Tokenizer(Tokenizer):
    """A :class:`Tokenizer` of words that have boxes."""

    recipe_name: ClassVar[str] = "LayoutLMv3Tokenizer"

    def _begin(
        self,
        backend: Machinery,
        recipe: Recipe,
        settings: Settings,
        post_processor: processors.PostProcessor | None,
    ) -> None:
        self.cls_token_box = _box_of(settings, "cls_token_box")
        self.sep_token_box = _box_of(settings, "sep_token_box")
        self.pad_token_box = _box_of(settings, "pad_token_box")
        label = settings.integer("pad_token_label")
        self.pad_token_label = -100 if label is None else label
        self.only_label_first_subword = settings.flag("only_label_first_subword", True)
        super()._begin(backend, recipe, settings, post_processor)

    # The base knows no boxes.
    def __call__(
        self,
        text: object = None,
        text_pair: object = None,
        boxes: object = None,
        word_labels: object = None,
        **options: Unpack[EncodeOptions],
    ) -> BatchEncoding:
        """Encode words with their boxes.

        Args:
            text: the words of a page, or those of several; with ``text_pair`` a question about it, or several.
            text_pair: the words, where there are questions.
            boxes: left, upper, right and lower edge of each word, on a page of 1000 by 1000.
            word_labels: the class of each word, for each page.
            options: see :class:`~omniform.inputs.text.options.EncodeOptions`; ``is_split_into_words`` is always so.

        Returns:
            As :meth:`Tokenizer.__call__`, with ``bbox`` and, where there are labels of words, ``labels``: of a word's
            first token, unless ``only_label_first_subword`` says of all.

        Raises:
            InputError: there are no words, or not one box (and one label) for each.
        """
        check_options(f"{type(self).__name__}()", options)
        words, asked = (text, None) if text_pair is None else (text_pair, text)
        many = isinstance(text, (list, tuple)) if asked is not None else _is_batch(text)
        pages = read_pages(words if many else [words], "text" if asked is None else "text_pair")
        places = read_numbers(boxes if many else [boxes], "boxes", pages, 4)
        classes = None
        if word_labels is not None:
            classes = read_numbers(word_labels if many else [word_labels], "word_labels", pages, None)
        questions = None if asked is None else read_questions(asked if many else [asked], len(pages))
        given: EncodeOptions = {**options, "is_split_into_words": True, "return_tensors": None}
        first, second = (pages, None) if questions is None else (questions, pages)
        encoded = self._encode(first, second, given, "text")
        sources = cast("Sequence[int]", encoded.get("overflow_to_sample_mapping", range(len(encoded.encodings))))
        rows = list(zip(encoded.encodings, sources, strict=True))
        side = 0 if questions is None else 1
        encoded["bbox"] = [self._boxes(row, cast(list[Box], places[source]), side) for row, source in rows]
        if classes is not None:
            encoded["labels"] = [self._labels(row, classes[source]) for row, source in rows]
        kind = options.get("return_tensors")
        if not many and kind is None and not options.get("return_overflowing_tokens"):
            data = {
                name: value if name == "length" else cast(list[object], value)[0] for name, value in encoded.items()
            }
            return BatchEncoding(data, encoded.encodings)
        return encoded.as_tensors(kind)

    def encode(
        self,
        text: object,
        text_pair: object = None,
        boxes: object = None,
        word_labels: object = None,
        **options: Unpack[EncodeOptions],
    ) -> Ids:
        """The ids of one page; see :meth:`__call__`."""
        return input_ids(self(text, text_pair, boxes, word_labels, **options))

    def _boxes(self, row: Encoding, boxes: Sequence[Box], side: int) -> list[Box]:
        """The box of each token: its word's; of a question's, nowhere."""
        special = {self.cls_token_id: self.cls_token_box, self.pad_token_id: self.pad_token_box}
        special[self.sep_token_id] = self.sep_token_box
        found = []
        for token, part, word in zip(row.ids, row.sequence_ids, row.word_ids, strict=True):
            if word is None:
                found.append(self.cls_token_box if token == self.cls_token_id else
                    special.get(token, self.sep_token_box))  # fmt: skip
            else:
                found.append(list(boxes[word]) if part == side else self.pad_token_box)
        return found

    def _labels(self, row: Encoding, classes: Sequence[object]) -> list[object]:
        """The label of each token: its word's, or none."""
        found, before = [], None
        for word in row.word_ids:
            again = word is not None and word == before and self.only_label_first_subword
            found.append(self.pad_token_label if word is None or again else classes[word])
            before = word
        return found

    def pad(
        self,
        encoded_inputs: Mapping[str, object] | Sequence[Mapping[str, object]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Bring rows of ids, boxes and labels to one length; see :meth:`Tokenizer.pad`."""
        options: EncodeOptions = {"padding": padding, "max_length": max_length, "padding_side": padding_side}
        limits = self._limits({**options, "pad_to_multiple_of": pad_to_multiple_of, "truncation": False})
        values: dict[str, object] = {
            "input_ids": self.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": 0,
            "special_tokens_mask": 1,
            "bbox": self.pad_token_box,
            "labels": self.pad_token_label,
        }
        masked = return_attention_mask is None or return_attention_mask
        return pad_rows(encoded_inputs, limits, Filler("input_ids", values, masked), return_tensors)


def _box_of(settings: Settings, name: str) -> Box:
    value = settings.values.get(name, NOWHERE)
    if not isinstance(value, (list, tuple)) or len(value) != 4 or not all(type(x) is int for x in value):
        where = f"{settings.where}: {name}"
        raise ConfigError("a box is four whole numbers", where=where, expected="[0, 0, 0, 0]", found=brief(value))
    return list(value)


def _is_batch(text: object) -> bool:
    return isinstance(text, (list, tuple)) and bool(text) and isinstance(text[0], (list, tuple))


def read_pages(given: object, name: str) -> list[list[str]]:
    """The words of each page.

    Raises:
        InputError: they are none.
    """
    fits = isinstance(given, (list, tuple)) and bool(given)
    fits = fits and all(isinstance(page, (list, tuple)) for page in cast(list[object], given))
    if not fits or not all(isinstance(word, str) for page in cast(list[list[object]], given) for word in page):
        expected = "a list of words, or one for each page"
        raise InputError("these are no words of pages", where=name, expected=expected, found=brief(given))
    return [list(page) for page in cast(list[list[str]], given)]


def read_questions(given: object, pages: int) -> list[list[str]]:
    """The words of each question: it is split at its spaces.

    Raises:
        InputError: they are none, or not as many as pages.
    """
    questions = list(given) if isinstance(given, (list, tuple)) else []
    if len(questions) != pages or not all(isinstance(one, str) or _are_words(one) for one in questions):
        raise InputError("there is not one question for each page", where="text", expected=pages, found=brief(given))
    return [one.split() if isinstance(one, str) else list(one) for one in questions]


def _are_words(one: object) -> bool:
    return isinstance(one, (list, tuple)) and all(isinstance(word, str) for word in one)


def read_numbers(given: object, name: str, pages: Sequence[Sequence[str]], width: int | None) -> list[list[object]]:
    """What there is of each word of each page: a number, or so many.

    Args:
        given: tensors and arrays too.
        width: how many numbers; None for one alone.

    Raises:
        InputError: there is not one for each word.
    """
    rows = [_rows(row) for row in _rows(given)]
    for number, words in enumerate(pages):
        row = rows[number] if number < len(rows) else []
        if len(row) != len(words) or (width is not None and not all(_is_box(x, width) for x in row)):
            many = "a number" if width is None else f"{width} numbers"
            expected = f"{many} for each of {len(words)} words"
            raise InputError(
                "words and what is said of them do not match", where=f"{name}, page {number}", expected=expected,
                found=f"{len(row)} of them" if len(row) != len(words) else brief(row),
            )  # fmt: skip
    if len(rows) != len(pages):
        raise InputError("there are other pages than words", where=name, expected=len(pages), found=len(rows))
    return rows


def _rows(given: object) -> list[object]:
    if isinstance(given, (Tensor, np.ndarray)):
        given = given.tolist()
    return list(given) if isinstance(given, (list, tuple)) else []


def _is_box(value: object, width: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == width
