"""Layers of queries that look at something, beside a text that they read and that reads them (Q-Former).

Source: https://arxiv.org/abs/2301.12597.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor, nn

from omniform.blocks.layers import Layer, Norm
from omniform.core.context import StepContext
from omniform.core.errors import InputError

_FIELDS = tuple(f.name for f in fields(StepContext) if f.name != "_memo")


@dataclass(frozen=True, slots=True)
class QueriedContext(StepContext):
    """A step whose rows begin with queries.

    Attributes:
        queries: how many; what follows them is text.
    """

    queries: int = 0

    @classmethod
    def of(cls, ctx: StepContext, queries: int) -> QueriedContext:
        """``ctx`` with queries."""
        return cls(**{name: getattr(ctx, name) for name in _FIELDS}, queries=queries)


class QueryLayer(Layer):
    """Queries and text look at one another; then queries look at the memory, and each kind has a feed-forward.

    Attributes:
        encoder_attn: None in layers that do not look at the memory.
        mlp: the text's; None where there never is any.
    """

    self_attn: nn.Module
    self_attn_layer_norm: Norm
    encoder_attn: nn.Module | None = None
    encoder_attn_layer_norm: nn.Module | None = None
    query_mlp: nn.Module
    query_layer_norm: Norm
    mlp: nn.Module | None = None
    final_layer_norm: nn.Module | None = None
    READS_MEMORY: ClassVar[bool] = True

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        assert isinstance(ctx, QueriedContext), "whoever calls a stack of these counts its queries"
        x_BTD = self.self_attn_layer_norm(self.add(x_BTD, self.self_attn(x_BTD, ctx), ctx))
        queries, text = x_BTD[:, : ctx.queries], x_BTD[:, ctx.queries :]
        parts = []
        if ctx.queries:
            parts.append(self.asked(queries, ctx))
        if text.shape[1]:
            if self.mlp is None or self.final_layer_norm is None:
                raise InputError("these queries read no text", where="qformer_config: use_qformer_text_input")
            parts.append(self.final_layer_norm(self.add(text, self.mlp(text), ctx)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def asked(self, x_BQD: Tensor, ctx: StepContext) -> Tensor:
        """The queries, when they have looked. Shape: [B, Q, D] in and out."""
        if self.encoder_attn is not None and self.encoder_attn_layer_norm is not None:
            if ctx.memory is None:
                raise InputError("queries have nothing to look at", where="encoder_hidden_states", found="None")
            x_BQD = self.encoder_attn_layer_norm(self.add(x_BQD, self.encoder_attn(x_BQD, ctx), ctx))
            if ctx.taps.wants_attentions:
                # The ecosystem tells of it twice: by itself, and among all attentions as they were computed.
                ctx.taps.attentions.append(ctx.taps.cross_attentions[-1])
        normed: Tensor = self.query_layer_norm(self.add(x_BQD, self.query_mlp(x_BQD), ctx))
        return normed
