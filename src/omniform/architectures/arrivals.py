"""What a caller may hand to any ``forward`` besides tensors of numbers: switches, places, a state, a count."""

from __future__ import annotations

import operator
from typing import Final

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.core.kinds import switch
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
        raise InputError(
            "this is no state of an earlier call",
            where="past_key_values",
            expected="what a forward gave as past_key_values, or a DynamicCache",
            found=brief(past),
            remedy="DynamicCache.from_legacy_cache makes one of keys and values.",
        )
    if "logits_to_keep" in named:
        named["logits_to_keep"] = _count(named["logits_to_keep"])


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
