"""Which of some texts fits which of some pictures, both ways, by a model that compares pictures with texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypedDict, TypeVar, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, OmniformError, UnknownArgumentError, brief, check_arguments
from omniform.hub.auto import AutoModel
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource, load_image
from omniform.inputs.processors import CLIPProcessor
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import Inputs, moved
from omniform.pipelines.given import WrongTypeError, flag, needed
from omniform.pipelines.registry import Task
from omniform.search.towers import Compares, Towers

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

TOGETHER: Final = 32
"""So many pictures, or texts, go through the model at once."""


class Comparers(AutoModel):
    """Models that compare pictures with texts, by vectors or pair by pair."""

    tasks = ("image-text-retrieval", "zero-shot-image-classification")


class Match(TypedDict):
    """One that was found.

    Attributes:
        index: which of the call's pictures or texts it is.
        score: how well the two go together; see :class:`Retrieved`.
    """

    index: int
    score: float


class Retrieved(TypedDict):
    """How pictures and texts go together.

    Attributes:
        similarity: of every picture with every text: the cosine of their vectors, of models with two towers; else how
            likely the pair is to match, or the score that the model ranks pairs by. No numbers in the row of a picture
            that cannot be read. Shape: [pictures, texts].
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

    Models with two towers (CLIP, SigLIP, BLIP) compute a vector for each picture and each text. Others look at a pair
    (BLIP, ViLT and BridgeTower for retrieval), so that many of both take long.

    Options, for the pipeline or for a call:
        top_k: so many of the best at most; all by default.
        use_itm_head: False: cosines, of a BLIP for retrieval, instead of what it tells of each pair.
    """

    _load_image_processor = _load_tokenizer = True
    _load_feature_extractor = False

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, ("top_k", "use_itm_head"))
        during: Params = {}
        if given.get("use_itm_head") is not None:
            during["use_itm_head"] = flag(given["use_itm_head"], "use_itm_head")
            if "use_itm_head" not in self.model.accepts():
                found = type(self.model).__name__
                raise InputError("the model has no such head", where="use_itm_head", expected="a BLIP", found=found)
        top_k = given.get("top_k")
        if top_k is None:
            return {}, during, {}
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise InputError("no number of results", where="top_k", expected="at least 1", found=brief(top_k))
        return {}, during, {"top_k": top_k}

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
        sources = cast("list[ImageSource]", input_tensors["images"])
        texts = cast("list[str]", input_tensors["text"])
        compare = self._by_vectors(texts) if isinstance(self.model, Compares) else self._by_pairs(texts, given)
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
                similarity[read] = compare(pictures)
        return {"similarity": similarity, "errors": errors}

    def _by_vectors(self, texts: list[str]) -> Callable[[list[Image]], Tensor]:
        """Pictures to their cosines with texts."""
        processor = CLIPProcessor(cast(ImageProcessor, self.image_processor), needed(self.tokenizer))
        towers = Towers(self.model, processor, type(self.model).__name__)
        text_TE = torch.cat([torch.from_numpy(towers.texts(some)) for some in _chunks(texts)])
        return lambda pictures: torch.from_numpy(towers.pictures(pictures)) @ text_TE.T

    def _by_pairs(self, texts: list[str], given: Params) -> Callable[[list[Image]], Tensor]:
        """Pictures to how well they go with texts, each pair looked at."""
        if self.processor is None:
            raise InputError("the pipeline has no processor", where="processor", remedy="Pass it beside the model.")
        process, cosines = cast("Callable[..., Batch]", self.processor), given.get("use_itm_head") is False

        def asked(pictures: list[Image], some: Sequence[str]) -> Tensor:
            batch = process(images=pictures, text=list(some), padding=True, return_tensors="pt").to(self.dtype)
            return pair_scores(self.model(**moved(batch, self.device), **given), cosines=cosines)  # type: ignore[arg-type]

        def compare(pictures: list[Image]) -> Tensor:
            if cosines:
                return torch.cat([asked(pictures, some) for some in _chunks(texts)], dim=1).float().cpu()
            rows = [torch.cat([asked([one] * len(some), some) for some in _chunks(texts)]) for one in pictures]
            return torch.stack(rows).float().cpu()

        return compare

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


def pair_scores(output: Mapping[str, Tensor], *, cosines: bool = False) -> Tensor:
    """What a model says of pairs of a picture and a text: how likely each matches, or the number that it ranks by.

    Args:
        cosines: it was asked for similarities of every picture with every text, which stay as they are.

    Raises:
        InputError: it says something else.
    """
    scores = output.get("itm_score", output.get("logits"))
    if scores is None or scores.dim() != 2 or (not cosines and scores.shape[-1] > 2):
        found = ", ".join(output)
        raise InputError("the model does not judge pairs", where="image-text-retrieval", found=found)
    if cosines:
        return scores
    return scores.float().softmax(dim=-1)[:, 1] if scores.shape[-1] == 2 else scores[:, 0]


def _best(scores: Tensor, most: int | None) -> list[Match]:
    order = [at for at in scores.argsort(descending=True, stable=True).tolist() if not scores[at].isnan()]
    return [{"index": at, "score": scores[at].item()} for at in order[:most]]


def _chunks(things: Sequence[T]) -> list[Sequence[T]]:
    return [things[at : at + TOGETHER] for at in range(0, len(things), TOGETHER)]


TASKS = (
    Task(
        name="image-text-retrieval",
        pipeline=ImageTextRetrievalPipeline,
        models=(Comparers,),
        kind="multimodal",
        inferred=("image-text-retrieval",),
    ),
)

__all__ = ["TASKS", "ImageTextRetrievalPipeline", "Match", "Retrieved"]
