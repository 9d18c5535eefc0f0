"""The Swin that MaskFormer stands on (https://arxiv.org/abs/2107.06278): its hidden states are those of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack, cast

from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.staged_family import OUTER_KEYS, Spot, Staged, layer_keys
from omniform.architectures.stages import MeanPooler, PatchMerging, Stage, StagedBackbone, StagedEncoder, rows_of
from omniform.blocks.drop_path import DropPath
from omniform.blocks.patches import Size
from omniform.blocks.windowed import IndexedBias, WindowedAttention, WindowedLayer, Windowing
from omniform.core.config import Common
from omniform.core.context import StepContext, Tapped, Taps
from omniform.core.errors import ConfigError, InputError
from omniform.core.outputs import Layers, ModelOutput
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(slots=True)
class MaskFormerSwinOutput(ModelOutput):
    """Hidden states of pictures.

    Attributes:
        last_hidden_state: Shape: [B, H * W, C].
        pooler_output: their mean, Shape: [B, C].
        hidden_states: what enters the first stage, Shape: [B, H * W, C]; then, for each stage, what enters and what
            leaves each of its layers.
        hidden_states_spatial_dimensions: rows and columns of what enters the stages, and of what the last one gives.
        attentions: the weights of each stage's last layer, Shape: [B * squares, heads, T, T] each.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: Layers | None = None
    hidden_states_spatial_dimensions: tuple[Size, ...] | None = None
    attentions: Layers | None = None


class NotingStage(Stage):
    """One that notes what enters and what leaves each of its layers."""

    def block(self, number: int, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        ctx.taps.hidden(rows_of(x_BHWC))
        x_BHWC = Stage.block(self, number, x_BHWC, ctx)
        ctx.taps.hidden(rows_of(x_BHWC))
        return x_BHWC


def gathered(taps: Taps, stages: Sequence[nn.Module]) -> None:
    """Bring what was noted of each stage together."""
    flat, place = taps.hidden_states, 1
    noted: list[Tensor] = flat[:1]
    for stage in stages:
        count = 2 * len(cast(Stage, stage).blocks)
        noted.append(cast(Tensor, tuple(flat[place : place + count])))
        place += count
    flat[:] = noted


class MaskFormerSwinEncoder(StagedEncoder):
    """The encoder."""

    def forward(  # type: ignore[override]
        self,
        pixel_values: Tensor | None = None,
        *,
        interpolate_pos_encoding: bool | None = None,
        **given: Unpack[Tapped],
    ) -> MaskFormerSwinOutput:
        """Hidden states of pictures, and one vector per picture.

        Args:
            pixel_values: Shape: [B, channels, height, width]; of any size.
            interpolate_pos_encoding: changes nothing; there are no positions.
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: no pictures, or pictures of the wrong shape.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        x_BHWC = self.embed(pixel_values)
        ctx = self.step(rows_of(x_BHWC), given)
        ctx.taps.hidden(rows_of(x_BHWC))
        sizes = [(x_BHWC.shape[1], x_BHWC.shape[2])]
        for passage in self.passages(x_BHWC, ctx):
            x_BHWC = passage[1]
            sizes.append((x_BHWC.shape[1], x_BHWC.shape[2]))
        assert self.norm is not None and self.pooler is not None
        hidden = self.norm(rows_of(x_BHWC))
        if ctx.taps.wants_hidden:
            gathered(ctx.taps, list(self.stages))
        return MaskFormerSwinOutput(
            last_hidden_state=hidden,
            pooler_output=self.pooler(hidden),
            hidden_states=ctx.taps.hidden_or_none,
            hidden_states_spatial_dimensions=tuple(sizes),
            attentions=ctx.taps.attentions_or_none,
        )


class MaskFormerSwinMaps(StagedBackbone):
    """The encoder as a backbone; all its stages have norms."""

    def maps(self, pixel_values: Tensor, taps: Taps | None = None) -> tuple[Tensor, ...]:
        found = StagedBackbone.maps(self, pixel_values, taps)
        if taps is not None and taps.wants_hidden:
            gathered(taps, list(self.model.stages))
        return found

    def note(self, x_BHWC: Tensor, stage: int, taps: Taps) -> None:
        if stage == 0:  # the stages note their layers themselves
            taps.hidden(rows_of(x_BHWC))

    def normed(self, x_BHWC: Tensor, stage: int) -> Tensor:
        out: Tensor = cast(nn.ModuleList, self.hidden_states_norms)[stage - 1](x_BHWC)
        return out

    def _give(self, *outputs: int) -> None:
        self.outputs = without_stem(outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What it computes."""

    staged: Staged


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("use_absolute_embeddings", False, None, why="the ecosystem's table has one row more than there are patches")
    r.inert("encoder_stride")  # MaskFormer makes this config of a Swin's
    return Config(staged=Staged.read(r))


def build(c: Config) -> MaskFormerSwinEncoder:
    """The encoder and one vector per picture."""
    s = c.staged

    def layer(at: Spot) -> WindowedLayer:
        attention = WindowedAttention(
            at.dim,
            at.heads,
            windowing=Windowing(s.window, s.window // 2 if at.shift else 0),
            distance_bias=IndexedBias(s.window, at.heads),
            biases="qkvo" if s.qkv_bias else "o",
            dropout=s.attention_dropout,
            output_dropout=s.attention_dropout,
        )
        path = DropPath(at.drop_path)
        return WindowedLayer.of(
            lambda: s.norm(at.dim), self_attn=attention, mlp=s.mlp(at.dim), drop_path=path, dropout=s.dropout
        )

    return MaskFormerSwinEncoder(
        patches=s.patches(),
        patch_norm=nn.LayerNorm(s.dim),
        stages=s.stages(layer, PatchMerging, NotingStage),
        norm=s.norm(s.widths[-1]),
        pooler=MeanPooler(),
        dropout=s.dropout,
    )


def without_stem(outputs: tuple[int, ...]) -> tuple[int, ...]:
    """Which maps to give; the stem's has no norm."""
    if 0 in outputs:
        raise ConfigError("this backbone gives no map of its stem", where="out_features", found="stem")
    return outputs


def backbone(c: Config, _: Common) -> MaskFormerSwinMaps:
    """The encoder's maps, each normed."""
    without_stem(c.staged.outputs)
    norms = nn.ModuleList(nn.LayerNorm(width) for width in c.staged.widths[1:])
    return MaskFormerSwinMaps(model=build(c), hidden_states_norms=norms, **c.staged.facts)


KEYS = KeyMap(
    {
        **OUTER_KEYS,
        **layer_keys(
            {
                "input_layernorm": "layernorm_before",
                "post_attention_layernorm": "layernorm_after",
                "self_attn.distance_bias.weight": "attention.self.relative_position_bias_table",
                "self_attn.distance_bias.index.places": "attention.self.relative_position_index",
            }
        ),
    },
)


FAMILY = (
    Builder("maskformer-swin", read, KEYS, prefix="model")
    .public(
        config="MaskFormerSwinConfig",
        image_processor="MaskFormerImageProcessor",
        row="backbone",
        usual={"use_absolute_embeddings": False},
    )
    .base("MaskFormerSwinModel", build)
    .architecture("MaskFormerSwinBackbone", ("backbone",), backbone, KEYS.under("model", "model"), prefix="model")
    .done()
)
