"""Decoders that write text: a stack of layers between a table of tokens and a projection onto the vocabulary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.generative import Generative, PromptReader, RowLayout
from omniform.architectures.labels import IGNORED, Classes, Targets
from omniform.architectures.lean import LossOnly, loss_at, places_of
from omniform.architectures.losses import Items, next_token_loss, scored
from omniform.architectures.model import Model
from omniform.architectures.stack import Stepped, TextStack
from omniform.architectures.unpadded import leave_out_padding
from omniform.core.batch import Item, Span
from omniform.core.caches import Cache, DynamicCache
from omniform.core.context import Memory
from omniform.core.errors import InputError, check_shape
from omniform.core.host import is_jit_traced, is_traced
from omniform.core.layouts import HasLayers, layout_of
from omniform.core.outputs import BaseModelOutput, CausalLMOutput, Seen
from omniform.core.paired_cache import EncoderDecoderCache
from omniform.core.recompute import Recompute
from omniform.core.state import DenseState, mixers


class LanguageModel(PromptReader, ABC):
    """What a head that writes stands on: a decoder, alone or with encoders whose features go in with the prompt."""

    @property
    @abstractmethod
    def decoder(self) -> TextDecoder:
        """The decoder that reads the prompt's vectors and every token after them."""

    def keeper(self) -> TextDecoder:
        return self.decoder


class TextDecoder(TextStack, LanguageModel):
    """A stack that is read on step by step, alone or looking at an encoder's output.

    Attributes:
        routes_unasked: whether the scores of its routers are returned where nobody says; None in families that have
            none.
    """

    routes_unasked: bool | None = None
    ORDER: ClassVar[tuple[str, ...]] = ("token_type_ids", "position_ids", "past_key_values", "inputs_embeds")

    @property
    def decoder(self) -> TextDecoder:
        return self

    @property
    def memory_width(self) -> int:
        """Width of the encoder's output that its layers look at."""
        return self.width

    def unpads(self) -> bool:
        return super().unpads() and not self.routes_unasked

    @property
    def routed(self) -> bool:
        """Whether it can be asked for its routers' scores: also where a config makes every layer dense."""
        return self.routes_unasked is not None or super().routed

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Tensor | None,
        **given: Unpack[Stepped],
    ) -> BaseModelOutput:
        """Hidden states of a padded batch.

        Args:
            input_ids: Shape: [B, T].
            attention_mask: Shape: [B, past + T], 1 for real tokens; or [B, 1, T, past + T].
            given: see :class:`~omniform.architectures.stack.Stepped`.

        Raises:
            InputError: ids outside the vocabulary, too long a row, a mask that does not fit.
        """
        self.named(more, given)
        embeds = self.vectors(input_ids, given)
        lengths = given.get("row_lengths")
        if lengths is not None and given.get("past_key_values") is None:
            return self.unpadded(input_ids, embeds, given, attention_mask, lengths)
        state = self.state_for(given.get("past_key_values"), given.get("use_cache"))
        past = 0 if state is None else state.length
        use_cache = given.get("use_cache")
        fresh = given.get("past_key_values") is None and use_cache is not True
        texts = self.texts(embeds, given, attention_mask, bare=fresh, any_step=use_cache is False)
        places = self.places(input_ids, embeds, given, attention_mask, past)
        ctx = self.step(
            embeds,
            given,
            attention_mask=attention_mask,
            position_ids=self.begun_anew(places, texts, given),
            state=state,
            texts=texts,
            bidirectional=given.get("bidirectional"),
        )
        states, mask = given.get("encoder_hidden_states"), given.get("encoder_attention_mask")
        memory = memory_from(states, mask, dim=self.memory_width, readable=self.reads_memory)
        asked = given.get("output_router_logits")
        routes = self.routes_unasked if asked is None else asked
        if routes:  # not an assignment of False: a model that is written down has no taps
            ctx.taps.wants_routers = True
        out = self.outputs(embeds, ctx if memory is None else ctx.with_(memory=memory), input_ids)
        if routes:
            out.router_logits = tuple(ctx.taps.routers) or None
        return out

    def state_for(self, past: DenseState | None, use_cache: bool | None) -> DenseState | None:
        """The state a call reads and writes: the one it was given, a fresh one, or none."""
        return state_for(self, past, use_cache, reads_memory=self.reads_memory)


class Stateful(HasLayers, Protocol):
    """A model of layers that keep something."""

    training: bool

    @property
    def recompute(self) -> Recompute | None: ...


def state_for(
    decoder: Stateful, past: DenseState | None, use_cache: bool | None, *, reads_memory: bool
) -> DenseState | None:
    """The state that a call of a decoder reads and writes: the one it was given, a fresh one, or none."""
    if past is not None:
        return past
    wanted = not decoder.training and not is_jit_traced() if use_cache is None else use_cache
    if not wanted or (decoder.training and decoder.recompute is not None):  # it would be written twice
        return None
    cache: Cache = EncoderDecoderCache() if reads_memory else DynamicCache()
    if not is_traced():
        cache.settle(layout_of(decoder))
    return cache


class WritingHead(Generative):
    """A model and its projection onto the vocabulary.

    Args:
        model: everything below the head.
        lm_head: hidden states to scores of tokens.
        adjust: what is done to the scores (a bound, a factor); None for nothing.

    Attributes:
        SHIFT: how many places to the right of its score a label stands; None where the loss reads all scores.
    """

    SHIFT: ClassVar[int | None] = 1

    model: Model
    lm_head: nn.Module
    adjust: Callable[[Tensor], Tensor] | None = None

    def project(self, hidden: Tensor) -> Tensor:
        """Scores of every token of the vocabulary. Shape: [..., D] to [..., V]."""
        scores: Tensor = self.lm_head(hidden)
        return scores if self.adjust is None else self.adjust(scores)

    def scores(self, hidden_BTD: Tensor, keep: Tensor | int) -> Tensor:
        """Scores of the last so many tokens (0 for all), of some places (in each row, or [B, n]), or of a mask [B, T].

        Shape: [B, n, V]; [all that a mask keeps, V].
        """
        if isinstance(keep, int):
            return self.project(hidden_BTD[:, -keep:])
        if keep.dim() == 1:
            return self.project(hidden_BTD[:, keep])
        if keep.dtype == torch.bool:
            return self.project(hidden_BTD[keep])
        return self.project(hidden_BTD.take_along_dim((keep % hidden_BTD.shape[1])[..., None], dim=1))

    def loss(self, logits_BTV: Tensor, labels_BT: Tensor, items: Items) -> Tensor:
        """How far scores are from the tokens that follow; ``items`` divides the sum, if not their own number."""
        return next_token_loss(logits_BTV, labels_BT, items)

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.vocabulary)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels = inputs.get("labels")
        return scored(labels[..., 1:]) if isinstance(labels, Tensor) else None

    def lighten(self, inputs: dict[str, object]) -> None:
        leave_out_padding(self, inputs)
        if self.SHIFT is not None and inputs.get("labels") is not None and not inputs.get("logits_to_keep"):
            inputs["loss_only"] = LossOnly(places_of(inputs["labels"], self.SHIFT))

    def scored(
        self,
        hidden_BTD: Tensor,
        labels: Tensor | None,
        keep: Tensor | int,
        items: Items,
        lean: LossOnly | bool | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scores that are wanted, and the loss where there are labels; the loss alone where nothing else is."""
        if labels is None or self.SHIFT is None or not isinstance(lean, LossOnly):
            logits = self.scores(hidden_BTD, keep)
            return logits, None if labels is None else self.loss(logits, labels, items)
        beside = F.pad(labels, (0, self.SHIFT), value=IGNORED)[..., self.SHIFT :]
        return None, loss_at(hidden_BTD, beside, lean.places, self.lm_head, self.adjust, items)

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        logits_to_keep: Tensor | int = 0,
        num_items_in_batch: Tensor | int | None = None,
        loss_only: LossOnly | bool | None = None,
        **inputs: object,
    ) -> CausalLMOutput:
        """Next-token scores; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], the tokens themselves (they are shifted here), ``-100`` to leave out.
            logits_to_keep: compute scores of the last so many tokens only (0 for all), or of those at some places; see
                :meth:`scores`.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
            loss_only: that nobody looks at the scores.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        logits, loss = self.scored(out.last_hidden_state, labels, logits_to_keep, num_items_in_batch, loss_only)
        return CausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
            cross_attentions=out.cross_attentions,
            **self.repeated(out),
        )

    def repeated(self, out: BaseModelOutput) -> Seen:
        """What the output repeats of the items among the tokens: all of it, if a model does not say otherwise."""
        return out.seen()


class CausalLM(WritingHead):
    """A language model that writes; what it reads beside text, it knows itself.

    One whose tokens see what follows them can be asked for scores, and does not write.
    """

    model: LanguageModel

    def can_generate(self) -> bool:
        return not any(mixer.looks_ahead() for mixer in mixers(self.decoder))

    @property
    def decoder(self) -> TextDecoder:
        return self.model.decoder

    @property
    def reads_items(self) -> bool:
        return self.model.reads_items

    @property
    def placeholders(self) -> frozenset[int]:
        return self.model.placeholders

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        return self.model.items(rows, features)

    def encode_items(self, items: Sequence[Item]) -> list[Tensor]:
        return self.model.encode_items(items)

    def spans(self, row: Sequence[int], items: Sequence[Item], lengths: Sequence[int]) -> list[Span]:
        return self.model.spans(row, items, lengths)

    def layout(self, row: Sequence[int], items: Sequence[Item], spans: Sequence[Span]) -> RowLayout:
        return self.model.layout(row, items, spans)

    def embed(self, input_ids: Tensor) -> Tensor:
        return super().embed(self.named_by_table(input_ids))

    def named_by_table(self, input_ids: Tensor) -> Tensor:
        return self.model.named_by_table(input_ids)

    @property
    def tokenwise(self) -> frozenset[str]:
        return self.model.tokenwise

    def told_layout(self, beside: Mapping[str, Sequence[int]]) -> RowLayout:
        return self.model.told_layout(beside)


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
    if mask is not None:
        problem = "the mask does not cover the encoder's output"
        check_shape(problem, mask.shape, states.shape[:2], where="encoder_attention_mask")
    return Memory(states, None if mask is None else mask.bool())


def tied(lm_head: nn.Linear, table: nn.Embedding, tie: bool) -> nn.Linear:
    """``lm_head``, sharing its matrix with the token table where the config says so."""
    if tie:
        lm_head.weight = table.weight
    return lm_head
