"""Decoders that write text: a stack of layers between a table of tokens and a projection onto the vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.generative import Generative, RowLayout
from omniform.architectures.losses import next_token_loss
from omniform.architectures.model import Model
from omniform.blocks.embeddings import PositionTable, check_ids, check_token_types
from omniform.blocks.layers import CrossPreNorm, run, surviving
from omniform.blocks.relative import BucketedBias
from omniform.core.batch import Item, Span
from omniform.core.caches import DynamicCache
from omniform.core.context import Memory, StepContext
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, MultimodalOutput
from omniform.core.state import DenseState


class LanguageModel(Model, ABC):
    """What a head that writes stands on: a decoder, alone or with encoders whose features go in with the prompt."""

    @property
    @abstractmethod
    def decoder(self) -> Decoder:
        """The decoder that reads the prompt's vectors and every token after them."""

    def keeper(self) -> Decoder:
        return self.decoder

    @property
    def reads_items(self) -> bool:
        """See :attr:`~omniform.architectures.generative.Generative.reads_items`."""
        return False

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        """See :meth:`~omniform.architectures.generative.Generative.items`."""
        if features:
            raise InputError("this model reads text only", where=", ".join(sorted(features)))
        return [[] for _ in rows]

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        """See :meth:`~omniform.architectures.generative.Generative.encode_items`."""
        raise InputError("this model reads text only", where="items", found=len(items))

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        """See :meth:`~omniform.architectures.generative.Generative.spans`."""
        return []

    def layout(self, row: Sequence[int], items: Sequence[Item], spans: Sequence[Span]) -> RowLayout:
        """See :meth:`~omniform.architectures.generative.Generative.layout`."""
        return RowLayout()


class Decoder(LanguageModel):
    """A decoder without a head: tokens in, hidden states out.

    Args:
        embed_tokens: the table of token vectors.
        layers: called as ``layer(hidden, ctx)``.
        norm: applied after the last layer.
        embed_positions: learned positions added to the token vectors; None where attention knows positions itself.
        max_positions: the longest row the model can make sense of; None if there is no limit.
        dropout: on the embeddings, in training.
        score_bias: what the layers' self-attention adds to its scores; None for nothing.
        layerdrop: probability of leaving out a layer in training.
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
        score_bias: BucketedBias | None = None,
        layerdrop: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.embed_positions = embed_positions
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.max_positions = max_positions
        self.dropout = dropout
        self.score_bias = score_bias
        self.layerdrop = layerdrop

    @property
    def decoder(self) -> Decoder:
        return self

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.embed_tokens.embedding_dim

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors. Shape: [B, T] to [B, T, D]."""
        vectors: Tensor = self.embed_tokens(input_ids)
        return vectors

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        if self.embed_positions is not None:
            embeds_BTD = embeds_BTD + self.embed_positions(ctx.positions)
        embeds_BTD = F.dropout(embeds_BTD, self.dropout, self.training)
        if self.score_bias is not None:
            ctx = ctx.with_(score_bias=self.score_bias.of(embeds_BTD.shape[1], ctx))
        return run(surviving(self.layers, self.layerdrop), embeds_BTD, ctx, self.norm)

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
        return self.outputs(embeds, ctx)

    def outputs(self, embeds_BTD: Tensor, ctx: StepContext) -> BaseModelOutput:
        """One whole step: vectors through the layers, the state moved on, and all that was asked for.

        Args:
            embeds_BTD: Shape: [B, T, D].

        Raises:
            InputError: positions beyond those that the model has learned.
        """
        if self.embed_positions is not None:
            self.embed_positions.check(ctx.positions)
        hidden = self.decode(embeds_BTD, ctx)
        if ctx.state is not None:
            ctx.state.advance(embeds_BTD.shape[1])
        return BaseModelOutput(
            last_hidden_state=hidden,
            past_key_values=ctx.state if isinstance(ctx.state, DenseState) else None,
            hidden_states=ctx.taps.hidden_or_none,
            attentions=ctx.taps.attentions_or_none,
            cross_attentions=ctx.taps.cross_or_none if ctx.memory is not None else None,
        )

    def embedded(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """The token vectors of a call, from whichever of the two it brought."""
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("give either input_ids or inputs_embeds", expected="exactly one of them")
        if inputs_embeds is not None:
            return inputs_embeds
        assert input_ids is not None
        check_ids(input_ids, self.embed_tokens.num_embeddings)
        return self.embed(input_ids)

    def state_for(self, past: DenseState | None, use_cache: bool | None) -> DenseState | None:
        """The state a call reads and writes: the one it was given, a fresh one, or none."""
        if past is not None:
            return past
        wanted = not self.training if use_cache is None else use_cache
        return DynamicCache() if wanted else None


class GPTDecoder(Decoder):
    """A decoder with the GPT line's own inputs: token types, from the table of tokens, and an encoder's output."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DenseState | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutput:
        """Hidden states of a padded batch; see :meth:`Decoder.forward` for the other inputs.

        Args:
            token_type_ids: Shape: [B, T], ids of tokens whose vectors are added.
            encoder_hidden_states: Shape: [B, S, D], for a model with cross-attention.
            encoder_attention_mask: Shape: [B, S], 1 for real tokens.
        """
        embeds = self.embedded(input_ids, inputs_embeds)
        if token_type_ids is not None:
            check_token_types(token_type_ids, self.embed_tokens.num_embeddings, embeds)
            embeds = embeds + self.embed(token_type_ids)
        ctx = self.step(
            embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            state=self.state_for(past_key_values, use_cache),
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        readable = any(isinstance(layer, CrossPreNorm) for layer in self.layers)
        memory = memory_from(encoder_hidden_states, encoder_attention_mask, dim=self.width, readable=readable)
        return self.outputs(embeds, ctx.with_(memory=memory))


class CausalLM(Generative):
    """A language model and its projection onto the vocabulary.

    Args:
        model: everything below the head.
        lm_head: hidden states to scores of tokens.
    """

    def __init__(self, model: LanguageModel, lm_head: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.lm_head = lm_head

    @property
    def decoder(self) -> Decoder:
        return self.model.decoder

    @property
    def reads_items(self) -> bool:
        return self.model.reads_items

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        return self.model.items(rows, features)

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        return self.model.encode_items(items)

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        return self.model.spans(row, items, lengths)

    def layout(self, row: Sequence[int], items: Sequence[Item], spans: Sequence[Span]) -> RowLayout:
        return self.model.layout(row, items, spans)

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
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> CausalLMOutput:
        """Next-token scores; see :meth:`Decoder.forward` for the other inputs.

        Args:
            labels: Shape: [B, T], the tokens themselves (they are shifted here), ``-100`` to leave out.
            logits_to_keep: compute scores of the last so many tokens only; 0 for all.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
        """
        out = cast(BaseModelOutput, self.model(input_ids=input_ids, attention_mask=attention_mask, **inputs))
        logits = self.project(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutput(
            loss=None if labels is None else next_token_loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
            image_hidden_states=out.image_hidden_states if isinstance(out, MultimodalOutput) else None,
        )


def memory_from(states: Tensor | None, mask: Tensor | None, *, dim: int, readable: bool) -> Memory | None:
    """An encoder's output as a caller of a decoder hands it over, for its cross-attention.

    Args:
        states: Shape: [B, S, D], or None.
        mask: Shape: [B, S], 1 for real tokens; or None.
        dim: the width that cross-attention reads.
        readable: whether the decoder has cross-attention at all.

    Raises:
        InputError: it has none, or the shapes do not fit.
    """
    if states is None:
        return None
    if not readable:
        raise InputError(
            "this model has no cross-attention to read an encoder's output with",
            where="encoder_hidden_states",
            remedy="Load a checkpoint whose config says add_cross_attention.",
        )
    if states.dim() != 3 or states.shape[-1] != dim:
        raise InputError(
            "the encoder's output does not fit",
            where="encoder_hidden_states",
            expected=f"shape [batch, tokens, {dim}]",
            found=f"shape {list(states.shape)}",
        )
    if mask is not None and mask.shape != states.shape[:2]:
        raise InputError(
            "the mask does not cover the encoder's output",
            where="encoder_attention_mask",
            expected=f"shape {list(states.shape[:2])}",
            found=f"shape {list(mask.shape)}",
        )
    return Memory(states, None if mask is None else mask.bool())


def tied(lm_head: nn.Linear, table: nn.Embedding, tie: bool) -> nn.Linear:
    """``lm_head``, sharing its matrix with the token table where the config says so."""
    if tie:
        lm_head.weight = table.weight
    return lm_head
