"""What a model makes of a text before any head: a vector for each token, or one for the whole text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

from torch import Tensor

from omniform.core.errors import InputError, brief, check_arguments, nearest
from omniform.core.outputs import BaseModelOutput, ModelOutput
from omniform.embeddings.pooling import MODES, Pool
from omniform.hub.auto import AutoModel
from omniform.pipelines.base import Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.given import encoding_options, flag, refuse_twice, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.understanding import Understanding

Vectors = list[list[float]] | list[list[list[float]]]


KINDS: Mapping[str, Pool] = {**MODES, "last": MODES["lasttoken"]}
"""How the vectors of a text's tokens become one: those of sentence-transformers' folders, by their names."""


class FeatureExtractionPipeline(Understanding):
    """Gives the vectors that a model makes of a text.

    ``pipe("a text")`` gives nested lists of shape [1, T, D], a list of texts one for each; with ``pooling`` the shape
    is [1, D]. A model with a head gives the head's numbers.

    Options, for the pipeline or for a call:
        pooling: one vector for the text: ``"mean"``, ``"cls"``, ``"max"``, ``"last"``, or another of
            sentence-transformers' (:data:`KINDS`); padding does not count.
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
            forward["pooling"] = _kind(given["pooling"])
        if "normalize" in given:
            after["normalize"] = flag(given["normalize"], "normalize")
        return before, forward, after

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "postprocess" in vars(cls) and "default_batch_size" not in vars(cls):
            cls.default_batch_size = 1  # it does not know where a batch's padding begins

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The ids of a text, and how many there are."""
        if not isinstance(input_, str):
            raise InputError("not a text", where="feature-extraction", found=brief(input_))
        encoded = self.reader(input_, return_tensors="pt", **given)  # type: ignore[arg-type]
        if type(self)._forward is not FeatureExtractionPipeline._forward:  # somebody's own gives it all to the model
            return encoded
        return {**encoded, "own_length": encoded.tensor("input_ids").shape[-1]}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params | BaseModelOutput:
        inputs = {name: value for name, value in input_tensors.items() if name != "own_length"}
        vectors = self.model(**inputs)[0]
        if not isinstance(vectors, Tensor):
            raise InputError("the model gives no vectors", where="feature-extraction", found=type(self.model).__name__)
        ids, kind = cast(Tensor, inputs["input_ids"]), cast("Pool | None", given.get("pooling"))
        if kind is not None and vectors.dim() == 3 and vectors.shape[1] == ids.shape[1]:
            read = cast(Tensor, inputs.get("attention_mask", ids.new_ones(ids.shape)))
            vectors = kind(vectors, read, read)  # here already, so that no more is kept of each text
        if type(self).postprocess is not FeatureExtractionPipeline.postprocess:  # it reads a model's output
            return BaseModelOutput(last_hidden_state=vectors)
        return {"vectors": vectors, "own_length": input_tensors["own_length"]}

    def postprocess(self, model_outputs: object, **given: object) -> Tensor | Vectors:
        """The vectors of one text."""
        if isinstance(model_outputs, ModelOutput):
            vectors = cast(Tensor, model_outputs[0])[0]
        else:
            vectors = tensor(model_outputs, "vectors")[0]
        if vectors.dim() > 1 and not isinstance(model_outputs, ModelOutput):  # a batch's padding stands behind the text
            vectors = vectors[: cast(int, cast(Params, model_outputs)["own_length"])]
        if given.get("normalize", False):
            vectors = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        vectors = vectors[None]
        return vectors if given.get("return_tensors", False) else cast(Vectors, vectors.tolist())


def _kind(value: object) -> Pool | None:
    if value == "none":
        return None
    if not isinstance(value, str) or value not in KINDS:
        remedy = nearest(str(value), KINDS)
        raise InputError("no kind of pooling", where="pooling", found=brief(value), remedy=remedy)
    return KINDS[value]


TASKS = (
    Task(
        name="feature-extraction",
        pipeline=FeatureExtractionPipeline,
        models=(AutoModel,),
        inferred=("base",),
    ),
)

__all__ = ["TASKS", "FeatureExtractionPipeline", "Vectors"]
