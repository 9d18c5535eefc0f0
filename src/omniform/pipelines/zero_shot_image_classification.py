"""Which of some classes that are named at the call a picture belongs to, by a model that compares pictures with texts
(Radford et al. 2021, https://arxiv.org/abs/2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TypedDict, cast, runtime_checkable

from torch import Tensor

from omniform.core.errors import InputError, UnknownArgumentError, brief
from omniform.hub.auto import AutoModelForZeroShotImageClassification
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import WrongTypeError, encoding_options, needed, scores_of
from omniform.pipelines.registry import Task
from omniform.pipelines.seeing import Cell, Seeing
from omniform.search.towers import padding_for

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE = "This is a photo of {}."


@runtime_checkable
class Judging(Protocol):
    """A model that says itself how likely its scores make a text."""

    def chances(self, scores_IT: Tensor) -> Tensor: ...


class Likeness(TypedDict):
    """A class, and how likely it is beside the others."""

    score: float
    label: str


class ZeroShotImageClassificationPipeline(Seeing):
    """Tells which of the classes that a call names a picture belongs to: a list of :class:`Likeness`, the best first.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.seeing.Seeing`:
        candidate_labels: the classes: a list, or one text with commas between them.
        hypothesis_template: the text that is compared with the picture, ``"This is a photo of {}."``
        tokenizer_kwargs: options of the tokenizer.
    """

    says = "candidate_labels"
    columns = ("label", "score")

    _load_tokenizer = True

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before = self.reading(given, "candidate_labels", "hypothesis_template", "tokenizer_kwargs")
        if given.get("candidate_labels") is not None:
            before["candidate_labels"] = labels_of(given["candidate_labels"])
        if given.get("hypothesis_template") is not None:
            template = given["hypothesis_template"]
            filled(template, "a label")
            before["hypothesis_template"] = template
        if given.get("tokenizer_kwargs") is not None:
            before["tokenizer_kwargs"] = encoding_options(given["tokenizer_kwargs"], "tokenizer_kwargs")
        return before, {}, {}

    def __call__(self, inputs: object = None, *args: object, **given: object) -> object:
        """The classes of one picture or of several; the classes may be given by position, the picture as ``image``.

        Raises:
            InputError: there is no picture or no class, or the template has no place for one.
        """
        if len(args) == 1 and "candidate_labels" not in given:
            given["candidate_labels"] = args[0]
        elif args:
            raise UnknownArgumentError(f"{type(self).__name__} takes a picture and its labels by position")
        return super().__call__(given.pop("image", None) if inputs is None else inputs, **given)

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture, and the ids of the texts that it is compared with."""
        labels = labels_of(given.get("candidate_labels"))
        template = given.get("hypothesis_template", TEMPLATE)
        pixels = self.pixels(self.picture(input_, given))
        options: Params = {**padding_for(self.model), **cast(Params, given.get("tokenizer_kwargs", {}))}
        texts = needed(self.tokenizer)([filled(template, label) for label in labels], return_tensors="pt", **options)  # type: ignore[arg-type]
        # One entry for each picture, in a batch or alone.
        return {**pixels, "text_inputs": [dict(texts)], "candidate_labels": [labels]}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        texts = shared(input_tensors["text_inputs"])
        pixels = {n: v for n, v in input_tensors.items() if n not in ("text_inputs", "candidate_labels")}
        output = self.model(**pixels, **cast("Mapping[str, Tensor]", texts))
        scores = scores_of(output, "BC", "logits_per_image")
        return {
            "scores": self.model.chances(scores) if isinstance(self.model, Judging) else scores.softmax(dim=-1),
            "candidate_labels": input_tensors["candidate_labels"],
        }

    def postprocess(self, model_outputs: object, **given: object) -> list[Likeness]:
        """The classes of one picture, the likeliest first."""
        return likeliest(cast("Mapping[str, object]", model_outputs))

    def check(self, given: Mapping[str, object]) -> None:
        """The same, and that there are labels."""
        super().check(given)
        labels_of(given.get("candidate_labels", self._preprocess_params.get("candidate_labels")))

    def for_model(self, prepared: Inputs) -> Mapping[str, object]:
        """What the model reads of a picture and of the texts that it is compared with."""
        texts = cast("Mapping[str, object]", shared(prepared["text_inputs"]))
        return super().for_model({**prepared, **texts})

    def draw(self, picture: Image, answer: object) -> Image:
        """The picture, and beneath it a bar for each class."""
        from omniform.pipelines.drawing import draw_scores

        found = cast("list[Likeness]", answer)
        named = dict(enumerate(sorted(one["label"] for one in found)))
        return draw_scores(picture, found, classes=named)

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """A row for each class."""
        return [{"label": one["label"], "score": one["score"]} for one in cast("list[Likeness]", answer)]


def _score(found: Likeness) -> float:
    return found["score"]


def likeliest(outputs: Mapping[str, object]) -> list[Likeness]:
    """The classes that a call names, the likeliest first: by ``scores`` of one input, and ``candidate_labels``."""
    labels = cast("list[str]", shared(outputs["candidate_labels"]))
    scores = cast(Tensor, outputs["scores"])[0].tolist()
    found: list[Likeness] = [{"score": score, "label": label} for score, label in zip(scores, labels, strict=True)]
    return sorted(found, key=_score, reverse=True)


def shared(value: object) -> object:
    """What all inputs of a batch share."""
    while isinstance(value, list) and value and isinstance(value[0], (list, Mapping)):
        value = value[0]
    return value


def labels_of(value: object) -> list[str]:
    """The classes that a call names, as a list.

    Raises:
        InputError: there are none.
    """
    labels = [label.strip() for label in value.split(",") if label.strip()] if isinstance(value, str) else value
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise WrongTypeError(
            "no labels are named" if value is None else "not a list of labels",
            where="candidate_labels",
            expected='a list such as ["a cat", "a dog"], or "a cat, a dog"',
            found=brief(value),
        )
    if not labels:
        raise InputError("there is no label", where="candidate_labels", expected="at least one")
    return list(labels)


def filled(template: object, label: str) -> str:
    """A text with a label in its place.

    Raises:
        InputError: it has none.
    """
    if isinstance(template, str):
        try:
            text = template.format(label)
            if text != template:
                return text
        except (LookupError, ValueError, AttributeError):
            pass
    raise InputError(
        "the text has no place for a label", where="hypothesis_template", expected="{} in it", found=brief(template)
    )


TASKS = (
    Task(
        name="zero-shot-image-classification",
        pipeline=ZeroShotImageClassificationPipeline,
        models=(AutoModelForZeroShotImageClassification,),
        kind="multimodal",
        inferred=("zero-shot-image-classification",),
    ),
)

__all__ = ["TASKS", "Likeness", "ZeroShotImageClassificationPipeline"]
