"""Transformer layers: where the norms stand, and whether there is cross-attention. Small classes, no flags.

The parts are passed in. Their attribute names are the Hub's, so that most key maps are the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from omniform.core.context import StepContext

Layer = Callable[[Tensor, StepContext], Tensor]


def surviving(layers: nn.ModuleList, layerdrop: float) -> Iterable[Layer]:
    """The layers of one step: in training, each is left out with probability ``layerdrop``.

    This is LayerDrop (https://arxiv.org/abs/1909.11556).
    """
    if not (layers.training and layerdrop):
        return layers
    return [layer for layer, luck in zip(layers, torch.rand(len(layers)).tolist(), strict=True) if luck >= layerdrop]


def run(layers: Iterable[Layer], x_BTD: Tensor, ctx: StepContext, norm: nn.Module | None = None) -> Tensor:
    """Pass hidden states through a stack of layers and its final norm, noting them for whoever asked.

    Args:
        x_BTD: Shape: [B, T, D].
        norm: applied after the last layer; the last hidden state noted is the normed one.

    Returns:
        Shape: [B, T, D]; of a packed step, only what was asked for.
    """
    stack = list(layers)
    for number, layer in enumerate(stack):
        ctx.taps.hidden(x_BTD)
        here = ctx if number < len(stack) - 1 else ctx.last_layer()
        x_BTD = checkpoint(layer, x_BTD, here, use_reentrant=False) if ctx.recompute else layer(x_BTD, here)
    if not stack:
        x_BTD = ctx.last_layer().kept(x_BTD)
    if norm is not None:
        x_BTD = norm(x_BTD)
    ctx.taps.hidden(x_BTD)
    return x_BTD


class PreNorm(nn.Module):
    """``x + attn(norm(x))``, then ``x + mlp(norm(x))`` (GPT-2, Llama, ViT, CLIP)."""

    def __init__(
        self,
        *,
        input_layernorm: nn.Module,
        self_attn: nn.Module,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_layernorm = input_layernorm
        self.self_attn = self_attn
        self.post_attention_layernorm = post_attention_layernorm
        self.mlp = mlp
        self.dropout = dropout

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        x_BTD = ctx.kept(x_BTD) + _dropped(self, self.self_attn(self.input_layernorm(x_BTD), ctx))
        return x_BTD + _dropped(self, self.mlp(self.post_attention_layernorm(x_BTD)))


class PostNorm(nn.Module):
    """``norm(x + attn(x))``, then ``norm(x + mlp(x))`` (BERT, the original transformer)."""

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        self_attn_layer_norm: nn.Module,
        mlp: nn.Module,
        final_layer_norm: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.self_attn_layer_norm = self_attn_layer_norm
        self.mlp = mlp
        self.final_layer_norm = final_layer_norm
        self.dropout = dropout

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        x_BTD = self.self_attn_layer_norm(ctx.kept(x_BTD) + _dropped(self, self.self_attn(x_BTD, ctx)))
        normed: Tensor = self.final_layer_norm(x_BTD + _dropped(self, self.mlp(x_BTD)))
        return normed


class CrossPreNorm(nn.Module):
    """A pre-norm layer that also looks at an encoder's output (T5 and Whisper decoders).

    Without an encoder's output, in a decoder that is used alone, it is a plain :class:`PreNorm`.
    """

    def __init__(
        self,
        *,
        self_attn_layer_norm: nn.Module,
        self_attn: nn.Module,
        encoder_attn_layer_norm: nn.Module,
        encoder_attn: nn.Module,
        final_layer_norm: nn.Module,
        mlp: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attn_layer_norm = self_attn_layer_norm
        self.self_attn = self_attn
        self.encoder_attn_layer_norm = encoder_attn_layer_norm
        self.encoder_attn = encoder_attn
        self.final_layer_norm = final_layer_norm
        self.mlp = mlp
        self.dropout = dropout

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        x_BTD = ctx.kept(x_BTD) + _dropped(self, self.self_attn(self.self_attn_layer_norm(x_BTD), ctx))
        if ctx.memory is not None:
            x_BTD = x_BTD + _dropped(self, self.encoder_attn(self.encoder_attn_layer_norm(x_BTD), ctx))
        return x_BTD + _dropped(self, self.mlp(self.final_layer_norm(x_BTD)))


class CrossPostNorm(nn.Module):
    """A post-norm layer that also looks at an encoder's output (DETR, the original transformer's decoder).

    Without an encoder's output, in a decoder that is used alone, it is a plain :class:`PostNorm`.
    """

    def __init__(
        self,
        *,
        self_attn: nn.Module,
        self_attn_layer_norm: nn.Module,
        encoder_attn: nn.Module,
        encoder_attn_layer_norm: nn.Module,
        mlp: nn.Module,
        final_layer_norm: nn.Module,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.self_attn_layer_norm = self_attn_layer_norm
        self.encoder_attn = encoder_attn
        self.encoder_attn_layer_norm = encoder_attn_layer_norm
        self.mlp = mlp
        self.final_layer_norm = final_layer_norm
        self.dropout = dropout

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        x_BTD = self.self_attn_layer_norm(ctx.kept(x_BTD) + _dropped(self, self.self_attn(x_BTD, ctx)))
        if ctx.memory is not None:
            x_BTD = self.encoder_attn_layer_norm(x_BTD + _dropped(self, self.encoder_attn(x_BTD, ctx)))
        normed: Tensor = self.final_layer_norm(x_BTD + _dropped(self, self.mlp(x_BTD)))
        return normed


def _dropped(layer: PreNorm | PostNorm | CrossPreNorm | CrossPostNorm, x: Tensor) -> Tensor:
    return F.dropout(x, layer.dropout) if layer.training and layer.dropout else x
