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
from omniform.pipelines.given import PipelineException, count, encoding_options, scores_of, tensor
from omniform.pipelines.registry import Task
from omniform.pipelines.understanding import Understanding

log = logging.getLogger("omniform")


class Filled(TypedDict):
    """A token for a mask: how likely it is, its id, its text, and the whole text with it."""

    score: float
    token: int
    token_str: str
    sequence: str


def best_tokens(logits_BTV: Tensor, masks_BT: Tensor, targets: list[int] | None, most: int) -> tuple[Tensor, Tensor]:
    """The likeliest tokens for each mask, the best first: their shares, and their ids. Shape: [B, M, K] each.

    Args:
        masks_BT: where the masks stand; what is given for rows that have fewer than M means nothing.
        targets: only these tokens are told; their shares are those among all.
        most: so many tokens at most.
    """
    masks = int(masks_BT.sum(dim=1).max())
    places_BM = masks_BT.int().argsort(dim=1, descending=True, stable=True)[:, :masks]
    rows_B1 = torch.arange(len(masks_BT), device=masks_BT.device)[:, None]
    shares_BMV = logits_BTV[rows_B1, places_BM].softmax(dim=-1)
    if targets is None:
        scores_BMK, tokens_BMK = shares_BMV.topk(min(most, shares_BMV.shape[-1]))
        return scores_BMK, tokens_BMK
    names_N = torch.tensor(targets, device=masks_BT.device)
    scores_BMK, order_BMK = shares_BMV[..., names_N].topk(min(most, len(targets)))
    return scores_BMK, names_N[order_BMK]


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
        self.mask_id()  # there must be one
        before: Params = {}
        forward: Params = {}
        if given.get("tokenizer_kwargs") is not None:
            before["tokenizer_kwargs"] = encoding_options(given["tokenizer_kwargs"], "tokenizer_kwargs")
        if given.get("targets") is not None:
            forward["target_ids"] = self.get_target_ids(given["targets"])
        if given.get("top_k") is not None:
            forward["top_k"] = count(given["top_k"], "top_k")
        return before, forward, {}

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
        if self.mask_id() not in encoded.tensor("input_ids")[0].tolist():
            expected = f"{self.reader.mask_token} in the text"
            raise PipelineException("there is no mask", where="fill-mask", expected=expected, found=brief(input_))
        if type(self)._forward is not FillMaskPipeline._forward:  # somebody's own gives all of this to the model
            return encoded
        return {**encoded, "own_length": encoded.tensor("input_ids").shape[-1]}

    def _forward(self, input_tensors: Inputs, **given: object) -> Params:
        inputs = {name: value for name, value in input_tensors.items() if name != "own_length"}
        ids_BT, logits_BTV = cast(Tensor, inputs["input_ids"]), scores_of(self.model(**inputs), "BTV")
        targets = cast("list[int] | None", given.get("target_ids"))
        # Only what is told is kept of each text: all scores of a thousand texts would fill the memory.
        most = cast(int, given.get("top_k", 5))
        scores_BMK, tokens_BMK = best_tokens(logits_BTV, ids_BT.eq(self.mask_id()), targets, most)
        own = input_tensors["own_length"]
        found = {"scores": scores_BMK, "tokens": tokens_BMK, "input_ids": ids_BT, "own_length": own}
        # A postprocess of the user's own reads all scores, as in the ecosystem.
        return found if type(self).postprocess is FillMaskPipeline.postprocess else {**found, "logits": logits_BTV}

    def mask_id(self) -> int:
        """The mask's id.

        Raises:
            PipelineException: the tokenizer has no mask.
        """
        mask = self.reader.mask_token_id
        if mask is None:
            raise PipelineException("the tokenizer has no mask_token", where="fill-mask", found=repr(self.reader)[:200])
        return mask

    def postprocess(self, model_outputs: object, **given: object) -> list[Filled] | list[list[Filled]]:
        """The likeliest tokens for each mask."""
        own = cast(int, cast(Params, model_outputs)["own_length"])  # a batch's padding stands behind it
        ids = cast("list[int]", tensor(model_outputs, "input_ids")[0, :own].tolist())
        places = [place for place, index in enumerate(ids) if index == self.mask_id()]
        scores, tokens = (tensor(model_outputs, name)[0].tolist() for name in ("scores", "tokens"))
        told = zip(places, scores, tokens, strict=False)  # other texts of the batch may have more masks
        rows = [self._row(ids, place, best, names, alone=len(places) == 1) for place, best, names in told]
        return rows[0] if len(rows) == 1 else rows

    def _row(self, ids: list[int], place: int, scores: list[float], tokens: list[int], *, alone: bool) -> list[Filled]:
        reader, pad = self.reader, self.reader.pad_token_id
        before, after = ([index for index in part if index != pad] for part in (ids[:place], ids[place + 1 :]))
        # Special tokens are left out, but where another mask is still to be seen.
        kept = [[*before, *([token] if token != pad else []), *after] for token in tokens]
        texts = reader.batch_decode(kept, skip_special_tokens=alone)
        words = reader.batch_decode([[token] for token in tokens])
        return [
            Filled(score=score, token=token, token_str=word, sequence=text)
            for score, token, word, text in zip(scores, tokens, words, texts, strict=True)
        ]


TASKS = (
    Task(
        name="fill-mask",
        pipeline=FillMaskPipeline,
        models=(AutoModelForMaskedLM,),
        inferred=("masked-lm",),
    ),
)

__all__ = ["TASKS", "FillMaskPipeline", "Filled"]
