"""Transformer layers: where the norms stand, and whether there is cross-attention. Small classes, no flags.

The parts are passed in. Their attribute names are the Hub's, so that most key maps are the identity.

**The contract with the engine**, kept by :class:`Layer`: a step's last layer is *wanted* for some of its tokens only. A
mixer reads all of them and may give back the wanted ones alone; :meth:`Layer.add` then leaves out the others of what it
adds to, so that whatever follows computes only what is asked for. Only a layer whose branches read the same input needs
to know: the second reads ``ctx.like(x, first)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.lowering import ReadAsWritten, Stack
from omniform.core.context import StepContext

Step = Callable[[Tensor, StepContext], Tensor]

Norm = nn.Module
"""What a layer's body calls the parts that :meth:`Layer.of` makes."""


class Layer(Composed, ReadAsWritten):
    """Base of the layers of a stack: called as ``layer(hidden, ctx)``, Shape: [B, T, D] in, and out what is wanted.

    It is lowered as its ``forward`` is written, whichever layer it is.

    Attributes:
        dropout: on what each branch adds, in training.
        READS_MEMORY: whether it looks at an encoder's output where there is one.
        ROUTES: whether it sends tokens to experts.
    """

    dropout: float = 0.0
    READS_MEMORY: ClassVar[bool] = False
    ROUTES: ClassVar[bool] = False
    READ: ClassVar[frozenset[str]] = frozenset({"forward", "add"})
    _NORMS: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        cls._NORMS += tuple(n for n, kind in vars(cls).get("__annotations__", {}).items() if kind == "Norm")

    @classmethod
    def of(cls, norm: Callable[[], nn.Module], **parts: object) -> Self:
        """A layer of the given parts whose norms are all alike.

        Args:
            norm: makes one of them.
        """
        made: Callable[..., Self] = cls
        return made(**{name: norm() for name in cls._NORMS}, **parts)

    def add(self, x_BTD: Tensor, branch_BTD: Tensor, ctx: StepContext) -> Tensor:
        """The residual stream and what a branch adds to it, of the tokens that the branch gave back."""
        if self.training and self.dropout:
            branch_BTD = F.dropout(branch_BTD, self.dropout)
        return ctx.like(x_BTD, branch_BTD) + branch_BTD


def crossing_parts(model: nn.Module) -> list[str]:
    """The paths of what only looks at an encoder's output in the layers of a model."""
    return [
        f"{path}.{name}"
        for path, layer in model.named_modules()
        if isinstance(layer, Layer) and layer.READS_MEMORY
        for name in layer._modules
        if name.startswith("encoder_attn")
    ]


def surviving(layers: nn.ModuleList, layerdrop: float) -> Iterable[Step]:
    """The layers of one step: in training, each is left out with probability ``layerdrop``.

    This is LayerDrop (https://arxiv.org/abs/1909.11556). A layer's luck is drawn when its turn comes, between its
    neighbours' dropouts, as the reference draws it: equal seeds leave out the same and train the same.
    """
    if not (layers.training and layerdrop):
        return layers
    return (layer for layer in layers if torch.rand(()).item() >= layerdrop)


def run(layers: Iterable[Step], x_BTD: Tensor, ctx: StepContext, norm: nn.Module | None = None) -> Tensor:
    """Pass hidden states through a stack of layers and its final norm, noting them for whoever asked.

    Args:
        layers: where nobody knows yet which is the last one, none is told so, and what is not wanted goes at the end.
        x_BTD: Shape: [B, T, D].
        norm: applied after the last layer; the last hidden state noted is the normed one.

    Returns:
        Shape: [B, T, D]; of a packed step, only what is wanted.
    """
    if isinstance(layers, Stack) and (made := layers.through(x_BTD, ctx, norm)) is not None:
        return made
    count = len(layers) if isinstance(layers, Sized) else None
    last = ctx.last_layer()
    for number, layer in enumerate(layers, 1):
        ctx.taps.hidden(x_BTD)
        here = last if number == count else ctx
        # Not by way of a function where nothing is recomputed: the engine's steps stay eight frames deep.
        x_BTD = layer(x_BTD, here) if here.recompute is None else passed(layer, number - 1, x_BTD, here)
    x_BTD = last.only_wanted(x_BTD)
    if norm is not None:
        x_BTD = norm(x_BTD)
    ctx.taps.hidden(x_BTD)
    return x_BTD


def passed(layer: Step, number: int, x_BTD: Tensor, ctx: StepContext) -> Tensor:
    """What the layer of this number in a stack gives; only its input is kept for gradients where the step says so."""
    if ctx.recompute is None or not ctx.recompute.picks(number):
        return layer(x_BTD, ctx)
    # What layers share is made anew too, or the second time would differ.
    return ctx.recompute(lambda x: layer(x, ctx.with_()), x_BTD)


class PreNorm(Layer):
    """``x + attn(norm(x))``, then ``x + mlp(norm(x))`` (GPT-2, Llama, ViT, CLIP)."""

    input_layernorm: Norm
    self_attn: nn.Module
    post_attention_layernorm: Norm
    mlp: nn.Module

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.self_attn(self.input_layernorm(x_BTD), ctx), ctx)
        return self.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD)), ctx)


class Parallel(PreNorm):
    """``x + attn(norm(x)) + mlp(norm(x))``, each branch with a norm of its own (GPT-NeoX)."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        seen = self.self_attn(self.input_layernorm(x_BTD), ctx)
        thought = self.mlp(self.post_attention_layernorm(ctx.like(x_BTD, seen)))
        return self.add(self.add(x_BTD, seen, ctx), thought, ctx)


class OneNormParallel(Layer):
    """``x + attn(norm(x)) + mlp(norm(x))``, one norm for both branches (GPT-J, Phi, Cohere)."""

    input_layernorm: Norm
    self_attn: nn.Module
    mlp: nn.Module

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        read = self.input_layernorm(x_BTD)
        seen = self.self_attn(read, ctx)
        return self.add(self.add(x_BTD, seen, ctx), self.mlp(ctx.like(read, seen)), ctx)


class ScaledPreNorm(PreNorm):
    """A pre-norm layer that multiplies what each branch adds by one factor (Granite)."""

    scale: float

    def add(self, x_BTD: Tensor, branch_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().add(x_BTD, branch_BTD * self.scale, ctx)


class PostNorm(Layer):
    """``norm(x + attn(x))``, then ``norm(x + mlp(x))`` (BERT, the original transformer)."""

    self_attn: nn.Module
    self_attn_layer_norm: Norm
    mlp: nn.Module
    final_layer_norm: Norm

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.self_attn_layer_norm(self.add(x_BTD, self.self_attn(x_BTD, ctx), ctx))
        normed: Tensor = self.final_layer_norm(self.add(x_BTD, self.mlp(x_BTD), ctx))
        return normed


class Sandwich(Layer):
    """Norms before and after each branch: ``x + norm(attn(norm(x)))``, then ``x + norm(mlp(norm(x)))`` (Gemma 2)."""

    input_layernorm: Norm
    self_attn: nn.Module
    post_attention_layernorm: Norm
    pre_feedforward_layernorm: Norm
    mlp: nn.Module
    post_feedforward_layernorm: Norm

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        seen = self.post_attention_layernorm(self.self_attn(self.input_layernorm(x_BTD), ctx))
        x_BTD = self.add(x_BTD, seen, ctx)
        thought = self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x_BTD)))
        return self.add(x_BTD, thought, ctx)


class BranchNorm(Layer):
    """``x + norm(attn(x))``, then ``x + norm(mlp(x))``: what branches add is normed, not what they read (OLMo 2)."""

    self_attn: nn.Module
    post_attention_layernorm: Norm
    mlp: nn.Module
    post_feedforward_layernorm: Norm

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.post_attention_layernorm(self.self_attn(x_BTD, ctx)), ctx)
        return self.add(x_BTD, self.post_feedforward_layernorm(self.mlp(x_BTD)), ctx)


class CrossPreNorm(Layer):
    """A pre-norm layer that also looks at an encoder's output (T5 and Whisper decoders).

    Without an encoder's output, in a decoder that is used alone, it is a plain :class:`PreNorm`.
    """

    input_layernorm: Norm
    self_attn: nn.Module
    encoder_attn_layer_norm: Norm
    encoder_attn: nn.Module
    post_attention_layernorm: Norm
    mlp: nn.Module
    READS_MEMORY: ClassVar[bool] = True

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.self_attn(self.input_layernorm(x_BTD), ctx), ctx)
        if ctx.memory is not None:
            x_BTD = self.add(x_BTD, self.encoder_attn(self.encoder_attn_layer_norm(x_BTD), ctx), ctx)
        return self.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD)), ctx)


class CrossPostNorm(Layer):
    """A post-norm layer that also looks at an encoder's output (DETR, the original transformer's decoder).

    Without an encoder's output, in a decoder that is used alone, it is a plain :class:`PostNorm`.
    """

    self_attn: nn.Module
    self_attn_layer_norm: Norm
    encoder_attn: nn.Module
    encoder_attn_layer_norm: Norm
    mlp: nn.Module
    final_layer_norm: Norm
    READS_MEMORY: ClassVar[bool] = True

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.self_attn_layer_norm(self.add(x_BTD, self.self_attn(x_BTD, ctx), ctx))
        if ctx.memory is not None:
            x_BTD = self.encoder_attn_layer_norm(self.add(x_BTD, self.encoder_attn(x_BTD, ctx), ctx))
        normed: Tensor = self.final_layer_norm(self.add(x_BTD, self.mlp(x_BTD), ctx))
        return normed


class MixerLayer(Layer):
    """``x + mixer(norm(x))`` and nothing else (Mamba)."""

    norm: Norm
    mixer: nn.Module

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        return self.add(x_BTD, self.mixer(self.norm(x_BTD), ctx), ctx)


class WideMixerLayer(MixerLayer):
    """The same with a residual stream in float32, whatever the dtype of the rest."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        return super().forward(x_BTD.float(), ctx)
