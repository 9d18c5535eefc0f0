"""From prompts and a picture's map to masks: tokens and map look at one another by turns (SAM, appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.prompts import Prompt
from omniform.blocks.attend import attend, computed_across
from omniform.blocks.attention import Projections
from omniform.blocks.composed import Composed
from omniform.blocks.convnext import MapNorm
from omniform.blocks.mlp import Activation
from omniform.core.context import EVERYTHING, Backend, Computed, StepContext
from omniform.core.state import KV


class DeepMLP(nn.Module):
    """Projections with an activation between them.

    Args:
        dim: width of what comes in.
        hidden: width between the projections.
        out: width of what goes out.
        depth: how many projections there are, at least two.
        act: between them.
    """

    def __init__(self, dim: int, hidden: int, out: int, depth: int, act: Activation = F.relu) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth - 2))
        self.proj_out = nn.Linear(hidden, out)
        self._act = act

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., D']."""
        x = self._act(self.proj_in(x))
        for layer in self.layers:
            x = self._act(layer(x))
        out: Tensor = self.proj_out(x)
        return out


class LookingAttention(Projections):
    """Attention of some tokens to others, of which every prompt has its own.

    Args:
        dim: width of the tokens.
        heads: number of heads.
        inner: width of all heads together.
    """

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__(dim, heads, head_dim=inner // heads)

    def state_spec(self) -> KV:
        return KV(self.kv_heads, self.head_dim, self.head_dim)

    def computed(self, backend: Backend) -> Computed:
        return computed_across(backend, self.scores)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, ctx: StepContext, similarity: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: Shape: [B, prompts, T, D].
            key: Shape: [B * prompts, 1, S, D], or the same with the prompts apart.
            value: likewise.
            similarity: added to the scores. Shape: broadcasts to [B * prompts, heads, T, S].

        Returns:
            Shape: [B, prompts, T, D].
        """
        q, k, v = (
            self.split(linear(x).flatten(0, 1))
            for linear, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        mixed = attend(q, k, v, EVERYTHING, scores=self.scores, backend=ctx.backend, bias=similarity)
        out: Tensor = self.o_proj(mixed)
        return out.view(*query.shape[:3], -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looking:
    """What tokens and map look at one another with.

    Attributes:
        tokens: the tokens as they came in, which tell them apart all the way. Shape: [B, prompts, T, D].
        places: of the map. Shape: [1 or B * prompts, 1, S, D].
        similarity: added to the scores with which tokens look at the map; None for nothing.
    """

    tokens: Tensor
    places: Tensor
    similarity: Tensor | None


class TwoWayLayer(Composed):
    """Tokens look at themselves and at the map, and the map looks back at them."""

    self_attn: LookingAttention
    layer_norm1: nn.Module
    cross_attn_token_to_image: LookingAttention
    layer_norm2: nn.Module
    mlp: nn.Module
    layer_norm3: nn.Module
    layer_norm4: nn.Module
    cross_attn_image_to_token: LookingAttention

    def forward(self, x: Tensor, image: Tensor, looking: Looking, ctx: StepContext) -> tuple[Tensor, Tensor]:
        """One turn.

        Args:
            x: the tokens. Shape: [B, prompts, T, D].
            image: the map. Shape: [B * prompts, 1, S, D].
        """
        x = self.layer_norm1(self.among(x, looking, ctx))
        key = image + looking.places
        seen = self.cross_attn_token_to_image(x + looking.tokens, key, image, ctx, looking.similarity)
        x = self.layer_norm2(x + seen)
        x = self.layer_norm3(x + self.mlp(x))
        back = self.cross_attn_image_to_token(key, x + looking.tokens, x, ctx)
        if ctx.taps.wants_attentions:
            ctx.taps.cross_attentions.append(back)
        return x, self.layer_norm4(image + back)

    def among(self, x: Tensor, looking: Looking, ctx: StepContext) -> Tensor:
        """What tokens make of one another. Shape: [B, prompts, T, D] in and out."""
        here = x + looking.tokens
        out: Tensor = x + self.self_attn(here, here, x, ctx)
        return out


class FirstTwoWayLayer(TwoWayLayer):
    """The first of them, whose tokens are what they came in as, and are left behind."""

    def among(self, x: Tensor, looking: Looking, ctx: StepContext) -> Tensor:
        out: Tensor = self.self_attn(x, x, x, ctx)
        return out


class TwoWayTransformer(Composed):
    """Layers in which tokens and map look at one another, and a last look of the tokens."""

    layers: nn.ModuleList
    final_attn_token_to_image: LookingAttention
    layer_norm_final_attn: nn.Module

    def forward(
        self, looking: Looking, image: Tensor, ctx: StepContext, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens and map when they have looked.

        Args:
            image: Shape: [B * prompts, 1, S, D].
            target: added to the tokens before each layer (PerSAM). Shape: broadcasts to [B, prompts, T, D].
        """
        if target is not None and len(self.layers):
            # Before the first layer the tokens and what tells them apart are one thing.
            looking = Looking(tokens=looking.tokens + target, places=looking.places, similarity=looking.similarity)
        x = looking.tokens
        for number, layer in enumerate(self.layers):
            if target is not None and number:
                x = x + target
            x, image = layer(x, image, looking, ctx)
        seen = self.final_attn_token_to_image(x + looking.tokens, image + looking.places, image, ctx)
        return self.layer_norm_final_attn(x + seen), image


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """What a mask decoder gives.

    Attributes:
        scores: of every pixel, Shape: [B, prompts, masks, H, W].
        quality: how much each mask is expected to overlap with the right one, Shape: [B, prompts, masks].
        presence: whether the object is in the picture at all, Shape: [B, prompts, 1]; None where nobody asks.
    """

    scores: Tensor
    quality: Tensor
    presence: Tensor | None = None


class MaskDecoder(Composed):
    """A picture's map and a prompt to masks, and how good they are.

    Args:
        iou_token: stands for how good the masks are.
        mask_tokens: one for the mask of a clear prompt, the others for those of a vague one.
        transformer: how tokens and map look at one another.
        upscale_conv1: a finer map; with the two that follow.
        hypernetworks: for each mask token, what makes a vector to compare pixels with.
        iou_prediction_head: how good the masks are.
    """

    iou_token: nn.Embedding
    mask_tokens: nn.Embedding
    transformer: TwoWayTransformer
    upscale_conv1: nn.ConvTranspose2d
    upscale_conv2: nn.ConvTranspose2d
    upscale_layer_norm: MapNorm
    hypernetworks: nn.ModuleList
    iou_prediction_head: DeepMLP

    def forward(
        self,
        maps: Sequence[Tensor],
        places: Tensor,
        prompt: Prompt,
        ctx: StepContext,
        *,
        several: bool,
        similarity: Tensor | None = None,
        target: Tensor | None = None,
    ) -> Masks:
        """Masks.

        Args:
            maps: of the picture, the one that is looked at last, Shape: [B, D, H, W]; finer ones before it.
            places: of that map, Shape: [1, D, H, W].
            several: whether the masks of a vague prompt are wanted, or the one of a clear one.
            similarity: see :class:`Looking`.
            target: see :class:`TwoWayTransformer`.
        """
        image_BDHW = maps[-1]
        own = self.tokens()
        rows, prompts = image_BDHW.shape[0], 1 if prompt.sparse is None else prompt.sparse.shape[1]
        tokens = own.expand(rows, prompts, -1, -1)
        if prompt.sparse is not None:
            tokens = torch.cat((tokens, prompt.sparse.to(own.dtype)), dim=2)
        image = (image_BDHW + prompt.dense).repeat_interleave(prompts, 0)
        looking = Looking(tokens=tokens, places=_row(places), similarity=similarity)
        tokens, seen = self.transformer(looking, _row(image), ctx, target)
        fine = self.finer(seen.squeeze(1).transpose(1, 2).reshape(image.shape), maps[:-1], prompts)
        drawing = tokens[:, :, own.shape[0] - self.mask_tokens.num_embeddings : own.shape[0]]
        brushes = torch.stack([net(drawing[:, :, i]) for i, net in enumerate(self.hypernetworks)], dim=2)
        scores = brushes @ fine.flatten(2).view(rows, prompts, fine.shape[1], -1)
        quality = self.quality(tokens)
        return self.chosen(scores.view(*scores.shape[:3], *fine.shape[2:]), quality, several=several, tokens=tokens)

    def tokens(self) -> Tensor:
        """The decoder's own tokens, those of masks last. Shape: [tokens, D]."""
        return torch.cat((self.iou_token.weight, self.mask_tokens.weight))

    def quality(self, tokens: Tensor) -> Tensor:
        """How good the masks are. Shape: [B, prompts, T, D] to [B, prompts, masks]."""
        told: Tensor = self.iou_prediction_head(tokens[:, :, 0])
        return told

    def finer(self, image_BDHW: Tensor, finer: Sequence[Tensor], prompts: int) -> Tensor:
        """The map four times as high and wide. Shape: [B * prompts, D, H, W] to [B * prompts, D / 8, 4 H, 4 W]."""
        double = F.gelu(self.upscale_layer_norm(self.upscale_conv1(image_BDHW)))
        return F.gelu(self.upscale_conv2(double))

    def chosen(self, scores: Tensor, quality: Tensor, *, several: bool, tokens: Tensor) -> Masks:
        """The masks that are wanted; see :class:`Masks` for the shapes."""
        if several:
            return Masks(scores=scores[:, :, 1:], quality=quality[:, :, 1:])
        return self.single(scores, quality)

    def single(self, scores: Tensor, quality: Tensor) -> Masks:
        """The mask of a clear prompt."""
        return Masks(scores=scores[:, :, :1], quality=quality[:, :, :1])


def _row(x_BDHW: Tensor) -> Tensor:
    """Shape: [B, D, H, W] to [B, 1, H * W, D]."""
    # Laid out anew: several projections read it, and torch multiplies rows apart in ways that depend on gradients.
    return x_BDHW.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
