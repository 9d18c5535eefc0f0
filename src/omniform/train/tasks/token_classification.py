"""A class for each word: names, parts of speech."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.core.errors import InputError
from omniform.train.scores import IGNORED, tags
from omniform.train.tasks.base import (
    Loaded,
    Parts,
    labels_config,
    model_of,
    names_of,
    numbered,
    options_of,
    sizes_of,
    tokenizer_of,
)

if TYPE_CHECKING:
    from omniform.inputs.text.encoding import BatchEncoding
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_length: tokens that are read of a sentence at most; None for what the tokenizer says.
        all_pieces: whether every piece of a word is to tell its class, or its first alone.
        vocab_size: of the tokenizer that is made of the data, where the recipe names none.
    """

    max_length: int | None = None
    all_pieces: bool = False
    vocab_size: int = 2048


class TokenClassification:
    name = "token-classification"
    columns: ClassVar = {
        "tokens": ("tokens", "words"),
        "tags": ("tags", "ner_tags", "labels", "pos_tags", "upos"),
    }
    optional: ClassVar[frozenset[str]] = frozenset()

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorForTokenClassification

        options = options_of(recipe, Options)
        names = names_of(data.train, "tags")
        sentences = [" ".join(words) for words in cast("list[list[str]]", data.train["tokens"])]
        tokenizer = tokenizer_of(recipe, sentences, options.vocab_size)

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            sentences, given = cast("tuple[list[list[str]], list[list[object]]]", (rows["tokens"], rows["tags"]))
            read = tokenizer(sentences, is_split_into_words=True, truncation=True, max_length=options.max_length)
            return {**read, "labels": [
                _labels(read, row, words, numbered(marks, names), options.all_pieces)
                for row, (words, marks) in enumerate(zip(sentences, given, strict=True))
            ]}  # fmt: skip

        ready = data.map(prepare)
        model = model_of(
            recipe, "AutoModelForTokenClassification", **labels_config(names), **sizes_of(recipe, tokenizer)
        )
        return Parts(
            model=model,
            processing_class=tokenizer,
            train=ready.train,
            eval=ready.eval,
            collate=DataCollatorForTokenClassification(tokenizer),
            compute_metrics=tags(names),
        )


def _labels(read: BatchEncoding, row: int, words: list[str], marks: list[int], all_pieces: bool) -> list[int]:
    """The class of each token; -100 for those that tell none."""
    if len(words) != len(marks):
        raise InputError(
            "each word has a tag", where=f"tags, example {row}", expected=len(words), found=f"{len(marks)} tags"
        )
    labels, before = [], None
    for word in read.word_ids(row):
        told = word is not None and (all_pieces or word != before)
        labels.append(marks[word] if told and word is not None else IGNORED)
        before = word
    return labels


TASK = TokenClassification()
