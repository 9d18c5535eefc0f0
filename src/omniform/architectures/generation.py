"""``GenerationMixin``: what makes a causal model of the user's own, in plain torch, one that writes.

Omniform's families are read by the engine, packed and with blocks of its own. A forward that somebody else wrote is
called as the ecosystem calls it, step by step (:mod:`omniform.engine.own_loop`): ``prepare_inputs_for_generation``
makes the inputs of a step, the forward gives ``logits`` and, if it keeps any, ``past_key_values``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.core.errors import InputError
from omniform.core.outputs import ModelOutput

if TYPE_CHECKING:
    from omniform.core.settings import Setting


@runtime_checkable
class Reorders(Protocol):
    """A state that can put its rows into another order."""

    def reorder_cache(self, beam_idx: Tensor) -> object: ...


class GenerationMixin:
    """Beside :class:`~omniform.architectures.named.PreTrainedModel`, has a causal model of the user's own write.

    The model's ``forward`` takes ``input_ids`` and, as far as it knows them, ``attention_mask``, ``position_ids``,
    ``past_key_values`` and ``use_cache``; it returns an output, a mapping or a tuple that begins with the logits,
    ``[B, T, V]``. What it returns as ``past_key_values`` is handed to its next call as it is; a forward that takes them
    gets an empty :class:`~omniform.core.caches.DynamicCache` in its first, as in the ecosystem.
    """

    own_settings: ClassVar[Mapping[str, Setting]] = {}
    encoder_inputs: ClassVar[frozenset[str]] = frozenset()

    @property
    def max_positions(self) -> int | None:
        """The longest row it can make sense of: nobody knows."""
        return None

    @property
    def vocabulary(self) -> int | None:
        """How many tokens it can read; None if nobody knows."""
        size = cast("_Configured", self).config.get("vocab_size")
        return size if isinstance(size, int) else None

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Whether a forward that takes ``past_key_values`` gets an empty cache in its first step."""
        return True

    def _update_model_kwargs_for_generation(
        self,
        outputs: object,
        model_kwargs: dict[str, object],
        is_encoder_decoder: bool = False,
        num_new_tokens: int = 1,
    ) -> dict[str, object]:
        """What the next step is told: the state that this one gave, a mask with one place more, token types alike.

        Args:
            outputs: what the forward gave.
            model_kwargs: what it was told, beside the ids.
        """
        told = dict(model_kwargs)
        past = outputs.get("past_key_values") if isinstance(outputs, (ModelOutput, Mapping)) else None
        if isinstance(outputs, tuple) and len(outputs) > 1 and not isinstance(outputs[1], Tensor):
            past = outputs[1]
        if told.get("use_cache") is False:
            told.pop("past_key_values", None)
        elif past is not None:
            told["past_key_values"] = past
        mask = "decoder_attention_mask" if is_encoder_decoder else "attention_mask"
        for name, new in ((mask, 1), ("token_type_ids", None)):
            held = told.get(name)
            if isinstance(held, Tensor):
                more = held[:, -1:] if new is None else held.new_ones(held.shape[0], 1)
                told[name] = torch.cat((held, more), dim=-1)
        told.pop("position_ids", None)
        return told

    def _reorder_cache(self, past_key_values: object, beam_idx: Tensor) -> object:
        """A state of the model's own, rows in another order: tensors within tuples and lists, rows first."""
        if isinstance(past_key_values, Tensor):
            return past_key_values.index_select(0, beam_idx.to(past_key_values.device))
        if isinstance(past_key_values, (tuple, list)):
            return type(past_key_values)(self._reorder_cache(one, beam_idx) for one in past_key_values)
        if isinstance(past_key_values, Reorders):
            past_key_values.reorder_cache(beam_idx)
            return past_key_values
        raise InputError(
            "the model's state cannot be put into another order",
            where=f"{type(self).__name__}._reorder_cache",
            expected="tensors within tuples, or an object with reorder_cache",
            found=type(past_key_values).__name__,
        )

    def knows(self, token: int) -> bool:
        """Whether a token is in the vocabulary."""
        return token >= 0 and (self.vocabulary is None or token < self.vocabulary)


if TYPE_CHECKING:
    from omniform.core.config import ModelConfig

    class _Configured(nn.Module):
        config: ModelConfig
