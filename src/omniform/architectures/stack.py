"""The one skeleton of text: a table of tokens, a stack of layers, and what stands between and after them.

Every encoder and decoder of text is a :class:`TextStack`; families differ in the parts they put in. What a step's
inputs may be is declared once, in :class:`Encoded` and :class:`Stepped`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import ClassVar, Unpack, cast

import torch
from torch import Tensor, nn

from omniform.architectures.model import Model, arrive_masked
from omniform.architectures.packing import PackedRows, arrive_packed, numbers_of
from omniform.blocks.embeddings import (
    Embeddings,
    bare_table,
    check_ids,
    check_position_ids,
    check_positions,
    check_token_types,
    table_rows,
)
from omniform.blocks.layers import run, surviving
from omniform.blocks.recurrent import Recurrence
from omniform.core.context import FirstContext, StepContext, Tapped
from omniform.core.errors import InputError, brief
from omniform.core.layouts import layout_of
from omniform.core.outputs import BaseModelOutput
from omniform.core.packed import PackedContext, Table, whole_rows
from omniform.core.state import DenseState
from omniform.core.texts import restarted


class Encoded(PackedRows, Tapped, total=False):
    """What may come with token ids and their mask.

    Attributes:
        token_type_ids: Shape: [B, T], for models that tell types apart; 0 by default.
        position_ids: Shape: [B, T]; 0, 1, 2... by default, after what the state holds.
        inputs_embeds: Shape: [B, T, D], instead of ``input_ids``.
        row_lengths: how many tokens each row begins with that are real; the others are not computed, and come out as
            zeros. None: all are computed.
    """

    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None
    row_lengths: Sequence[int] | None


class EncodedOnce(Encoded, total=False):
    """What may come with the one step of an encoder.

    Attributes:
        first_only: only the first token's hidden state is wanted: the last layer computes no other, and
            ``last_hidden_state`` has Shape: [B, 1, D].
    """

    first_only: bool | None


class Stepped(Encoded, total=False):
    """What may come with a decoder's step.

    Attributes:
        past_key_values: state of an earlier call to continue from; it is extended in place.
        use_cache: whether to return state; by default in evaluation mode only.
        cache_position: known from the state, and not read.
        output_router_logits: whether to return the scores of the routers, for a model of experts.
        encoder_hidden_states: Shape: [B, S, D], for a model with cross-attention.
        encoder_attention_mask: Shape: [B, S], 1 for real tokens.
        bidirectional: which of the new tokens see one another in both directions, whatever comes first: those with the
            same number, 0 for none. Shape: [B, T].
    """

    past_key_values: DenseState | None
    use_cache: bool | None
    cache_position: Tensor | None
    output_router_logits: bool | None
    encoder_hidden_states: Tensor | None
    encoder_attention_mask: Tensor | None
    bidirectional: Tensor | None


Pooler = Callable[[Tensor, Tensor | None], Tensor]
"""Hidden states and, for those that look for a token, ids to one vector per row. [B, T, D] and [B, T] to [B, D]."""


class TextStack(Model):
    """Tokens in, hidden states out.

    Attributes:
        embed_tokens: the table of token vectors.
        embeddings: what happens to token vectors before the first layer.
        layers: called as ``layer(hidden, ctx)``.
        norm: applied after the last layer.
        max_positions: the longest row the model can make sense of; None if there is no limit.
        pooler: makes one vector per row; None for none.
        layerdrop: probability of leaving out a layer in training.
        ORDER: inputs that may follow ``attention_mask`` by position.
        UNPADS: whether it reads rows of any lengths end to end, so that padding can be left out.
    """

    UNPADS: ClassVar[bool] = True
    embed_tokens: nn.Embedding
    embeddings: Embeddings
    layers: nn.ModuleList
    norm: nn.Module | None = None
    max_positions: int | None = None
    pooler: Pooler | None = None
    layerdrop: float = 0.0
    ORDER: ClassVar[tuple[str, ...]] = ("token_type_ids", "position_ids", "inputs_embeds")

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.embeddings.width or bare_table(self.embed_tokens).embedding_dim

    @property
    def read_width(self) -> int:
        """Width of the vectors that it reads."""
        return bare_table(self.embed_tokens).embedding_dim

    @property
    def routed(self) -> bool:
        """Whether any layer sends tokens to experts."""
        return any(layer.ROUTES for layer in self.layers)

    def unpads(self) -> bool:
        recurs = any(isinstance(module, Recurrence) for module in self.modules())
        return self.UNPADS and self.attn_backend != "eager" and not recurs

    @property
    def reads_memory(self) -> bool:
        """Whether any layer can look at an encoder's output."""
        return any(layer.READS_MEMORY for layer in self.layers)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    # -- inputs --------------------------------------------------------------------------------------------------------

    def accepts(self) -> frozenset[str]:
        strange = {"token_type_ids"} - self.embeddings.INPUTS
        if not self.routed:
            strange |= {"output_router_logits"}
        return super().accepts() - strange

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if (ids is None) == (embeds is None):
            raise InputError("give either input_ids or inputs_embeds", expected="exactly one of them")
        if ids is not None:
            check_ids(cast(Tensor, ids), table_rows(self.embed_tokens))
        else:
            check_embeds(embeds, self.read_width)
        tokens = cast(Tensor, embeds if ids is None else ids).shape[:2]
        past = inputs.get("past_key_values")
        kept = 0
        if isinstance(past, DenseState):
            past.admit(layout_of(self), tokens[0], tokens[1])
            kept = past.length
        types, places = inputs.get("token_type_ids"), inputs.get("position_ids")
        if isinstance(types, Tensor) and self.embeddings.types is not None:
            check_token_types(types, self.embeddings.types, tuple(tokens))
        if isinstance(places, Tensor) and self.embeddings.position_ids is not None:
            check_position_ids(places, self.embeddings.position_ids)
        elif self.embeddings.positions is not None:
            check_positions(kept + tokens[1], self.embeddings.positions)
        check_lengths(inputs.get("row_lengths"), *tokens)
        arrive_packed(inputs, cast(Tensor, embeds if ids is None else ids), past=kept)
        arrive_masked(inputs, rows=tokens[0], new=tokens[1], past=kept)

    def named(self, more: tuple[Tensor | None, ...], given: Encoded) -> None:
        """Put inputs that came by position where they belong."""
        order = [name for name in self.ORDER if name in self.accepts()]
        given.update(zip(order, more, strict=False))  # type: ignore[typeddict-item]

    # -- the maths -----------------------------------------------------------------------------------------------------

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids to vectors, all of them of the first type. Shape: [B, T] to [B, T, D]."""
        return self.embeddings.typed(self.embed_tokens(input_ids), None)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states. Shape: [B, T, D] in and out."""
        return run(surviving(self.layers, self.layerdrop), self.embeddings(embeds_BTD, ctx), ctx, self.norm)

    def vectors(self, input_ids: Tensor | None, given: Encoded) -> Tensor:
        """The token vectors of a call, with their types. Shape: [B, T, D]."""
        embeds = given.get("inputs_embeds")
        if embeds is None:
            assert input_ids is not None, "calls are checked when they arrive"
            embeds = cast(Tensor, self.embed_tokens(input_ids))
        return self.embeddings.typed(embeds, given.get("token_type_ids"))

    def places(
        self, input_ids: Tensor | None, embeds_BTD: Tensor, given: Encoded, mask: Tensor | None, past: int = 0
    ) -> Tensor | None:
        """Where the tokens of a call stand; None where they count 0, 1, 2... after what the state holds."""
        told = given.get("position_ids")
        if told is None and mask is not None and mask.dim() == 2:
            told = self.embeddings.count_real(mask, past)
        return self.embeddings.count(input_ids, embeds_BTD, past) if told is None else told

    def texts(
        self, embeds_BTD: Tensor, given: Encoded, mask: Tensor | None, *, bare: bool = True, any_step: bool = False
    ) -> Tensor | None:
        """Which text of its row each token of a call belongs to; see :func:`~.packing.numbers_of`."""
        told = given.get("position_ids")
        return numbers_of(given, told, embeds_BTD, bare=bare and mask is None, any_step=any_step)

    def begun_anew(self, places: Tensor | None, texts: Tensor | None, given: Encoded) -> Tensor | None:
        """Where tokens stand in rows of several texts, if the caller does not say: each text from its beginning."""
        if texts is None or given.get("position_ids") is not None:
            return places
        if places is None:
            places = torch.arange(texts.shape[-1], device=texts.device)[None]
        return restarted(places, texts)

    def unpadded(
        self,
        input_ids: Tensor | None,
        embeds_BTD: Tensor,
        given: Encoded,
        mask: Tensor | None,
        lengths: Sequence[int],
    ) -> BaseModelOutput:
        """One whole step of a padded batch whose padding is left out; hidden states are zeros there."""
        rows, longest = embeds_BTD.shape[:2]
        device = embeds_BTD.device
        real = torch.cat([torch.arange(i * longest, i * longest + n) for i, n in enumerate(lengths)]).to(device)
        places = self.places(input_ids, embeds_BTD, given, mask)
        if places is None:
            places = torch.arange(longest, device=device)[None]
        plain = self.step(embeds_BTD[:0], given)
        segments, tables = whole_rows(lengths)
        ctx = PackedContext(
            positions=places.expand(*places.shape[:-2], rows, longest).flatten(-2)[..., real][..., None, :],
            lengths=places.max() + 1,
            segments=segments,
            tables=defaultdict[int | None, Sequence[Table]](lambda: tables),  # whatever a rule's reach is
            backend=plain.backend,
            taps=plain.taps,
            recompute=plain.recompute,
        )
        hidden = self.decode(embeds_BTD.flatten(0, 1)[real][None], ctx)[0]
        whole = hidden.new_zeros(rows * longest, hidden.shape[-1]).index_copy(0, real, hidden)
        whole = whole.view(rows, longest, -1)
        pooled = None if self.pooler is None else self.pooler(whole, input_ids)
        return BaseModelOutput(last_hidden_state=whole, pooler_output=pooled)

    def outputs(self, embeds_BTD: Tensor, ctx: StepContext, input_ids: Tensor | None = None) -> BaseModelOutput:
        """One whole step: vectors through the layers, the state moved on, and all that was asked for.

        Args:
            embeds_BTD: Shape: [B, T, D].
            input_ids: Shape: [B, T], for poolers that look for a token.
        """
        hidden = self.decode(embeds_BTD, ctx)
        if ctx.state is not None:
            ctx.state.advance(embeds_BTD.shape[1])
        return BaseModelOutput(
            last_hidden_state=hidden,
            pooler_output=None if self.pooler is None else self.pooler(hidden, input_ids),
            past_key_values=ctx.state if isinstance(ctx.state, DenseState) else None,
            **ctx.taps.noted(),
            cross_attentions=ctx.taps.cross_or_none if ctx.memory is not None else None,
        )


class TextEncoder(TextStack):
    """A stack that is read in one step."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Tensor | None,
        **given: Unpack[EncodedOnce],
    ) -> BaseModelOutput:
        """Hidden states of a padded batch, and one vector per row if the model pools.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, T], 1 for real tokens; or [B, 1, T, T].
            given: see :class:`EncodedOnce`.

        Raises:
            InputError: ids outside their tables, too long a row, a mask that does not fit.
        """
        self.named(more, given)
        embeds = self.vectors(input_ids, given)
        lengths = given.get("row_lengths")
        if lengths is not None:
            out = self.unpadded(input_ids, embeds, given, attention_mask, lengths)
            if given.get("first_only"):
                out.last_hidden_state = out.last_hidden_state[:, :1]
            return out
        texts = self.texts(embeds, given, attention_mask)
        places = self.begun_anew(self.places(input_ids, embeds, given, attention_mask), texts, given)
        ctx = self.step(embeds, given, attention_mask=attention_mask, position_ids=places, texts=texts)
        return self.outputs(embeds, FirstContext.of(ctx) if given.get("first_only") else ctx, input_ids)


def check_lengths(lengths: object, rows: int, longest: int) -> None:
    """Raise :class:`InputError` unless these are how many tokens each row has, or nobody says it."""
    if lengths is None:
        return
    fits = isinstance(lengths, Sequence) and len(lengths) == rows
    if not fits or not all(isinstance(n, int) and 0 < n <= longest for n in cast(Sequence[object], lengths)):
        wanted = f"{rows} numbers from 1 to {longest}"
        raise InputError("rows are as long as this", where="row_lengths", expected=wanted, found=brief(lengths))


def check_embeds(embeds: object, width: int) -> None:
    """Raise :class:`InputError` unless these are vectors as a model of ``width`` reads them."""
    fits = isinstance(embeds, Tensor) and embeds.dim() == 3 and embeds.shape[2] == width and bool(embeds.numel())
    if not fits or not cast(Tensor, embeds).is_floating_point() or cast(Tensor, embeds).layout is not torch.strided:
        shape = f"{embeds.dtype} of shape {list(embeds.shape)}" if isinstance(embeds, Tensor) else type(embeds).__name__
        raise InputError(
            "vectors do not fit the model",
            where="inputs_embeds",
            expected=f"numbers of shape [batch, tokens, {width}]",
            found=shape,
        )
