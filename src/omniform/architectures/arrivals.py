"""What a caller may hand to any ``forward`` besides tensors of numbers: switches, places, a state, a count."""

from __future__ import annotations

import operator
from typing import Final

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.core.host import bounds_of
from omniform.core.kinds import switch
from omniform.core.others_caches import taken_over
from omniform.core.state import DenseState

SWITCHES: Final = ("use_cache", "output_hidden_states", "output_attentions", "output_router_logits")
PLACES: Final = ("position_ids", "decoder_position_ids")


def check_kinds(named: dict[str, object]) -> None:
    """Refuse inputs of another kind than their name says; numbers and switches of other libraries become plain ones.

    Args:
        named: the inputs by name; changed in place.

    Raises:
        InputError: as said.
    """
    for name in SWITCHES:
        value = named.get(name)
        if name == "output_hidden_states" and isinstance(value, (list, tuple)):
            continue  # some of them, where a model can choose; elsewhere all
        if value is not None and type(value) is not bool:
            named[name] = switch(name, value)
    for name in PLACES:
        value = named.get(name)
        if value is not None and not (isinstance(value, Tensor) and value.layout is torch.strided):
            raise InputError(
                "positions are a tensor",
                where=name,
                expected="whole numbers of shape [batch, tokens]",
                found=brief(value),
            )
    past = named.get("past_key_values")
    if past is not None and not isinstance(past, DenseState):
        past = named["past_key_values"] = taken_over(past)
    if past is not None and not isinstance(past, DenseState):
        raise InputError(
            "this is no state of an earlier call",
            where="past_key_values",
            expected="what a forward gave as past_key_values, or a DynamicCache",
            found=brief(past),
            remedy="DynamicCache.from_legacy_cache makes one of keys and values.",
        )
    if "logits_to_keep" in named:
        tokens = named.get("input_ids", named.get("inputs_embeds"))
        named["logits_to_keep"] = _kept(named["logits_to_keep"], tokens if isinstance(tokens, Tensor) else None)


def _kept(value: object, tokens: Tensor | None) -> Tensor | int:
    """How many of the last tokens, or which; ``tokens``: ids or vectors."""
    if not isinstance(value, Tensor) or value.dim() == 0:
        return _count(value)
    told, rows = "logits_to_keep", None if tokens is None or tokens.dim() < 2 else tuple(tokens.shape[:2])
    if value.dtype == torch.bool and value.dim() == 2:
        if rows is not None and tuple(value.shape) != rows:
            raise InputError("it does not cover the tokens", where=told, expected=rows, found=tuple(value.shape))
        return value
    if value.dtype not in (torch.int64, torch.int32) or value.dim() > 2 or value.layout is not torch.strided:
        raise InputError(
            "no places of tokens",
            where=told,
            expected="a number, integers of shape [places] or [batch, places], or true and false of [batch, tokens]",
            found=brief(value),
        )
    if rows is not None and value.dim() == 2 and len(value) not in (1, rows[0]):
        raise InputError("not one row of places per row", where=told, expected=rows[0], found=len(value))
    low, high = bounds_of(value)
    if rows is not None and not -rows[1] <= low <= high < rows[1]:
        raise InputError("no token stands there", where=told, expected=f"less than {rows[1]}", found=f"{low} to {high}")
    return value.long()


def _count(value: object) -> int:
    if value is None:
        return 0
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type] # that is asked
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        count = -1
    if count < 0:
        raise InputError("no number of tokens", where="logits_to_keep", expected="0 or more", found=brief(value))
    return count
