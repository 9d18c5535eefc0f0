"""Texts, or pairs of them, in classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np

from omniform.train.tasks.base import Loaded, Parts, labels_config, model_of, names_of, options_of, processor_of

if TYPE_CHECKING:
    from omniform.inputs.text.tokenizer import Tokenizer
    from omniform.train.metrics import EvalPrediction, Metrics
    from omniform.train.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_length: tokens that are read of a text at most; None for what the tokenizer says.
    """

    max_length: int | None = None


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
        tokenizer = cast("Tokenizer", processor_of(recipe))
        names = names_of(data.train, "label")
        numbers = {name: i for i, name in enumerate(names)}

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            texts, pairs = cast("tuple[list[str], list[str] | None]", (rows["text"], rows.get("text_pair")))
            read = tokenizer(texts, pairs, truncation=True, max_length=options.max_length)
            labels = [label if isinstance(label, int) else numbers[str(label)] for label in rows["label"]]
            return {**read, "labels": labels}

        ready = data.map(prepare)
        config = {**labels_config(names), "problem_type": "single_label_classification"}
        if isinstance(recipe.model, dict):
            config["vocab_size"] = len(tokenizer)
        return Parts(
            model=model_of(recipe, "AutoModelForSequenceClassification", **config),
            processing_class=tokenizer,
            train=ready.train,
            eval=ready.eval,
            collate=DataCollatorWithPadding(tokenizer),
            compute_metrics=rates,
        )


def rates(prediction: EvalPrediction) -> Metrics:
    """Accuracy, and the mean over classes of F1."""
    predicted = np.asarray(prediction.predictions).argmax(-1)
    wanted = np.asarray(prediction.label_ids).reshape(-1)
    scores = []
    for label in np.unique(np.concatenate([wanted, predicted])):
        hits = int(((predicted == label) & (wanted == label)).sum())
        scores.append(2 * hits / max(int((predicted == label).sum() + (wanted == label).sum()), 1))
    return {"accuracy": float((predicted == wanted).mean()), "f1": float(np.mean(scores))}


TASK = TextClassification()
