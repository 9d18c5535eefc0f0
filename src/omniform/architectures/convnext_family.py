"""What ConvNeXt and its second version share: their configs, networks, heads and keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.backbone import ConvBackbone, read_outputs
from omniform.architectures.convolutional import ConvEncoder, conv_classifier
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier
from omniform.blocks.convnext import ConvNext, ConvNextBlock, MapNorm, ResponseNorm, convnext_stages, convnext_stem
from omniform.blocks.drop_path import DropPath, LayerScale
from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.core.config import Common
from omniform.core.errors import InputError
from omniform.core.reader import MOST_LAYERS, ConfigReader
from omniform.weights.keymap import KeyMap

EPS = 1e-6
"""Of all norms but the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNextConfig:
    """What a ConvNeXt computes.

    Attributes:
        patch: pixels of a place of the stem's map.
        scale: what the factors of branches begin with; None for branches without.
        names: of its stages, the stem's first.
        outputs: which stages' maps it gives as a backbone.
    """

    channels: int
    patch: tuple[int, int]
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    act: str
    eps: float
    scale: float | None
    drop_path: float
    names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every stage's map."""
        return (self.dims[0], *self.dims)

    @property
    def strides(self) -> tuple[tuple[int, int], ...]:
        """How many pixels of a picture a place of every stage's map stands for, down and across."""
        height, width = self.patch
        return (self.patch, *((height * 2**i, width * 2**i) for i in range(len(self.dims))))


def read_stages(r: ConfigReader) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]:
    """Channels, depths and names of all stages; the stem has a name too.

    Raises:
        ConfigError: another number of channels than of depths.
    """
    dims, depths = r.integers("hidden_sizes", (96, 192, 384, 768), least=1), r.integers("depths", (3, 3, 9, 3))
    if sum(depths) > MOST_LAYERS:
        raise r.fail("depths", f"at most {MOST_LAYERS} altogether", list(depths))
    if len(dims) != len(depths) or not depths:
        raise r.fail("depths", f"{len(dims)} numbers, one per entry of hidden_sizes", list(depths))
    return dims, depths, ("stem", *(f"stage{i + 1}" for i in range(len(depths))))


def read_convnext(r: ConfigReader, scale: float | None) -> ConvNextConfig:
    """Read a config; every key is used, declared inert or refused.

    Args:
        scale: what the factors of branches begin with.
    """
    r.inert(image_size=224)
    dims, depths, names = read_stages(r)
    stages = r.integer("num_stages", 4, also=("num_hidden_layers",))
    if stages != len(dims):
        raise r.fail("num_stages", f"{len(dims)}, one per entry of hidden_sizes", stages)
    return ConvNextConfig(
        channels=r.integer("num_channels", 3),
        patch=r.pair("patch_size", (4, 4)),
        dims=dims,
        depths=depths,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=r.number("layer_norm_eps", 1e-12),
        scale=scale,
        drop_path=r.probability("drop_path_rate"),
        names=names,
        outputs=read_outputs(r, names),
    )


class NormedMean(nn.Module):
    """The mean of a map's places, normed."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C]."""
        pooled: Tensor = self.norm(x_BCHW.mean(dim=(-2, -1)))
        return pooled


class NormedMaps(ConvBackbone):
    """A ConvNeXt as a backbone, which norms the maps that it gives.

    Args:
        norms: of the maps that it was built to give.
    """

    norms: nn.ModuleList

    def finished(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(norm(x) for norm, x in zip(self.norms, maps, strict=True))

    def _give(self, *outputs: int) -> None:
        if outputs != self.outputs:
            found = ", ".join(self.names[i] for i in outputs)
            raise InputError(
                "each map that a ConvNeXt gives has a norm, and these have none",
                where="out_features",
                expected=", ".join(self.out_features),
                found=found,
                remedy="Load it with out_features=...",
            )


def network(c: ConvNextConfig, response: type[ResponseNorm] | None) -> ConvNext:
    """The network; ``response``: what competes inside its blocks."""

    def block(dim: int, rate: float) -> ConvNextBlock:
        return ConvNextBlock(
            dwconv=nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim),
            layernorm=nn.LayerNorm(dim, eps=EPS),
            pwconv1=nn.Linear(dim, 4 * dim),
            act=activation(c.act),
            pwconv2=nn.Linear(4 * dim, dim),
            drop_path=DropPath(rate),
            response=None if response is None else response(4 * dim),
            scale=None if c.scale is None else LayerScale(dim, c.scale),
        )

    def downsampling(stage: int) -> list[nn.Module]:
        if not stage:
            return []
        inner, outer = c.dims[stage - 1 : stage + 1]
        return [MapNorm(inner, eps=EPS), nn.Conv2d(inner, outer, kernel_size=2, stride=2)]

    stem = nn.Conv2d(c.channels, c.dims[0], kernel_size=c.patch, stride=c.patch)
    return ConvNext(
        stem=convnext_stem(stem, MapNorm(c.dims[0], eps=EPS)),
        stages=convnext_stages(c.dims, c.depths, block, downsampling, c.drop_path),
        channels=c.channels,
        strides=c.strides,
    )


KEYS = KeyMap(
    {
        "network": "",
        "network.stem.downsampling.0": "embeddings.patch_embeddings",
        "network.stem.downsampling.1": "embeddings.layernorm",
        "network.stages.{i}": "encoder.stages.{i}",
        "network.stages.{i}.downsampling": "encoder.stages.{i}.downsampling_layer",
        "network.stages.{i}.layers.{j}.response": "encoder.stages.{i}.layers.{j}.grn",
        "network.stages.{i}.layers.{j}.scale.lambda1": "encoder.stages.{i}.layers.{j}.layer_scale_parameter",
        "pooler.norm": "layernorm",
    }
)


def backbone_keys(c: ConvNextConfig) -> KeyMap:
    """Where a backbone's weights live; norms are called like their stages."""
    return KEYS | KeyMap({f"norms.{i}": f"hidden_states_norms.{c.names[at]}" for i, at in enumerate(c.outputs)})


class ConvNextHeads:
    """The models of a ConvNeXt family.

    Args:
        response: what competes inside the blocks.
    """

    def __init__(self, response: type[ResponseNorm] | None = None) -> None:
        self.response = response

    def build(self, c: ConvNextConfig) -> ConvEncoder:
        """The network and the normed mean of its last map."""
        pooler = NormedMean(c.dims[-1], c.eps)
        return ConvEncoder(network=network(c, self.response), stages=len(c.dims), pooler=pooler)

    def classifier(self, c: ConvNextConfig, common: Common) -> SequenceClassifier:
        """One class per picture."""
        return conv_classifier(self.build(c), c.dims[-1], common)

    def backbone(self, c: ConvNextConfig) -> NormedMaps:
        """The network as a backbone."""
        return NormedMaps(
            network=network(c, self.response),
            names=c.names,
            outputs=c.outputs,
            num_features=c.widths,
            reductions=tuple(height for height, _ in c.strides),
            norms=nn.ModuleList(MapNorm(c.widths[i], eps=EPS) for i in c.outputs),
        )

    def add(self, family: Builder[ConvNextConfig], name: str) -> Builder[ConvNextConfig]:
        """Add the architectures of a family whose class names begin as given."""
        return (
            family.base(f"{name}Model", self.build)
            .head(f"{name}ForImageClassification", "image-classification", self.classifier)
            .backbone(f"{name}Backbone", self.backbone, backbone_keys)
        )
