"""Stacks that are given vectors and know no tokens: what predicts a frame's codes, what reads the frames of a sound."""

from __future__ import annotations

from typing import Unpack, cast

from torch import Tensor, nn

from omniform.architectures.decoder import state_for
from omniform.architectures.model import Model, arrive_masked
from omniform.architectures.stack import check_embeds
from omniform.blocks.layers import run
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError
from omniform.core.layouts import layout_of
from omniform.core.outputs import BaseModelOutput
from omniform.core.state import DenseState


class VectorStack(Model):
    """Vectors in, hidden states out.

    Args:
        layers: called as ``layer(hidden, ctx)``.
        norm: after the last of them.
        width: of the vectors.
        keeps: whether state is returned where a call does not say.
    """

    main_input = "inputs_embeds"

    layers: nn.ModuleList
    norm: nn.Module
    width: int
    keeps: bool = False

    def arrive(self, inputs: dict[str, object]) -> None:
        if inputs.get("input_ids") is not None:
            raise InputError("this stack knows no tokens", where="input_ids", expected="inputs_embeds")
        check_embeds(inputs.get("inputs_embeds"), self.width)
        rows, new = cast(Tensor, inputs["inputs_embeds"]).shape[:2]
        past = inputs.get("past_key_values")
        kept = 0
        if isinstance(past, DenseState):
            past.admit(layout_of(self), rows, new)
            kept = past.length
        arrive_masked(inputs, rows=rows, new=new, past=kept)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **asked: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of vectors.

        Args:
            input_ids: must be None.
            attention_mask: Shape: [B, past + T], 1 for what is real.
            position_ids: Shape: [B, T]; 0, 1, 2... by default, after what the state holds.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            inputs_embeds: Shape: [B, T, D].
            use_cache: whether to return state.

        Raises:
            InputError: tokens, vectors of another width.
        """
        assert inputs_embeds is not None, "calls are checked when they arrive"
        kept = self.keeps and not self.training if use_cache is None else use_cache
        state = state_for(self, past_key_values, kept, reads_memory=False)
        ctx = self.step(inputs_embeds, asked, attention_mask=attention_mask, position_ids=position_ids, state=state)
        hidden = self.decode(inputs_embeds, ctx)
        if state is not None:
            state.advance(inputs_embeds.shape[1])
        shown = state if kept or past_key_values is not None else None
        return BaseModelOutput(last_hidden_state=hidden, past_key_values=shown, **ctx.taps.noted())

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        return run(self.layers, embeds_BTD, ctx, self.norm)
