"""DaViT (https://arxiv.org/abs/2204.03645): attention within the squares of a map and between its channels, by turns.

Tokens lie on maps, Shape: [B, height, width, C], all the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Unpack, cast

from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.blocks.attend import attend, computed_whole
from omniform.blocks.attention import Projections
from omniform.blocks.composed import Composed
from omniform.blocks.drop_path import DropPath
from omniform.blocks.fused import FusedMLP, applied, through
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.patches import Size, check_pictures
from omniform.blocks.scores import Scores
from omniform.blocks.windowed import Windows
from omniform.core.context import EVERYTHING, Backend, Computed, StepContext, Tapped
from omniform.core.outputs import BaseModelOutput
from omniform.core.reader import MOST_LAYERS, ConfigReader
from omniform.core.state import KV


class MapAttention(Projections):
    """Base of attentions over a map; what the reference notes of them is what they give. Shape: [B, H * W, C]."""

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj", "v_proj"),)

    def state_spec(self) -> KV:
        return KV(self.kv_heads, self.head_dim, self.head_dim)

    def computed(self, backend: Backend) -> Computed:
        why = "squares, and groups of channels, see themselves whole"
        return computed_whole(backend, self.scores, why, biased=False)

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, H, W, C] in and out."""
        out = self.mixed(x_BHWC, ctx)
        if ctx.taps.wants_attentions:
            ctx.taps.attentions.append(out.flatten(1, 2))
        return out

    def mixed(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """What is seen. Shape: [B, H, W, C] in and out."""
        raise NotImplementedError


class SquareAttention(MapAttention):
    """Attention of a map's tokens to the others of their squares; tokens that fill the map up are seen too.

    Args:
        side: of a square.
    """

    def __init__(self, dim: int, heads: int, side: int, biases: str) -> None:
        super().__init__(dim, heads, biases=biases)
        self.side = side

    def mixed(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        windows = Windows(self.side, 0, (x_BHWC.shape[1], x_BHWC.shape[2]))
        squares = windows.cut(x_BHWC)
        q, k, v = map(self.split, applied(squares, self.q_proj, self.k_proj, self.v_proj))
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        seen = attend(q, k, v, EVERYTHING, scores=self.scores, backend=ctx.backend)
        return windows.join(through(seen, self.o_proj))


class ChannelAttention(MapAttention):
    """Attention of a map's channels to the others of their group; what stands where is a channel's vector.

    Args:
        groups: of channels.
    """

    def __init__(self, dim: int, groups: int, biases: str) -> None:
        super().__init__(dim, groups, biases=biases, scores=Scores(1.0))

    def mixed(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        x_BTC = x_BHWC.flatten(1, 2)
        places = x_BTC.shape[1]
        parts = applied(x_BTC, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self.split(part).permute(0, 2, 3, 1) for part in parts)  # [B, groups, channels, places]
        q = q.transpose(1, 2) * places**-0.5
        seen = attend(q, k, v, EVERYTHING, scores=self.scores, backend=ctx.backend)
        back = seen.unflatten(2, (-1, places)).permute(0, 3, 2, 1)  # type: ignore[no-untyped-call]
        return through(back.reshape(x_BTC.shape), self.o_proj).view(x_BHWC.shape)


class Depthwise(nn.Conv2d):
    """A map and what a small convolution of each channel adds to it.

    Args:
        dim: number of channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Shape: [B, H, W, C] in and out."""
        return x_BHWC + super().forward(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvolvedLayer(Composed):
    """A pre-norm layer with a convolution before each branch."""

    conv1: Depthwise
    norm1: nn.LayerNorm
    self_attn: MapAttention
    conv2: Depthwise
    norm2: nn.LayerNorm
    mlp: nn.Module
    drop_path: DropPath

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, H, W, C] in and out."""
        x_BHWC = self.conv1(x_BHWC)
        x_BHWC = x_BHWC + self.drop_path(self.self_attn(self.norm1(x_BHWC), ctx))
        x_BHWC = self.conv2(x_BHWC)
        out: Tensor = x_BHWC + self.drop_path(self.mlp(self.norm2(x_BHWC)))
        return out


class DualLayer(Composed):
    """Attention in squares, then between channels."""

    spatial_block: ConvolvedLayer
    channel_block: ConvolvedLayer

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, H, W, C] in and out."""
        out: Tensor = self.channel_block(self.spatial_block(x_BHWC, ctx), ctx)
        return out


class Coarsened(Composed):
    """A convolution that makes a map coarser, and a norm behind it."""

    conv: nn.Conv2d
    norm: nn.LayerNorm

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Shape: [B, H, W, C] to [B, H / stride, W / stride, D]."""
        out: Tensor = self.norm(self.coarse(x_BHWC))
        return out

    def coarse(self, x_BHWC: Tensor) -> Tensor:
        """What the convolution gives."""
        out: Tensor = self.conv(x_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out


class NormedCoarsened(Coarsened):
    """One that norms what it reads."""

    def forward(self, x_BHWC: Tensor) -> Tensor:
        return self.coarse(self.norm(x_BHWC))


class DaViT(Model):
    """An encoder whose maps grow coarser from stage to stage.

    Args:
        convs: what makes maps coarser, one before each stage.
        blocks: the stages, each a list of layers.
    """

    main_input = "hidden_states"

    convs: nn.ModuleList
    blocks: nn.ModuleList

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self._conv(-1).out_channels

    def _conv(self, number: int) -> nn.Conv2d:
        stem = self.convs[number]
        assert isinstance(stem, Coarsened)
        return stem.conv

    def get_input_embeddings(self) -> nn.Module:
        return self.convs[0]

    def grid(self, height: int, width: int) -> Size:
        """Rows and columns of the last map of such pictures."""
        for number in range(len(self.convs)):
            conv = self._conv(number)
            pads, kernels, steps = cast(Size, conv.padding), conv.kernel_size, conv.stride
            height = (height + 2 * pads[0] - kernels[0]) // steps[0] + 1
            width = (width + 2 * pads[1] - kernels[1]) // steps[1] + 1
        return height, width

    def arrive(self, inputs: dict[str, object]) -> None:
        check_pictures(inputs[self.main_input], self._conv(0).in_channels)  # type: ignore[arg-type] # that is checked

    def forward(self, hidden_states: Tensor, **given: Unpack[Tapped]) -> BaseModelOutput:
        """The last map, channels in front. Shape: [B, channels, height, width] to [B, C, H, W].

        Args:
            hidden_states: pictures; the ecosystem calls them so here.
            given: see :class:`~omniform.core.context.Tapped`; hidden states are the maps that enter the first layer and
                that each layer gives.

        Raises:
            InputError: these are no pictures of so many channels.
        """
        x_BHWC = hidden_states.to(self._conv(0).weight.dtype).permute(0, 2, 3, 1)
        ctx = self.step(x_BHWC, given)
        noted = 0
        for conv, layers in zip(self.convs, self.blocks, strict=True):
            x_BHWC = conv(x_BHWC)
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                if not noted:
                    ctx.taps.hidden(x_BHWC.permute(0, 3, 1, 2))
                x_BHWC, noted = layer(x_BHWC, ctx), noted + 1
                ctx.taps.hidden(x_BHWC.permute(0, 3, 1, 2))
        return BaseModelOutput(last_hidden_state=x_BHWC.permute(0, 3, 1, 2), **ctx.taps.noted())


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """How one stage makes the map before it coarser."""

    dim: int
    kernel: int
    stride: int
    padding: int
    normed_before: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Dual:
    """What a DaViT computes."""

    channels: int
    stems: tuple[Stem, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    groups: tuple[int, ...]
    side: int
    drop_path: float
    mlp_ratio: float
    qkv_bias: bool
    act: str
    projection: int
    frames: int
    positions: int

    @classmethod
    def read(cls, r: ConfigReader) -> Dual:
        """Read a config; every key is used, declared inert or refused."""
        dims = r.integers("embed_dim", (128, 256, 512, 1024), least=1, also=("dim_embed",))
        depths = r.integers("depths", (1, 1, 9, 1), least=0)
        heads, groups = (r.integers(name, (4, 8, 16, 32), least=1) for name in ("num_heads", "num_groups"))
        kernels = r.integers("patch_size", (7, 3, 3, 3), least=1)
        strides, paddings = r.integers("patch_stride", (4, 2, 2, 2)), r.integers("patch_padding", (3, 1, 1, 1), least=0)
        before = r.flags("patch_prenorm", (False, True, True, True))
        if not dims or sum(depths) > MOST_LAYERS:
            raise r.fail("depths", f"1 to {MOST_LAYERS} layers altogether", list(depths))
        said = {"depths": depths, "num_heads": heads, "num_groups": groups, "patch_size": kernels}
        for name, given in {
            **said,
            "patch_stride": strides,
            "patch_padding": paddings,
            "patch_prenorm": before,
        }.items():
            if len(given) < len(dims) or (name.startswith("num_") and len(given) > len(dims)):
                raise r.fail(name, f"{len(dims)} numbers, one for each of embed_dim", list(given))
        for name in ("num_heads", "num_groups"):
            for dim, count in zip(dims, said[name], strict=True):
                if dim % count:
                    raise r.fail(name, f"a divisor of {dim}", count)
        stems = zip(dims, kernels, strides, paddings, before, strict=False)
        return cls(
            channels=r.integer("in_channels", 3),
            stems=tuple(Stem(dim=dim, kernel=k, stride=s, padding=p, normed_before=b) for dim, k, s, p, b in stems),
            depths=depths[: len(dims)],
            heads=heads,
            groups=groups,
            side=r.integer("window_size", 12),
            drop_path=r.probability("drop_path_rate", 0.1),
            mlp_ratio=r.number("mlp_ratio", 4.0),
            qkv_bias=r.flag("qkv_bias", True),
            act=r.choice("activation_function", ACTIVATIONS, "gelu"),
            projection=r.integer("projection_dim", 1024),
            frames=r.integer("max_temporal_embeddings", 100),
            positions=r.integer("max_position_embeddings", 50),
        )

    def model(self) -> DaViT:
        """The encoder."""
        convs, blocks, count, before = [], [], 0, self.channels
        last = max(2 * sum(self.depths) - 1, 1)
        for stage, stem in enumerate(self.stems):
            conv = nn.Conv2d(before, stem.dim, stem.kernel, stem.stride, stem.padding)
            kind = NormedCoarsened if stem.normed_before else Coarsened
            convs.append(kind(conv=conv, norm=nn.LayerNorm(before if stem.normed_before else stem.dim)))
            blocks.append(nn.ModuleList(self._layer(stage, count + i, last) for i in range(self.depths[stage])))
            count, before = count + self.depths[stage], stem.dim
        return DaViT(convs=nn.ModuleList(convs), blocks=nn.ModuleList(blocks))

    def _layer(self, stage: int, number: int, last: int) -> DualLayer:
        dim, biases = self.stems[stage].dim, "qkvo" if self.qkv_bias else "o"

        def around(attention: MapAttention, place: int) -> ConvolvedLayer:
            return ConvolvedLayer(
                conv1=Depthwise(dim),
                norm1=nn.LayerNorm(dim),
                self_attn=attention,
                conv2=Depthwise(dim),
                norm2=nn.LayerNorm(dim),
                mlp=FusedMLP(dim, int(dim * self.mlp_ratio), self.act),
                drop_path=DropPath(self.drop_path * place / last),
            )

        squares = SquareAttention(dim, self.heads[stage], self.side, biases)
        channels = ChannelAttention(dim, self.groups[stage], biases)
        return DualLayer(spatial_block=around(squares, 2 * number), channel_block=around(channels, 2 * number + 1))
