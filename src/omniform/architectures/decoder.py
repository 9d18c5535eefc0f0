"""Decoders that write text: a stack of layers between a table of tokens and a projection onto the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.generative import Generative
from omniform.architectures.losses import next_token_loss
from omniform.architectures.model import Model
from omniform.blocks.embeddings import PositionTable, check_ids, check_positions
from omniform.blocks.layers import run
from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, CausalLMOutput
from omniform.core.state import DenseState


class Decoder(Model):
    """A decoder without a head: tokens in, hidden states out.

    Args:
        embed_tokens: the table of token vectors.
        layers: called as ``layer(hidden, ctx)``.
        norm: applied after the last layer.
        embed_positions: learned positions added to the token vectors; None where attention knows positions itself.
        max_positions: the longest row the model can make sense of; None if there is no limit.
        dropout: on the embeddings, in training.
    """

    def __init__(
        self,
        *,
        embed_tokens: nn.Embedding,
        layers: Iterable[nn.Module],
        norm: nn.Module | None,
        embed_positions: PositionTable | None = None,
        max_positions: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.embed_positions = embed_positions
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.max_positions = max_positions
        self.dropout = dropout

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors. Shape: [B, T] to [B, T, D]."""
        vectors: Tensor = self.embed_tokens(input_ids)
        return vectors

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        if self.embed_positions is not None:
            embeds_BTD = embeds_BTD + self.embed_positions(ctx.positions)
        embeds_BTD = F.dropout(embeds_BTD, self.dropout, self.training)
        return run(self.layers, embeds_BTD, ctx, self.norm)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutput:
        """Hidden states of a padded batch.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for real tokens; or [B, 1, T, past + T].
            position_ids: Shape: [B, T]; 0, 1, 2... after ``past_key_values`` by default.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            inputs_embeds: Shape: [B, T, D], instead of ``input_ids``.
            use_cache: whether to return state; by default in evaluation mode only.

        Raises:
            InputError: ids outside the vocabulary, too long a row, a mask that does not fit.
        """
        embeds = self.embedded(input_ids, inputs_embeds)
        ctx = self.step(
            embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            state=self.state_for(past_key_values, use_cache),
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        hidden = self.decode(embeds, ctx)
        if ctx.state is not None:
            ctx.state.advance(embeds.shape[1])
        return BaseModelOutput(
            last_hidden_state=hidden,
            past_key_values=ctx.state if isinstance(ctx.state, DenseState) else None,
            hidden_states=ctx.taps.hidden_or_none,
            attentions=ctx.taps.attentions_or_none,
        )

    def embedded(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The token vectors of a call, from whichever of the two it brought."""
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds", expected="exactly one of them")
        if inputs_embeds is not None:
            return inputs_embeds
        assert input_ids is not None
        check_ids(input_ids, self.embed_tokens.num_embeddings)
        if self.embed_positions is not None and self.max_positions is not None:
            check_positions(input_ids.shape[1], self.max_positions)
        return self.embed(input_ids)

    def state_for(self, past: DenseState | None, use_cache: bool | None) -> DenseState | None:
        """The state a call reads and writes: the one it was given, a fresh one, or none."""
        if past is not None:
            return past
        wanted = not self.training if use_cache is None else use_cache
        return DenseState() if wanted else None


class CausalLM(Generative):
    """A decoder and its projection onto the vocabulary.

    Args:
        model: the decoder.
        lm_head: hidden states to scores of tokens.
    """

    def __init__(self, model: Decoder, lm_head: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.lm_head = lm_head

    @property
    def max_positions(self) -> int | None:
        """The longest row the model can make sense of."""
        return self.model.max_positions

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.model.embed(input_ids)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return self.model.decode(embeds_BTD, ctx)

    def project(self, hidden: Tensor) -> Tensor:
        """Scores of every token of the vocabulary. Shape: [..., D] to [..., V]."""
        scores: Tensor = self.lm_head(hidden)
        return scores

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **inputs: object,
    ) -> CausalLMOutput:
        """Next-token scores; see :meth:`Decoder.forward` for the other inputs.

        Args:
            labels: Shape: [B, T], the tokens themselves (they are shifted here), ``-100`` to leave out.
            logits_to_keep: compute scores of the last so many tokens only; 0 for all.
        """
        out = cast(BaseModelOutput, self.model(input_ids, attention_mask, **inputs))
        logits = self.project(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutput(
            loss=None if labels is None else next_token_loss(logits, labels),
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


def tied(lm_head: nn.Linear, table: nn.Embedding, tie: bool) -> nn.Linear:
    """``lm_head``, sharing its matrix with the token table where the config says so."""
    if tie:
        lm_head.weight = table.weight
    return lm_head
