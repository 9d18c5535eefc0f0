"""What a model makes of a text before any head: a vector for each token, or one for the whole text."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief, check_arguments
from omniform.hub.auto import AutoModel
from omniform.pipelines.base import Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.given import encoding_options, flag, one_of, refuse_twice, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.understanding import Understanding

Vectors = list[list[float]] | list[list[list[float]]]


class PoolingKind(StrEnum):
    """How the vectors of tokens become one: their mean, the first token's, the largest of each number, the last
    token's."""

    MEAN = "mean"
    CLS = "cls"
    MAX = "max"
    LAST = "last"


def pooled(vectors_BTD: Tensor, read_BT: Tensor, kind: PoolingKind) -> Tensor:
    """One vector of many, for each row; zeros for a row without tokens. Shape: [B, D].

    Args:
        read_BT: which tokens the model reads; the others are padding. Shape: [B, T], bool.
    """
    vectors_BTD = vectors_BTD.float()
    kept_BT1, some_B1 = read_BT[..., None], read_BT.any(dim=1, keepdim=True)
    if kind is PoolingKind.MEAN:
        sums_BD = vectors_BTD.masked_fill(~kept_BT1, 0).sum(dim=1)
        return sums_BD / read_BT.sum(dim=1, keepdim=True).clamp(min=1)
    if kind is PoolingKind.MAX:
        return vectors_BTD.masked_fill(~kept_BT1, -torch.inf).amax(dim=1).masked_fill(~some_B1, 0)
    places_B = read_BT.int().argmax(dim=1)  # the first of them
    if kind is PoolingKind.LAST:
        places_B = read_BT.shape[1] - 1 - read_BT.flip(1).int().argmax(dim=1)
    rows_B = torch.arange(len(read_BT), device=read_BT.device)
    return vectors_BTD[rows_B, places_B].masked_fill(~some_B1, 0)


class FeatureExtractionPipeline(Understanding):
    """Gives the vectors that a model makes of a text.

    ``pipe("a text")`` gives nested lists of shape [1, T, D], a list of texts one for each; with ``pooling`` the shape
    is [1, D]. A model with a head gives the head's numbers.

    Options, for the pipeline or for a call:
        pooling: ``"mean"``, ``"cls"``, ``"max"`` or ``"last"``: one vector for the text; padding does not count.
        normalize: whether vectors are brought to length 1.
        return_tensors: True (or ``"pt"``) for tensors instead of lists.
        truncation: as the tokenizer has it.
        tokenize_kwargs: options of the tokenizer.
    """

    default_batch_size: ClassVar[BatchSize] = "auto"

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        known = ("truncation", "tokenize_kwargs", "return_tensors", "pooling", "normalize")
        check_arguments(type(self).__name__, given, known)
        given = {name: value for name, value in given.items() if value is not None}
        before: Params = {}
        forward: Params = {}
        after: Params = {}
        if "tokenize_kwargs" in given:
            before = encoding_options(given["tokenize_kwargs"], "tokenize_kwargs")
        if "truncation" in given:
            refuse_twice(("truncation",), before, "tokenize_kwargs")
            before["truncation"] = given["truncation"]
        if "return_tensors" in given:
            value = given["return_tensors"]
            after["return_tensors"] = value == "pt" or flag(value, "return_tensors")
        if "pooling" in given:
            asked = given["pooling"]
            forward["pooling"] = None if asked == "none" else one_of(PoolingKind, asked, "pooling")
        if "normalize" in given:
            after["normalize"] = flag(given["normalize"], "normalize")
        return before, forward, after

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The ids of a text, and how many there are."""
        if not isinstance(input_, str):
            raise InputError("not a text", where="feature-extraction", found=brief(input_))
        encoded = self.reader(input_, return_tensors="pt", **given)  # type: ignore[arg-type]
        return {**encoded, "own_length": encoded.tensor("input_ids").shape[-1]}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        inputs = {name: value for name, value in input_tensors.items() if name != "own_length"}
        vectors = self.model(**inputs)[0]
        if not isinstance(vectors, Tensor):
            raise InputError("the model gives no vectors", where="feature-extraction", found=type(self.model).__name__)
        ids, kind = cast(Tensor, inputs["input_ids"]), cast("PoolingKind | None", given.get("pooling"))
        if kind is not None and vectors.dim() == 3 and vectors.shape[1] == ids.shape[1]:
            read = cast(Tensor, inputs.get("attention_mask", ids.new_ones(ids.shape))).bool()
            vectors = pooled(vectors, read, kind)  # here already, so that no more is kept of each text
        return {"vectors": vectors, "own_length": input_tensors["own_length"]}

    def postprocess(self, model_outputs: object, **given: object) -> Tensor | Vectors:
        """The vectors of one text."""
        vectors = tensor(model_outputs, "vectors")[0]
        if vectors.dim() > 1:  # a batch's padding stands behind the text
            vectors = vectors[: cast(int, cast(Params, model_outputs)["own_length"])]
        if given.get("normalize", False):
            vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        vectors = vectors[None]
        return vectors if given.get("return_tensors", False) else cast(Vectors, vectors.tolist())


TASKS = (
    Task(
        name="feature-extraction",
        pipeline=FeatureExtractionPipeline,
        models=(AutoModel,),
        inferred=("base",),
    ),
)

__all__ = ["TASKS", "FeatureExtractionPipeline", "PoolingKind", "pooled"]
