"""Text encoders (BERT and its kin): a stack of layers over a normed sum of tables, and its language-model heads.

With causal layers the same stack writes: :class:`TextDecoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import memory_from
from omniform.architectures.generative import Generative
from omniform.architectures.losses import next_token_loss, token_loss
from omniform.architectures.model import Model
from omniform.blocks.embeddings import PositionTable, check_ids, check_token_types
from omniform.blocks.layers import CrossPostNorm, run
from omniform.blocks.mlp import activation
from omniform.blocks.poolers import DensePooler
from omniform.core.batch import Item
from omniform.core.caches import DynamicCache
from omniform.core.context import StepContext
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutputWithPooling, CausalLMOutput, MaskedLMOutput, PreTrainingOutput
from omniform.core.state import DenseState


class TextEncoder(Model):
    """An encoder without a head: tokens in, hidden states out.

    Args:
        embed_tokens: the table of token vectors.
        embed_positions: learned positions.
        embed_token_types: vectors that tell a pair's first text from its second.
        embed_norm: applied to the sum of the three.
        layers: called as ``layer(hidden, ctx)``.
        pooler: makes one vector per row; None for none.
        dropout: on the embeddings, in training.
    """

    def __init__(
        self,
        *,
        embed_tokens: nn.Embedding,
        embed_positions: PositionTable,
        embed_token_types: nn.Embedding,
        embed_norm: nn.Module,
        layers: Iterable[nn.Module],
        pooler: DensePooler | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.embed_positions = embed_positions
        self.embed_token_types = embed_token_types
        self.embed_norm = embed_norm
        self.layers = nn.ModuleList(layers)
        self.pooler = pooler
        self.dropout = dropout

    @property
    def max_positions(self) -> int:
        """The longest row the model can make sense of."""
        return self.embed_positions.num_embeddings

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors, all of them of the first type. Shape: [B, T] to [B, T, D]."""
        return self.typed(cast(Tensor, self.embed_tokens(input_ids)))

    def typed(self, embeds_BTD: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Token vectors with their types added.

        Args:
            embeds_BTD: Shape: [B, T, D].
            token_type_ids: Shape: [B, T]; the first type by default.
        """
        if token_type_ids is None:
            token_type_ids = torch.zeros(embeds_BTD.shape[:2], dtype=torch.long, device=embeds_BTD.device)
        else:
            check_token_types(token_type_ids, self.embed_token_types.num_embeddings, embeds_BTD)
        types: Tensor = self.embed_token_types(token_type_ids)
        return embeds_BTD + types

    def encode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        normed = self.embed_norm(embeds_BTD + self.embed_positions(ctx.positions))
        return run(self.layers, F.dropout(normed, self.dropout, self.training), ctx)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Hidden states of a padded batch.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens; or [B, 1, T, T].
            token_type_ids: Shape: [B, T], 0 for the first text of a pair and 1 for the second; 0 by default.
            position_ids: Shape: [B, T]; 0, 1, 2... by default.
            inputs_embeds: Shape: [B, T, D], instead of ``input_ids``.

        Raises:
            InputError: ids outside their tables, too long a row, a mask that does not fit.
        """
        embeds = self.embedded(input_ids, inputs_embeds, token_type_ids)
        ctx = self.step(
            embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        return self.outputs(embeds, ctx)

    def embedded(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        """The token vectors of a call, with their types."""
        if input_ids is not None and inputs_embeds is None:
            check_ids(input_ids, self.embed_tokens.num_embeddings)
            return self.typed(cast(Tensor, self.embed_tokens(input_ids)), token_type_ids)
        if inputs_embeds is not None and input_ids is None:
            return self.typed(inputs_embeds, token_type_ids)
        raise InputError("give either input_ids or inputs_embeds", expected="exactly one of them")

    def outputs(self, embeds_BTD: Tensor, ctx: StepContext) -> BaseModelOutputWithPooling:
        """One whole step: vectors through the layers, the state moved on, and all that was asked for.

        Args:
            embeds_BTD: Shape: [B, T, D].

        Raises:
            InputError: positions beyond those that the model has learned.
        """
        self.embed_positions.check(ctx.positions)
        hidden = self.encode(embeds_BTD, ctx)
        if ctx.state is not None:
            ctx.state.advance(embeds_BTD.shape[1])
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden),
            past_key_values=ctx.state if isinstance(ctx.state, DenseState) else None,
            hidden_states=ctx.taps.hidden_or_none,
            attentions=ctx.taps.attentions_or_none,
            cross_attentions=ctx.taps.cross_or_none if ctx.memory is not None else None,
        )


class TextDecoder(TextEncoder):
    """The same stack with causal layers, some of which may look at an encoder's output."""

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states; the name that every model which writes has for it. Shape: [B, T, D] in and out."""
        return self.encode(embeds_BTD, ctx)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DenseState | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """Hidden states of a padded batch; see :meth:`TextEncoder.forward` for the other inputs.

        Args:
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            encoder_hidden_states: Shape: [B, S, D], for a model with cross-attention.
            encoder_attention_mask: Shape: [B, S], 1 for real tokens.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            use_cache: whether to return state; by default in evaluation mode only.
        """
        embeds = self.embedded(input_ids, inputs_embeds, token_type_ids)
        state = past_key_values
        if state is None and (not self.training if use_cache is None else use_cache):
            state = DynamicCache()
        ctx = self.step(
            embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            state=state,
            hidden_states=output_hidden_states,
            attentions=output_attentions,
        )
        readable = any(isinstance(layer, CrossPostNorm) for layer in self.layers)
        dim = self.embed_tokens.embedding_dim
        memory = memory_from(encoder_hidden_states, encoder_attention_mask, dim=dim, readable=readable)
        return self.outputs(embeds, ctx.with_(memory=memory))


class VocabularyHead(nn.Module):
    """Hidden states to scores of every token, through a projection, an activation and a norm (BERT, RoBERTa).

    Args:
        table: the table of token vectors.
        act: name of the activation.
        eps: of the norm.
        tie: whether the last projection is the table itself, and ``bias`` its bias. Where it is not, checkpoints
            hold a ``bias`` all the same, which nothing reads.
    """

    def __init__(self, table: nn.Embedding, act: str, eps: float, *, tie: bool) -> None:
        super().__init__()
        vocabulary, dim = table.weight.shape
        self.dense = nn.Linear(dim, dim)
        self.layer_norm = nn.LayerNorm(dim, eps)
        self.decoder = nn.Linear(dim, vocabulary)
        self.act = act
        self._act = activation(act)
        if tie:
            self.decoder.weight = table.weight
        self.bias = self.decoder.bias if tie else nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Tensor) -> Tensor:
        """Shape: [..., D] to [..., V]."""
        scores: Tensor = self.decoder(self.layer_norm(self._act(self.dense(hidden))))
        return scores

    def extra_repr(self) -> str:
        return f"act={self.act}"


class MaskedLM(Model):
    """An encoder that fills in masked tokens."""

    def __init__(self, model: TextEncoder, lm_head: VocabularyHead) -> None:
        super().__init__()
        self.model = model
        self.lm_head = lm_head

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def forward(self, *args: Tensor, labels: Tensor | None = None, **inputs: object) -> MaskedLMOutput:
        """Scores of every token at every place; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
        """
        out = cast(BaseModelOutputWithPooling, self.model(*args, **inputs))
        logits = self.lm_head(out.last_hidden_state)
        return MaskedLMOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


class PreTraining(Model):
    """BERT's pre-training: masked tokens, and whether the second text follows the first."""

    def __init__(self, model: TextEncoder, lm_head: VocabularyHead, seq_relationship: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.lm_head = lm_head
        self.seq_relationship = seq_relationship

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def forward(
        self,
        *args: Tensor,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        **inputs: object,
    ) -> PreTrainingOutput:
        """Both heads' scores; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; with ``next_sentence_label`` gives a loss.
            next_sentence_label: Shape: [B], 0 where the second text follows the first and 1 where it does not.
        """
        out = cast(BaseModelOutputWithPooling, self.model(*args, **inputs))
        logits, relation = self.lm_head(out.last_hidden_state), self.seq_relationship(out.pooler_output)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = token_loss(logits, labels) + F.cross_entropy(relation, next_sentence_label.view(-1))
        return PreTrainingOutput(
            loss=loss,
            prediction_logits=logits,
            seq_relationship_logits=relation,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


class TextWriter(Generative):
    """The stack with a head for the next token. It can be asked for scores in any case, and writes if it is causal."""

    def __init__(self, model: TextEncoder, lm_head: VocabularyHead) -> None:
        super().__init__()
        self.model = model
        self.lm_head = lm_head

    def can_generate(self) -> bool:
        return isinstance(self.model, TextDecoder)

    @property
    def decoder(self) -> TextDecoder:
        assert isinstance(self.model, TextDecoder), "asked only of models that can generate"
        return self.model

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        # Tokenizers hand over token types with every text; a prompt is one text, and its types are all 0.
        types = features.get("token_type_ids")
        if types is not None and bool(types.any()):
            raise InputError("a prompt is one text", where="token_type_ids", expected="0 everywhere")
        return super().items(rows, {k: v for k, v in features.items() if k != "token_type_ids"})

    def project(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.lm_head(hidden)
        return scores

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def forward(
        self, *args: Tensor, labels: Tensor | None = None, logits_to_keep: int = 0, **inputs: object
    ) -> CausalLMOutput:
        """Next-token scores; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], the tokens themselves (they are shifted here), ``-100`` to leave out.
            logits_to_keep: compute scores of the last so many tokens only; 0 for all.
        """
        if labels is not None and self.can_generate():
            # Nobody continues from a step that is there for its loss.
            inputs["use_cache"] = False
        out = cast(BaseModelOutputWithPooling, self.model(*args, **inputs))
        logits = self.project(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutput(
            loss=None if labels is None else next_token_loss(logits, labels),
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
        )
