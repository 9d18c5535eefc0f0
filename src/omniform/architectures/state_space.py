"""Decoders that keep a state of fixed size and no keys (Mamba): what they take and give has names of its own."""

from __future__ import annotations

from typing import Unpack, cast

from torch import Tensor

from omniform.architectures.decoder import CausalLM, TextDecoder
from omniform.architectures.stack import Stepped
from omniform.blocks.layers import run, surviving
from omniform.core.context import StepContext
from omniform.core.outputs import RecurrentCausalLMOutput, RecurrentModelOutput
from omniform.core.state import DenseState


class Continued(Stepped, total=False):
    """What may come with a step.

    Attributes:
        cache_params: ``past_key_values`` under the name that these models have for it.
    """

    cache_params: DenseState | None


class RecurrentDecoder(TextDecoder):
    """A decoder whose layers keep a state of fixed size."""

    def arrive(self, inputs: dict[str, object]) -> None:
        if inputs.get("cache_params") is not None:
            inputs["past_key_values"] = inputs.pop("cache_params")
        super().arrive(inputs)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out; what is noted are the layers' outputs."""
        hidden = run(surviving(self.layers, self.layerdrop), self.embeddings(embeds_BTD, ctx), ctx)
        if ctx.taps.wants_hidden:
            del ctx.taps.hidden_states[0]
        if self.norm is not None:
            hidden = self.norm(hidden)
        ctx.taps.hidden(hidden)
        return hidden

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Tensor | None,
        **given: Unpack[Continued],
    ) -> RecurrentModelOutput:
        """Hidden states of a padded batch; see :meth:`TextDecoder.forward`."""
        state = given.pop("cache_params", None)
        told = cast(Stepped, given if state is None else {**given, "past_key_values": state})
        out = super().forward(input_ids, attention_mask, *more, **told)
        return RecurrentModelOutput(
            last_hidden_state=out.last_hidden_state, cache_params=out.past_key_values, hidden_states=out.hidden_states
        )


class RecurrentCausalLM(CausalLM):
    """Such a decoder that writes."""

    def forward(  # type: ignore[override]
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> RecurrentCausalLMOutput:
        """Next-token scores; see :meth:`CausalLM.forward`."""
        out = cast(RecurrentModelOutput, self.model(*args, **inputs))
        logits = self.project(out.last_hidden_state[:, -logits_to_keep:])
        return RecurrentCausalLMOutput(
            loss=None if labels is None else self.loss(logits, labels, num_items_in_batch),
            logits=logits,
            cache_params=out.cache_params,
            hidden_states=out.hidden_states,
        )
