"""Prompts of vectors: what a caller hands over as ``inputs_embeds``, instead of token ids or in their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError, LengthError
from omniform.engine.prompts import as_prompts, columns_of
from omniform.engine.request import NAMELESS, Prompt


def vector_prompts(model: Generative, named: Mapping[str, object]) -> tuple[list[Prompt], Tensor | None]:
    """The rows of a call whose prompts are vectors.

    Args:
        named: ``inputs_embeds``, Shape: [B, T, D] or [T, D], or a list of rows [T, D]; ``attention_mask``, Shape: [B,
            T], padding on either side; ``input_ids``, Shape: [B, T], where the vectors are tokens' after all: what the
            settings (repetition, stop strings) then count, and what is given back. Fewer ids than vectors stand for the
            last of these: the others are virtual tokens, and padding may stand behind them.

    Returns:
        The rows, and the ids to give back in front of the answers; None where the vectors have none.

    Raises:
        InputError: vectors of another width than the model's, or other inputs beside them.
    """
    given, ids, mask = (named.get(name) for name in ("inputs_embeds", "input_ids", "attention_mask"))
    others = named.keys() - {"inputs_embeds", "input_ids", "attention_mask"}
    if others:
        raise InputError(
            "vectors stand for the whole prompt",
            where=", ".join(sorted(others)),
            expected="inputs_embeds alone, or with input_ids and attention_mask",
            remedy="Put the features of pictures and sounds among the vectors, or give ids instead of vectors.",
        )
    rows = _rows(given, model)
    longest = max(map(len, rows))
    # Left as the places of the vectors that are real: the same rules of padding as for ids.
    places = torch.arange(longest).expand(len(rows), longest)
    lengths = torch.tensor([[len(row)] for row in rows])
    if mask is None:
        mask = (places < lengths).long()
    elif not isinstance(mask, Tensor) or mask.shape != places.shape:
        raise InputError("the mask does not cover the vectors", where="attention_mask", expected=list(places.shape))
    lead = longest - ids.shape[1] if isinstance(ids, Tensor) and ids.dim() == 2 and ids.shape[1] < longest else 0
    prompts = as_prompts(places, mask, 0, torch.device("cpu"), holes=lead > 0)
    real = torch.ones_like(prompts.ids).bool() if prompts.real is None else prompts.real
    kept = [ids_row[own] for ids_row, own in zip(prompts.ids, real, strict=True)]
    if lead and isinstance(ids, Tensor):
        ids = torch.cat((ids.new_full((len(ids), lead), NAMELESS), ids), dim=1)
    if ids is not None and (not isinstance(ids, Tensor) or ids.shape != places.shape):
        raise InputError("there is not one id per vector", where="input_ids", expected=f"shape {list(places.shape)}")
    _check_length(model, kept)
    found = []
    columns = columns_of(places, mask, len(rows))
    for number, (row, own) in enumerate(zip(rows, kept, strict=True)):
        tokens = [NAMELESS] * len(own) if ids is None else ids[number, own.to(ids.device)].tolist()
        vectors = ((0, row[own.to(row.device)].to(model.device)),)
        found.append(Prompt(tuple(tokens), vectors=vectors, columns=columns[number]))
    return found, None if ids is None else ids[:, lead:].to(model.device)


def _rows(given: object, model: Generative) -> list[Tensor]:
    table = model.get_input_embeddings()
    width = table.embedding_dim if isinstance(table, torch.nn.Embedding) else None
    if isinstance(given, Tensor) and given.dim() in (2, 3):
        given = list(given) if given.dim() == 3 else [given]
    if not isinstance(given, Sequence) or not given:
        given = [given]
    rows: list[Tensor] = []
    for row in given:
        fits = isinstance(row, Tensor) and row.dim() == 2 and row.is_floating_point() and row.shape[0]
        if not isinstance(row, Tensor) or not fits or (width is not None and row.shape[1] != width):
            raise InputError(
                "these are no vectors that the model can read",
                where="inputs_embeds",
                expected=f"numbers of shape [batch, tokens, {width or 'width'}], or a list of rows",
                found=f"{row.dtype} of shape {list(row.shape)}" if isinstance(row, Tensor) else type(row).__name__,
            )
        rows.append(row)
    return rows


def _check_length(model: Generative, rows: Sequence[Tensor]) -> None:
    longest, limit = max(map(len, rows)), model.max_positions
    if limit is not None and longest > limit:
        raise LengthError(
            "the prompt is longer than the model's positions",
            where="inputs_embeds",
            expected=f"at most {limit} vectors",
            found=f"{longest} vectors",
            remedy="Shorten it; where positions are rotary, max_position_embeddings=... on loading allows more.",
        )
