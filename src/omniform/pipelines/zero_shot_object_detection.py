"""Which objects that a call describes a picture shows, and where, by a model that compares boxes with texts
(Minderer et al. 2022, https://arxiv.org/abs/2205.06230)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.hub.auto import AutoModelForZeroShotObjectDetection
from omniform.inputs.checks import fraction
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import needed
from omniform.pipelines.object_detection import Detected, Finds, box_of
from omniform.pipelines.registry import Task
from omniform.pipelines.seeing import Cell, Seeing, rows_of, size_of
from omniform.pipelines.zero_shot_image_classification import labels_of

if TYPE_CHECKING:
    from PIL.Image import Image

THRESHOLD = 0.1


class ZeroShotObjectDetectionPipeline(Seeing):
    """Finds what a call describes: a list of :class:`~omniform.pipelines.object_detection.Detected` for a picture,
    boxes in its pixels, the surest first. Each description is looked for by itself.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.seeing.Seeing`:
        candidate_labels: what is looked for: a list, or one text with commas between them (``text_queries`` is an older
            name); for several pictures one list for all, or one for each.
        threshold: how likely an object must be to be told (0.1).
        top_k: how many are told at most.
    """

    says = "candidate_labels"
    columns = ("label", "score", "xmin", "ymin", "xmax", "ymax")
    _load_tokenizer = True

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.check_model_type(AutoModelForZeroShotObjectDetection)

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before = self.reading(given, "candidate_labels", "threshold", "top_k")
        if given.get("candidate_labels") is not None:
            before["candidate_labels"] = labels_of(given["candidate_labels"])
        after: Params = {}
        if given.get("threshold") is not None:
            after["threshold"] = fraction("threshold", cast(float, given["threshold"]))
        if (most := given.get("top_k")) is not None:
            if isinstance(most, bool) or not isinstance(most, int) or most < 1:
                raise InputError("no number of objects", where="top_k", expected="1 or more", found=brief(most))
            after["top_k"] = most
        return before, {}, after

    def __call__(self, inputs: object = None, *args: object, **given: object) -> object:
        """The objects of one picture or of several; see the class.

        Args:
            inputs: a picture or several (``image`` is another name); or mappings with ``image`` and
                ``candidate_labels``.
            args: what is looked for.

        Raises:
            InputError: there is no picture or nothing to look for; not as many lists as pictures.
        """
        inputs = given.pop("image", None) if inputs is None else inputs
        labels = given.pop("text_queries", given.pop("candidate_labels", None))
        if len(args) == 1 and labels is None:
            (labels,) = args
        elif args:
            raise InputError("a picture and what is looked for come by position", where=type(self).__name__)
        if isinstance(labels, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in labels):
            pictures = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
            if len(pictures) != len(labels):
                raise InputError(
                    "there is not a list for each picture",
                    where="candidate_labels",
                    expected=f"{len(pictures)} lists",
                    found=f"{len(labels)} lists",
                )
            pairs = zip(pictures, labels, strict=True)
            inputs = [{"image": picture, "candidate_labels": own} for picture, own in pairs]
        elif labels is not None:
            given["candidate_labels"] = labels
        return super().__call__(inputs, **given)

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture, its size, and the ids of each text."""
        labels = given.get("candidate_labels")
        if isinstance(input_, Mapping):
            labels, input_ = input_.get("candidate_labels", labels), input_.get("image")
        names = labels_of(labels)
        picture = self.picture(input_, given)
        tokenizer = needed(self.tokenizer)
        texts = [dict(tokenizer(name, return_tensors="pt")) for name in names]
        return {**self.pixels(picture), "target_size": size_of(picture), "texts": texts, "candidate_labels": names}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        own = ("target_size", "texts", "candidate_labels")
        pixels = {name: value for name, value in input_tensors.items() if name not in own}
        texts = cast("Sequence[Mapping[str, Tensor]]", input_tensors["texts"])
        outputs = [rows_of(self.model(**pixels, **text), 1) for text in texts]
        return {"outputs": outputs, **{name: input_tensors[name] for name in ("target_size", "candidate_labels")}}

    def postprocess(self, model_outputs: object, **given: object) -> list[Detected]:
        """The objects of one picture, the surest first."""
        if not isinstance(self.image_processor, Finds):
            raise InputError(
                "this processor finds no objects",
                where="post_process_object_detection",
                found=type(self.image_processor).__name__,
            )
        told = cast(Params, model_outputs)
        threshold = cast(float, given.get("threshold", THRESHOLD))
        size = cast(Tensor, told["target_size"])
        names = cast("Sequence[str]", told["candidate_labels"])
        found: list[Detected] = []
        for name, output in zip(names, cast("Sequence[Mapping[str, Tensor]]", told["outputs"]), strict=True):
            objects = self.image_processor.post_process_object_detection(Batch(output), threshold, size)[0]
            entries = zip(objects["scores"].tolist(), objects["boxes"], strict=True)
            found += [{"score": score, "label": name, "box": box_of(box)} for score, box in entries if score]
        found.sort(key=lambda one: one["score"], reverse=True)
        return found[: cast("int | None", given.get("top_k"))]

    def check(self, given: Mapping[str, object]) -> None:
        """The same, and that there are labels."""
        super().check(given)
        labels_of(given.get("candidate_labels", self._preprocess_params.get("candidate_labels")))

    def draw(self, picture: Image, answer: object) -> Image:
        """The picture with a labelled box around each object."""
        from omniform.pipelines.drawing import draw_boxes

        found = cast("list[Detected]", answer)
        return draw_boxes(picture, found, classes=dict(enumerate(sorted({one["label"] for one in found}))))

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """A row for each object."""
        return [
            {"label": one["label"], "score": one["score"], **cast("Mapping[str, Cell]", one["box"])}
            for one in cast("list[Detected]", answer)
        ]


TASKS = (
    Task(
        name="zero-shot-object-detection",
        pipeline=ZeroShotObjectDetectionPipeline,
        models=(AutoModelForZeroShotObjectDetection,),
        kind="multimodal",
        inferred=("zero-shot-object-detection",),
    ),
)

__all__ = ["TASKS", "ZeroShotObjectDetectionPipeline"]
