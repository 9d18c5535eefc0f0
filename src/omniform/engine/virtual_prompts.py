"""Virtual tokens: what PEFT's prompt learning puts in front of a prompt (arXiv 2104.08691, 2101.00190).

It replaces a model's ``prepare_inputs_for_generation``, which the ecosystem's loops call before every forward. Here it
is called once, for the prompt: it adds vectors, or a cache of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError
from omniform.core.others_caches import taken_over

HOOK = "prepare_inputs_for_generation"


def with_virtual_tokens(model: Generative, named: Mapping[str, object], mask: Tensor | None) -> dict[str, object]:
    """A call's inputs, with what the model's own hook puts in front of them; as they are where nobody has set one.

    Args:
        named: the inputs by name.
        mask: which of the prompts' tokens are no padding. Shape: [B, T]; None for all.

    Raises:
        InputError: the hook needs prompts of another form.
    """
    hook = vars(model).get(HOOK)
    if not callable(hook) or model.encoder_inputs or named.get("past_key_values") is not None:
        return dict(named)
    ids = named.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or named.get("inputs_embeds") is not None:
        raise InputError("virtual tokens stand in front of token ids", where="input_ids", expected="shape [B, T]")
    ids = ids.to(model.device)
    mask = torch.ones_like(ids) if mask is None else mask.to(model.device).long()
    with torch.no_grad(), _unplaced(model):
        found = cast("Callable[..., Mapping[str, object]]", hook)(ids, attention_mask=mask)
    changed = {**named, "attention_mask": cast(Tensor, found["attention_mask"]).long()}
    if isinstance(found.get("inputs_embeds"), Tensor):
        changed["inputs_embeds"] = found["inputs_embeds"]
    elif found.get("past_key_values") is not None:
        changed["past_key_values"] = taken_over(found["past_key_values"])
    else:
        return dict(named)
    return changed


@contextmanager
def _unplaced(model: Generative) -> Iterator[None]:
    """Hide where a model was placed while it lies in one place: PEFT takes a map to mean several accelerators."""
    held = model.placed_at
    if len({*held.values()}) > 1:
        yield
        return
    model.placed_at = {}
    try:
        yield
    finally:
        model.placed_at = held
