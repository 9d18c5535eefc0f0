"""Answers found in a text, as in SQuAD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from omniform.train.tasks.base import Loaded, Parts, model_of, options_of, processor_of

if TYPE_CHECKING:
    from omniform.inputs.text.encoding import BatchEncoding
    from omniform.inputs.text.tokenizer import Tokenizer
    from omniform.train.metrics import EvalPrediction, Metrics
    from omniform.train.recipe import Recipe

Numbers: TypeAlias = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The task's own.

    Attributes:
        max_length: tokens of question and text together; an answer behind them counts as none.
    """

    max_length: int = 384


class QuestionAnswering:
    name = "question-answering"
    columns: ClassVar = {"question": ("question",), "context": ("context", "passage"), "answers": ("answers", "answer")}
    optional: ClassVar[frozenset[str]] = frozenset()

    def parts(self, recipe: Recipe, data: Loaded) -> Parts:
        from omniform.train.collators import DataCollatorWithPadding

        options = options_of(recipe, Options)
        tokenizer = cast("Tokenizer", processor_of(recipe))

        def prepare(rows: dict[str, list[object]]) -> dict[str, object]:
            questions, contexts = cast("tuple[list[str], list[str]]", (rows["question"], rows["context"]))
            read = tokenizer(
                questions,
                contexts,
                truncation="only_second",
                max_length=options.max_length,
                return_offsets_mapping=True,
            )
            answers = cast("list[Mapping[str, Sequence[object]]]", rows["answers"])
            found = [_place(read, row, answer) for row, answer in enumerate(answers)]
            kept = {name: value for name, value in read.items() if name != "offset_mapping"}
            return {
                **kept,
                "start_positions": [start for start, _ in found],
                "end_positions": [end for _, end in found],
            }

        ready = data.map(prepare)
        return Parts(
            model=model_of(recipe, "AutoModelForQuestionAnswering"),
            processing_class=tokenizer,
            train=ready.train,
            eval=ready.eval,
            collate=DataCollatorWithPadding(tokenizer),
            compute_metrics=exact,
        )


def _place(read: BatchEncoding, row: int, answer: Mapping[str, Sequence[object]]) -> tuple[int, int]:
    """The first and the last token of an answer; the first token of all, twice, where it has none."""
    if not answer["text"]:
        return 0, 0
    begin = int(cast(int, answer["answer_start"][0]))
    end = begin + len(str(answer["text"][0]))
    offsets = cast("list[list[tuple[int, int]]]", read["offset_mapping"])[row]
    inside = [
        i
        for i, (part, (a, b)) in enumerate(zip(read.sequence_ids(row), offsets, strict=True))
        if part == 1 and a < end and b > begin
    ]
    return (inside[0], inside[-1]) if inside and offsets[inside[-1]][1] >= end else (0, 0)


def exact(prediction: EvalPrediction) -> Metrics:
    """How many answers begin and end where they should."""
    scores, places = (cast("tuple[Numbers, Numbers]", part) for part in (prediction.predictions, prediction.label_ids))
    begins, ends = (np.asarray(scores[i]).argmax(-1) == np.asarray(places[i]).reshape(-1) for i in (0, 1))
    return {"exact": float(np.mean(begins & ends))}


TASK = QuestionAnswering()
