"""Texts, or pairs of them, in classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from omniform.train.scores import classes
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
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_length: tokens that are read of a text at most; None for what the tokenizer says.
        vocab_size: of the tokenizer that is made of the data, where the recipe names none.
    """

    max_length: int | None = None
    vocab_size: int = 2048


class TextClassification:
    name = "text-classification"
    columns: ClassVar = {
        "text": ("text", "sentence", "sentence1", "premise", "question1"),
        "text_pair": ("text_pair", "sentence2", "hypothesis", "question2"),
        "label": ("label", "labels", "class"),
    }
    optional = frozenset({"text_pair"})

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorWithPadding

        options = options_of(recipe, Options)
        tokenizer = tokenizer_of(recipe, cast("list[str]", data.train["text"]), options.vocab_size)
        names = names_of(data.train, "label")

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            texts, pairs = cast("tuple[list[str], list[str] | None]", (rows["text"], rows.get("text_pair")))
            read = tokenizer(texts, pairs, truncation=True, max_length=options.max_length)
            return {**read, "labels": numbered(rows["label"], names)}

        ready = data.map(prepare)
        return Parts(
            model=model_of(
                recipe,
                "AutoModelForSequenceClassification",
                problem_type="single_label_classification",
                **labels_config(names),
                **sizes_of(recipe, tokenizer),
            ),
            processing_class=tokenizer,
            train=ready.train,
            eval=ready.eval,
            collate=DataCollatorWithPadding(tokenizer),
            compute_metrics=classes,
        )


TASK = TextClassification()
