"""Which class a text, or a pair of texts, belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, TypedDict, cast, overload

import torch
from torch import Tensor

from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.outputs import ClassifierOutput
from omniform.hub.auto import AutoModelForSequenceClassification
from omniform.inputs.text.encoding import BatchEncoding
from omniform.pipelines.base import Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.given import ENCODING, count, flag, one_of, scores_of, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.running import Failure, Run
from omniform.pipelines.understanding import Understanding


class ClassScore(TypedDict):
    """A class, and how likely it is: from 0 to 1, but for a regression, whose number is given as it is."""

    label: str
    score: float


class TextPair(TypedDict, total=False):
    """A text and the one that belongs to it."""

    text: str
    text_pair: str


class ClassificationFunction(StrEnum):
    """What makes scores of a model's numbers; ``DEFAULT`` follows from the config."""

    SIGMOID = "sigmoid"
    SOFTMAX = "softmax"
    NONE = "none"
    DEFAULT = "default"


def function_for(config: ModelConfig) -> ClassificationFunction:
    """What a model's numbers mean: nothing for a regression, classes each by itself, or one class of several."""
    problem = config.common.problem_type
    if problem == "regression":
        return ClassificationFunction.NONE
    if problem == "multi_label_classification" or config.num_labels == 1:
        return ClassificationFunction.SIGMOID
    return ClassificationFunction.SOFTMAX


def class_scores(logits_C: Tensor, function: ClassificationFunction) -> Tensor:
    """Scores of the classes. Shape: [C]."""
    if function is ClassificationFunction.SIGMOID:
        return logits_C.sigmoid()
    return logits_C.softmax(dim=-1) if function is ClassificationFunction.SOFTMAX else logits_C


class TextClassificationPipeline(Understanding):
    """Tells which class a text belongs to; also known as ``"sentiment-analysis"``.

    ``pipe("a text")`` gives a list of one :class:`ClassScore`; a list of texts gives one for each. With ``top_k`` every
    text gets a list, the likeliest class first. A pair of texts is ``{"text": ..., "text_pair": ...}``, whatever else
    such a mapping holds.

    Options, for the pipeline or for a call:
        top_k: how many classes to tell; None for all of them.
        function_to_apply: ``"sigmoid"``, ``"softmax"``, ``"none"``, or ``"default"``: as the config's ``problem_type``
            and number of labels have it.
        return_all_scores: the older spelling of ``top_k=None``, which leaves the classes in the model's order.
        truncation, max_length, ...: options of the tokenizer.
    """

    default_batch_size: ClassVar[BatchSize] = "auto"

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        own = {"top_k", "function_to_apply", "return_all_scores"}
        check_arguments(type(self).__name__, given, own | ENCODING)
        after: Params = {}
        if "top_k" in given:
            top = given["top_k"]
            after |= {"top_k": None if top is None else count(top, "top_k"), "_legacy": False}
        elif given.get("return_all_scores") is not None:
            after["top_k"] = None if flag(given["return_all_scores"], "return_all_scores") else 1
        if given.get("function_to_apply") is not None:
            function = one_of(ClassificationFunction, given["function_to_apply"], "function_to_apply")
            after["function_to_apply"] = function
        return {name: value for name, value in given.items() if name not in own}, {}, after

    @overload
    def __call__(self, inputs: str | list[str], **given: object) -> list[ClassScore] | list[list[ClassScore]]: ...
    @overload
    def __call__(self, inputs: object, *args: object, **given: object) -> object: ...
    def __call__(self, inputs: object, *args: object, **given: object) -> object:
        """The classes of one text, one pair or several; see the class."""
        result = super().__call__(inputs, *args, **given)  # type: ignore[arg-type]
        # The ecosystem has always answered one text with a list, and one text with top_k with a plain list of classes.
        return [result] if isinstance(inputs, str) and "top_k" not in given else result

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The ids of a text, a pair by name, or a pair in two nested lists."""
        first, second = _texts(input_)
        return self.reader(first, second, return_tensors="pt", **given)  # type: ignore[arg-type]

    def prepare_many(self, items: Sequence[object], run: Run) -> list[Sequence[Inputs] | Failure]:
        """The ids of many texts, in one call of the tokenizer where they are plain texts."""
        plain = type(self).preprocess is TextClassificationPipeline.preprocess
        plain = plain and not run.preprocess.get("return_overflowing_tokens")
        if not plain or not all(isinstance(item, str) for item in items):
            return super().prepare_many(items, run)

        def encode(texts: list[object], params: Params) -> BatchEncoding:
            return self.reader(texts, **params)  # type: ignore[arg-type]

        columns = run.tried(encode, list(items), run.preprocess)
        if isinstance(columns, Failure):  # one of them, or all: each is told alone
            return super().prepare_many(items, run)
        named = [(name, cast("Sequence[Sequence[int]]", column)) for name, column in columns.items()]
        return [[{name: torch.tensor([column[at]]) for name, column in named}] for at in range(len(items))]

    def _forward(self, input_tensors: Inputs, **given: object) -> ClassifierOutput:
        logits_BC = scores_of(self.model(**input_tensors, **self.of_rows(), use_cache=False), "BC")
        return ClassifierOutput(logits=logits_BC)

    def postprocess(self, model_outputs: object, **given: object) -> ClassScore | list[ClassScore]:
        """The classes, the likeliest first where ``top_k`` is given."""
        legacy, top = given.get("_legacy", True), cast("int | None", given.get("top_k", 1))
        function = cast("ClassificationFunction | None", given.get("function_to_apply"))
        config = self.model.config
        if function in (None, ClassificationFunction.DEFAULT):
            function = function_for(config)
        scores = class_scores(tensor(model_outputs, "logits")[0], function).tolist()
        labels = config.common.id2label
        found: list[ClassScore] = [{"label": labels[index], "score": score} for index, score in enumerate(scores)]
        if legacy:
            return max(found, key=_score) if top == 1 else found
        return sorted(found, key=_score, reverse=True)[:top]


def _score(found: ClassScore) -> float:
    return found["score"]


def _texts(inputs: object) -> tuple[str, str | None]:
    """A text, and the second one of a pair."""
    if isinstance(inputs, str):
        return inputs, None
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], list) and len(inputs[0]) == 2:
        first, second = inputs[0]
    elif isinstance(inputs, Mapping) and "text" in inputs:  # rows of datasets hold other things too
        first, second = inputs["text"], inputs.get("text_pair")
    else:
        raise _not_a_text(inputs)
    if not isinstance(first, str) or not isinstance(second, str | None):
        raise _not_a_text(inputs)
    return first, second


def _not_a_text(inputs: object) -> InputError:
    return InputError(
        "neither a text nor a pair of texts",
        where="text-classification",
        found=brief(inputs),
        remedy='A pair is a mapping: {"text": ..., "text_pair": ...}.',
    )


TASKS = (
    Task(
        name="text-classification",
        pipeline=TextClassificationPipeline,
        models=(AutoModelForSequenceClassification,),
        aliases=("sentiment-analysis",),
        inferred=("sequence-classification",),
    ),
)

__all__ = ["TASKS", "ClassScore", "ClassificationFunction", "TextClassificationPipeline", "TextPair"]
