"""What BEiT and data2vec's pictures share: a vision transformer that knows distances between patches, and its heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.heads import SequenceClassifier, pooled
from omniform.architectures.semantic import SemanticLoss, SemanticSegmenter, read_ignored
from omniform.architectures.tower import Tower
from omniform.architectures.uper import AUXILIARY_MAP, Auxiliary, FcnHead, UperHead, read_scales
from omniform.architectures.vision import FreeVisionEncoder, image_classifier
from omniform.architectures.vit_family import LAYER, PLAIN_KEYS, zeros
from omniform.blocks.attention import Attention
from omniform.blocks.drop_path import DropPath, LayerScale
from omniform.blocks.fused import FusedMLP
from omniform.blocks.grid_bias import GridBias, SharedBias
from omniform.blocks.grid_rotary import GridContext
from omniform.blocks.layers import PreNorm
from omniform.blocks.patches import ClassToken, GridPositions, MaskToken, Patching, PatchStem, Size, read_patching
from omniform.core.config import Common
from omniform.core.context import StepContext, Tapped, Taps
from omniform.core.errors import ConfigError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What they compute.

    Attributes:
        outputs: which hidden states are read as maps, the embeddings' counted as the first.
    """

    tower: Tower
    patching: Patching
    mask_token: bool
    absolute: bool
    relative: bool
    shared: bool
    layer_scale: float
    drop_path: float
    dropout: float
    mean_pooling: bool
    scales: tuple[int, ...]
    auxiliary: Auxiliary | None
    ignored: int
    outputs: tuple[int, ...]


def read(r: ConfigReader, outputs: tuple[int, ...], tower: Tower) -> Config:
    """Read what both have; see :func:`read_tower` for the rest."""
    return Config(
        tower=tower,
        patching=read_patching(r, patch_size=16),
        mask_token=r.flag("use_mask_token", False),
        absolute=r.flag("use_absolute_position_embeddings", False),
        relative=r.flag("use_relative_position_bias", False),
        shared=r.flag("use_shared_relative_position_bias", False),
        layer_scale=r.number("layer_scale_init_value", 0.1),
        drop_path=r.probability("drop_path_rate", 0.1),
        dropout=r.probability("hidden_dropout_prob"),
        mean_pooling=r.flag("use_mean_pooling", True),
        scales=read_scales(r),
        auxiliary=Auxiliary.read(r),
        ignored=read_ignored(r),
        outputs=outputs,
    )


def read_tower(r: ConfigReader) -> Tower:
    """The layers' fields."""
    dropout_key = "attention_probs_dropout_prob"
    return Tower.read(r, dim=768, hidden=3072, heads=12, act="gelu", eps=1e-12, dropout_key=dropout_key)


class BeitLayer(PreNorm):
    """A pre-norm layer whose branches are scaled channel by channel, and left out by chance while a model learns."""

    layer_scale1: nn.Module
    layer_scale2: nn.Module
    drop_path: DropPath

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        seen = self.branch(self.self_attn(self.input_layernorm(x_BTD), ctx), self.layer_scale1)
        x_BTD = ctx.like(x_BTD, seen) + seen
        return x_BTD + self.branch(self.mlp(self.post_attention_layernorm(x_BTD)), self.layer_scale2)

    def branch(self, x_BTD: Tensor, scale: nn.Module) -> Tensor:
        """What a branch adds. Shape: [B, T, D] in and out."""
        out: Tensor = self.drop_path(scale(F.dropout(x_BTD, self.dropout, self.training)))
        return out


class BeitEncoder(FreeVisionEncoder):
    """A vision transformer whose layers know the grid of patches.

    Args:
        shared_position_bias: for distances on it, the same in all layers.
    """

    shared_position_bias: GridBias | None = None

    def context(
        self, embeds_BTD: Tensor, grid: Size, asked: Tapped | None = None, attention_mask: Tensor | None = None
    ) -> StepContext:
        return GridContext.of(self.step(embeds_BTD, asked, attention_mask=attention_mask), grid)


class MeanPatchPooler(nn.Module):
    """The mean of all patches, normed.

    Args:
        dim: width of the vectors.
        eps: of the norm.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(dim, eps)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shape: [B, 1 + N, D] to [B, D]."""
        out: Tensor = self.layernorm(hidden_BTD[:, 1:].mean(1))
        return out


class FirstPooler(nn.Module):
    """The class token."""

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Shape: [B, T, D] to [B, D]."""
        return hidden_BTD[:, 0]


def build(c: Config, *, pooler: nn.Module | None = None) -> BeitEncoder:
    """The encoder."""
    t, grid = c.tower, c.patching.grid
    shared = GridBias(grid, t.heads) if c.shared else None
    beside = None if shared is None else SharedBias(shared)
    scale = (lambda: LayerScale(t.dim, c.layer_scale)) if c.layer_scale > 0 else nn.Identity

    def layer(number: int) -> BeitLayer:
        bias = GridBias(grid, t.heads, beside=beside) if c.relative else beside
        return BeitLayer.of(
            t.norm,
            self_attn=Attention(t.dim, t.heads, rule=Full(), bias=bias, biases="qvo", dropout=t.attention_dropout),
            mlp=FusedMLP(t.dim, t.hidden, t.act),
            layer_scale1=scale(),
            layer_scale2=scale(),
            drop_path=DropPath(c.drop_path * number / max(t.layers - 1, 1)),
            dropout=c.dropout,
        )

    return BeitEncoder(
        patches=PatchStem(c.patching, t.dim),
        positions=GridPositions(grid, t.dim, before=1) if c.absolute else None,
        class_token=ClassToken(t.dim),
        mask_token=MaskToken(t.dim) if c.mask_token else None,
        shared_position_bias=shared,
        layers=nn.ModuleList(map(layer, range(t.layers))),
        norm=None if c.mean_pooling else t.norm(),
        pooler=pooler,
        dropout=c.dropout,
    )


def with_pooler(c: Config) -> BeitEncoder:
    """The encoder and one vector per picture."""
    return build(c, pooler=MeanPatchPooler(c.tower.dim, c.tower.eps) if c.mean_pooling else FirstPooler())


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture."""
    return image_classifier(with_pooler(c), pooled, common)


class Enlarging(nn.Module):
    """A map four times as large."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_transpose1 = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
        self.normalization = nn.BatchNorm2d(dim)
        self.conv_transpose2 = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C, 4 * H, 4 * W]."""
        out: Tensor = self.conv_transpose2(F.gelu(self.normalization(self.conv_transpose1(x_BCHW))))
        return out


class Pyramid(nn.Module):
    """Four maps of one size to four sizes: four times as large, twice, the same, half."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fpn1 = Enlarging(dim)
        self.fpn2 = nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Shape: [B, C, H, W] each."""
        first, second, third, fourth = maps
        return self.fpn1(first), self.fpn2(second), third, F.max_pool2d(fourth, kernel_size=2, stride=2)


TABLE = "relative_position_bias.relative_position_bias_table"

STRIDES = (0.25, 0.5, 1.0, 2.0)
"""What a pyramid multiplies strides by."""


def check_four(c: Config, where: str = "out_indices") -> None:
    """Raise :class:`ConfigError` unless there are four maps, as a pyramid needs."""
    if len(c.outputs) != 4:
        raise ConfigError("a pyramid is made of four maps", where=where, expected="4", found=len(c.outputs))


class BeitSegmenter(SemanticSegmenter):
    """A class for every place, told from a pyramid of hidden states.

    Args:
        model: the encoder.
        layers: which of its hidden states become maps, the embeddings' counted as the first.
        fpn: makes maps of four sizes of them.
        decode_head: scores every place.
        auxiliary_head: a second head, for the loss.
    """

    model: BeitEncoder
    layers: tuple[int, ...]
    fpn: Pyramid
    decode_head: UperHead
    auxiliary_head: FcnHead | None

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Scores of every place; see :meth:`~omniform.architectures.vision.VisionEncoder.forward` for other inputs.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            labels: Shape: [B, height, width], a class for every pixel; gives a loss.
            num_items_in_batch: how many pixels count in all batches of a step, if not those of this one.
            output_hidden_states: whether to return the embeddings and each layer's output.
        """
        out = cast(BaseModelOutput, self.model(pixel_values, output_hidden_states=True, **inputs))
        assert out.hidden_states is not None
        grid = self.model.grid_of(pixel_values)
        maps = self.fpn([self.model.map_of(out.hidden_states[i - 1], grid) for i in self.layers])
        auxiliary = None
        if labels is not None and self.auxiliary_head is not None:
            auxiliary = self.auxiliary_head(maps[AUXILIARY_MAP])
        noted = out.noted()
        if not output_hidden_states:
            noted["hidden_states"] = None
        return self.answer(self.decode_head(maps), labels, noted, auxiliary=auxiliary, items=num_items_in_batch)


def segmenter(c: Config, common: Common) -> BeitSegmenter:
    """A class for every place."""
    check_four(c)
    dim, labels = c.tower.dim, common.num_labels
    weight = 0.0 if c.auxiliary is None else c.auxiliary.weight
    return BeitSegmenter(
        model=build(c),
        layers=c.outputs,
        fpn=Pyramid(dim),
        decode_head=UperHead((dim,) * 4, dim, labels, c.scales),
        auxiliary_head=None if c.auxiliary is None else FcnHead(dim, c.auxiliary, labels),
        loss=SemanticLoss(labels, c.ignored, weight),
    )


class PatchBackbone(Backbone):
    """The encoder's hidden states as maps.

    Args:
        model: the encoder.
        shape: what a hidden state becomes.
        fpn: makes maps of four sizes of them; None leaves them as they are.
    """

    model: BeitEncoder
    fpn: Pyramid | None

    def get_input_embeddings(self) -> nn.Module:
        return self.model.patches

    def maps(self, pixel_values: Tensor, taps: Taps | None = None) -> tuple[Tensor, ...]:
        grid = self.model.grid_of(pixel_values)
        embeds = self.model.embed(pixel_values, interpolate=True)
        seen = Taps({"output_hidden_states": True, "output_attentions": taps is not None and taps.wants_attentions})
        ctx = self.model.context(embeds, grid).with_(taps=seen)
        self.model.encode(embeds, ctx)
        if taps is not None:
            taps.attentions.extend(seen.attentions)
            for state in seen.hidden_states:
                taps.hidden(state)
        shaped = [self.shaped(seen.hidden_states[i], grid) for i in self.outputs]
        return tuple(shaped) if self.fpn is None else cast(tuple[Tensor, ...], self.fpn(shaped))

    def shaped(self, hidden_BTD: Tensor, grid: Size) -> Tensor:
        """A hidden state as a map. Shape: [B, 1 + N, D] to [B, D, rows, columns]."""
        return self.model.map_of(hidden_BTD, grid)


class RowsPatchBackbone(PatchBackbone):
    """One that gives hidden states as they are, the class token among them (``reshape_hidden_states=False``)."""

    def shaped(self, hidden_BTD: Tensor, grid: Size) -> Tensor:
        return hidden_BTD


beginning = zeros("positions.weight", "class_token.weight")
"""Class tokens and positions begin with zeros."""

BEIT_KEYS = PLAIN_KEYS | KeyMap(
    {
        "layers.{i}.self_attn.bias.weight": f"{LAYER}.attention.attention.{TABLE}",
        "layers.{i}.layer_scale1.lambda1": f"{LAYER}.lambda_1",
        "layers.{i}.layer_scale2.lambda1": f"{LAYER}.lambda_2",
        "shared_position_bias.weight": f"encoder.{TABLE}",
    },
    ignored=(r"relative_position_index$",),
)
"""Where checkpoints keep the encoder."""


def block_keys(ours: str, theirs: str, convolution: str = "conv", normalization: str = "bn") -> dict[str, Rule]:
    """Where checkpoints keep a convolution and its batch norm."""
    names = {"convolution": convolution, "normalization": normalization}
    return {f"{ours}.{mine}": f"{theirs}.{other}" for mine, other in names.items()}


PYRAMID_KEYS: Mapping[str, Rule] = {
    "fpn.fpn1.conv_transpose1": "fpn1.0",
    "fpn.fpn1.normalization": "fpn1.1",
    "fpn.fpn1.conv_transpose2": "fpn1.3",
    "fpn.fpn2": "fpn2.0",
}
"""Where checkpoints keep a pyramid."""

BLOCKS = (
    "decode_head.bottleneck",
    "decode_head.lateral_convs.{i}",
    "decode_head.fpn_convs.{i}",
    "decode_head.fpn_bottleneck",
    "auxiliary_head.convs.{i}",
    "auxiliary_head.conv_cat",
)
"""The convolutions of the heads."""

SEGMENTER_KEYS: Mapping[str, Rule] = {
    **PYRAMID_KEYS,
    **block_keys("decode_head.psp_modules.{i}", "decode_head.psp_modules.{i}.1"),
    **{ours: theirs for block in BLOCKS for ours, theirs in block_keys(block, block).items()},
}
"""Where checkpoints keep what scores places."""
