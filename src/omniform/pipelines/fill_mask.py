"""Which token stands behind a mask."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypedDict, cast, overload

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief, check_arguments
from omniform.hub.auto import AutoModelForMaskedLM
from omniform.pipelines.base import Params
from omniform.pipelines.batching import BatchSize, Inputs
from omniform.pipelines.given import count, encoding_options, scores_of, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.understanding import Understanding

log = logging.getLogger("omniform")


class Filled(TypedDict):
    """A token for a mask: how likely it is, its id, its text, and the whole text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


class FillMaskPipeline(Understanding):
    """Tells which tokens may stand behind the mask of a text.

    ``pipe("a [MASK] text")`` gives a list of :class:`Filled`, the likeliest first; a text of several masks gives such a
    list for each mask, where each is judged by itself; a list of texts gives an answer for each.

    Options, for the pipeline or for a call:
        top_k: how many tokens to tell: 5.
        targets: a word, or several, that are to be judged and nothing else. One that is no token stands for its first.
        tokenizer_kwargs: options of the tokenizer, such as ``{"truncation": True}``.
    """

    default_batch_size: ClassVar[BatchSize] = "auto"

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        check_arguments(type(self).__name__, given, ("top_k", "targets", "tokenizer_kwargs"))
        if self.reader.mask_token_id is None:
            raise InputError("the tokenizer has no mask_token", where="fill-mask", found=type(self.tokenizer).__name__)
        before: Params = {}
        after: Params = {}
        if given.get("tokenizer_kwargs") is not None:
            before["tokenizer_kwargs"] = encoding_options(given["tokenizer_kwargs"], "tokenizer_kwargs")
        if given.get("targets") is not None:
            after["target_ids"] = self.get_target_ids(given["targets"])
        if given.get("top_k") is not None:
            after["top_k"] = count(given["top_k"], "top_k")
        return before, {}, after

    @overload
    def __call__(self, inputs: str, **given: object) -> list[Filled] | list[list[Filled]]: ...
    @overload
    def __call__(self, inputs: object, *args: object, **given: object) -> object: ...
    def __call__(self, inputs: object, *args: object, **given: object) -> object:
        """The tokens for the masks of one text or of several; see the class. A list of one text is that text.

        Raises:
            InputError: a text without a mask.
        """
        found = super().__call__(inputs, *args, **given)  # type: ignore[arg-type]
        return found[0] if isinstance(inputs, list) and isinstance(found, list) and len(inputs) == 1 else found

    def get_target_ids(self, targets: object) -> list[int]:
        """The ids of words; what is no token of the vocabulary is named in a warning.

        Raises:
            InputError: there is no word, or none that has a token.
        """
        words = [targets] if isinstance(targets, str) else targets
        if not isinstance(words, Sequence | set | frozenset) or not all(isinstance(word, str) for word in words):
            raise InputError("not a list of words", where="targets", found=brief(targets))
        tokenizer, vocabulary = self.reader, self.reader.get_vocab()
        found: dict[int, None] = {}
        for word in words:
            index = vocabulary.get(word)
            if index is None:
                pieces = cast("list[int]", tokenizer.encode(word, add_special_tokens=False))
                if not pieces:
                    log.warning("targets: %r has no token and is left out", word)
                    continue
                index = pieces[0]
                log.warning("targets: %r is no token; %r stands for it", word, tokenizer.id_token(index))
            found.setdefault(index)
        if not found:
            raise InputError("there is no word to judge", where="targets", found=brief(targets))
        return list(found)

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The ids of a text, which must hold a mask."""
        if not isinstance(input_, str):
            raise InputError("not a text", where="fill-mask", found=brief(input_))
        options = cast("Mapping[str, object]", given.get("tokenizer_kwargs", {}))
        encoded = self.reader(input_, return_tensors="pt", **options)  # type: ignore[arg-type]
        if self.reader.mask_token_id not in encoded.tensor("input_ids")[0].tolist():
            raise InputError(
                "no mask", where="fill-mask", expected=f"{self.reader.mask_token} in the text", found=brief(input_)
            )
        return {**encoded, "own_length": encoded.tensor("input_ids").shape[-1]}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        inputs = {name: value for name, value in input_tensors.items() if name != "own_length"}
        logits = scores_of(self.model(**inputs), "BTV")
        return {"logits": logits, "input_ids": inputs["input_ids"], "own_length": input_tensors["own_length"]}

    def postprocess(self, model_outputs: object, **given: object) -> list[Filled] | list[list[Filled]]:
        """The likeliest tokens for each mask."""
        own = cast(int, cast(Params, model_outputs)["own_length"])  # a batch's padding stands behind it
        ids_T, targets = tensor(model_outputs, "input_ids")[0, :own], cast("list[int] | None", given.get("target_ids"))
        masks = [place for place, index in enumerate(ids_T.tolist()) if index == self.reader.mask_token_id]
        shares_MV = tensor(model_outputs, "logits")[0, masks].softmax(dim=-1)
        names_V = torch.arange(shares_MV.shape[-1]) if targets is None else torch.tensor(targets)
        shares_MV = shares_MV[:, names_V]
        best = shares_MV.topk(min(cast(int, given.get("top_k", 5)), shares_MV.shape[-1]))
        rows = [
            self._row(ids_T, place, scores, names_V[order].tolist(), alone=len(masks) == 1)
            for place, scores, order in zip(masks, best.values.tolist(), best.indices, strict=True)
        ]
        return rows[0] if len(rows) == 1 else rows

    def _row(self, ids_T: Tensor, place: int, scores: list[float], tokens: list[int], *, alone: bool) -> list[Filled]:
        tokenizer, found = self.reader, []
        for score, token in zip(scores, tokens, strict=True):
            ids = ids_T.tolist()
            ids[place] = token
            ids = [index for index in ids if index != tokenizer.pad_token_id]
            # Special tokens are left out, but where another mask is still to be seen.
            text = cast(str, tokenizer.decode(ids, skip_special_tokens=alone))
            word = cast(str, tokenizer.decode([token]))
            found.append(Filled(score=score, token=token, token_str=word, sequence=text))
        return found


TASKS = (
    Task(
        name="fill-mask",
        pipeline=FillMaskPipeline,
        models=(AutoModelForMaskedLM,),
        inferred=("masked-lm",),
    ),
)

__all__ = ["TASKS", "FillMaskPipeline", "Filled"]
