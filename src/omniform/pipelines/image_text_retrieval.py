"""Which of some texts fits which of some pictures, both ways, by a model that compares pictures with texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypedDict, TypeVar, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, OmniformError, UnknownArgumentError, brief, check_arguments
from omniform.hub.auto import AutoModelForZeroShotImageClassification
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource, load_image
from omniform.inputs.processors import CLIPProcessor
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import WrongTypeError, needed
from omniform.pipelines.registry import Task
from omniform.search.towers import Towers

T = TypeVar("T")

TOGETHER: Final = 32
"""So many pictures, or texts, go through the model at once."""


class Match(TypedDict):
    """One that was found.

    Attributes:
        index: which of the call's pictures or texts it is.
        score: the cosine of the two vectors.
    """

    index: int
    score: float


class Retrieved(TypedDict):
    """How pictures and texts go together.

    Attributes:
        similarity: cosines of every picture with every text; no numbers in the row of a picture that cannot be read.
            Shape: [pictures, texts].
        texts_of_images: for each picture the texts, the best first.
        images_of_texts: for each text the pictures, the best first.
        errors: what is wrong with the pictures that cannot be read, by their places.
    """

    similarity: Tensor
    texts_of_images: list[list[Match]]
    images_of_texts: list[list[Match]]
    errors: dict[int, str]


class ImageTextRetrievalPipeline(Pipeline):
    """Finds the texts for pictures, and the pictures for texts: ``pipe(images, texts)`` gives a :class:`Retrieved`.

    Options, for the pipeline or for a call:
        top_k: so many of the best at most; all by default.
    """

    _load_image_processor = _load_tokenizer = True
    _load_processor = _load_feature_extractor = False

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, ("top_k",))
        top_k = given.get("top_k")
        if top_k is None:
            return {}, {}, {}
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise InputError("no number of results", where="top_k", expected="at least 1", found=brief(top_k))
        return {}, {}, {"top_k": top_k}

    def __call__(self, inputs: object = None, *args: object, **given: object) -> object:
        """Compare pictures with texts: ``pipe(images, texts)``, or ``pipe(images=..., text=...)``.

        Args:
            inputs: one picture or several, whatever :func:`~omniform.inputs.images.load.load_image` reads; or a mapping
                with ``images`` and ``text``, or a list of such.
            args: one text or several, if not by name.
            given: options, those of all pipelines among them. ``on_error="return"``: pictures that cannot be read are
                told in ``errors``, and the others are compared.

        Raises:
            InputError: there are no pictures or no texts, or one of them cannot be read.
        """
        images = given.pop("images", given.pop("image", inputs)) if inputs is None else inputs
        texts = [*args, *(given.pop(name) for name in ("text", "texts") if name in given)]
        if len(texts) > 1:
            raise UnknownArgumentError(f"{type(self).__name__} takes pictures and texts by position, each once")
        if texts:
            lenient = given.get("on_error", self._on_error) == "return"
            images = {"images": images, "text": texts[0], "lenient": lenient}
        return super().__call__(images, **given)  # type: ignore[arg-type]

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pictures and texts of a call, as lists."""
        if not isinstance(input_, Mapping):
            raise WrongTypeError("there are no texts", where="text", expected="one text or several", found=brief(None))
        images, text = input_.get("images", input_.get("image")), input_.get("text", input_.get("texts"))
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, (list, tuple)) or not texts or not all(isinstance(one, str) for one in texts):
            raise WrongTypeError("there are no texts", where="text", expected="one text or several", found=brief(text))
        sources = list(images) if isinstance(images, (list, tuple)) else [images]
        if not sources or sources == [None]:
            raise InputError("there are no pictures", where="images", expected="at least one")
        return {"images": sources, "text": list(texts), "lenient": bool(input_.get("lenient"))}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        towers = self._towers()
        sources = cast("list[ImageSource]", input_tensors["images"])
        texts = cast("list[str]", input_tensors["text"])
        text_TE = torch.cat([torch.from_numpy(towers.texts(some)) for some in _chunks(texts)])
        similarity = torch.full((len(sources), len(texts)), torch.nan)
        errors: dict[int, str] = {}
        for places in _chunks(range(len(sources))):
            read, pictures = [], []
            for at in places:
                try:
                    pictures.append(load_image(sources[at]))
                    read.append(at)
                except OmniformError as error:
                    if not input_tensors["lenient"]:
                        raise
                    errors[at] = str(error)
            if read:
                similarity[read] = torch.from_numpy(towers.pictures(pictures)) @ text_TE.T
        return {"similarity": similarity, "errors": errors}

    def _towers(self) -> Towers:
        processor = CLIPProcessor(cast(ImageProcessor, self.image_processor), needed(self.tokenizer))
        return Towers(self.model, processor, type(self.model).__name__)

    def postprocess(self, model_outputs: object, **given: object) -> Retrieved:
        """Both directions of one call."""
        outputs = cast(Params, model_outputs)
        similarity, errors = cast(Tensor, outputs["similarity"]), cast("dict[int, str]", outputs["errors"])
        most = cast("int | None", given.get("top_k"))
        return {
            "similarity": similarity,
            "texts_of_images": [_best(row, most) for row in similarity],
            "images_of_texts": [_best(column, most) for column in similarity.T],
            "errors": errors,
        }


def _best(scores: Tensor, most: int | None) -> list[Match]:
    order = [at for at in scores.argsort(descending=True, stable=True).tolist() if not scores[at].isnan()]
    return [{"index": at, "score": scores[at].item()} for at in order[:most]]


def _chunks(things: Sequence[T]) -> list[Sequence[T]]:
    return [things[at : at + TOGETHER] for at in range(0, len(things), TOGETHER)]


TASKS = (
    Task(
        name="image-text-retrieval",
        pipeline=ImageTextRetrievalPipeline,
        models=(AutoModelForZeroShotImageClassification,),
        kind="multimodal",
    ),
)

__all__ = ["TASKS", "ImageTextRetrievalPipeline", "Match", "Retrieved"]
