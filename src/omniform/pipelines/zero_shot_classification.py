"""Which of some classes that are named at the call a text belongs to, by a model of natural language inference.

Each class becomes a sentence, and the model tells whether it follows from the text (Yin et al. 2019, "Benchmarking
Zero-shot Text Classification").
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, TypedDict, cast, overload

import torch
from torch import Tensor

from omniform.core.errors import InputError, UnknownArgumentError, brief, check_arguments
from omniform.hub.auto import AutoModelForSequenceClassification
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.pipelines.base import ChunkPipeline, Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.given import WrongTypeError, flag, inputs_for_model, row_of, scores_of, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.understanding import Understanding

log = logging.getLogger("omniform")

TEMPLATE = "This example is {}."


class Ranked(TypedDict):
    """A text, the classes it was asked about, the likeliest first, and how likely each is."""

    sequence: str
    labels: list[str]
    scores: list[float]


def label_shares(logits_NC: Tensor, entailment: int, *, each: bool) -> Tensor:
    """How likely each class is. Shape: [N].

    Args:
        logits_NC: what the model says of each class. Shape: [N, C].
        entailment: the index of "it follows"; "it contradicts" is the first one, or the last where that is this.
        each: whether every class is judged by itself, else the shares of all are 1 together.
    """
    if not each:
        return logits_NC[:, entailment].softmax(dim=0)
    return logits_NC[:, [-1 if entailment == 0 else 0, entailment]].softmax(dim=-1)[:, 1]


class ZeroShotClassificationPipeline(Understanding, ChunkPipeline):
    """Tells which of the classes that a call names a text belongs to.

    ``pipe("a text", candidate_labels=["politics", "sport"])`` gives one :class:`Ranked`; a list of texts one for each.

    Options, for the pipeline or for a call:
        candidate_labels: the classes: a list, or one text with commas between them.
        hypothesis_template: the sentence that is to follow from the text, ``"This example is {}."``
        multi_label: whether a text may belong to several of them, so that each is judged by itself.
    """

    default_batch_size: ClassVar[BatchSize] = "auto"
    _told_entailment = False

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(
            type(self).__name__, given, ("candidate_labels", "hypothesis_template", "multi_label", "multi_class")
        )
        if self.entailment_id == -1 and not self._told_entailment:
            self._told_entailment = True
            log.warning("label2id names no entailment; the model's last class is taken for it")
        before: Params = {}
        after: Params = {}
        if "candidate_labels" in given:
            before["candidate_labels"] = _labels(given["candidate_labels"])
        if given.get("hypothesis_template") is not None:
            before["hypothesis_template"] = _template(given["hypothesis_template"])
        for name in ("multi_class", "multi_label"):  # the first is the older name
            if given.get(name) is not None:
                after["multi_label"] = flag(given[name], name)
        return before, {}, after

    @property
    def entailment_id(self) -> int:
        """The index of the class that means "it follows", by ``label2id``; -1 where none is called so."""
        labels = self.model.config.get("label2id")
        named = labels if isinstance(labels, Mapping) else {}
        return next((int(index) for label, index in named.items() if str(label).lower().startswith("entail")), -1)

    @overload  # type: ignore[override]
    def __call__(self, sequences: str, *args: object, **given: object) -> Ranked: ...
    @overload
    def __call__(self, sequences: list[str], *args: object, **given: object) -> list[Ranked]: ...
    @overload
    def __call__(self, sequences: object, *args: object, **given: object) -> object: ...
    def __call__(self, sequences: object, *args: object, **given: object) -> object:
        """The classes of one text or of several; the classes may be given by position.

        Raises:
            InputError: there is no text or no class, or the template has no place for one.
        """
        if len(args) == 1 and "candidate_labels" not in given:
            given["candidate_labels"] = args[0]
        elif args:
            raise UnknownArgumentError(f"{type(self).__name__} takes a text and its labels by position")
        if isinstance(sequences, list) and not sequences:
            raise _nothing("text")
        return super().__call__(sequences, **given)  # type: ignore[arg-type]

    def preprocess(self, input_: object, **given: object) -> Iterator[Inputs]:  # type: ignore[override]
        """One part for each class: the text and the class's sentence."""
        if not isinstance(input_, str):
            raise WrongTypeError("not a text", where="zero-shot-classification", found=brief(input_))
        labels = _labels(given.get("candidate_labels"))
        if not input_:
            raise _nothing("text")
        template, tokenizer = cast(str, given.get("hypothesis_template") or TEMPLATE), self.reader
        for index, label in enumerate(labels):
            encoded = _pair(input_, _filled(template, label), tokenizer)
            told = {"candidate_label": label, "sequence": input_, "is_last": index == len(labels) - 1}
            yield {**row_of(encoded, 0, tokenizer), **told}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        names = self.reader.model_input_names
        output = self.model(**inputs_for_model(input_tensors, names), **self.of_rows(), use_cache=False)
        told = {name: input_tensors[name] for name in ("candidate_label", "sequence", "is_last")}
        return {"logits": scores_of(output, "BC"), **told}

    def postprocess(self, model_outputs: object, **given: object) -> Ranked:
        """The classes of one text, the likeliest first."""
        outputs = cast("Sequence[Mapping[str, object]]", model_outputs)
        labels = [cast(str, output["candidate_label"]) for output in outputs]
        logits_NC = torch.cat([tensor(output, "logits") for output in outputs])
        each = bool(given.get("multi_label", False)) or len(labels) == 1
        scores = label_shares(logits_NC, self.entailment_id, each=each).tolist()
        order = sorted(range(len(labels)), key=lambda index: (scores[index], index), reverse=True)
        return {
            "sequence": cast(str, outputs[0]["sequence"]),
            "labels": [labels[index] for index in order],
            "scores": [scores[index] for index in order],
        }


def _pair(text: str, hypothesis: str, tokenizer: Tokenizer) -> BatchEncoding:
    """Both encoded; a long text is cut, the sentence never is."""
    try:
        return tokenizer([text], [hypothesis], truncation="only_first")
    except InputError:
        # Cutting the text alone does not make them fit; what is too long for the model, it says itself.
        return tokenizer([text], [hypothesis], truncation="do_not_truncate")


def _labels(value: object) -> list[str]:
    labels = [label.strip() for label in value.split(",") if label.strip()] if isinstance(value, str) else value
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise WrongTypeError(
            "no labels are named" if value is None else "not a list of labels",
            where="candidate_labels",
            expected='a list such as ["politics", "sport"], or "politics, sport"',
            found=brief(value),
        )
    if not labels:
        raise _nothing("label")
    return list(labels)


def _template(value: object) -> str:
    if not isinstance(value, str) or _filled(value, "a label") == value:
        raise _no_place(value)
    return value


def _filled(template: str, label: str) -> str:
    try:
        return template.format(label)
    except (LookupError, ValueError, AttributeError):
        raise _no_place(template) from None


def _no_place(template: object) -> InputError:
    return InputError(
        "the sentence has no place for a label", where="hypothesis_template", expected="{} in it", found=brief(template)
    )


def _nothing(what: str) -> InputError:
    return InputError(
        f"there is no {what}", where="zero-shot-classification", expected="at least one label and at least one text"
    )


TASKS = (
    Task(
        name="zero-shot-classification",
        pipeline=ZeroShotClassificationPipeline,
        models=(AutoModelForSequenceClassification,),
    ),
)

__all__ = ["TASKS", "Ranked", "ZeroShotClassificationPipeline"]
